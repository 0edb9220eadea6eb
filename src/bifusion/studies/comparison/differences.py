"""Where fusion helps and where it hurts: the arm a comparison is about against rivals without images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from bifusion.studies.comparison.fusion_report import Difference, DifferenceKind, FusionDifferences
from bifusion.studies.comparison.rivals import DECISIVE, rival_of
from bifusion.studies.figures.arms import FIRST_ROLE, Arm, find_role
from bifusion.studies.figures.fairness import why_more_than_images, why_refused
from bifusion.studies.figures.metrics import final_value, over_seeds
from bifusion.studies.figures.run import Run

RIVALS = (DECISIVE, "baseline")
"""Models that see no image, the decisive one first."""
Keys = tuple[str, ...]
"""Where evaluation.json has a group of points, of which how many depends on the views that were read;
empty: all points, whatever was."""
Figure = tuple[DifferenceKind, str, str, Callable[[Run], float], Keys]
"""What the points are grouped by, group, figure, how a run tells it, and the group's points."""


def fusion_differences(arms: list[Arm]) -> list[FusionDifferences]:
    """Of the staged arm against each rival that it may be compared with and shares a seed with."""
    arm = find_role(arms, FIRST_ROLE)
    if arm is None:
        return []
    rivals = [rival for role in RIVALS if (rival := rival_of(arm, role, arms)) is not None]
    found = [_against(arm, rival) for rival in rivals if _why_not(arm, rival) is None]
    return [differences for differences in found if differences.semantics or differences.masks]


def _why_not(arm: Arm, rival: Arm) -> str | None:
    unlike = why_more_than_images(arm, rival) if rival.role == DECISIVE else None
    return unlike or why_refused([arm, rival])


def _against(arm: Arm, rival: Arm) -> FusionDifferences:
    return FusionDifferences(
        arm.key, rival.key, _worst_first(arm, rival, _semantics), _worst_first(arm, rival, _masks)
    )


def _worst_first(arm: Arm, rival: Arm, figures: Callable[[Run], Iterator[Figure]]) -> list[Difference]:
    found = [_difference(arm, rival, *figure) for figure in figures(arm.first)]
    measured = [one for one in found if one.difference.by_seed]
    return sorted(measured, key=lambda one: one.difference.mean)


def _difference(
    arm: Arm, rival: Arm, kind: DifferenceKind, name: str, figure: str, of: Callable[[Run], float],
    group: Keys,
) -> Difference:  # fmt: skip
    """Over the seeds that both were trained with to their end and measured on, on the same points."""
    ended = [
        {seed: run for seed, run in one.by_seed().items() if run.state == "completed"}
        for one in (arm, rival)
    ]
    ours, theirs = ({seed: of(run) for seed, run in runs.items()} for runs in ended)
    both = [
        s for s in ours.keys() & theirs.keys()
        if math.isfinite(ours[s] - theirs[s]) and _same_points(ended[0][s], ended[1][s], group)
    ]  # fmt: skip
    mine, other = (over_seeds({seed: values[seed] for seed in both}) for values in (ours, theirs))
    gained = over_seeds({seed: ours[seed] - theirs[seed] for seed in both})
    return Difference(kind, name, figure, mine.mean, other.mean, gained)


def _same_points(one: Run, other: Run, group: Keys) -> bool:
    """False where evaluations of the two read other views, as by another `data.max_views`."""
    mine, theirs = (final_value(run, *group, "points") if group else math.nan for run in (one, other))
    return mine == theirs or math.isnan(mine) or math.isnan(theirs)


# ---------------------------------------------------------------------------------- the figures


def _at(*keys: str) -> Callable[[Run], float]:
    return lambda run: final_value(run, *keys)


def _semantics(run: Run) -> Iterator[Figure]:
    yield "all", "all points", "mIoU", _at("full", "miou"), ()
    for kind, name, keys in _by_sight(run):
        yield kind, name, "mIoU", _at(*keys, "miou"), keys
    for name in run.class_names:
        yield "class", name, "IoU", _at("full", "iou", name), ()


def _masks(run: Run) -> Iterator[Figure]:
    yield "all", "all instances", "AP", _at("full", "ap"), ()
    yield "all", "all instances", "class-agnostic AP", _at("full", "agnostic_ap"), ()
    for kind, name, keys in _by_sight(run):
        yield kind, name, "mask coverage", _at(*keys, "mask_coverage"), keys
    for name in run.class_names:
        yield "class", name, "AP", _average_precision(name), ()


def _average_precision(name: str) -> Callable[[Run], float]:
    """AP of a class: the first of [AP, AP50, AP25]; NaN where it has none."""

    def of(run: Run) -> float:
        table = ((run.evaluation or {}).get("full") or {}).get("per_class") or {}
        first = (table.get(name) or [None])[0]
        return math.nan if first is None else float(first)

    return of


def _by_sight(run: Run) -> Iterator[tuple[DifferenceKind, str, Keys]]:
    """Kind, name and keys in evaluation.json of the groups that differ in how points are seen."""
    yield "sight", "seen by a view", ("seen",)
    yield "sight", "seen by none", ("unseen",)
    kinds: tuple[DifferenceKind, ...] = ("views", "distance")
    for kind in kinds:
        for name in (run.evaluation or {}).get(f"by_{kind}") or {}:
            yield kind, name, (f"by_{kind}", name)
