"""Single steps of a sweep, from the same YAML and in the same run directory; no Ray is started.

::

    python -m raydistill data FILE
    python -m raydistill teacher FILE
    python -m raydistill select FILE
    python -m raydistill distill FILE --selector NAME --keep-ratio R --output DIR
    python -m raydistill export TRIAL_DIR OUT [--onnx]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from raydistill.garbage import without_collection
from raydistill.sweep import add_sweep_arguments, exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1 for a failure, 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    # Imported here, so that --help and mistakes on the command line do not wait for torch.
    with without_collection():
        from raydistill import steps
        from raydistill.training.resources import Resources

    if options.step == "export":
        return steps.export(options.trial, options.output, onnx=options.onnx)
    resources = Resources.load(options.file, options.set, options.run_dir)
    if options.step == "distill":
        wanted = steps.Wanted(
            selector=options.selector,
            keep_ratio=options.keep_ratio,
            temperature=options.temperature,
            alpha_dist=options.alpha_dist,
            seed=options.seed,
        )
        return steps.distill(resources, wanted, options.output)
    return {"data": steps.data, "teacher": steps.teacher, "select": steps.select}[options.step](resources)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raydistill",
        description="Run a single step of a sweep; the whole of it is python -m raydistill.sweep FILE.",
    )
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for name, text in (
        ("data", "prepare the data and print what they are like"),
        ("teacher", "train the teacher, unless the run directory holds it"),
        ("select", "measure the evidence, and print what each selector makes of it"),
    ):
        add_sweep_arguments(steps.add_parser(name, help=text, description=text))
    distill = steps.add_parser("distill", help="train and test one student, and save it as a Hugging Face folder")
    add_sweep_arguments(distill)
    distill.add_argument("--selector", required=True, help="an arm of the sweep that selects layers")
    distill.add_argument(
        "--keep-ratio", required=True, type=_number(0, 1), help="share of the teacher's layers to keep"
    )
    distill.add_argument("--temperature", type=_number(0), help="default: distillation.temperature of the sweep")
    distill.add_argument("--alpha-dist", type=_number(0, 1, open_low=False), help="default: distillation.alpha_dist")
    distill.add_argument("--seed", type=int, help="of data order and dropout (default: the sweep's first fresh seed)")
    distill.add_argument("--output", required=True, type=Path, help="folder to be made for the student")
    export = steps.add_parser("export", help="write the student of a confirmed trial as a Hugging Face folder")
    export.add_argument("trial", type=Path, metavar="TRIAL_DIR", help="such as runs/ablation/trials/0123456789abcdef")
    export.add_argument("output", type=Path, metavar="OUT", help="folder to be made for the student")
    export.add_argument("--onnx", action="store_true", help="write the model as ONNX as well")
    return parser


def _number(low: float, high: float = float("inf"), *, open_low: bool = True) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not (low < value if open_low else low <= value) or not value <= high or value == float("inf"):
            lower = f"greater than {low:g}" if open_low else f"at least {low:g}"
            upper = f" and at most {high:g}" if high < float("inf") else ""
            raise argparse.ArgumentTypeError(f"must be {lower}{upper}, and {text} is not")
        return value

    return number


if __name__ == "__main__":
    sys.exit(main())
