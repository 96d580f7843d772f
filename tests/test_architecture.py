"""The floors hold: imports go down only, the lower floors stay light, files stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("raydistill", "analysis")
LONGEST_FILE = 350

# What each part of the package may import: parts of the package below it, and of the heavy libraries which.
GROUND = {"errors", "garbage", "seeding", "records"}
LIBRARY = {"data", "models", "selectors", "losses", "metrics"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "garbage": set(),
    "seeding": set(),
    "records": {"errors"},
    "config": GROUND,
    **dict.fromkeys(LIBRARY, GROUND),
    "training": GROUND | {"config"} | LIBRARY,
    "tuning": GROUND | {"config", "training"} | LIBRARY,
}
HEAVY = {"torch", "transformers", "datasets", "ray", "optuna", "pydantic", "yaml"}
HEAVY_OF: dict[str, set[str]] = {
    **{part: set() for part in GROUND},
    "config": {"pydantic", "yaml"},
    **{part: {"torch", "transformers", "datasets"} for part in LIBRARY},
    "training": {"torch", "transformers", "datasets"},
    "tuning": HEAVY,
}
TOP = {"sweep", "steps", "__main__", "__init__"}  # floor 5, and the table of public names
ANALYSIS_MAY_IMPORT = {"raydistill.records", "raydistill.errors"}


def files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def part_of(path: Path) -> str:
    """Return the part of raydistill that a file belongs to, such as ``config`` or ``errors``."""
    return path.relative_to(ROOT / "raydistill").parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the full name of every module or name that a file imports, anywhere in it, with the line.

    ``importlib.import_module("x")`` with a literal name counts too.
    """
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                yield str(node.args[0].value), node.lineno


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def offences(path: Path) -> list[str]:
    """Return every import of a file that its floor forbids."""
    place = path.relative_to(ROOT)
    found = []
    for name, line in imports(path):
        top, *rest = name.split(".")
        if place.parts[0] == "analysis":
            ours = top == "raydistill" and not any(within(name, module) for module in ANALYSIS_MAY_IMPORT)
            allowed = not ours and top not in HEAVY - {"optuna", "yaml"}
        elif top == "analysis":
            allowed = False
        elif part_of(path) in TOP:
            allowed = True
        elif top == "raydistill":
            # `from raydistill import __version__` is the one name of the package itself that every floor may use.
            own = part_of(path)
            allowed = rest[:1] == ["__version__"] or rest[:1] == [own] or (bool(rest) and rest[0] in MAY_IMPORT[own])
        else:
            allowed = top not in HEAVY - HEAVY_OF[part_of(path)]
        if not allowed:
            found.append(f"{place}:{line} imports {name}")
    return found


def test_every_part_of_the_package_has_a_floor():
    parts = {part_of(path) for path in files() if path.is_relative_to(ROOT / "raydistill")}
    assert parts <= set(MAY_IMPORT) | TOP, "name the new part and its floor here and in ARCHITECTURE.md"


def test_imports_go_down_only():
    assert [offence for path in files() for offence in offences(path)] == []


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("raydistill/config/x.py", "import torch"),
        ("raydistill/config/x.py", "from raydistill.selectors import SELECTORS"),
        ("raydistill/config/x.py", "from ..selectors import SELECTORS"),
        ("raydistill/config/x.py", "from raydistill import selectors"),
        ("raydistill/selectors/x.py", "from raydistill.models import surgery"),
        ("raydistill/selectors/x.py", "def f():\n    import raydistill.config"),
        ("raydistill/models/x.py", "import yaml"),
        ("raydistill/errors.py", "import raydistill.records"),
        ("raydistill/training/x.py", "from ray import train"),
        ("raydistill/training/x.py", "import optuna.samplers"),
        ("raydistill/training/x.py", "from raydistill.tuning import searcher"),
        ("raydistill/training/x.py", "import importlib\nimportlib.import_module('ray')"),
        ("raydistill/sweep.py", "import analysis"),
        ("analysis/x.py", "import torch"),
        ("analysis/x.py", "import ray.tune"),
        ("analysis/x.py", "from raydistill.config import Sweep"),
        ("analysis/x.py", "import raydistill"),
    ],
)
def test_a_forbidden_import_is_found(place, text, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert len(offences(path)) == 1


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (
            "raydistill/config/x.py",
            "import yaml\nfrom raydistill.records import Record\nfrom .schema import Sweep",
        ),
        (
            "raydistill/models/families/x.py",
            "import torch\nfrom ..surgery import cut\nfrom .base import Family",
        ),
        ("raydistill/records/x.py", "from raydistill import __version__\nfrom raydistill.errors import UserError"),
        ("raydistill/tuning/x.py", "import ray\nfrom raydistill.config import Sweep\nimport raydistill.training.loop"),
        (
            "analysis/x.py",
            "import scipy\nfrom raydistill.records import Record\nfrom analysis.stats import paired",
        ),
    ],
)
def test_an_allowed_import_is_let_through(place, text, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert offences(path) == []


@pytest.mark.parametrize("module", ["raydistill", "raydistill.config", "raydistill.records", "raydistill.errors"])
def test_the_lower_floors_load_neither_torch_nor_ray(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'ray', 'transformers'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("module", "not_loaded"),
    [
        ("raydistill.training.trial_spec", ["torch", "transformers"]),
        # The process that starts a trial's workers, and those that watch them, do not train.
        ("raydistill.tuning.sharded_trial", ["transformers"]),
        ("raydistill.tuning.workers", ["transformers"]),
    ],
)
def test_what_does_not_train_loads_no_models(module, not_loaded):
    code = f"import sys, {module}; print(sorted(set({not_loaded}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "[]", run.stderr


def test_analysis_loads_neither_torch_nor_ray():
    code = "import sys, analysis; print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


def test_files_are_short_enough_to_read_in_one_go():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def broad_handlers(path: Path) -> list[str]:
    """Return the handlers of a file that catch everything."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        caught = []
        if isinstance(node, ast.ExceptHandler):
            caught = [node.type] if not isinstance(node.type, ast.Tuple) else node.type.elts
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "suppress":
            caught = node.args
        for kind in caught:
            if kind is None or getattr(kind, "id", "") in ("Exception", "BaseException"):
                found.append(f"{path.name}:{node.lineno}")
    return found


def test_no_handler_catches_everything():
    assert [handler for path in files() for handler in broad_handlers(path)] == []


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept Exception as error:\n    pass",
        "try:\n    f()\nexcept (ValueError, BaseException):\n    pass",
        "with contextlib.suppress(Exception):\n    f()",
    ],
)
def test_a_broad_handler_is_found(text, tmp_path):
    path = tmp_path / "x.py"
    path.write_text(text)
    assert len(broad_handlers(path)) == 1
