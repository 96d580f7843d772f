"""Command line: ``python -m analysis RUN_DIR ... [--output FOLDER]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from raydistill.errors import RaydistillError


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code after writing the report and printing the closing tables: 0, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis", description="Turn the records of a sweep into a report."
    )
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="folder that a sweep wrote")
    parser.add_argument(
        "--output", type=Path, help="where to write; by default RUN_DIR/report, or ./report for several"
    )
    options = parser.parse_args(arguments)
    try:
        _report(options.run_dirs, options.output)
    except RaydistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _report(run_dirs: list[Path], output: Path | None) -> None:
    # Imported here so that --help and a mistyped folder answer at once.
    from analysis.loading import load, load_each
    from analysis.report.write import write_joint_report, write_report
    from analysis.tables import terminal_table

    if len(run_dirs) == 1:
        run = load(run_dirs[0])
        folder = output or run.root / "report"
        summaries = [write_report(run, folder)]
    else:
        folder = output or Path("report")
        summaries = write_joint_report(load_each(*run_dirs), folder)
    for summary in summaries:
        if len(summaries) > 1:
            print(f"== {summary['sweep']} ({summary['data']})")
        print(terminal_table(summary))
        print()
    print(f"report: {folder / 'index.html'}")


if __name__ == "__main__":
    sys.exit(main())
