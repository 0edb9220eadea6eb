"""Sizes of the kernels' tiles: a short list of candidates, and the rule that picks one.

No table of measurements: the rule knows channels and type, nothing of the chip. Where it prefers small
blocks, the sweep on an H100 did (benchmarks/results/gpu-h100.json, "candidates"). The tests compile each
candidate ahead of time for every generation of chips that is supported: none needs more shared memory
than there is, and none spills registers on Ampere and Hopper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Products = Literal["ieee", "tf32", "narrow"]
"""How products are made: float32 on plain cores, TF32 or 16-bit types on matrix units."""

_GATHER_COST = 32
"""Columns whose products cost as much as gathering the rows once more, in the rule of `_width`."""


@dataclass(frozen=True)
class Configuration:
    """Tile of a kernel: BLOCK_M × BLOCK_N sums, of BLOCK_K products each at a step."""

    block_m: int
    """convolve: output rows. weight_gradient: input channels."""
    block_n: int
    """Output channels."""
    block_k: int
    """convolve: input channels. weight_gradient: pairs."""
    warps: int
    stages: int
    """How far the compiler loads ahead. Rows are themselves found by a load, which halves it: in shared
    memory (64, 64, 64) of bfloat16 holds the operands of 2 steps with 3 stages and of 3 with 5 on
    Hopper, of 1 and 2 on Ampere."""

    def options(self) -> dict[str, int]:
        """The compiler's options."""
        return {"num_warps": self.warps, "num_stages": self.stages}

    def blocks(self) -> dict[str, int]:
        """The kernel's constants."""
        return {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "BLOCK_K": self.block_k}


_SMALL = (
    Configuration(64, 16, 16, 4, 5),
    Configuration(64, 32, 16, 4, 5),
    Configuration(64, 16, 32, 4, 5),
)
"""For few channels, whatever the products."""
_PLAIN = (
    *_SMALL,
    Configuration(64, 32, 32, 4, 5),
    Configuration(64, 64, 32, 4, 5),
    Configuration(64, 128, 32, 8, 5),
    Configuration(32, 64, 32, 4, 5),
    Configuration(128, 64, 32, 8, 5),
)
_TALL = Configuration(128, 32, 32, 4, 5)
_MATRIX = (
    *_SMALL,
    Configuration(64, 32, 32, 4, 5),
    Configuration(64, 64, 32, 4, 5),
    Configuration(64, 128, 32, 4, 5),
    Configuration(64, 64, 32, 4, 7),
    _TALL,
    Configuration(128, 64, 32, 8, 5),
    Configuration(128, 128, 32, 8, 5),
)
_TF32 = (
    *_SMALL,
    _TALL,
    Configuration(128, 64, 32, 4, 5),
    Configuration(64, 128, 32, 4, 5),
    Configuration(64, 128, 64, 4, 7),
    Configuration(64, 32, 32, 4, 5),
    Configuration(64, 64, 32, 4, 5),
    Configuration(128, 64, 32, 8, 5),
)
_DEEP = (
    Configuration(64, 64, 64, 4, 5),
    Configuration(64, 128, 64, 4, 5),
    Configuration(128, 64, 64, 8, 5),
)
CONVOLVE: dict[Products, tuple[Configuration, ...]] = {
    "ieee": _PLAIN,
    "tf32": _TF32,
    "narrow": (*_MATRIX, *_DEEP),
}
"""Candidates of `convolve`; of those that fit the rule it takes the first."""

SPLIT = Configuration(128, 128, 32, 8, 5)
"""Of `weight_gradient` with TF32: each number as the sum of two of bfloat16, three products each. Matrix
units take TF32 only with the summed dimension innermost, here the pairs; turning large blocks costs more
than that (and 16 bits of a fraction are more than TF32's 10)."""
_SQUARE = Configuration(128, 128, 64, 8, 5)
_SQUARES = tuple((m, n) for m in (16, 32, 64) for n in (16, 32, 64))
WEIGHT_GRADIENT: dict[Products, tuple[Configuration, ...]] = {
    "ieee": tuple(Configuration(m, n, 32, 4, 5) for m, n in _SQUARES),
    "tf32": (*(Configuration(m, n, 64, 4, 3) for m, n in _SQUARES), SPLIT),
    "narrow": (
        *(Configuration(m, n, 64, 4, 5) for m, n in _SQUARES),
        Configuration(64, 64, 32, 4, 7),
        Configuration(128, 64, 32, 8, 5),
        Configuration(64, 128, 32, 8, 5),
        _SQUARE,
    ),
}
"""Candidates of `weight_gradient`, likewise."""


_WIDE: dict[Products, int] = {"ieee": 256, "tf32": 128, "narrow": 64}
_MANY: dict[Products, int] = {"ieee": 256, "tf32": 256, "narrow": 64}
"""Blocks this wide are 64 deep where the input channels are a multiple of this."""


def products_of(dtype: torch.dtype, precision: str) -> Products:
    """The kind of products of a dtype; precision: "ieee" or "tf32", of float32."""
    if dtype != torch.float32:
        return "narrow"
    return "tf32" if precision == "tf32" else "ieee"


def choose_convolve(channels_in: int, channels_out: int, products: Products) -> Configuration:
    """The first candidate as wide as `_width` says and as deep as the input channels fill.

    Exception: plain cores in 64 columns where that divides them.
    """
    width = _width(channels_out, 64 if products == "ieee" and channels_out % 64 == 0 else 128)
    depth = 32
    if channels_in <= 16 and width <= 32:
        depth = 16
    elif width >= _WIDE[products] and channels_in % _MANY[products] == 0:
        depth = 64
    fitting = (c for c in CONVOLVE[products] if (c.block_n, c.block_k) == (width, depth))
    return next(fitting)


def choose_weight_gradient(channels_in: int, channels_out: int, products: Products) -> Configuration:
    """The first candidate as high and wide as `_width` says; squares of 128 where these are filled.

    TF32 is split from 128 channels on, and else no higher than 32.
    """
    if products == "tf32" and min(channels_in, channels_out) >= SPLIT.block_m:
        return SPLIT
    if products == "narrow" and channels_in % 128 == 0 == channels_out % 128:
        return _SQUARE
    height, width = _width(channels_in, 32 if products == "tf32" else 64), _width(channels_out, 64)
    fitting = (c for c in WEIGHT_GRADIENT[products] if (c.block_m, c.block_n) == (height, width))
    return next(fitting)


def gradient_precision(chosen: Configuration, products: Products, precision: str) -> str:
    """How `weight_gradient` multiplies in this configuration: `precision`, or "split"."""
    return "split" if products == "tf32" and chosen == SPLIT else precision


def _width(channels: int, largest: int) -> int:
    """Channels of a block: few columns that hold none, but few blocks too, as each gathers anew."""
    widths = [width for width in (128, 64, 32, 16) if width <= largest]
    return min(widths, key=lambda width: -(-channels // width) * (width + _GATHER_COST))
