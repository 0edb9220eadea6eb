"""The content of dose.json, typed; its schema is made from these classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bifusion.storage.json_schema import Finite, Keyword
from bifusion.studies.figures.metrics import Sample
from bifusion.studies.figures.run import State
from bifusion.studies.page.files import StudyReport
from bifusion.wording import plural


@dataclass(frozen=True)
class Knob:
    """The property that changes from one data set to the next."""

    name: str
    """Field of the rooms' configuration, or voxel_size_m of the models' data."""
    label: str
    """As shown."""
    unit: str
    """Empty where it has none."""
    meaning: str
    """What changes with it; one sentence."""
    zero_at: float | None = None
    """Value at which images cannot help, so that the expected gain is zero; null where there is none."""


@dataclass(frozen=True)
class DoseArm:
    """One model and recipe over its seeds and all levels."""

    key: str
    """Its name in the rest of this file."""
    role: str
    """Its role, as in report.json."""
    label: str
    """As shown."""
    control: str | None
    """What it is a control of; null for models and rivals."""
    recipe: str
    """Recipe."""
    tower: str | None
    """Where its image features come from."""


@dataclass(frozen=True)
class Parts:
    """One figure for each part of the validation points and classes."""

    all: Sample
    """All points, all classes."""
    seen: Sample
    """Points that at least one view sees."""
    unseen: Sample
    """Points that no view sees."""
    texture: Sample
    """Classes that only texture tells apart, all points."""
    other: Sample
    """The other classes, all points."""
    texture_seen: Sample
    """Texture classes, points seen."""
    texture_unseen: Sample
    """Texture classes, points not seen."""


@dataclass(frozen=True)
class GateAtLevel:
    """A learned gate on the points that a view sees."""

    mean: Sample
    """Mean gate."""
    std_within_scenes: Sample
    """Standard deviation over the points of a scene, mean over scenes."""
    texture_minus_other: Sample
    """Mean gate of classes that only texture tells apart, minus that of the others."""


@dataclass(frozen=True)
class ArmAtLevel:
    """What one arm reaches at one value of the knob."""

    states: list[State]
    """How each run stands, by seed."""
    miou: Parts
    """mIoU of the last checkpoints."""
    gain: Parts | None
    """mIoU minus the reference's, paired by seed; null for the reference, without it, and where the pair
    is refused."""
    refused: str | None
    """Why it must not be compared with the reference, or null."""
    gate: GateAtLevel | None
    """null for models without a learned gate, and before the evaluation."""

    @property
    def stopped(self) -> int:
        """Runs that their guard stopped: among the figures, not in the gain."""
        return self.states.count("guard_stopped")

    @property
    def pairs(self) -> str:
        """ "1 of 3 pairs" where the gain is not of all runs; else empty."""
        count = 0 if self.gain is None else len(self.gain.all.by_seed)
        return f"{count} of {len(self.states)} pairs" if 0 < count < len(self.states) else ""


@dataclass(frozen=True)
class Probe:
    """How well a classifier tells texture classes apart by one sense alone."""

    accuracy: Finite
    """Cross-validated, mean over the groups of texture classes."""
    standard_error: Finite
    """Of the accuracy."""
    chance: Finite
    """Accuracy of guessing."""


@dataclass(frozen=True)
class Probes:
    """Accuracy on the texture classes by each sense; null where not probed."""

    voxels: Probe | None
    """Voxel colours and geometry."""
    images: Probe | None
    """Image crops."""


@dataclass(frozen=True)
class RoomsAudit:
    """What the rooms' audit.json tells of one level."""

    seen_share: float
    """Share of validation points that at least one view sees."""
    oracle_miou: float
    """Best mIoU that any model on these superpoints could reach."""
    probe: Probes
    """What each sense alone gives away."""


@dataclass(frozen=True)
class LevelEntry:
    """One value of the knob."""

    value: Finite
    """Of the knob."""
    folder: str
    """Folder beside dose.json with this level's rooms, runs and comparison report."""
    complete: bool
    """Every planned run ended and was evaluated, or was stopped by its guard; none crashed."""
    expected_zero: bool
    """Images cannot help at this value."""
    audit: RoomsAudit | None
    """null before it was made."""
    arms: dict[str, ArmAtLevel]
    """Arm → its figures at this value, without runs that crashed; arms without a started run are left
    out."""


@dataclass(frozen=True, kw_only=True)
class DoseReport(StudyReport):
    """Content of dose.json: what images add to a model, as one property of the generated rooms changes.
    Gain: mIoU minus that of the reference (BiFusion without views) on the same rooms, paired by seed, at
    the last checkpoint. mIoU is a fraction in [0, 1]. Numbers that were not measured are null."""

    crashed: list[str]
    """LEVEL/RUN: folders of runs without a result because they crashed."""
    waiting: list[str]
    """LEVEL/RUN: folders of runs that have not ended or been evaluated."""
    knob: Knob
    """The property that changes."""
    reference: str | None
    """Key of the arm that gains are measured from; null before a run of it started."""
    arms: list[DoseArm]
    """The models, in the order of tables."""
    levels: Annotated[list[LevelEntry], Keyword("minItems", 1)]
    """One entry a value of the knob, in rising order."""

    @property
    def gaining(self) -> list[DoseArm]:
        """The arms whose gain is measured."""
        return [arm for arm in self.arms if arm.key != self.reference]


def stopped_lines(dose: DoseReport) -> list[str]:
    """A sentence for each arm and value of which seeds were stopped by their guard."""
    labels = {arm.key: arm.label for arm in dose.arms}
    return [
        f"{labels[key]} at {level.value:g}: {entry.stopped} of {plural(len(entry.states), 'seed')} "
        "stopped by their guard; the gain is of the pairs that came to their end."
        for level in dose.levels
        for key, entry in level.arms.items()
        if entry.stopped
    ]
