"""The words of every figure: the section it stands in, what it shows, and how to read it."""

from __future__ import annotations

BETTER, CLOSE, LAYERS = "Is any selector better?", "How close to the teacher?", "Which layers?"
SEARCH, COST, USERS = "Search and training", "What it cost", "Where the numbers come from"
ACROSS = "Over several data sets"

CAPTIONS: dict[str, tuple[str, str, str]] = {
    "difference_to_reference": (
        BETTER,
        "Difference of every student to {reference}",
        "Right of the line is better than {reference}. The grey band is the margin of {margin}; the word at the "
        "right is the verdict after correction for the number of different students and keep-ratios.{same}",
    ),
    "random_draws": (
        BETTER,
        "Where each selector stands among students of random layers",
        "Every tick is one random set of layers, distilled like the others. At the right: how many of the draws a "
        "selector beats, the {percent} interval of the share of all random sets that it would beat, and p, how often a "
        "random set would do as well, not corrected; none of these knows how means vary over seeds. With {n} "
        "draws, the most that any number of layers has, p cannot be under {smallest}{few}.",
    ),
    "difference_to_teacher": (
        CLOSE,
        "Difference of every student to the teacher",
        "Right of the line is better than the teacher. The grey band is the margin of {margin}; the word at the "
        "right is the verdict after correction for the number of different students and keep-ratios.{same}",
    ),
    "compression": (
        CLOSE,
        "Quality kept against size and measured latency",
        "The dashed line joins the models that no cheaper model beats; small points are the other arms. The band under "
        "100 % is the margin of {margin}. (+2): two more arms are these very students.{same}",
    ),
    "layer_importance": (
        LAYERS,
        "Importance of every teacher layer by each selector",
        "Scores are scaled so that a selector's largest mean is 1. Deep/shallow is the mean importance of the deepest "
        "quarter of layers over the shallowest quarter; stability is the rank agreement between calibration samples; "
        "how far several teachers agree is the rank agreement between their mean scores.",
    ),
    "layer_selection": (
        LAYERS,
        "Layers that the students were built from",
        "A dot: every student of the arm keeps this layer. A number: the share (%) of its students that do.",
    ),
    "sensitivity": (
        SEARCH,
        "Validation quality over what was searched",
        "Points are search trials, coloured by arm; the black line is the mean of all, thin lines are single arms "
        "with enough trials. A sampler chose the trials, so this describes the search and does not prove an effect.",
    ),
    "surface": (
        SEARCH,
        "Temperature and alpha together",
        "A random forest fitted to all search trials, {points} distinct points (white rings); the star is its best "
        "point. It explains {fit} of the variation between trials that it was not fitted to; {strength} of the surface "
        "is interaction, which no sum of two curves gives.",
    ),
    "no_surface": (
        SEARCH,
        "Temperature and alpha together",
        "The {points} distinct points that were searched, by the mean of the trials there. No surface is drawn and no "
        "best point named: a random forest fitted to these trials explains nothing of the variation between trials "
        "that it was not fitted to (R² {fit}), so that its map would be noise.",
    ),
    "hyper_parameter_importance": (
        SEARCH,
        "Which hyper-parameter mattered",
        "Bars: all arms together; dots: each arm alone, where it has enough trials. The two methods ask different "
        "questions: what moves quality anywhere, and what sets the best trials apart.",
    ),
    "search_budget": (
        SEARCH,
        "What more search would have bought",
        "The expected best of so many trials drawn from those that were run; exploratory, because a learning sampler "
        "chose them.",
    ),
    "training_curves": (
        SEARCH,
        "Training of the confirmed students",
        "Mean over the confirm runs of an arm; bands for the arms that the report talks about, of several runs.",
    ),
    "costs": (
        COST,
        "Computing time, memory and latency of every arm",
        "Means over the confirmed students. Layer evidence is measured once and serves every student.",
    ),
    "cost_scaling": (
        COST,
        "How cost grows with depth",
        "Points are confirmed models, the line is a least-squares fit. What a model of no layers would cost is what "
        "keeping fewer layers can never save.",
    ),
    "variance_test": (
        USERS,
        "What makes test results differ",
        "Shares of the variance between single users' test results of the selectors. What the selector adds is all "
        "that choosing layers can change.",
    ),
    "variance_students": (
        USERS,
        "What makes students differ",
        "Shares of the variance between the test means of all confirmed students of selectors, keep-ratios together: "
        "the keep-ratio as a fixed effect, the others as random ones. Missing runs do not disturb it.",
    ),
    "variance_scores": (
        USERS,
        "What makes layer scores differ",
        "Shares of the variance of each selector's scores. Sample × layer is what another calibration sample would "
        "change; a selector that is mostly layer measures the layers.",
    ),
    "variance_search": (
        USERS,
        "What makes search trials differ",
        "Shares that arm and hyper-parameters explain of the validation quality of search trials.",
    ),
    "roc": (
        USERS,
        "ROC curves over the whole catalogue",
        "How many targets are found while going down the list. A long list flatters every model: the main metric looks "
        "at the first places only.",
    ),
    "roc_of_labels": (
        USERS,
        "ROC curves of relevant against irrelevant candidates",
        "All labelled candidates of all users together, by the score that ranks them; one curve a run, averaged. The "
        "main metric may look at each user alone, which a curve over all of them does not.",
    ),
    "calibration": (
        USERS,
        "Do predicted probabilities mean what they say?",
        "Labelled candidates in 15 bins of the probability of their predicted class. On the dotted line, predictions "
        "come true as often as they say; under it a model is too sure. The number is the expected calibration error.",
    ),
    "groups_of_candidates": (
        USERS,
        "Where students lose against the teacher",
        "Users grouped by the length of their history, in the main metric; labelled candidates grouped by popularity "
        "and attributes, in log loss, where right of the line is worse. Head: the most popular items, which make half "
        "of all interactions; tail: the items of the last fifth.",
    ),
    "groups_of_users": (
        USERS,
        "Where students lose against the teacher",
        "Users grouped by the length of their history, and by their target's popularity and attributes. Head: the most "
        "popular items, which make half of all interactions; tail: the items of the last fifth.",
    ),
    "critical_difference": (
        ACROSS,
        "Ranks of the arms over data sets, {kept}",
        "The further left, the better. Bars join arms that this many data sets cannot tell apart.",
    ),
}
