"""The GPU engine: its layouts on the CPU, its results where there is a CUDA device."""

from __future__ import annotations

import pytest
import torch

from bifusion.sparse import reference
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.spconv_layout import from_spconv_weight, pair_lists, to_spconv_weight
from bifusion.sparse.tensor import KernelMaps


def random_map(name: str, device: str = "cpu") -> KernelMap:
    filled = torch.rand(2, 9, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    maps = KernelMaps(filled.nonzero().int().to(device))
    if name == "submanifold":
        return maps.submanifold(1, 3)
    down = maps.strided(1, 2, 2)
    return down if name == "strided" else down.transposed


@pytest.mark.parametrize("name", ["submanifold", "strided", "inverse"])
def test_pair_lists_hold_the_table(name: str) -> None:
    kernel_map = random_map(name)
    pairs, counts = pair_lists(kernel_map)
    table = torch.full_like(kernel_map.neighbors, -1)
    for offset, count in enumerate(counts.tolist()):
        rows_in, rows_out = pairs[:, offset, :count]
        assert (pairs[:, offset, count:] == -1).all()
        assert (rows_out.diff() > 0).all()
        table[rows_out.long(), offset] = rows_in
    assert torch.equal(table, kernel_map.neighbors)
    assert (pairs.dtype, counts.dtype) == (torch.int32, torch.int32)


def test_pair_lists_of_nothing() -> None:
    maps = KernelMaps(torch.zeros(0, 4, dtype=torch.int32))
    pairs, counts = pair_lists(maps.submanifold(1, 3))
    assert pairs.shape == (2, 27, 1)
    assert counts.sum() == 0


def test_weight_layout_there_and_back() -> None:
    weight = torch.randn(27, 5, 7)
    theirs = to_spconv_weight(weight)
    assert theirs.shape == (7, 27, 1, 1, 5)
    assert theirs[3, 11, 0, 0, 2] == weight[11, 2, 3]
    assert torch.equal(from_spconv_weight(theirs), weight)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["submanifold", "strided", "inverse"])
def test_equals_plain_torch_on_the_gpu(name: str) -> None:
    spconv_backend = pytest.importorskip("bifusion.sparse.spconv_backend", exc_type=ImportError)
    kernel_map = random_map(name, "cuda")
    feats = torch.randn(kernel_map.num_inputs, 16, device="cuda", requires_grad=True)
    weight = torch.randn(kernel_map.volume, 16, 32, device="cuda", requires_grad=True)
    found = spconv_backend.conv(feats, weight, kernel_map)
    expected = reference.conv(feats, weight, kernel_map)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=5e-2)
    for a, b in zip(
        torch.autograd.grad(found, (feats, weight), upstream),
        torch.autograd.grad(expected, (feats, weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=5e-1)
