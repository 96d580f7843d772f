"""Every sweep in sweeps/ loads with the real tables, and its header says what is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raydistill.config import arms, dump_sweep, load_sweep, strata
from raydistill.training.build import tables

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))


def test_the_four_sweeps_of_the_readme_are_shipped():
    assert {"ablation.yaml", "smoke.yaml", "movielens.yaml", "amazon.yaml"} <= {file.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_shipped_sweep_loads_and_is_written_back(file, tmp_path):
    sweep = load_sweep(file, tables=tables())
    assert sweep.name == file.stem
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_sweep(sweep), encoding="utf-8")
    assert load_sweep(resolved, tables=tables()) == sweep


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_header_of_a_shipped_sweep_is_true(file):
    sweep = load_sweep(file, tables=tables())
    header = re.match(r"(#.*\n)+", file.read_text())[0]
    for word in ("Question", "Arms", "Cost", "Command"):
        assert re.search(rf"^# {word} +\S", header, re.M)
    assert f"python -m raydistill.sweep sweeps/{file.name}" in header
    line = re.search(
        r"^# Arms +(\d+) selectors and (\d+) controls, (\d+) seeds?, (\d+) keep-ratios, (\d+) trials", header, re.M
    )
    kinds = [arm.kind for arm in arms(sweep)]
    assert [int(number) for number in line.groups()] == [
        kinds.count("selector"),
        kinds.count("control"),
        sweep.confirm.seeds,
        len(strata(sweep, sweep.teacher.layers or 12)),
        sweep.search.trials,
    ]


SOURCES = {
    "synthetic": {},
    "movielens": {"variant": "1m"},
    "amazon_reviews": {"categories": "[All_Beauty, Video_Games]"},
    "sequences": {"path": "a.txt"},
    "interactions": {"path": "a.csv"},
}


@pytest.mark.parametrize("source", sorted(tables().sources))
def test_the_parameters_of_every_source_survive_yaml(source, tmp_path):
    needed = "".join(f", {key}: {value}" for key, value in SOURCES[source].items())
    smoke = ROOT / "sweeps" / "smoke.yaml"
    sweep = load_sweep(smoke, [f"data={{source: {source}{needed}}}"], tables=tables())
    assert type(sweep.data.params) is tables().sources[source]
    file = tmp_path / "resolved.yaml"
    file.write_text(dump_sweep(sweep), encoding="utf-8")
    assert load_sweep(file, tables=tables()) == sweep


def test_every_selector_of_the_table_with_its_defaults_survives_yaml(tmp_path):
    names = sorted(tables().selectors)
    smoke = ROOT / "sweeps" / "smoke.yaml"
    sweep = load_sweep(smoke, [f"selectors=[{', '.join(names)}]"], tables=tables())
    assert [entry.params for entry in sweep.selectors] == [tables().selectors[name]() for name in names]
    file = tmp_path / "resolved.yaml"
    file.write_text(dump_sweep(sweep), encoding="utf-8")
    assert load_sweep(file, tables=tables()) == sweep
