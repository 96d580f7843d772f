"""Statistics as pure functions: documented arrays in, frozen dataclasses out; no torch, no ray, no files.

Axes: `values[seed, user]` is one metric value a test user of one arm in one stratum; `[teacher, seed, user]` the same
for several teachers; arms are stacked in front. Arms are paired: the same index is the same teacher, seed and user.
`level` is always an error rate (0.05 for a 95 % interval). Bad arrays raise ValueError.

| question | function |
|---|---|
| all arms against a reference, with everything below in it | `compare_arms`, `correct_together` |
| intervals of means, differences, ratios | `crossed_bootstrap`, `bootstrap_difference`, `crossed_mean` |
| paired tests, effect sizes | `seed_t_test`, `user_t_test`, `sign_flip_test`, `effect_size` |
| many tests | `holm`, `benjamini_hochberg`, `Ledger` |
| not worse, equal | `non_inferiority`, `equivalence` |
| place among random draws, several data sets | `place_in_draws`, `friedman` |
| where variance lies | `variance_split`, `variance_components`, `mixed_split` |
| what could be found | `power_analysis`, `minimum_detectable_effect`, `replicates_needed` |
| search | `expected_best`, `importances`, `marginal_curve`, `interactions` |
| cost | `fit_linear`, `fit_power` |
| curves | `roc_from_ranks`, `roc_from_scores`, `calibration_curve` |
| groups | `history_groups`, `popularity_groups`, `group_means` |
"""

from __future__ import annotations

from analysis.stats.arrays import paired_difference
from analysis.stats.bootstrap import CrossedBootstrap, Interval, bootstrap_difference, crossed_bootstrap
from analysis.stats.budget import BudgetCurve, expected_best
from analysis.stats.calibration import CalibrationCurve, calibration_curve
from analysis.stats.comparison import (
    CANDIDATES,
    MODELS,
    SAME,
    YARDSTICKS,
    ArmComparison,
    compare_arms,
    correct_together,
)
from analysis.stats.correction import benjamini_hochberg, holm
from analysis.stats.crossed import CrossedMean, crossed_mean
from analysis.stats.groups import (
    Grouping,
    GroupResult,
    attribute_groups,
    group_means,
    history_groups,
    popularity_groups,
    top_k_overlap,
)
from analysis.stats.importance import Importance, importances
from analysis.stats.ledger import Ledger, LedgerEntry
from analysis.stats.margins import MarginTest, equivalence, non_inferiority
from analysis.stats.mixed import mixed_split
from analysis.stats.paired import (
    EffectSize,
    TestResult,
    effect_size,
    seed_effect_size,
    seed_t_test,
    sign_flip_test,
    sign_flip_tests,
    user_differences,
    user_effect_size,
    user_t_test,
)
from analysis.stats.placement import FriedmanResult, Placement, friedman, place_in_draws
from analysis.stats.power import (
    FEW,
    PowerAnalysis,
    detection_power,
    minimum_detectable_effect,
    power_analysis,
    replicates_needed,
)
from analysis.stats.roc import RocCurve, roc_from_ranks, roc_from_scores
from analysis.stats.scaling import ScalingFit, fit_linear, fit_power
from analysis.stats.sensitivity import Interaction, MarginalCurve, interaction, interactions, marginal_curve
from analysis.stats.variance import VarianceSplit, variance_components, variance_split

__all__ = [
    "CANDIDATES",
    "FEW",
    "MODELS",
    "SAME",
    "YARDSTICKS",
    "ArmComparison",
    "BudgetCurve",
    "CalibrationCurve",
    "CrossedBootstrap",
    "CrossedMean",
    "EffectSize",
    "FriedmanResult",
    "GroupResult",
    "Grouping",
    "Importance",
    "Interaction",
    "Interval",
    "Ledger",
    "LedgerEntry",
    "MarginTest",
    "MarginalCurve",
    "Placement",
    "PowerAnalysis",
    "RocCurve",
    "ScalingFit",
    "TestResult",
    "VarianceSplit",
    "attribute_groups",
    "benjamini_hochberg",
    "bootstrap_difference",
    "calibration_curve",
    "compare_arms",
    "correct_together",
    "crossed_bootstrap",
    "crossed_mean",
    "detection_power",
    "effect_size",
    "equivalence",
    "expected_best",
    "fit_linear",
    "fit_power",
    "friedman",
    "group_means",
    "history_groups",
    "holm",
    "importances",
    "interaction",
    "interactions",
    "marginal_curve",
    "minimum_detectable_effect",
    "mixed_split",
    "non_inferiority",
    "paired_difference",
    "place_in_draws",
    "popularity_groups",
    "power_analysis",
    "replicates_needed",
    "roc_from_ranks",
    "roc_from_scores",
    "seed_effect_size",
    "seed_t_test",
    "sign_flip_test",
    "sign_flip_tests",
    "top_k_overlap",
    "user_differences",
    "user_effect_size",
    "user_t_test",
    "variance_components",
    "variance_split",
]
