"""When a measure matters: the rule, fixed before any figure is there, and the sentences it makes.

A pair is the staged recipe and one that differs in a measure, with the same seed at the same point of
the grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bifusion.studies.ablation.figures import RunFigures
from bifusion.studies.ablation.report import Aspect, Finding, Outcome
from bifusion.studies.figures.text import number, signed
from bifusion.wording import plural

LEVEL = 0.01
"""A sign test below this is no chance."""
SPREAD_RATIO = 1.5
"""Gradient norms that scatter so many times as much are less steady, as in the verdict on stage 1."""
TIE = 0.001
"""A difference in accuracy smaller than this is none."""
STEADY_FIGURES = ("raw_nonfinite", "spikes", "unsteady")
"""The fewer the steadier, the first that differs decides."""
MIN_PAIRS = 1 + math.ceil(math.log2(1 / LEVEL))
"""Fewer pairs cannot reach LEVEL, even if all agree."""

Pair = tuple[RunFigures, RunFigures]
"""(with the measure, without it)."""
Pairs = Mapping[tuple[str, int], Pair]
"""(point of the grid, seed) → pair."""

RULE = (
    "A pair is the staged recipe and the one without the measure, with the same seed at the same point "
    "of the grid; each pair says which of the two is better, or neither.",
    "Stability: a run that came to its end is steadier than one that its guard stopped; of two that "
    "did, the one with fewer raw non-finite steps; then the one with fewer spikes; then the one with "
    "fewer alarms over gradients, updates, feature ranges and the loss scale; then the one whose "
    "gradient norms scatter less, if the other’s scatter at least "
    f"{SPREAD_RATIO} times as much; else neither. Of two that were stopped neither is: the one that "
    "broke earlier had fewer steps to count faults in. Pairs in which a run crashed do not count.",
    "Accuracy: the run with the higher validation mIoU at the last checkpoint (AP, where a model has no "
    f"mIoU), unless they differ by less than {TIE}; pairs in which a run was stopped do not count.",
    "The measure matters if more pairs are better with it than without it, by a two-sided sign test "
    f"over the pairs that say anything (p < {LEVEL}), and no seed alone says the opposite. It harms if "
    "the same holds the other way round. Otherwise it does not show: this data, length and size cannot "
    "tell it from chance, which is no proof that it does nothing. "
    f"Fewer than {MIN_PAIRS} pairs are too few.",
    "Pairs of one seed share initial weights and the order of data, so they are not independent and p "
    "flatters; that is why every seed must agree. A run of an arm without a 2D head, or without images, "
    "stands in a pair at every range of the 2D features, which p does not know either; steps, spikes, "
    "alarms and stops are summed over runs, each once.",
)
"""Shown on the page, above what it was applied to."""

REFUSED = Finding("accuracy", "refused", 0, 0, 0, math.nan, [], 0)
"""On accuracies that must not be compared; no pair was judged."""


def judge_aspect(aspect: Aspect, pairs: Pairs) -> Finding:
    """Applies the rule to all pairs that have come to a result."""
    prefer = steadier if aspect == "stability" else more_accurate
    signs = {
        where: sign
        for where, (with_it, without) in pairs.items()
        if (sign := prefer(with_it, without)) is not None
    }
    better, worse = (sum(sign == s for sign in signs.values()) for s in (1, -1))
    seeds, points = sorted({seed for _, seed in signs}), list(dict.fromkeys(p for p, _ in signs))
    return Finding(
        aspect,
        _outcome(better, worse, [_balance(signs, seed) for seed in seeds], len(signs)),
        better,
        worse,
        len(signs) - better - worse,
        sign_test(better, worse),
        [p for p in points if all(sign == 1 for (point, _), sign in signs.items() if point == p)],
        len(signs),
    )


def _balance(signs: Mapping[tuple[str, int], int], seed: int) -> int:
    """Pairs of one seed that are better minus those that are worse."""
    return sum(sign for (_, of_seed), sign in signs.items() if of_seed == seed)


def _outcome(better: int, worse: int, of_seeds: list[int], pairs: int) -> Outcome:
    if pairs < MIN_PAIRS:
        return "too few pairs"
    if not sign_test(better, worse) < LEVEL:
        return "does not show"
    direction = 1 if better > worse else -1
    if any(direction * balance < 0 for balance in of_seeds):
        return "does not show"
    return "matters" if direction > 0 else "harms"


def sign_test(better: int, worse: int) -> float:
    """Two-sided p of so uneven a split of better + worse fair coins; NaN where there is none."""
    tossed = better + worse
    if tossed == 0:
        return math.nan
    tail = sum(math.comb(tossed, k) for k in range(max(better, worse), tossed + 1))
    return min(1.0, 2 * tail / 2**tossed)


def steadier(one: RunFigures, other: RunFigures) -> int | None:
    """1 where `one` is steadier, -1 where `other` is, 0 where neither; None unless both have ended."""
    if not (one.ended and other.ended):
        return None
    if one.broke and other.broke:  # of different lengths, so that counts favour the one that broke first
        return 0
    mine, theirs = ((run.broke, *(run.figures[name] for name in STEADY_FIGURES)) for run in (one, other))
    for a, b in zip(mine, theirs, strict=True):
        if a != b and not (math.isnan(a) or math.isnan(b)):
            return 1 if a < b else -1
    a, b = one.figures["gradient_spread"], other.figures["gradient_spread"]
    if not (a > 0 and b > 0) or max(a, b) < SPREAD_RATIO * min(a, b):
        return 0
    return 1 if a < b else -1


def more_accurate(one: RunFigures, other: RunFigures) -> int | None:
    """As `steadier`, by validation mIoU or AP; None where one of them came to no end."""
    difference = accuracy_gain(one, other)
    if not math.isfinite(difference):
        return None
    return 0 if abs(difference) < TIE else int(math.copysign(1, difference))


def accuracy_gain(one: RunFigures, other: RunFigures) -> float:
    """mIoU of `one` minus that of `other` (AP where one of them has no mIoU); NaN unless both were
    trained to their end."""
    if one.state != "completed" or other.state != "completed":
        return math.nan
    gains = [one.figures[name] - other.figures[name] for name in ("miou", "ap")]
    return next((gain for gain in gains if math.isfinite(gain)), math.nan)


def mean_gain(pairs: Sequence[Pair]) -> float:
    """Mean of `accuracy_gain` over `pairs`; NaN where none was trained to its end."""
    gains = [gain for pair in pairs if math.isfinite(gain := accuracy_gain(*pair))]
    return float(np.mean(gains)) if gains else math.nan


# -------------------------------------------------------------------------------------- sentences

HEADLINES: dict[tuple[Outcome, Outcome], str] = {
    ("matters", "matters"): "It matters, for stability and for accuracy",
    ("matters", "harms"): "It matters for stability and harms accuracy",
    ("matters", "does not show"): "It matters for stability; for accuracy it does not show",
    ("harms", "matters"): "It harms stability and matters for accuracy",
    ("harms", "harms"): "It harms, both stability and accuracy",
    ("harms", "does not show"): "It harms stability; for accuracy it does not show",
    ("does not show", "matters"): "It matters for accuracy; for stability it does not show",
    ("does not show", "harms"): "It harms accuracy; for stability it does not show",
    ("does not show", "does not show"): "It does not show",
}

ON_STABILITY: dict[Outcome, str] = {
    "matters": "It matters for stability",
    "harms": "It harms stability",
    "does not show": "For stability it does not show",
    "too few pairs": "Too few pairs to say anything on stability",
}
"""Where accuracies are not compared."""
NOT_COMPARED = "accuracies are not compared"


def headline(stability: Finding, accuracy: Finding) -> str:
    """What comes out, in one clause."""
    if accuracy.outcome == "refused":
        return f"{ON_STABILITY[stability.outcome]}; {NOT_COMPARED}"
    few = [f.aspect for f in (stability, accuracy) if f.outcome == "too few pairs"]
    if len(few) == 2:
        return "Too few pairs to say"
    note = f" (too few pairs to say anything on {few[0]})" if few else ""
    return HEADLINES[_shown(stability), _shown(accuracy)] + note


def _shown(finding: Finding) -> Outcome:
    return "does not show" if finding.outcome == "too few pairs" else finding.outcome


RIVAL_WORDS = {"matters": "staged is better", "harms": "staged is worse"}
"""Outcomes in a table of rivals; the others as they are."""


def rival_headline(stability: Finding, accuracy: Finding) -> str:
    """The same of another model beside the staged one."""
    words = {
        "stability": ("steadier", "less steady", "no difference in stability shows"),
        "accuracy": ("more accurate", "less accurate", "no difference in accuracy shows"),
    }
    told = []
    for finding in (stability, accuracy):
        better, worse, same = words[finding.aspect]
        few = f"too few pairs to say anything on {finding.aspect}"
        staged = {
            "matters": f"staged is {better}",
            "harms": f"staged is {worse}",
            "too few pairs": few,
            "refused": NOT_COMPARED,
        }
        told.append(staged.get(finding.outcome, same))
    if stability.outcome == accuracy.outcome == "too few pairs":
        return "Too few pairs to say"
    text = "; ".join(told)
    return text[0].upper() + text[1:]


def sentence(
    pairs: Pairs, stability: Finding, accuracy: Finding, *, without: str, points: Mapping[str, str]
) -> str:
    """The figures behind a headline. `without`: how the sentence calls being without the measure;
    `points`: labels of the grid's points."""
    of_with, of_without = (_runs(pairs, side) for side in (0, 1))
    counts = []
    for name, one, many in (
        ("raw_nonfinite", "raw non-finite step", "raw non-finite steps"),
        ("spikes", "spike", "spikes"),
        ("unsteady", "alarm", "alarms"),
    ):
        with_it, without_it = _total(of_with, name), _total(of_without, name)
        counts.append(f"{without_it} {one if without_it == 1 else many} against {with_it}")
    broke_with, broke_without = (sum(run.broke for run in runs) for runs in (of_with, of_without))
    if broke_with or broke_without:
        counts.append(f"{plural(broke_without, 'run')} stopped against {broke_with}")
    if len(of_without) != len(of_with):  # one side's run stands in several pairs
        counts.append(f"in {plural(len(of_without), 'run')} against {len(of_with)}")
    text = (
        f"{without}, {stability.better} of {plural(stability.pairs, 'pair')} are less "
        f"steady and {stability.worse} steadier ({_p(stability)}): {', '.join(counts)}. "
    )
    if stability.points and stability.outcome == "matters":
        labels = [points[point] for point in stability.points]
        everywhere = len(labels) == len({where[0] for where in pairs})
        text += f"Less steady for every seed at {'every point' if everywhere else '; '.join(labels)}. "
    return text + _accuracy(pairs, accuracy)


def _accuracy(pairs: Pairs, finding: Finding) -> str:
    if finding.outcome == "refused":
        return "Accuracies are not compared."
    gains = [accuracy_gain(without, with_it) for with_it, without in pairs.values()]
    finite = [gain for gain in gains if math.isfinite(gain)]
    if not finite:
        return "No pair was trained to its end."
    spread = f" ± {number(float(np.std(finite, ddof=1)))}" if len(finite) > 1 else ""
    return (
        f"Accuracy changes by {signed(float(np.mean(finite)))}{spread} over "
        f"{plural(len(finite), 'pair')}: lower in {finding.better}, higher in {finding.worse} "
        f"({_p(finding)})."
    )


def _runs(pairs: Pairs, side: int) -> list[RunFigures]:
    """The runs on one side of the pairs that are judged on stability, each once."""
    judged = [pair[side] for pair in pairs.values() if steadier(*pair) is not None]
    # A folder is read once, into one object; other runs may well have equal figures.
    return list({id(run): run for run in judged}.values())


def _total(runs: list[RunFigures], name: str) -> int:
    values = [run.figures[name] for run in runs]
    return int(sum(value for value in values if math.isfinite(value)))


def _p(finding: Finding) -> str:
    if math.isnan(finding.p):
        return "no pair says anything"
    return f"p = {finding.p:.2g}" if finding.p >= 1e-4 else "p < 0.0001"
