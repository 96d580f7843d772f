"""The answer in words, from tables made by hand: the unwelcome one as readily as the welcome one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.headline import headline
from analysis.tasks import TASKS, share_kept

SETTINGS = {"metric": "ndcg@10", "reference": "uniform", "margin": 0.02, "level": 0.05}


def run(*, trials: int = 9) -> SimpleNamespace:
    return SimpleNamespace(
        settings=SETTINGS, plan={}, task=TASKS["next_item"],
        trials=pd.DataFrame({"status": ["success"] * trials, "arm": "fisher", "phase": "search"}),
        refused=pd.DataFrame(), strata=lambda: [0.5], users=lambda: 1234,
        arms=lambda: ["fisher", "uniform"], chosen=lambda arm, ratio: pd.DataFrame(),
    )  # fmt: skip


def arm(name: str, word: str, relative: float, *, kind: str = "selector", non_inferior: bool = False, **more) -> dict:
    return {
        "arm": name, "names": (name,), "kind": kind, "keep_ratio": 0.5, "word": word,
        "relative": relative, "mean": 0.1 * (1 + relative),
        "relative_low": relative - 0.01, "relative_high": relative + 0.01,
        "difference": 0.1 * relative, "low": relative - 0.01, "high": relative + 0.01,
        "non_inferior": non_inferior, "detectable_low": 0.03, "detectable_high": 0.07, "unit": "seeds",
        "n_replicates": 5, "reference_mean": 0.1,
        "method_claim": more.get("unit") != "users", "drawn": 0, **more,
    }  # fmt: skip


def said(
    reference: list[dict], teacher: list[dict], *, seeds: int = 5, teachers: int = 1, distilled: list[dict] = ()
) -> str:
    main = pd.DataFrame([{"arm": r["arm"], "kind": r["kind"], "keep_ratio": 0.5, "n_seeds": seeds} for r in reference])
    frames = {"main": main, "reference": pd.DataFrame(reference), "teacher": pd.DataFrame(teacher)}
    frames["distillation"] = pd.DataFrame(distilled, columns=None if distilled else ["keep_ratio"])
    results = SimpleNamespace(run=run(), breadth=(teachers, seeds // teachers), **frames)
    return " ".join(headline(results))


POPULAR = arm("popularity", "inferior", -0.5, kind="control")


def test_a_budget_that_shows_nothing_is_said_to_do_so():
    rows = [
        arm("fisher", "undecided", 0.05, detectable_low=19.0, detectable_high=40.0),
        arm("tail", "undecided", 0.0, detectable_low=17.0),
    ]
    text = said(rows, [arm("fisher", "undecided", -0.04), POPULAR])
    assert "2 of 2 are not shown to be better or worse (with so few seeds and users hardly any difference would" in text
    assert "1800" not in text


def test_a_selector_that_wins_is_named_with_its_gain():
    text = said(
        [arm("fisher", "better", 0.05), arm("tail", "undecided", 0.0)], [arm("fisher", "worse", -0.04), POPULAR]
    )
    assert text.startswith("With 50 % of the layers kept, Fisher (+5.0 %, +4.0 % to +6.0 %) is better than uniform")
    assert "1 of 2 is not shown to be better or worse" in text
    assert "no student is shown to lose less than 2 % to the teacher" in text
    assert "all with one teacher" in text


def test_that_no_selector_wins_is_said_as_plainly():
    text = said(
        [arm("fisher", "undecided", 0.05), arm("tail", "worse", -0.06), arm("taylor", "equivalent", 0.0)],
        [arm("fisher", "worse", -0.04), POPULAR],
    )
    assert "no selector is shown to be better than uniform; drop the last (-6.0 %, -7.0 % to -5.0 %) is worse" in text
    assert "Taylor (+0.0 %, -1.0 % to +1.0 %) is equivalent to it" in text
    assert "differences under 3.0 % to 7.0 % would mostly be missed: the seeds tell no closer" in text


def test_selectors_that_chose_the_same_layers_are_not_called_equivalent():
    twin = arm("fisher", "same students", 0.0) | {"low": 0.0, "high": 0.0, "difference": 0.0}
    text = said([twin, arm("tail", "undecided", 0.01)], [arm("fisher", "worse", -0.04), POPULAR])
    assert "Fisher gave exactly the students of uniform (the same layers)" in text
    assert "equivalent" not in text
    assert "1 of 1 is not shown" in text


def test_a_small_student_that_is_free_makes_selectors_pointless_and_is_said():
    rows = [arm("fisher", "undecided", 0.0, non_inferior=True), arm("scratch", "undecided", 0.0, non_inferior=True)]
    text = said([arm("fisher", "undecided", 0.0)], [*rows, POPULAR])
    assert "A small student is free here: at 50 % even one trained from scratch keeps the teacher's quality" in text


def test_a_choice_without_evidence_that_suffices_is_said():
    rows = [arm("fisher", "undecided", 0.0, non_inferior=True), arm("uniform", "undecided", 0.0, non_inferior=True)]
    text = said([arm("fisher", "undecided", 0.0)], [*rows, arm("scratch", "worse", -0.2), POPULAR])
    assert "Measuring layers is not needed here" in text
    assert "(uniform)" in text


def test_a_teacher_that_learned_nothing_comes_first():
    weak = arm("popularity", "undecided", 0.0, kind="control")
    text = said([arm("fisher", "better", 0.05)], [arm("fisher", "worse", -0.04), weak])
    assert text.startswith("The teacher is not shown to be better than recommending what is popular")
    beaten = said([arm("fisher", "better", 0.05)], [arm("popularity", "better", 0.3, kind="control")])
    assert beaten.startswith("The teacher is worse than recommending what is popular")


def test_one_seed_makes_no_claim_about_a_method():
    rows = [arm("fisher", "undecided", 0.05, unit="users"), arm("tail", "undecided", 0.0, unit="users")]
    teacher = [arm("scratch", "undecided", 0.0, unit="users", non_inferior=True)]
    text = said(rows, [*teacher, POPULAR], seeds=1)
    assert "no claim about any method" in text
    assert "is free" not in text
    assert "of the models that were trained" in text
    assert "better than uniform" not in text


def test_an_arm_of_one_seed_or_of_random_draws_holds_nothing():
    rows = [
        arm("fisher", "undecided", 0.0, non_inferior=True, unit="users"),
        arm("random", "undecided", 0.0, non_inferior=True, method_claim=False, drawn=3),
        arm("tail", "non-inferior", 0.0, non_inferior=True),
    ]
    text = said([arm("fisher", "undecided", 0.0), arm("random", "undecided", 0.0, drawn=3)], [*rows, POPULAR])
    assert "drop the last loses less than 2 % to the teacher" in text
    assert "1 of 1 is not shown" in text


def test_random_layers_as_reference_are_no_method():
    text = said([arm("fisher", "undecided", 0.0, drawn=3)], [POPULAR])
    assert "selectors stand against 3 random layer sets, which is no method" in text


def test_several_teachers_are_counted():
    text = said([arm("fisher", "better", 0.05)], [arm("fisher", "worse", -0.04)], seeds=6, teachers=3)
    assert "over 3 independently trained teachers, 2 seeds each" in text


def test_nothing_confirmed_concludes_nothing():
    results = SimpleNamespace(run=run(), main=pd.DataFrame(), reference=pd.DataFrame(), teacher=pd.DataFrame())
    assert headline(results) == [
        "Nothing can be concluded yet: 9 search trials have finished, and no confirmed result is there."
    ]


def test_so_few_seeds_say_nothing_of_what_they_would_have_found():
    unknown = {"detectable_low": np.nan, "detectable_high": np.nan, "n_replicates": 3}
    text = said([arm("fisher", "undecided", 0.05, **unknown), arm("tail", "undecided", 0.0, **unknown)], [POPULAR])
    assert "would mostly be missed" not in text
    assert "(3 seeds hardly tell how much seeds vary, nor what difference would have been seen)" in text


def test_arms_that_share_the_best_mean_by_chance_are_all_named():
    rows = [arm("fisher", "undecided", 0.0), arm("tail", "undecided", 0.0), arm("attention", "undecided", -0.1)]
    text = said([arm("fisher", "undecided", 0.0)], [*rows, POPULAR])
    assert "drop the last and Fisher share the best mean, 100.0 % of the teacher's" in text


@pytest.mark.parametrize(
    ("word", "said_of_it"),
    [
        ("better", "it helps"),
        ("worse", "it hurts"),
        ("inferior", "it hurts by more than 2 %"),
        ("equivalent", "it changes less than 2 %"),
        ("non-inferior", "it does not hurt by more than 2 %, and is not shown to help"),
        ("undecided", "it is not shown to help or to hurt"),
    ],
)
def test_distillation_is_judged_by_students_of_the_same_layers(word, said_of_it):
    row = arm("tail", word, 0.01, names=("tail", "fisher"))
    # What the control is against the reference, whose layers are others, must not matter.
    text = said([arm("no_kd", "inferior", -0.4, kind="control")], [POPULAR], distilled=[row])
    expected = f"at 50 % {said_of_it} (drop the last = Fisher: +1.0 %, +0.0 % to +2.0 %)."
    assert f"Distillation, judged by students of the same layers: {expected}" in text


def test_one_seed_claims_nothing_of_distillation():
    row = arm("tail", "better", 0.1, unit="users")
    assert "one seed allows no claim" in said([arm("tail", "undecided", 0.0)], [POPULAR], distilled=[row])


def test_a_share_kept_has_no_value_where_a_loss_is_not_above_zero():
    assert share_kept(0.5, "log_loss") == pytest.approx(2)
    assert share_kept(-1.0, "log_loss") == pytest.approx(0.5)
    assert share_kept(-1.5, "ndcg@10") == pytest.approx(-0.5)
    assert all(np.isnan(share_kept(relative, "log_loss")) for relative in (1.0, 1.5, np.nan))


def test_an_interval_without_a_bound_is_said_to_have_none(monkeypatch):
    monkeypatch.setitem(SETTINGS, "metric", "log_loss")
    rows = [arm("fisher", "undecided", 0.5, relative_high=1.2), POPULAR]
    text = said([arm("fisher", "undecided", 0.0)], rows)
    assert "Fisher has the best mean, 200.0 % of the teacher's (196.1 % or more)" in text
    text = said([arm("fisher", "undecided", 0.0)], [arm("fisher", "undecided", 1.0), POPULAR])
    assert "Fisher has the best mean." in text
