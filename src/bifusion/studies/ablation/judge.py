"""From the run folders of a grid to the ablation's report, by a rule fixed before (`rules`).

What was not run is told too. May be judged again and again while the runs train.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from bifusion.studies.ablation import rules
from bifusion.studies.ablation.figures import FIGURES, NO_RUN, RunFigures, measure_run, over_runs
from bifusion.studies.ablation.plan import AblationArm, AblationPlan, GridPoint
from bifusion.studies.ablation.report import (
    AblationNotRun,
    AblationReport,
    ArmFinding,
    Cell,
    CellFigures,
)
from bifusion.studies.grids.report import grid_fields
from bifusion.studies.grids.runs import Measured

Figures = Mapping[tuple[str, str, int], RunFigures]
"""(recipe, key of the point, seed) → figures of the run."""


def judge_ablation(plan: AblationPlan, title: str, measured: Measured[RunFigures]) -> AblationReport:
    """The report of the runs of `plan` so far. `measured` keeps what was read from one call to the
    next. InputError for a damaged run folder."""
    figures = measured.of(plan, lambda _, folder, crashed: measure_run(folder, crashed=crashed))
    left_out = [point.label for point in plan.points_left_out]
    fields = grid_fields(plan, title, figures, partial(AblationNotRun, points=left_out))
    refused = fields["refused"]
    return AblationReport(
        **fields,
        points=list(plan.points),
        arms=list(plan.arms),
        figures=FIGURES,
        rule=list(rules.RULE),
        findings=[_finding(arm, plan, figures, refused) for arm in plan.arms if arm.role != "staged"],
        cells=[_cell(arm, point, plan, figures, refused) for point in plan.points for arm in plan.arms],
    )


# ------------------------------------------------------------------------------------ the findings


def _pairs(arm: AblationArm, plan: AblationPlan, figures: Figures) -> dict[tuple[str, int], rules.Pair]:
    """(with the measure, without it) at each point with each seed; of a rival, (staged, rival)."""
    pairs = {}
    for point in plan.points:
        for seed in plan.seeds:
            staged = figures.get((plan.base, point.key, seed), NO_RUN)
            other = figures.get((arm.recipe, point.key, seed), NO_RUN)
            pairs[point.key, seed] = (other, staged) if arm.role == "added" else (staged, other)
    return pairs


def _finding(
    arm: AblationArm,
    plan: AblationPlan,
    figures: Figures,
    refused: str | None,
) -> ArmFinding:
    pairs = _pairs(arm, plan, figures)
    stability = rules.judge_aspect("stability", pairs)
    accuracy = rules.REFUSED if refused else rules.judge_aspect("accuracy", pairs)
    headline = rules.rival_headline if arm.role == "rival" else rules.headline
    return ArmFinding(
        arm=arm.key,
        headline=headline(stability, accuracy),
        sentence=rules.sentence(
            pairs,
            stability,
            accuracy,
            without=_without(arm),
            points={point.key: point.label for point in plan.points},
        ),
        stability=stability,
        accuracy=accuracy,
        difference=over_runs(_mean_differences(arm, plan, figures) if refused is None else {}),
    )


def _mean_differences(arm: AblationArm, plan: AblationPlan, figures: Figures) -> dict[int, float]:
    """Accuracy of the arm minus that of the staged recipe, by seed, mean over the grid."""
    told = {}
    for seed in plan.seeds:
        told[seed] = rules.mean_gain(
            [
                (
                    figures.get((arm.recipe, point.key, seed), NO_RUN),
                    figures.get((plan.base, point.key, seed), NO_RUN),
                )
                for point in plan.points
            ]
        )
    return told


def _without(arm: AblationArm) -> str:
    if arm.role == "rival":
        return f"With {arm.label} in its place"
    return f"Without it ({'the staged recipe as it is' if arm.role == 'added' else arm.instead})"


# --------------------------------------------------------------------------------------- the cells


def _cell(
    arm: AblationArm,
    point: GridPoint,
    plan: AblationPlan,
    figures: Figures,
    refused: str | None,
) -> Cell:
    """The runs of one arm at one point of the grid."""
    mine = {seed: figures.get((arm.recipe, point.key, seed), NO_RUN) for seed in plan.seeds}
    staged = {seed: figures.get((plan.base, point.key, seed), NO_RUN) for seed in plan.seeds}
    gains = {seed: rules.accuracy_gain(mine[seed], staged[seed]) for seed in plan.seeds}
    return Cell(
        arm=arm.key,
        point=point.key,
        shared=not arm.has_range and len({p.range_2d for p in plan.points}) > 1,
        states={seed: run.state for seed, run in mine.items()},
        reasons={seed: run.reason for seed, run in mine.items() if run.reason},
        steps=sum(run.steps for run in mine.values()),
        skipped=sum(run.skipped for run in mine.values()),
        rollbacks=sum(run.rollbacks for run in mine.values()),
        figures=CellFigures(
            **{
                name: over_runs({seed: run.figures[name] for seed, run in mine.items()})
                for name in FIGURES
            }
        ),
        difference=over_runs(gains if arm.role != "staged" and refused is None else {}),
    )
