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
    parser.add_argument("--output", type=Path, help="where to write; by default RUN_DIR/report (one run directory)")
    options = parser.parse_args(arguments)
    try:
        _report(options.run_dirs, options.output)
    except RaydistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _report(run_dirs: list[Path], output: Path | None) -> None:
    # Imported here so that --help and a mistyped folder answer at once.
    from analysis.loading import load
    from analysis.report.write import write_report
    from analysis.tables import terminal_table

    run = load(*run_dirs)
    summary = write_report(run, output)
    print(terminal_table(summary))
    print(f"report: {(output or run.root / 'report') / 'index.html'}")


if __name__ == "__main__":
    sys.exit(main())
