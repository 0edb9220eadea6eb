"""What the kernels want to know of a kernel map, made on the map's device without waiting for it.

Everything has a size that the host knows beforehand (an upper bound where the true one stands on the
device only), so that no number need travel. M outputs, K offsets, T tiles of B rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bifusion.sparse.coordinates import set_first
from bifusion.sparse.kernel_map import KernelMap

_KEY_BITS = 62
_TILES, _PAIRS, _CHUNKS, _ORDER = "triton tiles", "triton pairs", "triton chunks", "triton order"


@dataclass(frozen=True, eq=False)
class Tiles:
    """Output rows in tiles of rows that meet similar offsets."""

    out_rows: Tensor
    """(T·B,) int32 output row at each place, -1 at the places that fill the last tile."""
    counts: Tensor
    """(T,) int32: how many offsets some row of the tile meets."""
    offsets: Tensor
    """(T, K) int32: those offsets, ascending; then the others."""
    table: Tensor
    """(T, K, B) int32 input row met by each row of the tile under its n-th offset, -1 where none."""


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
        kernel_map.plans[_ORDER] = order_by_mask(kernel_map.neighbors >= 0)
    order, volume = kernel_map.plans[_ORDER], kernel_map.volume
    tiles = -(-len(order) // tile_rows)
    padding = tiles * tile_rows - len(order)
    rows = torch.nn.functional.pad(order, (0, padding), value=-1).view(tiles, tile_rows)
    table = kernel_map.neighbors.index_select(0, rows.flatten().clamp(min=0))
    table = table.masked_fill_((rows < 0).view(-1, 1), -1).view(tiles, tile_rows, volume)
    unmet = (table < 0).all(1)
    counts = volume - unmet.sum(1)
    # the longest tiles first, so that none of them starts when the others have ended
    turn = counts.argsort(descending=True, stable=True)
    offsets = unmet[turn].to(torch.uint8).argsort(dim=1, stable=True)
    by_offset = table[turn].transpose(1, 2)
    return Tiles(
        out_rows=rows[turn].flatten().int(),
        counts=counts[turn].int(),
        offsets=offsets.int(),
        table=by_offset.gather(1, offsets.unsqueeze(2).expand(by_offset.shape)).contiguous(),
    )


def order_by_mask(met: Tensor) -> Tensor:
    """(M,) int64: the rows of met (M, K) so that neighbours meet similar offsets; equal ones in turn.

    A row's bits are read as a Gray code whose highest bits are the rarest offsets.
    """
    rarest_first = met.sum(0).argsort(descending=True, stable=True).flip(0)
    met = met[:, rarest_first]
    order = torch.arange(len(met), device=met.device)
    for end in range(met.shape[1], 0, -_KEY_BITS):  # stable sorts: the highest bits, the last, decide
        bits = met[:, max(end - _KEY_BITS, 0) : end]
        # a bit of the number is the parity of the code's bits down to it
        number = bits.cumsum(1, dtype=torch.int32) & 1
        weight = 1 << torch.arange(bits.shape[1] - 1, -1, -1, device=met.device)
        order = order[(number * weight).sum(1)[order].argsort(stable=True)]
    return order


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
