"""What a run that its guard stopped says at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bifusion.step.events import Fault
from bifusion.step.guard import Guard

ADVICE = {
    "data": "look at these scenes (bifusion check) and prepare them again, or leave them out",
    "state": "lower optim.lr, lengthen optim.warmup_steps, or train in stages: the weights had left the "
    "range in which the network works",
    "numerics": "train with --trainer.precision 32-true: the low precision cannot hold these numbers",
    "unclear": "replay the step with --trace to see every module's range",
}
"""What to try, by the diagnosis's verdict."""


def stop_reason(fault: Fault, guard: Guard) -> str:
    """Why the run ended, in a line."""
    return (
        f"{guard.counts.in_a_row} faults in a row after {guard.counts.rollbacks} rollbacks, the last in "
        f"{', '.join(fault.where)}"
    )


def stop_summary(
    fault: Fault, guard: Guard, diagnosis: dict[str, Any] | None, bundle: Path | None
) -> str:
    """What happened, where, in which scenes, the verdict and what to try; a line each.

    `diagnosis` and `bundle` are those of the first fault of this kind.
    """
    found, counts = diagnosis or {}, guard.counts
    what = (
        f"{guard.config.rollback_after} faults in a row ({fault.rule}, {fault.phase}) after "
        f"{counts.rollbacks} rollbacks; {counts.skipped} steps skipped in all"
    )
    where = ", ".join(fault.where)
    if found.get("module"):
        where += f", first in {found['module']}"
    if found.get("operation"):
        where += f" ({found['operation']})"
    verdict = found.get("verdict") or "unclear"
    lines = {
        "what": what,
        "where": where,
        "scenes": ", ".join(found.get("scenes") or fault.scenes),
        "verdict": f"{verdict}. {found.get('explanation', '')}".strip(),
        "try": ADVICE[verdict],
    }
    if bundle is not None:
        lines["replay"] = f"bifusion replay {bundle} --trace"
    return "\n".join(f"{name + ':':<9}{text}" for name, text in lines.items())
