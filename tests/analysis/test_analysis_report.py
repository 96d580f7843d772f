"""The report: whole, traceable, honest about what is missing, and safe to open."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_run import CONTROLS, SELECTORS, Simulation, build

from analysis import conclude, load
from analysis.__main__ import main
from analysis.gallery import frames
from analysis.report.write import write_tables
from analysis.summary import summarize
from analysis.tables import WIDTH, latex_escape, terminal_table
from raydistill.records import RunDirectory, read_record

pytestmark = pytest.mark.long

TINY = {"trials": 2, "seeds": 2, "users": 40, "items": 60, "draws": 2, "epochs": 2, "keep_ratios": (0.5,)}


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


ARMS = (*SELECTORS, *CONTROLS)


class Page(HTMLParser):
    """Collects ids, links, sources, scripts and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.tags.append(tag)
        self.ids += [known["id"]] if "id" in known else []
        self.links += [known["href"]] if "href" in known else []
        self.sources += [known["src"]] if "src" in known else []
        assert not any(name.startswith("on") for name in known), f"an event handler on <{tag}>"


@pytest.fixture(scope="module")
def report(run_dir, tmp_path_factory) -> Path:
    """Return a copy of the simulated run directory with its report."""
    root = Path(shutil.copytree(run_dir, tmp_path_factory.mktemp("report") / "run"))
    assert main([str(root)]) == 0
    return root


def test_the_page_stands_alone_and_every_link_leads_somewhere(report):
    page = Page((report / "report" / "index.html").read_text())
    assert len(page.sources) >= 15
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "link" not in page.tags
    assert page.tags.count("script") == 1
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids, link
        else:
            assert (report / "report" / link).is_file(), link


def test_it_says_the_budget_that_students_were_trained_with(report):
    text = (report / "report" / "index.html").read_text()
    said = re.search("<dt>training</dt><dd>([^<]*)</dd>", text)[1]
    assert {"batch size: 64", "epoch examples: 1024"} < set(said.split(", "))


def test_it_opens_with_the_verdict_then_the_table_then_the_why(report):
    text = (report / "report" / "index.html").read_text()
    places = [text.index(mark) for mark in ('class="verdict', 'id="main-r0"', "data:image/png", 'id="method-r0"')]
    assert places == sorted(places)


def test_every_mean_in_the_summary_is_the_mean_of_the_records_that_it_names(report):
    summary = json.loads((report / "report" / "summary.json").read_text())
    assert [s["keep_ratio"] for s in summary["strata"]] == [0.25, 0.5]
    run = RunDirectory(report)
    for stratum in summary["strata"]:
        assert {"fisher", "teacher", "popularity", "scratch_kd"} <= {arm["arm"] for arm in stratum["arms"]}
        for arm in stratum["arms"]:
            records = [read_record(run.record_file(identity)) for identity in arm["trials"]]
            assert {r.arm for r in records} == {arm["arm"]}
            assert {r.keep_ratio for r in records} <= {stratum["keep_ratio"], None}
            assert arm["mean"] == pytest.approx(np.mean([r.test["ndcg@10"] for r in records]))
            assert arm["low"] <= arm["mean"] <= arm["high"]
        teacher = next(a["mean"] for a in stratum["arms"] if a["arm"] == "teacher")
        for arm in stratum["arms"]:
            assert arm["share_of_teacher"] == pytest.approx(arm["mean"] / teacher)


def test_tables_and_figures_lie_beside_the_page(report):
    folder = report / "report"
    pngs, pdfs = ({p.stem for p in (folder / "figures").glob(f"*.{kind}")} for kind in ("png", "pdf"))
    assert pngs == pdfs
    assert {
        *("difference_to_reference", "difference_to_teacher", "compression", "layer_importance", "layer_selection"),
        *("training_curves", "sensitivity", "surface", "hyper_parameter_importance", "search_budget", "roc", "costs"),
        *("variance_test", "variance_search", "groups_of_users", "random_draws", "cost_scaling"),
    } <= pngs
    rows = table(folder / "tables" / "main.csv")
    assert {row["arm"] for row in rows} >= {"fisher", "uniform"}
    assert all(row["trials"] for row in rows)
    trials = table(folder / "tables" / "trials.csv")
    assert len(trials) == len(list(report.glob("trials/*/record.json")))


def test_latex_tables_carry_the_signature_and_one_bold_student(report):
    summary = json.loads((report / "report" / "summary.json").read_text())
    for name, stratum in zip(("25", "50"), summary["strata"], strict=True):
        text = (report / "report" / "tables" / f"main_keep_{name}.tex").read_text()
        assert latex_escape(summary["protocol_signature"]) in text
        assert text.count(r"\textbf") == 1
        best = max(a["mean"] for a in stratum["arms"] if a["arm"] not in ("teacher", "popularity"))
        assert rf"\textbf{{{best:.4f}}}" in text
        marked = sum(a["p_adjusted"] is not None and a["p_adjusted"] <= 0.05 for a in stratum["arms"])
        assert text.count(r"^{\dagger}$ &") == marked
        for command in (r"\toprule", r"\midrule", r"\bottomrule"):
            assert text.count(command) == 1
        assert not re.search(r"(?<!\\)[%_]", text)


def test_the_closing_table_fits_the_terminal(report):
    summary = json.loads((report / "report" / "summary.json").read_text())
    text = terminal_table(summary)
    assert max(map(len, text.splitlines())) <= WIDTH
    for stratum in summary["strata"]:
        for arm in stratum["arms"]:
            assert f"{arm['mean']:.4f}" in text
    assert "of layers kept" in text


def test_running_again_gives_the_same_numbers(report, tmp_path):
    results = conclude(load(report))
    tables = frames(results)
    summary = summarize(results)
    assert summary == json.loads((report / "report" / "summary.json").read_text())
    write_tables(results, tables, summary, tmp_path)
    written = sorted((report / "report" / "tables").iterdir())
    assert [p.name for p in written] == sorted(p.name for p in tmp_path.iterdir())
    for path in written:
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_hostile_names_are_escaped_everywhere(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    root = build(
        tmp_path / "run",
        Simulation(**{**TINY, "selectors": ("uniform", evil, "a_$x^{$"), "sweep": "<script>alert(1)</script>"}),
    )
    path = next(p for p in root.glob("trials/*/record.json") if '"status": "success"' in p.read_text())
    path.write_text("<script>alert(2)</script>")
    assert main([str(root)]) == 0
    text = (root / "report" / "index.html").read_text()
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "x" not in page.sources
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    latex = (root / "report" / "tables" / "main_keep_50.tex").read_text()
    assert r"\$x\textasciicircum{}\{\$" in latex


def test_a_run_without_any_trial_says_so_and_says_what_was_planned(tmp_path, capsys):
    root = build(tmp_path / "run", Simulation(**TINY))
    planned = len(list(root.glob("trials/*/record.json")))
    shutil.rmtree(root / "trials")
    assert main([str(root)]) == 0
    out = capsys.readouterr().out
    assert "Nothing can be concluded yet: no trial has finished" in out
    summary = json.loads((root / "report" / "summary.json").read_text())
    assert summary["trials"]["missing"] == planned
    assert summary["complete"] is False


def test_a_run_that_stopped_before_confirm_shows_its_search_and_what_is_missing(tmp_path, capsys):
    root = build(tmp_path / "run", Simulation(**{**TINY, "trials": 12, "selectors": ("uniform", "fisher")}))
    confirmed = [p.parent for p in root.glob("trials/*/ranks.parquet")]
    for folder in confirmed:
        shutil.rmtree(folder)
    plan = json.loads((root / "plan.json").read_text())
    plan["confirm"]["jobs"] = []  # as a sweep leaves it whose search has not settled them
    (root / "plan.json").write_text(json.dumps(plan))
    assert main([str(root)]) == 0
    assert "search trials have finished, and no confirmed result is there" in capsys.readouterr().out
    summary = json.loads((root / "report" / "summary.json").read_text())
    assert summary["trials"]["missing"] == len(confirmed)
    figures = {p.stem for p in (root / "report" / "figures").glob("*.png")}
    assert "sensitivity" in figures
    assert "compression" not in figures


def test_a_missing_folder_is_a_users_mistake_without_a_traceback(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    captured = capsys.readouterr()
    assert "there is no such run directory" in captured.err
    assert "Traceback" not in captured.err


def test_several_data_sets_are_ranked_and_never_share_a_table(tmp_path, capsys, no_pictures):
    few = {**TINY, "selectors": ("uniform", "fisher", "tail"), "controls": ("teacher",)}
    roots = [build(tmp_path / f"r{i}", Simulation(seed=i, source=f"simulated-{i}", **few)) for i in range(2)]
    out = tmp_path / "joint"
    assert main([*map(str, roots), "--output", str(out)]) == 0
    ranks = table(out / "tables" / "ranks.csv")
    assert {row["arm"] for row in ranks} == {"uniform", "fisher", "tail"}
    assert sum(float(row["mean_rank"]) for row in ranks) == pytest.approx(1 + 2 + 3)
    page = Page((out / "index.html").read_text())
    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else (out / link).is_file(), link
    text = (out / "index.html").read_text()
    assert "2 data sets are few" in text
    tests = table(out / "tables" / "tests.csv")
    assert len(tests) == 1 + 3  # of all arms, and of each pair of them
    assert "tables/tests.csv" in page.links
    # What the page says of a sweep's own tests leads to the folder of that sweep.
    for i in range(1, 3):
        said = f"{i}-simulated-ablation/tables/tests.csv"
        assert f"All are in {said}." in text
        assert (out / said).is_file()
    assert "simulated-0" in capsys.readouterr().out


def test_tables_can_be_asked_for_again_without_counting_tests_twice(report):
    results = conclude(load(report))
    first = frames(results)["tests"]
    assert frames(results)["tests"].equals(first)
    assert not first.duplicated(["family", "test"]).any()


def test_a_constant_metric_gives_a_report_and_no_verdict_of_difference(tmp_path, no_pictures):
    root = build(tmp_path / "run", Simulation(**{**TINY, "users": 20, "quality": dict.fromkeys(ARMS, 30.0)}))
    assert main([str(root)]) == 0
    summary = json.loads((root / "report" / "summary.json").read_text())
    for arm in summary["strata"][0]["arms"]:
        assert arm["mean"] == arm["low"] == arm["high"] == 1.0
        known = "undecided" if arm["arm"] == "random" else "equivalent"  # no claim is made of random draws
        assert arm["verdict"] is None or arm["verdict"]["word"] == known
    effects = [row["effect_seeds"] for row in table(root / "report" / "tables" / "against_reference.csv")]
    assert set(effects) == {""}  # two seeds have no effect size, and none is no effect of zero


def test_one_seed_makes_no_verdict_about_a_method(tmp_path, no_pictures, capsys):
    root = build(tmp_path / "run", Simulation(**{**TINY, "seeds": 1, "selectors": ("uniform", "fisher")}))
    assert main([str(root)]) == 0
    assert "One seed only" in capsys.readouterr().out
    summary = json.loads((root / "report" / "summary.json").read_text())
    assert {a["verdict"]["word"] for a in summary["strata"][0]["arms"] if a["verdict"]} == {"undecided"}


def test_one_arm_is_shown_alone(tmp_path, no_pictures):
    root = build(tmp_path / "run", Simulation(**{**TINY, "selectors": ("fisher",), "controls": ()}))
    assert main([str(root)]) == 0
    summary = json.loads((root / "report" / "summary.json").read_text())
    assert [a["arm"] for a in summary["strata"][0]["arms"]] == ["fisher"]
    assert "no selector to compare with uniform" in " ".join(summary["headline"])


def test_a_report_removes_what_an_earlier_one_wrote_and_nothing_else(tmp_path, no_pictures):
    root = build(tmp_path / "run", Simulation(**{**TINY, "selectors": ("uniform", "fisher"), "controls": ("teacher",)}))
    out = tmp_path / "paper"
    mine = [out / "figures" / "mine.png", out / "figures" / "mine.pdf", out / "tables" / "mine.csv",
            out / "tables" / "mine.tex", tmp_path / "outside.csv"]  # fmt: skip
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    assert main([str(root), "--output", str(out)]) == 0
    noted = json.loads((out / "files.json").read_text())
    written = {path.relative_to(out).as_posix() for path in out.glob("*/*") if path not in mine}
    assert set(noted) == written
    assert "tables/against_teacher.csv" in noted
    # Without a teacher there is no such table; and what a changed list says of other places is not believed.
    (out / "files.json").write_text(json.dumps([*noted, "../outside.csv", "tables/../../outside.csv", 1]))
    for path in root.glob("trials/*/record.json"):
        if read_record(path).arm == "teacher":
            shutil.rmtree(path.parent)
    assert main([str(root), "--output", str(out)]) == 0
    assert not (out / "tables" / "against_teacher.csv").exists()
    assert all(path.read_text() == "mine" for path in mine)
    (out / "files.json").write_text("[")
    assert main([str(root), "--output", str(out)]) == 0
    assert all(path.exists() for path in mine)


def test_a_joint_report_keeps_what_it_did_not_write(tmp_path, no_pictures):
    few = {**TINY, "trials": 1, "selectors": ("uniform", "fisher", "tail"), "controls": ("teacher",)}
    roots = [str(build(tmp_path / f"r{i}", Simulation(seed=i, source=f"s{i}", **few))) for i in range(2)]
    out = tmp_path / "paper"
    mine = out / "tables" / "mine.csv"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert main([*roots, "--output", str(out)]) == 0
    assert {"tables/tests.csv", "tables/ranks.csv"} <= set(json.loads((out / "files.json").read_text()))
    twin = str(shutil.copytree(roots[0], tmp_path / "twin"))
    assert main([roots[0], twin, "--output", str(out)]) == 0  # one data set: no test any more
    assert not (out / "tables" / "tests.csv").exists()
    assert mine.read_text() == "mine"
