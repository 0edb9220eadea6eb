"""What a user can say about an input that it does not say itself, and how much is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.arguments import check_positive, require, text_of, whole_of
from bifusion.bounds import Count, PositiveFloat, PositiveInt, check_bounds
from bifusion.datasets.orientation.orient import parse_up
from bifusion.datasets.recordings.confidence import LEVELS
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.errors import InputError

SPACING_M = 0.044
"""Distance of neighbouring points of ScanNet's meshes, on which published models of 2 cm were trained
(the square root of a scan's area by its number of vertices: 4.3 cm)."""
VIEWS = 12


@dataclass(frozen=True)
class ScanOptions:
    """None: found out, and said."""

    up: str | None = None
    """Which way the input's world has up: x, y, z, -x, -y, -z or three numbers like 0,0.9,0.1."""
    scale: float | None = None
    """Metres a unit of a mesh or cloud: 0.001 for millimetres."""
    layout: str | None = None
    """Of a recording (`LAYOUTS`)."""
    opening: OpenOptions = field(default_factory=OpenOptions)
    """How a recording is read."""
    views: Count = VIEWS
    """Frames of a recording that become views; 0: none."""
    voxel_size_m: PositiveFloat = 0.03
    """Of the fusion of a recording's depth. Its surface then has a vertex every 2 cm or so."""
    most_frames: PositiveInt | None = None
    """Frames that are fused, evenly spread, those with a picture first; None: all."""
    least_confidence: int | None = None
    """Of a phone's depth that is used: 0 low and better, 1 medium and better, 2 high alone; None: 1."""
    spacing_m: PositiveFloat = SPACING_M
    """Meshes whose vertices lie much farther apart are given points in between, about so far apart,
    whatever the model's voxels: superpoints have a least number of points, and sparse ones would reach
    across objects (a scan of ScanNet decimated to a third by clustering: 7.6 % of its vertices are in
    superpoints of mostly another class as it is, 4.8 % with points in between)."""

    def check(self) -> None:
        """InputError for a value that nothing can be."""
        check_bounds(self)
        require(isinstance(self.opening, OpenOptions), self.opening, "opening", "OpenOptions")
        self.opening.check()
        if self.up is not None:
            parse_up(text_of(self.up, "up", "text like y, -z or 0,0.9,0.1"))
        if self.least_confidence is not None:
            level = whole_of(self.least_confidence, "least_confidence")
            if level not in range(len(LEVELS)):
                expected = "0 (low), 1 (medium) or 2 (high)"
                raise InputError(f"least_confidence: found {level}; expected {expected}")
        check_positive(self.scale, "scale", "metres a unit, 0.001 for millimetres")


@dataclass(frozen=True)
class InputKind:
    """What options do for inputs of a kind."""

    what: str
    """It, in words that say why some options do nothing for it."""
    heeded: tuple[str, ...]
    """Fields of `ScanOptions` and of `OpenOptions` that have an effect."""


SCENE = InputKind("a scene folder, which is in metres, z up, and fused already", ())
MESH = InputKind("a mesh or cloud, which has no frames", ("up", "scale", "spacing_m"))
RECORDING = InputKind(
    "a recording, whose poses are in metres and whose depth has --depth-scale",
    tuple({field.name for field in (*fields(ScanOptions), *fields(OpenOptions))} - {"scale"}),
)
FUSED = InputKind(
    "a recording whose depth is fused, by --voxel-size-m",
    tuple({*RECORDING.heeded} - {"spacing_m"}),
)
WITH_MESH = InputKind(
    "a recording that comes with its mesh",
    tuple({*RECORDING.heeded} - {"voxel_size_m", "most_frames", "least_confidence"}),
)


def refuse_without_effect(path: Path, options: ScanOptions, kind: InputKind) -> None:
    """InputError where something is asked of `path` that does nothing for its kind. The number of views
    is the model's where the user says none, so `refuse_views` is asked about it."""
    given = [*changed(options, ScanOptions()), *changed(options.opening, OpenOptions())]
    idle = [name for name, _ in given if name not in (*kind.heeded, "views")]
    if idle:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise InputError(f"{path}: is {kind.what}: {names} would do nothing for it; leave that out")


def changed(options: Any, default: Any) -> list[tuple[str, str]]:
    """Names and values, as text, of fields that are not the default's, nested options left out."""
    found = []
    for field_ in fields(default):
        value = getattr(options, field_.name)
        text = str(value.tolist() if isinstance(value, np.ndarray) else value)
        if field_.name != "opening" and text != str(getattr(default, field_.name)):
            found.append((field_.name, text))
    return found
