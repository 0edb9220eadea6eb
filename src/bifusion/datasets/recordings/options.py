"""What a user can say about a recording that its files do not say, or say wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bifusion.arguments import check_positive, whole_of
from bifusion.datasets.recordings.reading import Axes, Direction, Reading
from bifusion.errors import InputError


@dataclass(frozen=True)
class OpenOptions:
    """None: as the layout says."""

    intrinsics: Path | str | Sequence[float] | np.ndarray | None = None
    """fx fy cx cy, these with width and height, a matrix, or a file with one, of both cameras."""
    depth_scale: float | None = None
    """Units of the depth pictures a metre."""
    axes: Axes | None = None
    """Of the cameras that poses speak of."""
    poses: Direction | None = None
    """Which way stored poses lead."""
    pose_shift: int | None = None
    """Picture i has pose i + pose_shift of the list."""

    def reading(self, declared: Reading) -> Reading:
        """How poses are read where the layout has them as `declared`."""
        return Reading(
            self.axes or declared.axes,
            self.poses or declared.poses,
            declared.pose_shift if self.pose_shift is None else self.pose_shift,
        )

    def scale(self, declared: float) -> float:
        """Units of the depth a metre where the layout has `declared`."""
        return declared if self.depth_scale is None else float(self.depth_scale)

    def check(self) -> None:
        """InputError for a value that nothing can be."""
        check_positive(self.depth_scale, "depth_scale", "units a metre, 1000 for millimetres")
        if self.pose_shift is not None:
            whole_of(self.pose_shift, "pose_shift")
        for name, value, allowed in (
            ("axes", self.axes, ("opencv", "opengl")),
            ("poses", self.poses, ("cam2world", "world2cam")),
        ):
            if value not in (None, *allowed):
                raise InputError(f"{name}: found {value!r}; expected one of {', '.join(allowed)}")
