"""The sparse operations on the pretended device: as its engine would do them, without waiting.

Every output gathers its neighbours offset by offset, those that are missing from a row of zeros; voxels
are found by bisection. For tiny rooms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from bifusion.sparse import backends, reference
from bifusion.sparse.kernel_map import KernelMap

SIDE = 2**14
"""Voxels a side at most, half of them below zero."""
follows_autocast = False


class Index:
    """Voxels (M, 4), searchable."""

    def __init__(self, coords: Tensor) -> None:
        self.keys, self.order = _keys(coords).sort()

    def table(self, out_coords: Tensor, kernel_size: int, stride: int) -> Tensor:
        base = torch.cat([out_coords[:, :1], out_coords[:, 1:] * stride], dim=1)
        first = -(kernel_size // 2) if kernel_size % 2 else 0
        steps = torch.arange(first, first + kernel_size, device=base.device, dtype=base.dtype)
        offsets = torch.cartesian_prod(torch.zeros_like(steps[:1]), steps, steps, steps)
        wanted = _keys((base[:, None] + offsets[None]).flatten(0, 1))
        place = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        found = self.keys.index_select(0, place) == wanted
        rows = torch.where(found, self.order.index_select(0, place), -1)
        return rows.view(len(base), len(offsets)).int()


def _keys(coords: Tensor) -> Tensor:
    scene, x, y, z = coords.long().unbind(1)
    return ((scene * SIDE + x + SIDE // 2) * SIDE + y + SIDE // 2) * SIDE + z + SIDE // 2


index_voxels = Index
batch_norm = reference.batch_norm
narrowed = reference.narrowed
keep_freed_memory = reference.keep_freed_memory


def describe() -> str:
    return "a pretended engine"


def conv(feats: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    return torch.stack(
        [rows @ kernel for rows, kernel in zip(_neighbours(feats, kernel_map), weight, strict=True)]
    ).sum(0)


def conv_finished(
    feats: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    return reference.finished(conv(feats, weight, kernel_map), bias, residual, relu)


def _neighbours(feats: Tensor, kernel_map: KernelMap) -> list[Tensor]:
    padded = torch.cat([feats.new_zeros(1, feats.shape[1]), feats])
    return [padded.index_select(0, rows) for rows in (kernel_map.neighbors.long() + 1).unbind(1)]


@contextmanager
def pretended_engine() -> Iterator[None]:
    """In this block it computes what lies on the pretended device."""
    choose = backends._choose

    def chosen(kind: str, forced: str) -> Any:
        import pretended_engine

        return pretended_engine if kind == "pretend" else choose(kind, forced)

    with patch.object(backends, "_choose", chosen):
        yield
