"""Whether a learned gate is worth more than α = 0.5 in its place; told beside the verdict on fusion."""

from __future__ import annotations

import dataclasses

from bifusion.studies.comparison.performance import compare
from bifusion.studies.comparison.report import Verdict
from bifusion.studies.figures.arms import FIRST_ROLE, MIN_SEEDS, Arm
from bifusion.studies.figures.fairness import same_network, why_refused

FIXED = "gate_half"
"""Role of the arm whose gate is 0.5 throughout."""
NOT_COMPARED = " Not compared with a fixed gate"


def beside_fixed_gate(verdict: Verdict, arm: Arm, arms: list[Arm]) -> Verdict:
    """The verdict on fusion with what a fixed gate reaches; the outcome stays, as it is the range's.

    Told of the arm the comparison is about, where its gate was judged.
    """
    if arm.role != FIRST_ROLE or verdict.outcome in ("not judged", "refused"):
        return verdict
    evidence, figures = _found(arm, arms)
    return dataclasses.replace(
        verdict, evidence=verdict.evidence.rstrip() + evidence, figures=verdict.figures | figures
    )


def _found(arm: Arm, arms: list[Arm]) -> tuple[str, dict]:
    fixed = next((other for other in arms if other.role == FIXED and _same_model(arm, other)), None)
    if fixed is None:
        return f"{NOT_COMPARED}: no arm with α = 0.5 is among the runs.", {}
    reason = why_refused([arm, fixed])
    if reason:
        return f"{NOT_COMPARED}: {reason}", {}
    found = compare(arm, fixed, "miou")
    if not found.figures:
        return f"{NOT_COMPARED}: {found.evidence}", {}
    own = arm.first.own_gate  # which may have nothing to learn
    gate, against = (f"gate {own}", f"Gate {own}") if own else ("learned gate", "Learned")
    told = _told(gate, found.figures["mean_difference"], found.outcome, len(found.figures["difference"]))
    return f" {against} against fixed: {found.evidence} {told}", {"learned minus fixed": found.figures}


def _same_model(arm: Arm, other: Arm) -> bool:
    """Of two sizes or towers each has a fixed gate of its own."""
    return same_network(arm.first, other.first)


def _told(gate: str, difference: float, outcome: str, seeds: int) -> str:
    if difference <= 0:
        return f"The {gate} does not beat α = 0.5."
    if outcome == "pass":
        return f"The {gate} beats α = 0.5."
    if seeds < MIN_SEEDS:
        return f"Too few seeds to say that the {gate} beats α = 0.5."
    return f"The {gate} does not beat α = 0.5 by more than the spread over seeds."
