"""What report.json holds of the fusion: the gate point by point, and where fusion helps and hurts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from bifusion.storage.json_schema import Keyword
from bifusion.studies.figures.metrics import Sample

GateKind = Literal["classes", "class", "views", "distance", "outcome"]
DifferenceKind = Literal["all", "class", "sight", "views", "distance"]


@dataclass(frozen=True)
class GateGroup:
    """The gate in one group of the points that a view sees."""

    kind: GateKind
    """What the points are grouped by: texture classes or others, class, number of views, distance of
    their cameras, or what views change of the predicted class."""
    name: str
    """Of the group."""
    share: float
    """Of the points seen (of those annotated, for classes and outcomes), mean over seeds."""
    mean: Sample
    """Mean gate."""


@dataclass(frozen=True)
class GateEntry:
    """A learned gate on the validation points that a view sees, at the last checkpoints."""

    std: Sample
    """Standard deviation of the gate over points."""
    std_within_scenes: Sample
    """The same within a scene, mean over scenes; near 0: one number for all points."""
    flat_miou: Sample
    """mIoU minus that with α at its mean at every point: what differing between points is worth to the
    model as it was trained."""
    flat_ap: Sample
    """The same of AP."""
    histogram: list[float]
    """Share of the points in each of 20 equal bins of [0, 1], mean over seeds."""
    groups: list[GateGroup]
    """Mean gate by group; groups without points are left out."""


@dataclass(frozen=True)
class Difference:
    """One figure of the arm minus the rival's, paired by seed."""

    kind: DifferenceKind
    """What the points, or instances, are grouped by."""
    name: str
    """Of the group: a class, points (instances: most of whose points are) seen by so many views, from so
    far, or by none."""
    figure: Annotated[str, Keyword("enum", ["IoU", "mIoU", "AP", "class-agnostic AP", "mask coverage"])]
    """What is compared, a fraction in [0, 1]. Mask coverage: mean over annotated instances of the best
    IoU with any predicted mask."""
    arm: float
    """The arm's, mean over the paired seeds."""
    rival: float
    """The rival's."""
    difference: Sample
    """Arm minus rival."""


@dataclass(frozen=True)
class FusionDifferences:
    """Where the arm that the comparison is about gains and loses against one rival."""

    arm: str
    """Key of the arm."""
    rival: str
    """Key of the rival."""
    semantics: list[Difference]
    """Classes of points; where it loses most comes first."""
    masks: list[Difference]
    """Masks of instances, likewise."""
