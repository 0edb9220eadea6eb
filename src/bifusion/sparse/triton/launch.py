"""From tensors to kernel launches: which configuration, how many programs, what is allocated."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.triton import kernels
from bifusion.sparse.triton.configurations import (
    Configuration,
    Products,
    choose_convolve,
    choose_weight_gradient,
    gradient_precision,
    products_of,
)
from bifusion.sparse.triton.plan import chunks_of, pairs_of, tiles_of
from bifusion.sparse.triton.queue import run

_PROGRAMS, _FEWEST_CHUNKS = 256, 128
"""Programs to cut a weight gradient into: some for each multiprocessor of any chip. Constants, because
the order of its sums, and so its last bits, follow from them."""
_SUM_CHUNKS, _SUM_BLOCK = 16, 128


def convolve(
    feats: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    precision: str,
    chosen: Configuration | None = None,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """(M_out, C_out) in the dtype of feats (M_in, C_in); not recorded.

    bias (C_out,), residual (M_out, C_out) and ReLU follow in the same launch.
    weight: (K, C_in, C_out), of any strides and floating dtype.
    precision: "ieee" or "tf32", of products of float32. chosen: instead of the rule's choice.
    """
    channels_in, channels_out = weight.shape[1:]
    out = feats.new_empty(kernel_map.num_outputs, channels_out)
    if out.numel() == 0:
        return out
    products = products_of(feats.dtype, precision)
    if chosen is None:
        chosen = choose_convolve(channels_in, channels_out, products)
    weight = _laid_out(weight, feats.dtype, products)
    tiles = tiles_of(kernel_map, chosen.block_m)
    grid = (len(tiles.counts), triton.cdiv(channels_out, chosen.block_n))
    run(
        kernels.convolve, grid, feats.contiguous(), weight, out,
        None if bias is None else bias.contiguous(),
        None if residual is None else residual.contiguous(),
        tiles.table, tiles.out_rows, tiles.offsets, tiles.counts, tiles.turns,
        kernel_map.volume, channels_in, channels_out, *weight.stride()[1:],
        PRECISION=precision, RELU=relu, **_constants(chosen, channels_in % chosen.block_k, channels_out),
    )  # fmt: skip
    return out


def _laid_out(weight: Tensor, dtype: torch.dtype, products: Products) -> Tensor:
    """`weight` in `dtype`, one dimension of the channels innermost; at most one pass over memory.

    Matrix units take TF32 only with the summed dimension innermost: else each block is turned on its
    way, which halved the speed of wide layers on an H100. The other products prefer the columns.
    """
    if products == "tf32":
        return _laid_out(weight.transpose(1, 2), dtype, "narrow").transpose(1, 2)
    if weight.dtype == dtype:
        return weight.contiguous()
    return torch.empty(weight.shape, dtype=dtype, device=weight.device).copy_(weight)


def weight_gradient(
    feats: Tensor,
    grad: Tensor,
    kernel_map: KernelMap,
    precision: str,
    chosen: Configuration | None = None,
) -> Tensor:
    """(K, C_in, C_out) float32: Σ over the pairs of an offset of feats[in]ᵀ · grad[out]."""
    channels_in, channels_out = feats.shape[1], grad.shape[1]
    size = channels_in * channels_out
    out = torch.empty(kernel_map.volume, channels_in, channels_out, device=feats.device)
    if len(feats) == 0 or len(grad) == 0 or size == 0:
        return out.zero_()
    grad = grad.to(feats.dtype)
    products = products_of(feats.dtype, precision)
    if chosen is None:
        chosen = choose_weight_gradient(channels_in, channels_out, products)
    blocks = (triton.cdiv(channels_in, chosen.block_m), triton.cdiv(channels_out, chosen.block_n))
    pairs = pairs_of(kernel_map)
    most = triton.cdiv(kernel_map.neighbors.numel(), chosen.block_k)
    chunks = chunks_of(kernel_map, min(_chunk_number(blocks[0] * blocks[1]), most), chosen.block_k)
    partial = out.new_empty(len(chunks.first), channels_in, channels_out)
    run(
        kernels.weight_gradient, (len(chunks.first), *blocks),
        feats.contiguous(), grad.contiguous(), partial,
        pairs.in_rows, pairs.out_rows, chunks.first, chunks.last, channels_in, channels_out,
        PRECISION=gradient_precision(chosen, products, precision),
        **_constants(chosen, channels_in % chosen.block_m, channels_out),
    )  # fmt: skip
    grid = (kernel_map.volume, triton.cdiv(size, _SUM_BLOCK))
    run(
        kernels.sum_chunks, grid, partial, out, chunks.offset_first, size,
        CHUNKS=_SUM_CHUNKS, BLOCK=_SUM_BLOCK,
    )  # fmt: skip
    return out


def _constants(chosen: Configuration, left_in: int, channels_out: int) -> dict[str, int | bool]:
    """Where blocks divide the channels, nothing has to be masked."""
    even = {"EVEN_IN": left_in == 0, "EVEN_OUT": channels_out % chosen.block_n == 0}
    return {**chosen.blocks(), **chosen.options(), **even}


def _chunk_number(blocks: int) -> int:
    """Fewer chunks where each has many blocks of channels; powers of two, so that few plans are kept."""
    return max(_FEWEST_CHUNKS, _PROGRAMS // triton.next_power_of_2(blocks))
