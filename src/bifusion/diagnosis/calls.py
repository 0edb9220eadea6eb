"""What a traced step is told in: calls of modules, and the origin of non-finite numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bifusion.diagnosis.operations import Made, Place
from bifusion.diagnosis.ranges import Range
from bifusion.losses.terms import acts_on_fusion
from bifusion.models.parts import NetworkPath, part_of_module

CRITERION = "criterion"
WHOLE_MODEL = "model"
"""Stands for the outermost module, which has no name."""
PARTS = {
    "lift_features": "lifting",
    "_lift_views": "lifting",
    "find_sightings": "lifting",
    "geometric_code": "geometric_code",
    "pool_superpoints": "pooling",
}
"""Function between modules -> what it is called. The fusion's own code is "fusion.mix"."""


@dataclass
class Call:
    """One call of a module, or the computation of the loss terms."""

    module: str
    """Dotted path in the model."""
    kind: str
    """Class name."""
    number: int = 0
    """Calls of this module before this one in the step."""
    begun: int = 0
    """Calls of the step that began before; they end in another order, inner ones first."""
    depth: int = 0
    """Modules that it runs in."""
    leaf: bool = True
    """No module in it."""
    inputs: Range | None = None
    """None where no floating-point tensor goes in."""
    output: Range | None = None
    grad_output: Range | None = None
    """Gradient that comes in on the way back; None where none did."""
    grad_input: Range | None = None
    """Gradient that it hands on to what lies before it, its share alone where others read that too."""
    made: Made | None = None
    """First operation of its own (not of modules in it) that made a non-finite number."""


@dataclass(frozen=True)
class Origin:
    """Where finite numbers became non-finite ones."""

    module: str
    operation: str | None
    place: Place | None
    direction: Literal["forward", "backward"]
    call: Call
    term: str | None = None
    """Loss term, where it happened in one."""

    def describe_operation(self) -> str | None:
        """Operation and line in one phrase."""
        if self.operation is None or self.place is None:
            return self.operation
        return f"{self.operation} in {self.place}"


def part_of(call: Call, place: Place | None) -> str:
    """The module of a call, or the part between modules that the line belongs to."""
    if place is None or call.leaf:
        return call.module
    if call.kind == "Fusion" and place.file == "models/fusion.py":
        return f"{call.module}.mix"
    function = place.function.rsplit(".", 1)[-1]
    return PARTS.get(function, call.module) if place.file.startswith(_MODEL_CODE) else call.module


_MODEL_CODE = ("models/", "geometry.py")


def path_of(module: str | None, term: str | None = None) -> NetworkPath | None:
    """The path of the network that a module, or a loss term, lies on."""
    if term is not None and module in (None, CRITERION):
        return "fusion" if acts_on_fusion(term) else "decoder"
    part = part_of_module(module) if module is not None else None
    return part.path if part is not None else None


def operation_name(node: str) -> str:
    """ "NativeLayerNormBackward0" and "_ConvBackward" to "native_layer_norm" and "conv"."""
    plain = re.sub(r"Backward\d*$", "", node).strip("_")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower()
