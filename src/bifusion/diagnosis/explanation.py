"""A diagnosis in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bifusion.diagnosis.experiments import Attempt
from bifusion.models.parts import PATH_LABELS

if TYPE_CHECKING:
    from bifusion.diagnosis.diagnose import Diagnosis


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
