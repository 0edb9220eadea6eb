"""Pictures that are no files of their own: frames of a video, members of an archive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Part:
    """A picture within a larger file; colour (H, W, 3) uint8, depth in `depth_scale` units a metre, or
    confidence of 0 … 1, both (h, w) float32."""

    path: Path
    """The file, or the folder that stands for it."""
    name: str
    """Of the picture within it."""
    read: Callable[[], np.ndarray]
    """Decodes the picture. InputError: it cannot be decoded."""

    def is_file(self) -> bool:
        """Whether it is there; readers make parts only of what their file lists."""
        return self.path.exists()

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"
