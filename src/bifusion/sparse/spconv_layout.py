"""Our kernel maps and weights in spconv's layout, and back.

spconv wants pairs as (2, K, P), input rows first, each offset's list at the front of its row, and
weights as (C_out, kernel sizes, C_in). Offsets are numbered alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bifusion.sparse.kernel_map import KernelMap


def to_spconv_weight(weight: Tensor) -> Tensor:
    """(C_out, K, 1, 1, C_in) contiguous, of ours (K, C_in, C_out)."""
    return weight.permute(2, 0, 1)[:, :, None, None].contiguous()


def from_spconv_weight(weight: Tensor) -> Tensor:
    """The inverse of `to_spconv_weight`."""
    return weight.flatten(1, 3).permute(1, 2, 0).contiguous()


def pair_lists(kernel_map: KernelMap) -> tuple[Tensor, Tensor]:
    """The map's pairs as spconv wants them.

    Returns:
        (2, K, P) int32 input and output rows, each offset's pairs first, then -1; P is the largest
        number of pairs of an offset, at least 1. (K,) int32 number of pairs of each offset.
    """
    neighbors = kernel_map.neighbors.T.contiguous()
    met = neighbors >= 0
    counts = met.sum(1)
    width = max(1, int(counts.max())) if met.numel() else 1
    pairs = neighbors.new_full((2, kernel_map.volume, width), -1)
    offset, out_row = met.nonzero(as_tuple=True)
    place = (met.cumsum(1) - 1)[met]
    pairs[0, offset, place] = neighbors[met]
    pairs[1, offset, place] = out_row.to(pairs.dtype)
    return pairs, counts.to(torch.int32)
