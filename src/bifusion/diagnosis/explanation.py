"""A diagnosis: what is known about a fault, and the same in sentences."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bifusion.diagnosis.experiments import Attempt
from bifusion.diagnosis.verdict import Verdict
from bifusion.models.parts import PATH_LABELS, NetworkPath
from bifusion.storage.json_files import to_json


@dataclass
class Diagnosis:
    """What is known about a fault; `explain` tells it."""

    phase: str
    """As in `Fault`; "forward" faults are "input", "activation", "buffers", "loss" and "matching"."""
    scenes: list[str]
    """Those that fail by themselves; all of the step where the fault is not in the data."""
    path: NetworkPath | None = None
    module: str | None = None
    """The first module, or part between modules, that made non-finite numbers of finite ones; for a
    spike, the first that made large numbers of usual ones. None where it is in no module."""
    operation: str | None = None
    """In it, with the line of code where it is known."""
    loss_term: str | None = None
    ranges_before: dict[str, Any] = field(default_factory=dict)
    """"inputs": range of what went into the module; "before": of what modules before it put out; on the
    way back both are of gradients. "grew_in": module and factor, where the inputs were huge already."""
    verdict: Verdict = "unclear"
    explanation: str = ""

    def record(self) -> dict[str, Any]:
        """In JSON's types."""
        return to_json(asdict(self))


def explain(found: Diagnosis, attempt: Attempt, reason: str) -> str:
    """Where it happened, from what numbers, and why."""
    return " ".join(part for part in (_where(found, attempt), _numbers(found), reason) if part)


def _where(found: Diagnosis, attempt: Attempt) -> str:
    path = PATH_LABELS[found.path] if found.path is not None else ""
    on_path = f" ({path})" if path else ""
    origin = attempt.origin
    if not attempt.fails:
        return ""
    if origin is None:
        if found.module is None:
            return f"No single module stands out{on_path}."
        what = "its running statistics" if found.phase == "buffers" else "its numbers"
        detail = f" ({found.operation})" if found.operation and found.phase != "buffers" else ""
        return f"{found.module}{on_path} is where {what} first went wrong{detail}."
    kind = f"{origin.call.kind}, " if found.module == origin.call.module else ""
    name = str(found.module)
    if found.module is None:
        term = "the matching cost" if origin.term is None else f"the loss term {origin.term}"
        name, kind = f"the computation of {term}", ""
    on_path = f" ({kind}{path})" if path else ""
    made = f", by {found.operation}" if found.operation else ""
    if origin.direction == "forward":
        return f"{name}{on_path} made non-finite numbers of finite ones{made}."
    return f"On the way back {name}{on_path} made a non-finite gradient of a finite one{made}."


def _numbers(found: Diagnosis) -> str:
    inputs = found.ranges_before.get("inputs")
    if not inputs:
        return ""
    span = f"{inputs['min']:.3g} and {inputs['max']:.3g}"
    told = f"What went in lay between {span} (rms {inputs['rms']:.3g})"
    grew = found.ranges_before.get("grew_in")
    if grew and grew["module"] != found.module:
        told += f"; it had grown {grew['factor']:.2g}-fold in {grew['module']}"
    return f"{told}."
