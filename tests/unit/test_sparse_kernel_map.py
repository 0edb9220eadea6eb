"""Kernel maps against a plain dictionary search, and their caching."""

from __future__ import annotations

import gc
import itertools
from weakref import ref

import pytest
import torch
from torch import Tensor

from bifusion.errors import InputError
from bifusion.sparse import kernel_map as kernel_map_module
from bifusion.sparse import tensor as tensor_module
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.modules import StridedConv3d, SubmanifoldConv3d
from bifusion.sparse.tensor import KernelMaps, SparseTensor
from bifusion.sparse.voxel_index import CoordinateIndex


def random_coords(number: int, side: int = 6, scenes: int = 2, low: int = -3, seed: int = 0) -> Tensor:
    """About `number` distinct voxels, shuffled, with negative coordinates."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randint(0, scenes, (number, 1), generator=generator)
    xyz = torch.randint(low, low + side, (number, 3), generator=generator)
    coords = torch.cat([scene, xyz], dim=1).unique(dim=0)
    return coords[torch.randperm(len(coords), generator=generator)].int()


def offsets(kernel_size: int) -> list[tuple[int, int, int]]:
    first = -(kernel_size // 2) if kernel_size % 2 else 0
    reach = range(first, first + kernel_size)
    return list(itertools.product(reach, reach, reach))


def table_by_dictionary(
    inputs: Tensor, outputs: Tensor, kernel_size: int, stride: int
) -> list[list[int]]:
    row_of = {tuple(voxel): row for row, voxel in enumerate(inputs.tolist())}
    return [
        [row_of.get((b, x * stride + dx, y * stride + dy, z * stride + dz), -1)
         for dx, dy, dz in offsets(kernel_size)]
        for b, x, y, z in outputs.tolist()
    ]  # fmt: skip


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
def test_submanifold_map_of_unsorted_negative_coordinates(kernel_size: int) -> None:
    coords = random_coords(150)
    found = KernelMaps(coords).submanifold(1, kernel_size)
    assert found.neighbors.tolist() == table_by_dictionary(coords, coords, kernel_size, 1)


@pytest.mark.parametrize(("kernel_size", "step"), [(2, 2), (3, 2), (5, 2), (1, 2), (3, 3), (2, 4)])
def test_strided_map(kernel_size: int, step: int) -> None:
    coords = random_coords(150)
    maps = KernelMaps(coords)
    found = maps.strided(1, kernel_size, step)
    coarse = coords.clone()
    coarse[:, 1:] = coarse[:, 1:].div(step, rounding_mode="floor")
    assert maps.coords(step).tolist() == coarse.unique(dim=0).tolist()
    assert found.neighbors.tolist() == table_by_dictionary(coords, maps.coords(step), kernel_size, step)


def test_coordinates_at_the_limits_do_not_alias() -> None:
    """Neighbouring keys of far-apart voxels must not be taken for neighbouring voxels."""
    limit = 2**20
    corners = list(itertools.product((-limit, -limit + 1, limit - 1, limit), repeat=3))
    coords = torch.tensor(
        [[b, *corner] for b in (0, 1, 200_000) for corner in corners], dtype=torch.int32
    )
    maps = KernelMaps(coords)
    assert maps.submanifold(1, 5).neighbors.tolist() == table_by_dictionary(coords, coords, 5, 1)
    down = maps.strided(1, 2, 2)
    assert down.neighbors.tolist() == table_by_dictionary(coords, maps.coords(2), 2, 2)


def test_voxel_order_of_the_input_does_not_matter_to_coarse_levels() -> None:
    coords = random_coords(80)
    one, other = KernelMaps(coords), KernelMaps(coords.flip(0))
    one.strided(1, 2, 2)
    other.strided(1, 2, 2)
    assert torch.equal(one.coords(2), other.coords(2))


def check_transposed(found: KernelMap) -> None:
    pairs = {
        (o, k, i) for o, row in enumerate(found.neighbors.tolist()) for k, i in enumerate(row) if i >= 0
    }
    back = found.transposed
    assert back.neighbors.shape == (found.num_inputs, found.volume)
    assert back.num_inputs == found.num_outputs
    assert back.transposed is found
    mirrored = {
        (o, k, i) for i, row in enumerate(back.neighbors.tolist()) for k, o in enumerate(row) if o >= 0
    }
    assert mirrored == pairs


@pytest.mark.parametrize("kernel_size", [2, 3, 5])
def test_transposed_map_has_the_same_pairs(kernel_size: int) -> None:
    maps = KernelMaps(random_coords(120))
    check_transposed(maps.submanifold(1, kernel_size))
    check_transposed(maps.strided(1, kernel_size, 2))


def test_a_map_and_its_transposed_go_with_their_owner() -> None:
    """No reference cycle: the tables of a batch are freed at once, not at some garbage collection."""
    gc.disable()
    try:
        down = KernelMaps(random_coords(20)).strided(1, 2, 2)
        up, watched = down.transposed, ref(down)
        del down
        assert watched() is None
        assert up.transposed.neighbors.shape == (up.num_inputs, 8)
    finally:
        gc.enable()


@pytest.mark.parametrize("block_rows", [7, 1000])
def test_pair_lists_hold_every_pair_once(block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_map_module, "_BLOCK_ROWS", block_rows)
    found = KernelMaps(random_coords(60)).strided(1, 3, 2)
    table = found.neighbors.tolist()
    expected = {(o, k, i) for o, row in enumerate(table) for k, i in enumerate(row) if i >= 0}
    pairs = []
    for block in found.blocks:
        offset = torch.arange(found.volume).repeat_interleave(torch.tensor(block.counts))
        pairs += zip(block.out_rows.tolist(), offset.tolist(), block.in_rows.tolist(), strict=True)
        by_output = block.out_rows[block.by_output]
        assert by_output.tolist() == sorted(block.out_rows.tolist())
        for row in range(block.first_row, block.last_row):
            first, last = block.output_ptr[row - block.first_row : row - block.first_row + 2].tolist()
            assert by_output[first:last].tolist() == [row] * (last - first)
        by_input = block.in_rows[block.by_input]
        for row in range(found.num_inputs):
            first, last = block.input_ptr[row : row + 2].tolist()
            assert by_input[first:last].tolist() == [row] * (last - first)
        assert block.input_ptr[-1] == block.output_ptr[-1] == len(block.in_rows)
    assert len(pairs) == len(expected)
    assert set(pairs) == expected


def test_maps_are_built_once_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    table = CoordinateIndex.table

    def counting(self, *args, **kwargs):
        built.append(args)
        return table(self, *args, **kwargs)

    monkeypatch.setattr(CoordinateIndex, "table", counting)
    monkeypatch.setenv("BIFUSION_SPARSE_BACKEND", "torch")
    coords = random_coords(50)
    x = SparseTensor(torch.randn(len(coords), 4), coords)
    for _ in range(3):
        x = SubmanifoldConv3d(4, 4, 3)(x)
    assert len(built) == 1
    y = StridedConv3d(4, 4)(x)
    z = SubmanifoldConv3d(4, 4, 3)(y)
    assert len(built) == 3
    assert x.maps is y.maps is z.maps
    assert y.coords is StridedConv3d(4, 8)(x).coords
    assert len(built) == 3


def test_spconv_grid_leaves_out_the_last_plane_of_an_odd_side() -> None:
    coords = torch.tensor([[0, 0, 0, 0], [0, 4, 0, 0], [0, 3, 2, 1]], dtype=torch.int32)
    maps = KernelMaps(coords, min_grid=4)
    table = maps.strided(1, 2, 2)
    assert maps.coords(2).tolist() == [[0, 0, 0, 0], [0, 1, 1, 0]]
    assert (table.transposed.neighbors >= 0).sum(1).tolist() == [1, 0, 1]


def test_no_voxels() -> None:
    maps = KernelMaps(torch.zeros(0, 4, dtype=torch.int32))
    assert maps.submanifold(1, 3).neighbors.shape == (0, 27)
    assert maps.strided(1, 2, 2).neighbors.shape == (0, 8)
    assert maps.strided(1, 2, 2).transposed.neighbors.shape == (0, 8)


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        (torch.zeros(3, 3, dtype=torch.int32), "expected \\(M, 4\\)"),
        (torch.zeros(3, 4), "float32"),
        (torch.tensor([[0, 0, 0, 2**20 + 1]]), "expected scenes"),
        (torch.tensor([[-1, 0, 0, 0]]), "expected scenes"),
        (torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]), "each voxel once"),
    ],
)
def test_bad_coordinates(coords: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        KernelMaps(coords).submanifold(1, 3)


@pytest.mark.parametrize("min_grid", [0, 4])
def test_levels_made_beforehand_equal_those_made_when_wanted(min_grid: int, monkeypatch) -> None:
    """What a GPU does, so that the host waits for it once, done on the CPU."""
    coords = random_coords(150, side=9, low=0 if min_grid else -4)
    lazy, eager = KernelMaps(coords, min_grid), KernelMaps(coords, min_grid)
    for stride in (1, 2, 4, 8):
        lazy.strided(stride, 2, 2)
    monkeypatch.setattr(tensor_module, "_surveyed_strides", lambda device: (1, 2, 4, 8, 16))
    eager.submanifold(1, 3)
    for stride in (2, 4, 8, 16):
        assert eager.coords(stride).tolist() == lazy.coords(stride).tolist()
        assert eager.coords(stride).dtype == torch.int32


def test_equal_voxels_are_seen_with_the_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_module, "_surveyed_strides", lambda device: (1, 2))
    with pytest.raises(InputError, match="3 voxel coordinates, some of them equal"):
        KernelMaps(torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0], [0, 1, 2, 3]])).submanifold(1, 3)
