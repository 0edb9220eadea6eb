"""Kernel maps: which input voxel meets which output voxel under each offset of a kernel.

Offsets. A kernel of size k has K = k³ offsets. Odd kernels are centred (-(k//2) … k//2 on each
axis), even ones use 0 … k-1, as in spconv and MinkowskiEngine. They are numbered like the memory
of a dense Conv3d kernel over (x, y, z): offset (ix, iy, iz) has index (ix·k + iy)·k + iz, z fastest.
Output voxel o meets input voxel o·stride + offset, where both are counted in voxels of their level.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from bifusion.sparse.voxel_index import VoxelIndex

_BLOCK_ROWS = 1 << 15  # bounds the scratch memory of a convolution, see reference.py


@dataclass(eq=False)
class PairBlock:
    """The (input, output) pairs of a run of output rows, grouped by offset. P pairs."""

    first_row: int
    last_row: int
    """The block covers output rows first_row … last_row - 1."""
    counts: list[int]
    """K numbers of pairs, one an offset."""
    in_rows: Tensor
    """(P,) int32 input rows: all pairs of offset 0, then of offset 1, …; outputs ascend in each."""
    out_rows: Tensor
    """(P,) int32 output rows, counted over the whole map."""
    by_output: Tensor
    """(P,) int32: the pairs in order of their output row, then offset."""
    output_ptr: Tensor
    """(last_row - first_row + 1,) int32: output row first_row + r has the pairs
    by_output[output_ptr[r]:output_ptr[r + 1]]."""
    by_input: Tensor
    """(P,) int32: the pairs in order of their input row, then offset."""
    input_ptr: Tensor
    """(M_in + 1,) int32: input row i has the pairs by_input[input_ptr[i]:input_ptr[i + 1]]."""


@dataclass(eq=False)
class KernelMap:
    """Neighbours of every output voxel. M_out outputs, M_in inputs, K offsets."""

    neighbors: Tensor
    """(M_out, K) int32 input row met under each offset, -1 where that voxel is empty."""
    num_inputs: int
    """M_in."""
    center: int | None = None
    """Index of the zero offset of a submanifold map, under which row i meets row i; else None."""
    _source: ref[KernelMap] | None = None
    """The map that this one was transposed from."""
    plans: dict[Any, Any] = field(default_factory=dict, repr=False)
    """What backends derive from the map and want to find again, under keys of their own."""

    @property
    def num_outputs(self) -> int:
        return self.neighbors.shape[0]

    @property
    def volume(self) -> int:
        """K, the number of offsets."""
        return self.neighbors.shape[1]

    @property
    def transposed(self) -> KernelMap:
        """The map with inputs and outputs exchanged, offset by offset; built once.

        An input meets at most one output under an offset, so that it is a table too. It serves
        the gradient with respect to the input and the inverse (transposed) convolution.
        """
        source = self._source() if self._source is not None else None
        return self._exchanged if source is None else source

    @property
    def known_transposed(self) -> KernelMap | None:
        """`transposed` if it exists already."""
        source = self._source() if self._source is not None else None
        return self.__dict__.get("_exchanged") if source is None else source

    @cached_property
    def _exchanged(self) -> KernelMap:
        # The way back is weak: a cycle would keep a batch's tables until the garbage collector runs.
        if self.center is not None:  # a centred kernel on one coordinate set is its own mirror image
            return KernelMap(self.neighbors.flip(1), self.num_inputs, self.center, ref(self))
        # Places without a pair write behind the table, each for itself: the host would have to wait for
        # a list of pairs, and a deterministic scatter is slow where many write to one place.
        room = self.num_inputs * self.volume
        inputs, offsets = self.neighbors.long(), torch.arange(self.volume, device=self.neighbors.device)
        behind = torch.arange(room, room + inputs.numel(), device=inputs.device).view(inputs.shape)
        places = torch.where(inputs >= 0, inputs * self.volume + offsets, behind)
        outputs = torch.arange(self.num_outputs, dtype=torch.int32, device=self.neighbors.device)
        table = self.neighbors.new_full((room + inputs.numel(),), -1)
        table.scatter_(0, places.flatten(), outputs.unsqueeze(1).expand(places.shape).flatten())
        table = table[:room].clone().view(self.num_inputs, self.volume)
        return KernelMap(table, self.num_outputs, None, ref(self))

    @cached_property
    def blocks(self) -> list[PairBlock]:
        """Pair lists, in blocks of at most 32768 output rows; built once."""
        starts = range(0, self.num_outputs, _BLOCK_ROWS)
        return [self._pair_block(start, min(start + _BLOCK_ROWS, self.num_outputs)) for start in starts]

    def _pair_block(self, first: int, last: int) -> PairBlock:
        table, offset_count = self.neighbors[first:last], self.volume
        met = table >= 0
        met_by_offset = met.T.contiguous()
        rows = torch.arange(first, last, dtype=torch.int32, device=table.device)
        # number of each pair in offset-major order, at its place in the table
        pair = met_by_offset.flatten().cumsum(0, dtype=torch.int32).view(met_by_offset.shape).T - 1
        outputs = self.transposed.neighbors
        met_by_input = (outputs >= first) & (outputs < last)
        offsets = torch.arange(offset_count, device=table.device).expand(outputs.shape)[met_by_input]
        place = (outputs[met_by_input] - first) * offset_count + offsets
        return PairBlock(
            first_row=first,
            last_row=last,
            counts=met_by_offset.sum(1).tolist(),
            in_rows=table.T[met_by_offset],
            out_rows=rows.expand(met_by_offset.shape)[met_by_offset],
            by_output=pair[met],
            output_ptr=_row_pointers(met),
            by_input=pair.flatten()[place],
            input_ptr=_row_pointers(met_by_input),
        )


def submanifold_map(index: VoxelIndex, coords: Tensor, kernel_size: int) -> KernelMap:
    """Map of a stride-1 convolution whose outputs are its inputs: the voxels `coords` of `index`.

    An even kernel is allowed (offsets 0 … k-1); it has no centre to mirror at.
    """
    center = kernel_size**3 // 2 if kernel_size % 2 else None
    return KernelMap(index.table(coords, kernel_size, stride=1), len(coords), center)


def strided_map(
    index: VoxelIndex, num_inputs: int, out_coords: Tensor, kernel_size: int, stride: int
) -> KernelMap:
    """Map of a convolution from the voxels of `index` to the coarser `out_coords` (M_out, 4)."""
    return KernelMap(index.table(out_coords, kernel_size, stride), num_inputs)


def _row_pointers(mask: Tensor) -> Tensor:
    """(R + 1,) int32: running number of true entries before each row of `mask` (R, K), and in all."""
    pointers = torch.zeros(len(mask) + 1, dtype=torch.int32, device=mask.device)
    pointers[1:] = mask.sum(1).cumsum(0)
    return pointers
