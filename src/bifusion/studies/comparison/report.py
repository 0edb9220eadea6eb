"""The content of report.json, typed; its schema is made from these classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from bifusion.storage.json_schema import Count, Keyword
from bifusion.studies.comparison.fusion_report import FusionDifferences, GateEntry
from bifusion.studies.figures.metrics import Sample
from bifusion.studies.figures.run import State
from bifusion.studies.page.files import StudyReport

Criterion = Literal["stability", "performance", "fusion", "stage 1", "stage 2", "stage 3"]
Outcome = Literal["pass", "fail", "indicative pass", "indicative fail", "not judged", "refused"]
Cell = list[tuple[str, str]]


@dataclass(frozen=True)
class Verdict:
    """One judgement on one arm."""

    criterion: Criterion
    """What is judged."""
    arm: str
    """Key of the arm."""
    outcome: Outcome
    """Indicative: the figures point there but are too few (under 20 epochs, under 3 seeds, a gain within
    its own spread)."""
    evidence: str
    """Sentences with the figures that led there."""
    figures: dict[str, Any]
    """The same figures for machines; seeds as keys."""


@dataclass(frozen=True)
class Results:
    """Results on the validation split; IoU, AP and PQ are fractions in [0, 1]."""

    miou: Sample
    """Mean IoU over the classes."""
    ap: Sample
    """Average precision of instances, mean over IoU thresholds from 0.5 to 0.95."""
    ap50: Sample
    """Average precision at IoU 0.5."""
    ap25: Sample
    """Average precision at IoU 0.25."""
    pq: Sample
    """Panoptic quality."""
    fusion_2d_ratio: Sample
    """Mean gate over the points that a view sees."""
    share_2d: Sample
    """2D's share of the fused features, weighted by how large the features are."""


@dataclass(frozen=True, kw_only=True)
class FaultCounts:
    """What became of the steps attempted; of an arm, over all its seeds."""

    raw_nonfinite: Count
    """Steps with a non-finite loss, activation or gradient before any guard acted."""
    skipped: Count
    """Steps that the guard did not let reach the weights."""
    rollbacks: Count
    """Times that a run went back to its last healthy state."""
    warnings: Count
    """Warnings of the rules that watch spikes and trends."""
    scaler_overflows: Count
    """Overflows of the precision scaler, which are its normal work."""


@dataclass(frozen=True)
class Stage:
    """A training stage; an epoch belongs to [first_epoch, end_epoch)."""

    name: str
    """Name."""
    first_epoch: Count
    """First epoch, from 0."""
    end_epoch: Count
    """First epoch after it."""


@dataclass(frozen=True, kw_only=True)
class ArmEntry(FaultCounts):
    """One model and recipe over its seeds."""

    key: str
    """Its name in the rest of this file."""
    role: str
    """baseline, staged, without_views, naive, plan_a, plan_b, mask3d, or a control: fine_voxels,
    2d_only, gate_half, lifted_rgb, random_tower."""
    label: str
    """As shown."""
    control: str | None
    """What the arm is a control of; controls are shown, not judged on performance, and no rivals. null
    for models and rivals."""
    model_kind: str
    """oneformer3d, bifusion or mask3d."""
    seeds: list[int]
    """Seeds of its runs."""
    states: list[State]
    """How each run stands, in the order of the seeds."""
    final: bool
    """The figures are of the last checkpoints; otherwise of the last validation so far."""
    epochs: Count
    """Epochs planned."""
    epochs_done: Count
    """Fewest epochs that a run of it finished."""
    figures: Results
    """Results on the validation split."""
    parameters: Count
    """Parameters of the model."""
    seconds: Sample
    """Training time."""
    stages: list[Stage]
    """Training stages."""

    @property
    def ended(self) -> bool:
        """Every seed was trained to its end and evaluated."""
        return self.final and set(self.states) == {"completed"}


@dataclass(frozen=True, kw_only=True)
class RunEntry(FaultCounts):
    """One run folder."""

    name: str
    """Name of the folder."""
    arm: str
    """Key of its arm."""
    recipe: str
    """Recipe."""
    seed: int
    """Seed."""
    state: State
    """How it stands."""
    reason: str | None
    """Why it stopped early."""
    accepted_changes: list[str]
    """Scenes and versions that changed while it trained, which was accepted; a line each."""
    epochs: Count
    """Epochs planned."""
    epochs_done: Count
    """Epochs finished."""
    steps: Count
    """Optimiser steps attempted."""
    finite_epochs_in_a_row: Count
    """Longest row of epochs without a non-finite step."""
    loss_spikes: Count
    """Steps whose loss lies over 10 median deviations, and twice the median, above the 101 before it;
    none of the first 10, which have too few before them."""
    gradient_spikes: Count
    """The same of the total gradient norm."""
    train_scenes: Count
    """Training scenes."""
    val_scenes: Count
    """Validation scenes."""
    label_set: str
    """Label set."""
    tower: str | None
    """Where the weights of the image tower come from."""
    seconds: float
    """Training time."""
    versions: dict[str, Any]
    """Versions of the software that trained it."""
    settings: dict[str, Any]
    """Its complete configuration."""


@dataclass(frozen=True)
class Dimension:
    """One row of the study's table."""

    dimension: str
    """Feature space, Gradient flow, Parameters, CLIP or Fusion."""
    cells: dict[str, Cell]
    """Arm → (what, figure) pairs, as shown."""
    risk: str
    """What the study fears."""
    measured_risk: Cell
    """(arm's label, what was measured of the risk) pairs."""


@dataclass(frozen=True)
class ClassTable:
    """IoU of each class, mean over seeds."""

    names: list[str]
    """Classes that at least one arm was scored on."""
    iou: dict[str, dict[str, float]]
    """Arm → class → IoU."""


@dataclass(frozen=True)
class TextureIoU:
    """Mean IoU of one arm over classes that only texture tells apart, and over the others."""

    texture: float
    """Over texture classes."""
    other: float
    """Over the other classes."""
    texture_seen: float
    """Over texture classes, on points that at least one view sees."""
    texture_unseen: float
    """Over texture classes, on points that no view sees: images cannot help there but through
    neighbours."""


@dataclass(frozen=True)
class TextureSplit:
    """Classes that only texture tells apart against the others."""

    classes: list[str]
    """The texture classes, named by the audit."""
    arms: dict[str, TextureIoU]
    """Arm → mean IoU over both groups."""


@dataclass(frozen=True)
class SeenSplit:
    """mIoU of one arm on points seen and not seen."""

    seen: float
    """On points that at least one view sees."""
    unseen: float
    """On points that no view sees."""


@dataclass(frozen=True, kw_only=True)
class ComparisonReport(StudyReport):
    """Content of report.json: what was compared, the verdicts with their evidence, and every figure
    behind them. Numbers that are not finite, or were not measured, are null."""

    crashed: list[str]
    """Names of runs that crashed and have no result."""
    synthetic: bool
    """All scenes are generated rooms."""
    partly_synthetic: bool
    """Some of the scenes are generated rooms, others are not."""
    scenes_refused: str | None
    """Whose results must not be compared and why (scenes in both splits, unequal data or length), or
    null."""
    arms: Annotated[list[ArmEntry], Keyword("minItems", 1)]
    """One entry a model and recipe, in the order of tables."""
    runs: Annotated[list[RunEntry], Keyword("minItems", 1)]
    """One entry a run folder."""
    verdicts: list[Verdict]
    """Every judgement; the arm the comparison is about comes first."""
    study_table: list[Dimension]
    """The study's five dimensions, measured."""
    classes: ClassTable
    """IoU of each class."""
    texture: TextureSplit | None
    """null where no audit names texture classes."""
    seen_split: dict[str, SeenSplit] | None
    """Arm → mIoU on points seen and not seen; null before the first evaluation."""
    gate: dict[str, GateEntry]
    """Arm → its gate point by point; arms with a learned gate that have been evaluated."""
    fusion_differences: list[FusionDifferences]
    """Where the arm that the comparison is about gains and loses against models without images; none
    where there is no such pair."""
    audit: dict[str, Any] | None
    """The benchmark's audit.json as it is: probe, superpoint oracle, share of points seen."""

    @property
    def goes_on(self) -> bool:
        """Runs that did not crash are still to end, or to be evaluated."""
        return not self.complete and not (self.crashed and all(arm.final for arm in self.arms))
