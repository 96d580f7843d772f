"""The command lines: exit codes, messages, and what they leave on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.figures.names import arm_name
from raydistill import __main__ as single_steps
from raydistill import sweep as sweep_command
from raydistill.models.recommender import Recommender
from raydistill.records import RunDirectory, read_record

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ROOT / "sweeps" / "smoke.yaml"


@pytest.fixture
def command(tmp_path, capsys):
    """Return a function that runs a command line in this process: exit code, standard output, standard error."""

    def run(main, *arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as left:  # argparse leaves so
            code = left.code
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        return code, said.out, said.err

    return run


@pytest.fixture
def places(tmp_path):
    """Arguments that keep everything inside the test's own folder."""
    return ["--run-dir", tmp_path / "run", "--set", f"execution.storage={tmp_path / 'storage'}"]


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """Return the smoke sweep with one text replaced."""
    text = SMOKE.read_text()
    assert text.count(old) == 1
    file = tmp_path / "sweep.yaml"
    file.write_text(text.replace(old, new))
    return file


@pytest.mark.parametrize("main", [sweep_command.main, lambda arguments: single_steps.main(["data", *arguments])])
def test_a_file_that_is_not_there(command, tmp_path, main):
    code, _, error = command(main, tmp_path / "no.yaml")
    assert code == 2
    assert "no.yaml" in error


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  trials: 2", "  trails: 2", ["search.trails", "trials"]),
        ("  startup: 1", "  startup: 1\n  startup: 2", ["startup", "twice"]),
        ("  trials: 2", "  trials: 0", ["search.trials", "0"]),
        ("tail, {name", "tial, {name", ["tial", "tail"]),
        ("{choice: [0.25, 0.5]}", "{choice: []}", ["keep_ratio"]),
        ("{choice: [0.25, 0.5]}", "{choice: [0.01, 0.5]}", ["keeps nothing", "0.01"]),
        ("  source: synthetic", "  source: synthetik", ["synthetik", "synthetic"]),
    ],
    ids=["misspelt", "duplicate", "range", "selector", "empty space", "keeps nothing", "source"],
)
def test_a_mistake_in_the_file_is_said_with_its_place(command, tmp_path, places, old, new, expected):
    file = changed(tmp_path, old, new)
    code, _, error = command(sweep_command.main, file, *places)
    assert code == 2
    line = 1 + SMOKE.read_text()[: SMOKE.read_text().index(old)].count("\n")
    assert f"{file}:{line}" in error or f"{file}:{line + 1}" in error
    for text in expected:
        assert text in error
    assert not (tmp_path / "run").exists()


def test_all_mistakes_are_said_at_once(command, tmp_path, places):
    code, _, error = command(
        sweep_command.main, SMOKE, *places, "--set", "search.trials=0", "--set", "confirm.sedes=3", "--set", "nonsense"
    )
    assert code == 2
    for text in ("search.trials", "sedes", "seeds", "KEY=VALUE"):
        assert text in error


def test_a_data_file_that_is_not_there(command, tmp_path, places):
    source = "data={source: sequences, path: /nowhere/at/all.txt}"
    code, _, error = command(sweep_command.main, SMOKE, *places, "--set", source)
    assert code == 2
    assert "/nowhere/at/all.txt" in error


def test_a_run_directory_that_cannot_be_written(command, tmp_path, places):
    (tmp_path / "run").write_text("a file where the folder should be")
    code, _, error = command(sweep_command.main, SMOKE, *places)
    assert code == 2
    assert "cannot be written" in error
    assert "--run-dir" in error


def test_a_run_directory_of_another_sweep(command, tmp_path, places):
    assert command(single_steps.main, "data", SMOKE, *places)[0] == 0
    code, _, error = command(sweep_command.main, SMOKE, *places, "--set", "training.lr=0.5")
    assert code == 2
    assert "training.lr (0.003 there, 0.5 now)" in error
    assert "--fresh" in error


def test_a_dry_run_says_every_trial_and_writes_no_run_directory(command, tmp_path, places):
    code, out, _ = command(sweep_command.main, SMOKE, *places, "--dry-run")
    assert code == 0
    lines = out.splitlines()
    # 4 searched selectors and scratch_kd have 2 trials each.
    assert sum(" search " in line and "#" in line for line in lines) == 10
    # 2 seeds x 2 keep-ratios for 6 arms, twice for the draws of random, and 2 that train nothing.
    assert sum(line.startswith("  confirm ") and "fresh seeds" not in line for line in lines) == 4 * (6 + 2) + 2
    assert "estimate" in out
    assert "GB of memory" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "STEP"),
        (("distil",), "distill"),
        (("distill", SMOKE), "--selector"),
        (("distill", SMOKE, "--selector", "tail", "--keep-ratio", "0", "--output", "x"), "greater than 0"),
        (("distill", SMOKE, "--selector", "tail", "--keep-ratio", "nan", "--output", "x"), "nan"),
        (
            ("distill", SMOKE, "--selector", "tail", "--keep-ratio", "1", "--alpha-dist", "2", "--output", "x"),
            "at most 1",
        ),
    ],
)
def test_single_steps_say_what_they_need(command, arguments, expected):
    code, _, error = command(single_steps.main, *arguments)
    assert code == 2
    assert expected in error


def test_single_steps_share_one_run_directory(command, tmp_path, places):
    code, out, _ = command(single_steps.main, "data", SMOKE, *places)
    assert code == 0
    assert "200 users" in out
    run = RunDirectory(tmp_path / "run")
    assert run.signature()["data"]["source"] == "synthetic"

    code, out, _ = command(single_steps.main, "teacher", SMOKE, *places)
    assert code == 0
    assert "is trained" in out
    code, out, _ = command(single_steps.main, "teacher", SMOKE, *places)
    assert "is there already" in out

    code, out, _ = command(single_steps.main, "select", SMOKE, *places)
    assert code == 0
    _check_tables(out, next((tmp_path / "run" / "evidence").glob("*/evidence.json")))

    student = tmp_path / "student"
    wanted = [
        "--selector",
        "fisher",
        "--keep-ratio",
        "0.5",
        "--temperature",
        "3",
        "--alpha-dist",
        "0.25",
        "--seed",
        "9",
    ]
    code, out, _ = command(single_steps.main, "distill", SMOKE, *places, *wanted, "--output", student)
    assert code == 0
    record = read_record(student / "record.json")
    assert (record.keep_ratio, record.n_student_layers, record.seed) == (0.5, 2, 9)
    assert record.configuration["temperature"] == 3
    assert record.configuration["alpha_task"] == pytest.approx(0.75)
    assert f"test ndcg@10 {record.test['ndcg@10']:.4f}" in out
    assert Recommender.from_pretrained(student).n_layers == 2
    card = (student / "README.md").read_text()
    assert f"{record.test['ndcg@10']:.4f}" in card
    assert "ties:against-the-model" in card
    assert "/".join(map(str, tmp_path.parts[1:3])) not in card  # no path of this machine
    assert list(run.records()) == []  # made by hand, so none of the sweep's trials

    code, _, error = command(single_steps.main, "distill", SMOKE, *places, *wanted, "--output", student)
    assert code == 2
    assert str(student) in error
    code, _, error = command(
        single_steps.main,
        "distill",
        SMOKE,
        *places,
        "--selector",
        "scratch",
        *wanted[2:],
        "--output",
        tmp_path / "other",
    )
    assert code == 2
    assert "fisher, uniform, tail, random" in error
    code, _, error = command(
        single_steps.main, "distill", SMOKE, *places, *wanted[:2], "--keep-ratio", "0.1", "--output", tmp_path / "other"
    )
    assert code == 2
    assert "keeps nothing" in error


def _check_tables(out: str, evidence: Path) -> None:
    content = json.loads(evidence.read_text())
    rows = [line.split() for line in out.splitlines()]
    kept = next(row for row in rows if row[:2] == ["uniform", "0"])
    assert kept[1:4] == [str(layer) for maps in ("1", "2") for layer in content["layer_maps"]["uniform"][maps]]
    fisher = [row for row in rows if row[:1] == ["fisher"]]
    assert len(fisher) == 2
    assert len([cell for cell in fisher[0] if not cell.startswith("(")]) == 1 + 4
    assert f"{content['selectors']['fisher']['depth_concentration']['mean']:.3g}" in fisher[1]


def test_export_needs_a_trial_whose_weights_were_kept(command, tmp_path):
    code, _, error = command(single_steps.main, "export", tmp_path / "nowhere", tmp_path / "out")
    assert code == 2
    assert "record.json" in error


def run_command(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["raydistill", "raydistill.sweep"])
def test_help_is_there(module):
    done = run_command(module, "--help")
    assert done.returncode == 0
    assert "usage" in done.stdout


def tables_of(text: str) -> list[str]:
    """Return the closing tables of a run, without the place of the report."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if "of layers kept" in line)
    return [line for line in lines[start:] if not line.startswith("report:")]


@pytest.mark.ray
def test_the_whole_job_and_the_same_command_again(tmp_path):
    run = RunDirectory(tmp_path / "run")
    arguments = ["raydistill.sweep", SMOKE, "--run-dir", run.root]
    arguments += ["--set", f"execution.storage={tmp_path / 'storage'}", "--set", "execution.keep_models=true"]
    first = run_command(*arguments)
    assert first.returncode == 0, first.stderr
    records = {record.id: record for _, record in run.records()}
    assert {record.status for record in records.values()} <= {"success", "stopped"}
    plan = run.plan()
    jobs = {job["id"] for job in plan["confirm"]["jobs"]}
    confirmed = {record.id for record in records.values() if record.phase == "confirm"}
    assert confirmed == jobs
    assert len(jobs) == 4 * (6 + 2) + 2
    for arm in plan["arms"]:
        searched = [r for r in records.values() if (r.phase, r.arm) == ("search", arm["name"])]
        assert len(searched) == arm["trials"]
    assert (run.report / "index.html").is_file()
    tables = tables_of(first.stdout)
    for arm in ("fisher", "uniform", "tail", "random", "scratch", "scratch_kd", "no_kd", "teacher", "popularity"):
        assert any(line.strip().startswith(arm_name(arm)) for line in tables)

    times = {path: path.stat().st_mtime_ns for path, _ in run.records()}
    again = run_command(*arguments)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path, _ in run.records()} == times
    assert tables_of(again.stdout) == tables

    student = next(record for record in records.values() if record.phase == "confirm" and record.arm == "fisher")
    assert single_steps.main(["export", str(run.trial(student.id)), str(tmp_path / "exported")]) == 0
    assert Recommender.from_pretrained(tmp_path / "exported").n_layers == student.n_student_layers
    assert f"{student.test['ndcg@10']:.4f}" in (tmp_path / "exported" / "README.md").read_text()
