"""Where an arm of a comparison stands, in a few words."""

from __future__ import annotations

from bifusion.studies.comparison.report import ArmEntry
from bifusion.wording import plural


def standing(arm: ArmEntry) -> str:
    """ "40 epochs, 3 seeds", or what kept its figures from being those of trained models."""
    stopped = arm.states.count("guard_stopped")
    if stopped and len(arm.states) > 1:
        return f"{stopped} of {len(arm.states)} seeds stopped by their guard"
    if stopped:
        return f"stopped by its guard in epoch {arm.epochs_done}"
    if arm.ended:
        return f"{plural(arm.epochs_done, 'epoch')}, {plural(len(arm.seeds), 'seed')}"
    return f"so far: epoch {arm.epochs_done} of {arm.epochs}"
