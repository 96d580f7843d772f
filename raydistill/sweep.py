"""The main job: one YAML in, tested evidence out.

::

    python -m raydistill.sweep sweeps/ablation.yaml [--set KEY=VALUE ...] [--run-dir DIR] [--dry-run] [--fresh]

Running the same command again continues: what succeeded is kept, what failed or was cut off is run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from raydistill.errors import RaydistillError
from raydistill.garbage import without_collection


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1 for a failure, 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    return exit_code(
        lambda: run_sweep(
            options.file,
            overrides=options.set,
            run_dir=options.run_dir,
            dry_run=options.dry_run,
            fresh=options.fresh,
        )
    )


def exit_code(command: Callable[[], int]) -> int:
    """Return the exit code of a command; what went wrong is said on standard error, without a traceback."""
    try:
        return command()
    except RaydistillError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from here", file=sys.stderr)
        return 130


def run_sweep(
    file: Path | str,
    *,
    overrides: Sequence[str] = (),
    run_dir: Path | str | None = None,
    dry_run: bool = False,
    fresh: bool = False,
) -> int:
    """Run a sweep to its report, and return the exit code.

    Args:
        file: The sweep's YAML file.
        overrides: ``KEY=VALUE`` with dotted keys.
        run_dir: Where everything goes; ``<execution.storage>/<name>`` where None.
        dry_run: Print the plan with its estimate, and start nothing.
        fresh: Delete what an earlier run left.

    Raises:
        RaydistillError: With what is wrong, where, and how to mend it.
    """
    # Imported here, so that --help and mistakes on the command line do not wait for torch and ray.
    with without_collection():
        from raydistill.tuning.job import Job

    job = Job.load(file, tuple(overrides), run_dir)
    if dry_run:
        print(job.describe(every_trial=True))
        return 0
    return job.execute(fresh=fresh)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raydistill.sweep",
        description="Distil small students out of a recommender's layers, and learn which choices matter.",
        epilog="Running the same command again continues where it stopped.",
    )
    add_sweep_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="print every trial that would run, and start nothing")
    parser.add_argument("--fresh", action="store_true", help="delete what an earlier run left, and start anew")
    return parser


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command on a sweep file takes: the file, ``--set`` and ``--run-dir``."""
    parser.add_argument("file", type=Path, help="the sweep, for example sweeps/ablation.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, e.g. search.trials=4"
    )
    parser.add_argument("--run-dir", type=Path, default=None, help="where everything goes (default: runs/<name>)")


if __name__ == "__main__":
    sys.exit(main())
