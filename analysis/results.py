"""Everything that the report says about one run directory, computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from analysis import describe
from analysis.comparison import SEEDLESS, best_simple, compare, own_values
from analysis.distillation import distillation
from analysis.errors import errors
from analysis.run import PerUser, Run
from analysis.stats import CrossedMean, Ledger, crossed_mean, place_in_draws
from analysis.students import cheapest_first, label, namesakes
from analysis.tasks import share_kept


@dataclass(frozen=True)
class Results:
    """The comparisons of one run directory.

    Attributes:
        run: The run directory.
        main: One row an arm and stratum, best mean first: quality, share of the teacher's, cost, ids.
        reference: Every arm against the reference, corrected with Holm.
        teacher: Every arm against the teacher; empty without one.
        uniform: Every arm against ``uniform`` where the sweep has another reference; otherwise empty.
        simple: Every arm against the best selector that looks at no evidence.
        random: Where each selector stands among random draws.
        distillation: Distilled students against those that were not distilled, of the same layers.
        groups: The shown students against the teacher by group of users, exploratory.
        ledger: Every test that was run.
    """

    run: Run
    main: pd.DataFrame
    reference: pd.DataFrame
    teacher: pd.DataFrame
    uniform: pd.DataFrame
    simple: pd.DataFrame
    random: pd.DataFrame
    distillation: pd.DataFrame
    groups: pd.DataFrame
    ledger: Ledger

    @property
    def best_selector(self) -> dict[float, str]:
        """The selector with the best mean in each stratum, a description and no claim; of one set of students under
        several names the one that looks at the least evidence."""
        selectors = self.main[self.main["kind"] == "selector"]
        return {ratio: part["names"].iloc[0][0] for ratio, part in selectors.groupby("keep_ratio")}

    @property
    def breadth(self) -> tuple[int, int]:
        """How many teachers the selected students stand for, and how many seeds of each; 0 and 0 without students."""
        rows = self.main[~self.main["arm"].isin(SEEDLESS)]
        selected = rows[rows["kind"] == "selector"]
        rows = selected if len(selected) else rows
        if rows.empty:
            return 0, 0
        return int(rows["n_teachers"].min()), int((rows["n_seeds"] // rows["n_teachers"]).max())

    def shown(self) -> tuple[str, ...]:
        """Return the few arms that crowded figures show: the reference, the best, and the telling controls."""
        arms = {self.run.settings["reference"], *self.best_selector.values(), "teacher", "popularity", "scratch_kd"}
        return tuple(arm for arm in self.run.arms() if arm in arms)


def conclude(run: Run) -> Results:
    """Return every comparison of a run directory; frames are empty where there is nothing to compare yet."""
    ledger = Ledger()
    reference = compare(run, ledger=ledger)
    teacher = reference if run.settings["reference"] == "teacher" else compare(run, "teacher", ledger=ledger)
    other = run.settings["reference"] != "uniform" and "uniform" in run.arms()
    uniform = compare(run, "uniform", ledger=ledger) if other else reference.head(0)
    simple = compare(run, "best simple", ledger=ledger, planned=False)
    random = random_places(run, ledger)
    main = _main(run, reference, teacher)
    distilled = distillation(run, ledger)
    results = Results(run, main, reference, teacher, uniform, simple, random, distilled, pd.DataFrame(), ledger)
    students = [arm for arm in results.shown() if arm not in SEEDLESS]
    return replace(results, groups=errors(run, students, against="teacher", ledger=ledger))


PLACES = ["arm", "names", "keep_ratio", "value", "percentile", "low", "high", "p_value", "smallest_p_value",
          "p_adjusted", "n_draws", "trials"]  # fmt: skip


def random_places(run: Run, ledger: Ledger) -> pd.DataFrame:
    """Return where each selector stands in the distribution of random draws: the columns of :data:`PLACES`.

    ``percentile`` is the share of draws that an arm beats, ``low`` and ``high`` its interval. A test that could not
    reach the level, because the draws are too few, is no test: it is in no family and ``p_adjusted`` is NaN. For the
    draws themselves ``arm`` is ``random`` and ``percentile`` NaN, one row a draw (its mean over seeds).
    """
    rows = []
    for ratio in run.strata():
        drawn = run.per_user("random", ratio)
        if drawn is None:
            continue
        draws = drawn.trials["draw"].fillna(-1).to_numpy()
        means = [float(drawn.values[draws == draw].mean()) for draw in np.unique(draws)]
        rows += [
            {"arm": "random", "names": ("random",), "keep_ratio": ratio, "value": mean,
             "trials": list(drawn.trials["id"][draws == draw])}
            for mean, draw in zip(means, np.unique(draws), strict=True)
        ]  # fmt: skip
        if len(means) > 1:
            rows += _places(run, ratio, means)
    frame = pd.DataFrame(rows, columns=PLACES)
    tested = frame[frame["smallest_p_value"] <= run.settings["level"]]
    if len(tested):
        labels = [label(row.names, row.keep_ratio) for row in tested.itertuples()]
        tests = dict(zip(labels, tested["p_value"], strict=True))
        adjusted = ledger.enter("as good as the best random draws", tests, planned=False)
        frame.loc[tested.index, "p_adjusted"] = [adjusted[one] for one in labels]
    return frame


def _places(run: Run, ratio: float, draws: list[float]) -> list[dict]:
    """Return the rows of the selectors of a stratum; each set of students has one name in the ledger."""
    arms = {arm: run.per_user(arm, ratio) for arm in run.arms() if arm not in ("random", *SEEDLESS)}
    arms = {arm: own for arm, own in arms.items() if own is not None and own.trials["kind"].iloc[0] == "selector"}
    names, rows = namesakes({arm: own.trials for arm, own in arms.items()}), []
    for arm, own in arms.items():
        value = float(own.values.mean())
        place = place_in_draws(value, draws, direction=run.direction, level=run.settings["level"])
        rows.append({"arm": arm, "names": names[arm], "keep_ratio": ratio, "value": value, **asdict(place),
                     "trials": list(own.trials["id"])})  # fmt: skip
    return rows


def _main(run: Run, reference: pd.DataFrame, teacher: pd.DataFrame) -> pd.DataFrame:
    """Return the main table: every arm of every stratum with its quality and cost."""
    costs = describe.cost_table(run)
    rows = []

    def share(relative: float) -> float:
        return share_kept(relative, run.settings["metric"])

    for ratio in run.strata():
        simple = best_simple(run, ratio)
        arms = {arm: own for arm in cheapest_first(run.arms()) if (own := run.per_user(arm, ratio)) is not None}
        names = namesakes({arm: own.trials for arm, own in arms.items()})
        for arm, own in arms.items():
            values, keys = own_values(own)
            mean = crossed_mean(values)
            low, high = _interval(mean, own, run)
            rows.append(
                {
                    "keep_ratio": ratio,
                    "arm": arm,
                    "names": names[arm],
                    "kind": own.trials["kind"].iloc[0],
                    "mean": mean.estimate,
                    "low": low,
                    "high": high,
                    "n_seeds": len(keys),
                    "n_teachers": len({teacher for teacher, _ in keys}),
                    "unit": mean.unit,
                    **_found(teacher, arm, ratio, "share_of_teacher", share, arm == "teacher"),
                    **_found(reference, arm, ratio, "against_reference", float, arm == run.settings["reference"]),
                    **_verdict(reference, arm, ratio),
                    **_cost(costs, arm, ratio),
                    **_speed_up(costs, arm, ratio),
                    "best_simple": arm == simple,
                    "trials": own.ids_of(keys),
                }
            )  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["keep_ratio", "arm", "kind", "mean"])
    best_first = [True, run.direction == "min"]
    return frame.sort_values(["keep_ratio", "mean"], ascending=best_first, kind="stable").reset_index(drop=True)


def _interval(mean: CrossedMean, own: PerUser, run: Run) -> tuple[float, float]:
    """Return the interval of an arm's mean; of random layers the wider one, over seeds or over the sets drawn.

    NaN where nothing tells how the mean varies: one run of a metric that is no mean over users.
    """
    draws, level = own.by_draw(), run.settings["level"]
    known = mean.unit != "users" or run.task.is_mean_over_users(run.settings["metric"])
    half = mean.half_width(level) if known else np.nan
    if len(draws) > 1:
        half = np.fmax(half, crossed_mean(draws).half_width(level))
    return mean.estimate - half, mean.estimate + half


def _found(frame: pd.DataFrame, arm: str, ratio: float, name: str, of: Callable[[float], float], own: bool) -> dict:
    """Return an improvement and its interval under a name of the main table; NaN where it was not made.

    Args:
        frame: Comparisons with one arm.
        arm: Whose row is wanted.
        ratio: The stratum.
        name: Name in the main table.
        of: What is shown of the relative improvement.
        own: Whether it is the arm that all are compared with.
    """
    part = frame[(frame["arm"] == arm) & np.isclose(frame["keep_ratio"].astype(float), ratio)]
    found = {}
    for end in ("", "_low", "_high"):
        value = 0.0 if own else np.nan if part.empty else float(part[f"relative{end}"].iloc[0])
        found[f"{name}{end}"] = of(value)
    return found


def _verdict(reference: pd.DataFrame, arm: str, ratio: float) -> dict:
    part = reference[(reference["arm"] == arm) & np.isclose(reference["keep_ratio"].astype(float), ratio)]
    names = ("word", "sentence", "method_claim", "p_adjusted")
    return {name: None if part.empty else part[name].iloc[0] for name in names}


def _cost(costs: pd.DataFrame, arm: str, ratio: float) -> dict:
    names = ["n_layers", "search_seconds", *describe.COSTS]
    keep = costs["keep_ratio"].astype(float)
    part = costs[(costs["arm"] == arm) & (keep.isna() | np.isclose(keep, ratio))]
    return {name: float(part[name].iloc[0]) if len(part) and name in part else np.nan for name in names}


def _speed_up(costs: pd.DataFrame, arm: str, ratio: float) -> dict:
    """Return how many times faster than the teacher's the measured latency is, of one request and of a batch."""
    own, teacher = _cost(costs, arm, ratio), _cost(costs, "teacher", ratio)
    pairs = (("speed_up", "latency_ms"), ("batch_speed_up", "batch_latency_ms"))
    return {name: teacher[column] / own[column] if own[column] else np.nan for name, column in pairs}
