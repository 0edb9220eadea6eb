"""What a step can meet: faults, which must not reach the weights, and alarms, which only warn."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Phase = Literal["input", "activation", "buffers", "matching", "loss", "gradient", "optimizer"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""In the order in which a step passes them; the first one in which something is bad names a fault."""
Action = Literal["skip", "rollback", "stop"]
NONFINITE = "nonfinite"


@dataclass
class Fault:
    """Something in an optimiser step that must not reach the weights; the step is not taken."""

    phase: Phase
    where: list[str]
    """Such as "input.voxel_feats", "activation.f2d", "loss.mask_bce", "matching.cost",
    "gradient.backbone", "optimizer.decoder", "buffers.backbone"."""
    scenes: list[str]
    """Scenes it may come from: those whose data are bad, else all of the batch that failed."""
    rule: str = NONFINITE
    """"nonfinite", or the rule of `rules.py` whose action is "skip", such as "loss_spike"."""
    heights: dict[str, float] = field(default_factory=dict)
    """Of a spike: the figures that stand out, by place, as in `where`; of a loss its total."""
    action: Action = "skip"
    """What followed, besides that the step was not taken."""
    diagnosis: dict[str, Any] | None = None
    """Record of `diagnosis.Diagnosis`; None where the same fault was diagnosed before."""
    bundle: str | None = None
    """File in the run folder that replays the step; None where none was written."""

    @property
    def nonfinite(self) -> bool:
        """A NaN or an infinity, not merely a value out of proportion."""
        return self.rule == NONFINITE

    def record(self) -> dict[str, Any]:
        """The fault as a step's record shows it; its rule is the event's "kind"."""
        fields = asdict(self)
        if not self.heights:
            del fields["heights"]
        return {"kind": fields.pop("rule"), **fields}


@dataclass
class Alarm:
    """A warning: nothing is withheld from the weights."""

    rule: str
    where: list[str]
    scenes: list[str]
    value: float | None
    """What was measured, in the rule's unit."""
    threshold: float | None
    message: str
    """One sentence: what it is, what to try."""

    def record(self) -> dict[str, Any]:
        """The alarm as a step's record shows it."""
        return asdict(self)
