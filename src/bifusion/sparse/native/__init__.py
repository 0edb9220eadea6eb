"""The CPU engine: C++ kernels behind the functions of `sparse/functional.py`.

`convolve` in kernels.inl is output-stationary: for a block of output rows and one offset, rows of
the input are read where they lie, and several output rows × up to six vectors of channels are summed
in registers, so that it runs at the speed of a dense matrix product. Float32 and float64; like the
plain backend it is differentiable once and computes in float32 under autocast. Results do not depend
on the number of threads.

Where the processor has AMX's tiles (Intel, from Sapphire Rapids on), layers with work enough multiply
float32 on them, each number as three of bfloat16 (tiles.h): faster than in vectors, as exact or more,
and other in the last bits. Smaller layers give the same bits on every x86 processor.

In use, a convolution may have its operands rounded to bfloat16 (`narrowed`) where the processor
multiplies them faster: on AMX's tiles (Intel, from Sapphire Rapids on), in AVX512-BF16's vectors (AMD,
from Zen 4 on). Sums, and all that lies between convolutions, stay float32, and of f · w summed over
pairs and channels at most 1/128 of the sum of |f| · |w| is lost.

BatchNorm, with ReLU and a residual, is `normalisation.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bifusion.errors import InputError
from bifusion.sparse import reference
from bifusion.sparse.coordinates import DUPLICATE_VOXELS
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.mapped_conv import Conv, Operations
from bifusion.sparse.openmp import share_runtime

share_runtime()  # torch, imported first, has brought it; the engine below needs it

from bifusion.sparse.native import _native  # noqa: E402
from bifusion.sparse.native.normalisation import batch_norm as batch_norm  # noqa: E402

ISA_VARIABLE = "BIFUSION_ISA"
"""Environment variable that forces an instruction set, read when the engine is loaded."""

_BLOCK_ROWS = 512
"""Output rows of a block: their outputs and one offset's weights fit a 2 MB cache."""
_BLOCKS, _FEWEST_ROWS = 32, 16
"""Blocks to have at least, for the threads to share, unless they had fewer rows than that."""
_PLAN = "native"

follows_autocast = False


def use_isa(name: str) -> None:
    """Computes with the instruction set `name` from now on; InputError unless it is available."""
    if name not in available_isas():
        raise InputError(
            f"{ISA_VARIABLE}: found {name!r}; expected one that this processor has: "
            f"{', '.join(available_isas())}"
        )
    _native.use_isa(name)


def available_isas() -> list[str]:
    """Instruction sets that were built and that this processor has, fastest first."""
    return _native.supported_isas()


def describe() -> str:
    narrow = "bfloat16 in use if asked for" if _native.computes_bfloat16() else "never bfloat16"
    return f"native C++ engine ({_native.isa()}, float32, {narrow})"


def keep_freed_memory() -> bool:
    """From now on this process keeps the memory of large arrays that it frees, up to 2 GB, for the next
    ones; False where the C library (another than glibc) cannot be told.

    A training step frees and takes the same gigabyte again and again, and the first touch of each page
    that the system hands out anew costs as much as the arithmetic of a strided gradient.
    """
    return _native.keep_freed_memory()


def peak_multiply_adds(rounds: int) -> float:
    """Float32 multiply-adds a second on torch's threads, on numbers that never leave the registers."""
    return _native.peak_rate(rounds, torch.get_num_threads())


if os.environ.get(ISA_VARIABLE):
    use_isa(os.environ[ISA_VARIABLE])


class HashIndex:
    """A set of voxel coordinates, searchable by hashing; InputError if a voxel is given twice."""

    def __init__(self, coords: Tensor) -> None:
        self._index = _native.VoxelIndex(_int32(coords))
        if not self._index.distinct:
            raise InputError(DUPLICATE_VOXELS.format(len(coords)))

    def table(self, out_coords: Tensor, kernel_size: int, stride: int) -> Tensor:
        table = torch.empty(len(out_coords), kernel_size**3, dtype=torch.int32)
        _native.find_neighbours(
            self._index, _int32(out_coords), kernel_size, stride, table, torch.get_num_threads()
        )
        return table


def index_voxels(coords: Tensor) -> HashIndex:
    return HashIndex(coords)


def conv(feats: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """(M_out, C_out) of feats (M_in, C_in) and weight (K, C_in, C_out); differentiable once."""
    if weight.dtype not in (torch.float32, torch.float64):  # a model cast to a narrower type as a whole
        return conv(feats.float(), weight.float(), kernel_map).to(weight.dtype)
    return Conv.apply(feats, weight, kernel_map, _OPERATIONS)


def conv_finished(
    feats: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """`conv` + bias (C_out,) + residual (M_out, C_out), ReLU; without gradient, in the same pass."""
    fits = weight.dtype in (torch.float32, torch.float64) and not _padding(weight.shape[2], weight.dtype)
    if not fits or (residual is not None and residual.dtype != weight.dtype):
        return reference.finished(conv(feats, weight, kernel_map), bias, residual, relu)
    return _convolve(feats, weight, kernel_map, bias, residual, relu)


def narrowed(weight: Tensor, dtype: torch.dtype) -> Callable[..., Tensor] | None:
    """`conv_finished` of a weight (K, C_in, C_out), operands in bfloat16 and results in float32; None
    where the processor does not multiply them faster, and for another dtype."""
    if dtype != torch.bfloat16 or weight.dtype != torch.float32 or not _native.computes_bfloat16():
        return None
    return partial(_convolve_bfloat16, _packed(weight.detach()), weight.shape[2])


def _packed(weight: Tensor) -> Tensor:
    """(K, panels, pairs, 16, 2) int16, the bits of bfloat16: as kernels.h wants them."""
    offsets, depth, columns = weight.shape
    whole = torch.nn.functional.pad(weight, (0, -columns % 16, 0, -depth % 32)).bfloat16()
    return (
        whole.view(torch.int16)
        .view(offsets, -1, 2, -(-columns // 16), 16)
        .permute(0, 3, 1, 4, 2)
        .contiguous()
    )


def _convolve_bfloat16(
    packed: Tensor,
    columns: int,
    feats: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    out = torch.empty(kernel_map.num_outputs, columns)
    _native.convolve_bfloat16(
        plan_of(kernel_map),
        feats.detach().float().contiguous(),
        packed,
        out,
        torch.get_num_threads(),
        None if bias is None else bias.detach().float().contiguous(),
        None if residual is None else residual.detach().float().contiguous(),
        relu,
    )
    return out


def _convolve(
    feats: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """The last three where the columns fill whole vectors."""
    columns = weight.shape[2]
    padding = _padding(columns, weight.dtype)
    if padding:
        weight = torch.nn.functional.pad(weight, (0, padding))
    out = feats.new_empty(kernel_map.num_outputs, columns + padding)
    _native.convolve(
        plan_of(kernel_map),
        feats.detach().contiguous(),
        weight.detach().contiguous(),
        out,
        torch.get_num_threads(),
        None if bias is None else bias.detach().to(out.dtype).contiguous(),
        None if residual is None else residual.detach().contiguous(),
        relu,
    )
    return out[:, :columns].contiguous() if padding else out


def _weight_gradient(feats: Tensor, grad: Tensor, kernel_map: KernelMap) -> Tensor:
    columns = grad.shape[1]
    padding = _padding(columns, grad.dtype)
    if padding:
        grad = torch.nn.functional.pad(grad, (0, padding))
    gradient = feats.new_zeros(kernel_map.volume, feats.shape[1], columns + padding)
    _native.weight_gradient(
        plan_of(kernel_map),
        feats.detach().contiguous(),
        grad.detach().contiguous(),
        gradient,
        torch.get_num_threads(),
    )
    return gradient[..., :columns].contiguous() if padding else gradient


def _turned(weight: Tensor, mirrored: bool) -> Tensor:
    back = weight.new_empty(weight.shape[0], weight.shape[2], weight.shape[1])
    _native.turn_weight(weight.detach().contiguous(), mirrored, back, torch.get_num_threads())
    return back


_OPERATIONS = Operations(_convolve, _weight_gradient, _turned)


def _padding(columns: int, dtype: torch.dtype) -> int:
    """Columns to add so that they fill whole vectors."""
    return -columns % _native.lanes(dtype == torch.float32)


def plan_of(kernel_map: KernelMap) -> _native.PairPlan:
    """The map's pairs in the order in which the kernels want them; built once a map."""
    if _PLAN not in kernel_map.plans:
        even_share = kernel_map.num_outputs // _BLOCKS
        block_rows = max(_FEWEST_ROWS, min(_BLOCK_ROWS, even_share))
        neighbors = kernel_map.neighbors.contiguous()
        threads = torch.get_num_threads()
        kernel_map.plans[_PLAN] = _native.make_plan(
            neighbors, kernel_map.num_inputs, block_rows, threads
        )
    return kernel_map.plans[_PLAN]


def _int32(coords: Tensor) -> Tensor:
    return coords.detach().to(torch.int32).contiguous()
