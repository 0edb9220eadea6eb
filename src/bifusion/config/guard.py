"""What is done about faulty steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from bifusion.bounds import Count, PositiveInt
from bifusion.changes import MAY_CHANGE
from bifusion.config.rules import RulesConfig


@dataclass
class GuardConfig:
    """What is done about faults, and how far back a run can go."""

    rules: RulesConfig = field(default_factory=RulesConfig)
    """When finite figures count as unhealthy."""
    rollback_after: PositiveInt = 3
    """Faults in a row after which the run goes back to its last healthy state: one or two may be a
    scene's, three different batches that fail are the weights'."""
    max_rollbacks: Count = 3
    """Rollbacks a run; when one more is due it stops instead."""
    ramp_steps: Count = 20
    """Steps after a rollback in which the learning rates rise linearly from a tenth to the whole."""
    healthy_every: PositiveInt = 200
    """Steps between copies of the healthy state, besides those at the start and each epoch's end."""
    diagnose: Annotated[bool, MAY_CHANGE] = True
    """Run a step that met a new kind of fault again, to name module, scenes and cause."""
    bundles: Annotated[Count, MAY_CHANGE] = 3
    """Most replay files a run writes."""
