"""What the kernels want to know of a kernel map, made on the map's device without waiting for it.

Everything has a size that the host knows beforehand (an upper bound where the true one stands on the
device only), so that no number need travel. M outputs, K offsets, T tiles of B rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
from torch import Tensor

from bifusion.sparse.coordinates import set_first
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.triton import kernels
from bifusion.sparse.triton.queue import run

_KEY_BITS, _KEY_ROWS = 62, 32
_TILES_AT_ONCE = 256
_TILES, _PAIRS, _CHUNKS, _ORDER = "triton tiles", "triton pairs", "triton chunks", "triton order"


@dataclass(frozen=True, eq=False)
class Tiles:
    """Output rows in tiles of rows that meet similar offsets."""

    out_rows: Tensor
    """(T·B,) int32 output row at each place, -1 at the places that fill the last tile."""
    counts: Tensor
    """(T,) int32: how many offsets some row of the tile meets."""
    offsets: Tensor
    """(T, K) int32: those offsets, ascending; what follows is undefined."""
    table: Tensor
    """(T, K, B) int32 input row met by each row of the tile under its n-th offset, -1 where none."""
    turns: Tensor
    """(T,) int64: the tiles in the order in which they are computed."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """All (input, output) pairs: those of offset 0, then of offset 1, …; outputs ascend in each."""

    in_rows: Tensor
    """(M·K,) int32; what lies behind the last pair is undefined."""
    out_rows: Tensor
    """(M·K,) int32, likewise."""
    ends: Tensor
    """(K,) int64: where the pairs of an offset end."""


@dataclass(frozen=True, eq=False)
class Chunks:
    """Pairs cut into at most P chunks of one offset each, of nearly equal length."""

    first: Tensor
    """(P,) int32 first pair; equal to `last` where a chunk is idle."""
    last: Tensor
    """(P,) int32 behind the last pair."""
    offset_first: Tensor
    """(K + 1,) int32: offset k has the chunks offset_first[k] … offset_first[k + 1] - 1."""


def tiles_of(kernel_map: KernelMap, tile_rows: int) -> Tiles:
    """Built once a map and size of tile."""
    key = (_TILES, tile_rows)
    if key not in kernel_map.plans:
        kernel_map.plans[key] = _make_tiles(kernel_map, tile_rows)
    return kernel_map.plans[key]


def _make_tiles(kernel_map: KernelMap, tile_rows: int) -> Tiles:
    if _ORDER not in kernel_map.plans:
        kernel_map.plans[_ORDER] = order_by_mask(kernel_map.neighbors)
    neighbors, volume = kernel_map.neighbors.contiguous(), kernel_map.volume
    tiles = triton.cdiv(len(neighbors), tile_rows)
    counts, out_rows, offsets, table = (
        torch.empty(shape, dtype=torch.int32, device=neighbors.device)
        for shape in ((tiles,), (tiles * tile_rows,), (tiles, volume), (tiles, volume, tile_rows))
    )
    run(
        kernels.make_tiles, (tiles,), neighbors, kernel_map.plans[_ORDER],
        out_rows, table, offsets, counts, len(neighbors), volume,
        BLOCK=tile_rows,
    )  # fmt: skip
    return Tiles(out_rows, counts, offsets, table, _turns(counts))


def _turns(counts: Tensor) -> Tensor:
    """The longest tiles first, so that none of them starts when the others have ended; as they are where
    all are under way at once, and sorting them would cost the host more than it saves the device."""
    if len(counts) <= _TILES_AT_ONCE:
        return torch.arange(len(counts), device=counts.device)
    return counts.argsort(descending=True, stable=True)


def order_by_mask(neighbors: Tensor) -> Tensor:
    """(M,) int64: the rows of neighbors (M, K) so that such as meet similar offsets follow each other.

    A row's bits (which offsets it meets) are read as a Gray code whose highest bits are the offsets
    farthest from the kernel's centre, which are the rarest; rows of equal bits stay in turn.
    """
    (rows, volume), neighbors = neighbors.shape, neighbors.contiguous()
    ranked = farthest_first(volume, neighbors.device)
    order = None
    for first in range((volume - 1) // _KEY_BITS * _KEY_BITS, -1, -_KEY_BITS):
        # stable sorts: the highest bits, the last, decide
        bits = min(_KEY_BITS, volume - first)
        short = bits < torch.iinfo(torch.int32).bits
        keys = torch.empty(rows, dtype=torch.int32 if short else torch.int64, device=neighbors.device)
        run(
            kernels.mask_keys, (triton.cdiv(rows, _KEY_ROWS),), neighbors, ranked, keys,
            rows, volume, first, bits,
            SLOTS=triton.next_power_of_2(bits), BLOCK=_KEY_ROWS,
        )  # fmt: skip
        order = keys.argsort(stable=True) if order is None else order[keys[order].argsort(stable=True)]
    assert order is not None  # a kernel has an offset
    return order


@cache
def farthest_first(volume: int, device: torch.device) -> Tensor:
    """(K,) int32: the offsets of a cubic kernel, those farthest from its zero offset first."""
    side = round(volume ** (1 / 3))
    steps = torch.arange(volume, device=device)
    distance = sum((steps // side**axis % side - side // 2 * (side % 2)).square() for axis in range(3))
    return torch.as_tensor(distance).argsort(descending=True, stable=True).int()


def pairs_of(kernel_map: KernelMap) -> Pairs:
    """Built once a map; a map and its transposed share them, the roles exchanged."""
    if _PAIRS not in kernel_map.plans:
        other = kernel_map.known_transposed
        if other is not None and _PAIRS in other.plans:
            twin = other.plans[_PAIRS]
            kernel_map.plans[_PAIRS] = Pairs(twin.out_rows, twin.in_rows, twin.ends)
        else:
            kernel_map.plans[_PAIRS] = _make_pairs(kernel_map.neighbors)
    return kernel_map.plans[_PAIRS]


def _make_pairs(neighbors: Tensor) -> Pairs:
    by_offset = neighbors.T.contiguous().flatten()
    met = by_offset >= 0
    places = set_first(met)
    out_rows = (places % len(neighbors)).int()
    return Pairs(by_offset[places], out_rows, met.view(neighbors.shape[1], -1).sum(1).cumsum(0))


def chunks_of(kernel_map: KernelMap, chunks: int, multiple: int) -> Chunks:
    """At most `chunks` + K chunks whose lengths are multiples of `multiple` but for an offset's last."""
    key = (_CHUNKS, chunks, multiple)
    if key not in kernel_map.plans:
        kernel_map.plans[key] = _make_chunks(pairs_of(kernel_map).ends, chunks, multiple)
    return kernel_map.plans[key]


def _make_chunks(ends: Tensor, chunks: int, multiple: int) -> Chunks:
    starts = torch.nn.functional.pad(ends[:-1], (1, 0))
    length = (-(-ends[-1:] // (chunks * multiple)) * multiple).clamp(min=multiple)
    numbers = -(-(ends - starts) // length)  # summed, at most `chunks` and one more an offset
    offset_last = numbers.cumsum(0)
    chunk = torch.arange(chunks + len(ends), device=ends.device)
    offset = torch.searchsorted(offset_last, chunk, right=True)
    idle = offset == len(ends)
    offset = offset.clamp(max=len(ends) - 1)
    first = starts[offset] + (chunk - (offset_last - numbers)[offset]) * length
    last = torch.minimum(first + length, ends[offset])
    return Chunks(
        first=first.masked_fill(idle, 0).int(),
        last=last.masked_fill(idle, 0).int(),
        offset_first=torch.nn.functional.pad(offset_last, (1, 0)).int(),
    )
