"""Sizes of the kernels' tiles: a short list of candidates, and the rule that picks one.

No table of measurements: the rule knows the channels and the type, nothing of the chip. The tests
compile each candidate ahead of time for every generation of chips that is supported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Configuration:
    """Tile of a kernel: BLOCK_M × BLOCK_N sums, BLOCK_K products each at a step."""

    block_m: int
    """convolve: output rows. weight_gradient: input channels."""
    block_n: int
    """Output channels."""
    block_k: int
    """convolve: input channels. weight_gradient: pairs."""
    warps: int
    stages: int
    """Steps whose loads are in flight at once."""

    def options(self) -> dict[str, int]:
        """The compiler's options."""
        return {"num_warps": self.warps, "num_stages": self.stages}

    def blocks(self) -> dict[str, int]:
        return {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "BLOCK_K": self.block_k}


CONVOLVE = (
    Configuration(64, 16, 16, 4, 3),
    Configuration(64, 32, 32, 4, 3),
    Configuration(128, 32, 32, 4, 3),
    Configuration(64, 64, 32, 4, 3),
    Configuration(128, 64, 32, 4, 3),
    Configuration(64, 64, 64, 4, 3),
    Configuration(64, 128, 32, 4, 3),
    Configuration(64, 128, 64, 8, 2),
    Configuration(128, 128, 32, 8, 3),
)
"""Candidates of `convolve`."""

WEIGHT_GRADIENT = (
    Configuration(16, 16, 64, 4, 2),
    Configuration(16, 32, 64, 4, 2),
    Configuration(32, 32, 64, 4, 3),
    Configuration(64, 32, 32, 4, 3),
    Configuration(32, 64, 32, 4, 3),
    Configuration(64, 64, 32, 4, 3),
    Configuration(128, 64, 32, 8, 3),
    Configuration(64, 128, 32, 8, 3),
)
"""Candidates of `weight_gradient`."""


def choose_convolve(channels_in: int, channels_out: int, dtype: torch.dtype) -> Configuration:
    return CONVOLVE[1]


def choose_weight_gradient(channels_in: int, channels_out: int, dtype: torch.dtype) -> Configuration:
    return WEIGHT_GRADIENT[2]
