"""The Triton kernels. Plain: only what Triton 3.x has had for long, no atomics, no tuner, no global.

`convolve` is an implicit matrix product: a program owns BLOCK_M output rows × BLOCK_N channels, walks
the offsets that some of its rows meet (`make_tiles` lists them) and the blocks of input channels, and
gathers the input rows where they lie. One flat loop, so that the compiler can load ahead across
offsets. Every output is written once: bit-deterministic, whatever the number of processors.

`weight_gradient` owns a chunk of the pairs of one offset and BLOCK_N × BLOCK_M channels; what the chunks
sum to is added by `sum_chunks` in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def convolve(
    feats,
    weight,
    out,
    bias,
    residual,
    table,
    out_rows,
    tile_offsets,
    tile_counts,
    turns,
    volume,
    channels_in,
    channels_out,
    stride_in,
    stride_out,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_IN: tl.constexpr,
    EVEN_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
    RELU: tl.constexpr,
):
    """out[o] (C_out,) = Σ_k weight[k] · feats[i] for a tile's rows o; i is the row met under k.

    bias (C_out,) and residual (as out), None or added in float32, and ReLU: before anything is rounded.
    """
    tile = tl.load(turns + tl.program_id(0))
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_block = tl.arange(0, BLOCK_K)
    blocks = (channels_in + BLOCK_K - 1) // BLOCK_K
    steps = tl.load(tile_counts + tile) * blocks
    first_line = tile * volume
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(steps):
        line = first_line + step // blocks
        offset = tl.load(tile_offsets + line)
        rows = tl.load(table + line * BLOCK_M + tl.arange(0, BLOCK_M))
        channels = (step % blocks) * BLOCK_K + in_block
        met = (rows >= 0)[:, None]
        if not EVEN_IN:
            met = met & (channels < channels_in)[None, :]
        gathered = tl.load(
            feats + rows.to(tl.int64)[:, None] * channels_in + channels[None, :], mask=met, other=0.0
        )
        kernel = weight + offset * channels_in * channels_out
        kernel += channels[:, None] * stride_in + columns[None, :] * stride_out
        if EVEN_IN and EVEN_OUT:
            weights = tl.load(kernel)
        else:
            inside = (channels < channels_in)[:, None] & (columns < channels_out)[None, :]
            weights = tl.load(kernel, mask=inside, other=0.0)
        total = tl.dot(gathered, weights, total, input_precision=PRECISION)
    targets = tl.load(out_rows + tile * BLOCK_M + tl.arange(0, BLOCK_M))
    written = (targets >= 0)[:, None] & (columns < channels_out)[None, :]
    where = targets.to(tl.int64)[:, None] * channels_out + columns[None, :]
    if bias is not None:
        total += tl.load(bias + columns, mask=columns < channels_out, other=0.0).to(tl.float32)[None, :]
    if residual is not None:
        total += tl.load(residual + where, mask=written, other=0.0).to(tl.float32)
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # NaN stays NaN
    tl.store(out + where, total.to(out.dtype.element_ty), mask=written)


@triton.jit
def mask_keys(
    neighbors, ranked, keys, rows, volume, first, bits, SLOTS: tl.constexpr, BLOCK: tl.constexpr
):
    """keys[o]: which of the offsets ranked[first : first + bits] row o meets, read as a Gray code.

    neighbors (rows, K), -1 where empty; the first of the offsets is the highest bit.
    """
    outputs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    slots = tl.arange(0, SLOTS)
    offsets = tl.load(ranked + first + slots, mask=slots < bits, other=0)
    entries = neighbors + outputs.to(tl.int64)[:, None] * volume + offsets[None, :]
    inside = (outputs < rows)[:, None] & (slots < bits)[None, :]
    met = tl.load(entries, mask=inside, other=-1) >= 0
    places = tl.where(slots < bits, bits - 1 - slots, 0).to(tl.int64)
    code = tl.sum(met.to(tl.int64) << places[None, :], axis=1)
    # a bit of the number is the parity of the code's bits down to it
    code = code ^ (code >> 1)  # pyright: ignore[reportOperatorIssue]
    code = code ^ (code >> 2)
    code = code ^ (code >> 4)
    code = code ^ (code >> 8)
    code = code ^ (code >> 16)
    code = code ^ (code >> 32)
    tl.store(keys + outputs, code.to(keys.dtype.element_ty), mask=outputs < rows)


@triton.jit
def make_tiles(neighbors, order, out_rows, table, offsets, counts, rows, volume, BLOCK: tl.constexpr):
    """A tile of BLOCK rows in `order`: the offsets some of them meet, and what is met under each."""
    tile = tl.program_id(0)
    places = tile * BLOCK + tl.arange(0, BLOCK)
    outputs = tl.load(order + places, mask=places < rows, other=-1)
    tl.store(out_rows + places, outputs.to(tl.int32))
    line = tile.to(tl.int64) * volume
    count = 0
    for offset in range(volume):
        entries = neighbors + outputs.to(tl.int64) * volume + offset
        found = tl.load(entries, mask=outputs >= 0, other=-1)
        if tl.max(found, axis=0) >= 0:  # pyright: ignore[reportOperatorIssue]
            tl.store(table + (line + count) * BLOCK + tl.arange(0, BLOCK), found)
            tl.store(offsets + line + count, offset)
            count += 1
    tl.store(counts + tile, count)


@triton.jit
def weight_gradient(
    feats,
    grad,
    partial,
    in_rows,
    out_rows,
    chunk_first,
    chunk_last,
    channels_in,
    channels_out,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_IN: tl.constexpr,
    EVEN_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """partial[chunk] (C_in, C_out) = Σ over the chunk's pairs of feats[in_row]ᵀ · grad[out_row]."""
    chunk = tl.program_id(0)
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.load(chunk_first + chunk)
    last = tl.load(chunk_last + chunk)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(first, last, BLOCK_K):
        pairs = start + tl.arange(0, BLOCK_K)
        inside = pairs < last
        sources = tl.load(in_rows + pairs, mask=inside, other=0)
        targets = tl.load(out_rows + pairs, mask=inside, other=0)
        seen = inside[:, None]
        if not EVEN_IN:
            seen = seen & (rows < channels_in)[None, :]
        gathered = tl.load(
            feats + sources.to(tl.int64)[:, None] * channels_in + rows[None, :], mask=seen, other=0.0
        )
        wanted = inside[:, None]
        if not EVEN_OUT:
            wanted = wanted & (columns < channels_out)[None, :]
        upstream = tl.load(
            grad + targets.to(tl.int64)[:, None] * channels_out + columns[None, :],
            mask=wanted,
            other=0.0,
        )
        if PRECISION == "split":
            # each number as the sum of two of bfloat16: 16 bits of its fraction, and no block to turn
            high, high_up = gathered.to(tl.bfloat16), upstream.to(tl.bfloat16)
            low = (gathered - high.to(tl.float32)).to(tl.bfloat16)
            low_up = (upstream - high_up.to(tl.float32)).to(tl.bfloat16)
            high = tl.trans(high)
            total = tl.dot(tl.trans(low), high_up, total)
            total = tl.dot(high, low_up, total)
            total = tl.dot(high, high_up, total)
        else:
            total = tl.dot(tl.trans(gathered), upstream, total, input_precision=PRECISION)
    if last > first:
        where = (chunk.to(tl.int64) * channels_in + rows)[:, None] * channels_out + columns[None, :]
        written = (rows < channels_in)[:, None] & (columns < channels_out)[None, :]
        tl.store(partial + where, total, mask=written)


@triton.jit
def sum_chunks(partial, out, offset_first, size, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    """out[k] = Σ partial[c] over the chunks offset_first[k] … offset_first[k + 1] - 1 of offset k."""
    offset = tl.program_id(0)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(offset_first + offset)
    last = tl.load(offset_first + offset + 1)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(first, last, CHUNKS):
        chunks = start + tl.arange(0, CHUNKS)
        inside = (chunks < last)[:, None] & (places < size)[None, :]
        values = tl.load(
            partial + chunks.to(tl.int64)[:, None] * size + places[None, :], mask=inside, other=0.0
        )
        total += tl.sum(values, axis=0)
    tl.store(out + offset.to(tl.int64) * size + places, total, mask=places < size)


@triton.jit
def find_neighbors(
    columns,
    heights,
    order,
    wanted,
    table,
    voxels,
    rows,
    rounds,
    stride,
    first,
    SIDE: tl.constexpr,
    BIAS: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """table[o, k] = row of the voxel at wanted[o]·stride + offset k, -1 where there is none.

    The voxels are sorted by column, then height (coordinates.py); a program bisects for the lowest
    offset of one column of the kernel, of which the others are followers.
    """
    outputs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    line = tl.program_id(1)
    inside = outputs < rows
    voxel = wanted + outputs.to(tl.int64) * 4
    scene = tl.load(voxel, mask=inside, other=0).to(tl.int64)
    x = tl.load(voxel + 1, mask=inside, other=0).to(tl.int64) * stride + first + line // SIDE
    y = tl.load(voxel + 2, mask=inside, other=0).to(tl.int64) * stride + first + line % SIDE
    z = tl.load(voxel + 3, mask=inside, other=0) * stride + first
    column = (scene << (2 * BITS)) + ((x + BIAS) << BITS) + (y + BIAS)
    low = tl.zeros((BLOCK,), dtype=tl.int32)
    high = low + voxels
    for _ in range(rounds):
        middle = (low + high) // 2
        open_ = low < high
        there = tl.load(columns + middle, mask=open_, other=0)
        below = there < column
        below = below | ((there == column) & (tl.load(heights + middle, mask=open_, other=0) < z))
        low = tl.where(open_ & below, middle + 1, low)
        high = tl.where(open_ & (below == 0), middle, high)
    entry = table + outputs.to(tl.int64) * (SIDE * SIDE * SIDE) + line * SIDE
    for iz in range(SIDE):
        near = inside & (low < voxels)
        hit = near & (tl.load(columns + low, mask=near, other=0) == column)
        hit = hit & (tl.load(heights + low, mask=near, other=0) == z + iz)
        found = tl.load(order + low, mask=hit, other=-1)
        tl.store(entry + iz, found, mask=inside)
        low += hit.to(tl.int32)


@triton.jit
def double(cell):
    """Doubles one number."""
    tl.store(cell, 2 * tl.load(cell))
