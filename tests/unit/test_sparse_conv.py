"""Sparse operations against dense Conv3d, values and gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import needs
from bifusion.errors import InputError
from bifusion.sparse import kernel_map as kernel_map_module
from bifusion.sparse.functional import sparse_conv
from bifusion.sparse.modules import InverseConv3d, StridedConv3d, SubmanifoldConv3d
from bifusion.sparse.tensor import KernelMaps, SparseTensor

CASES = {
    "single voxel": torch.tensor([[0, 3, 4, 5]]),
    "isolated voxels": torch.tensor([[0, 0, 0, 0], [0, 7, 7, 7], [1, 0, 7, 0]]),
    "full block": torch.cartesian_prod(torch.arange(2), *[torch.arange(4)] * 3),
    "random": (torch.rand(2, 8, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).nonzero(),
    "empty scene in between": torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2], [2, 1, 2, 2], [2, 2, 2, 2]]),
}
SIDE = 8


@pytest.fixture(autouse=True, params=["torch", "native"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here runs on each backend that the CPU has."""
    if request.param == "native":
        needs.module("engine", "bifusion.sparse.native")
    monkeypatch.setenv("BIFUSION_SPARSE_BACKEND", request.param)


def tensor_of(coords: Tensor, channels: int = 3) -> SparseTensor:
    """Random double features on voxels in shuffled order, moved so that some are negative."""
    generator = torch.Generator().manual_seed(1)
    coords = coords[torch.randperm(len(coords), generator=generator)].int()
    coords[:, 1:] -= 4
    feats = torch.randn(len(coords), channels, generator=generator, dtype=torch.float64)
    return SparseTensor(feats.requires_grad_(), coords)


def to_dense(feats: Tensor, coords: Tensor, shift: int, side: int) -> Tensor:
    """(scenes, C, side, side, side), zero where empty; keeps the graph."""
    scene, x, y, z = (coords.long() + torch.tensor([0, shift, shift, shift])).unbind(1)
    dense = feats.new_zeros(3, side, side, side, feats.shape[1])
    return dense.index_put((scene, x, y, z), feats).permute(0, 4, 1, 2, 3)


def from_dense(dense: Tensor, coords: Tensor, shift: int) -> Tensor:
    scene, x, y, z = (coords.long() + torch.tensor([0, shift, shift, shift])).unbind(1)
    return dense.permute(0, 2, 3, 4, 1)[scene, x, y, z]


def dense_kernel(conv: nn.Module) -> Tensor:
    """(out, in, k, k, k) of our (k³, in, out)."""
    k = conv.kernel_size
    return conv.weight.view(k, k, k, *conv.weight.shape[1:]).permute(4, 3, 0, 1, 2)


def padding(kernel_size: int) -> tuple[int, ...]:
    """Left and right of each axis: odd kernels are centred, even ones start at the voxel."""
    left = kernel_size // 2 if kernel_size % 2 else 0
    return (left, kernel_size - 1 - left) * 3


def assert_same(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=found.dtype)
    for a, b in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_submanifold_equals_dense(case: str, kernel_size: int, bias: bool) -> None:
    x = tensor_of(CASES[case])
    conv = SubmanifoldConv3d(3, 5, kernel_size, bias=bias).double()
    dense = F.pad(to_dense(x.feats, x.coords, 4, SIDE), padding(kernel_size))
    expected = from_dense(F.conv3d(dense, dense_kernel(conv), conv.bias), x.coords, 4)
    assert_same(conv(x).feats, expected, [x.feats, *conv.parameters()])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 2), (2, 2), (3, 2), (5, 2), (4, 4)])
def test_strided_equals_dense(case: str, kernel_size: int, stride: int) -> None:
    x = tensor_of(CASES[case])
    conv = StridedConv3d(3, 5, kernel_size, stride).double()
    out = conv(x)
    assert out.stride == stride
    dense = F.pad(to_dense(x.feats, x.coords, 4, SIDE), padding(kernel_size))
    dense = F.conv3d(dense, dense_kernel(conv), stride=stride)
    assert_same(out.feats, from_dense(dense, out.coords, 4 // stride), [x.feats, conv.weight])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
def test_inverse_equals_dense_transposed(case: str, kernel_size: int) -> None:
    x = tensor_of(CASES[case])
    coarse = StridedConv3d(3, 4, kernel_size).double()(x)
    coarse = coarse.replace(coarse.feats.detach().requires_grad_())
    conv = InverseConv3d(4, 5, kernel_size).double()
    fine = conv(coarse)
    assert fine.coords is x.coords
    dense = to_dense(coarse.feats, coarse.coords, 2, SIDE // 2)
    kernel = dense_kernel(conv).transpose(0, 1)
    reach = padding(kernel_size)[0]
    whole = F.conv_transpose3d(dense, kernel, stride=2, output_padding=1 if kernel_size < 2 else 0)
    whole = F.pad(whole[:, :, reach:, reach:, reach:], (0, 2) * 3)
    assert_same(fine.feats, from_dense(whole, x.coords, 4), [coarse.feats, conv.weight])


def test_voxels_that_come_from_no_finer_ones_are_refused_by_name() -> None:
    x = tensor_of(next(iter(CASES.values())))
    for steps, stride in (([], 2), ([2], 4), ([2, 2], 3)):
        coarse = x.replace(x.feats.float())
        for step in steps:
            coarse = StridedConv3d(3, 3, 2, step)(coarse)
        with pytest.raises(InputError, match=rf"^x: found voxels of stride {2 ** len(steps)}, and none"):
            InverseConv3d(3, 3, 2, stride)(coarse)


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("layer", ["submanifold", "strided", "inverse"])
@pytest.mark.parametrize("block_rows", [5, 1 << 15])
def test_gradcheck(
    layer: str, kernel_size: int, block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_map_module, "_BLOCK_ROWS", block_rows)
    coords = CASES["random"][:24].int()
    maps = KernelMaps(coords)
    kernel_map = maps.submanifold(1, kernel_size)
    if layer != "submanifold":
        kernel_map = maps.strided(1, kernel_size, 2)
    if layer == "inverse":
        kernel_map = kernel_map.transposed
    feats = torch.randn(kernel_map.num_inputs, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(kernel_size**3, 2, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *a: sparse_conv(a[0], a[1], kernel_map, a[2]), (feats, weight, bias)
    )


def test_two_runs_on_two_threads_are_bit_identical(two_threads: None) -> None:
    coords = (
        (torch.rand(1, 24, 24, 24, generator=torch.Generator().manual_seed(0)) < 0.4).nonzero().int()
    )
    feats = torch.randn(len(coords), 16)
    layers = nn.Sequential(SubmanifoldConv3d(16, 16, 3), StridedConv3d(16, 16), InverseConv3d(16, 16))

    def run() -> list[Tensor]:
        leaf = feats.clone().requires_grad_()
        layers.zero_grad()
        out = layers(SparseTensor(leaf, coords)).feats
        out.square().sum().backward()
        return [out, leaf.grad, *(p.grad.clone() for p in layers.parameters())]

    for a, b in zip(run(), run(), strict=True):
        assert torch.equal(a, b)


def test_rows_may_come_in_any_order() -> None:
    x = tensor_of(CASES["random"])
    order = torch.randperm(len(x.coords), generator=torch.Generator().manual_seed(3))
    conv = SubmanifoldConv3d(3, 5, 3).double()
    shuffled = SparseTensor(x.feats[order], x.coords[order])
    torch.testing.assert_close(conv(shuffled).feats, conv(x).feats[order])


def test_scenes_of_a_batch_do_not_touch() -> None:
    coords = torch.tensor(list(itertools.product((0, 1), (0, 1), (0,), (0,))), dtype=torch.int32)
    feats = torch.randn(4, 2)
    conv = SubmanifoldConv3d(2, 2, 3)
    together = conv(SparseTensor(feats, coords)).feats
    for scene in (0, 1):
        rows = coords[:, 0] == scene
        alone = conv(SparseTensor(feats[rows], coords[rows])).feats
        torch.testing.assert_close(together[rows], alone)


def test_no_voxels() -> None:
    x = SparseTensor(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 4, dtype=torch.int32))
    convs = [SubmanifoldConv3d(3, 4, 3), StridedConv3d(4, 4), InverseConv3d(4, 2)]
    out = nn.Sequential(*convs)(x)
    assert out.feats.shape == (0, 2)
    out.feats.sum().backward()
    assert all(conv.weight.grad.abs().sum() == 0 for conv in convs)


def test_autocast_keeps_the_type_of_the_weights() -> None:
    x = tensor_of(CASES["random"])
    x = x.replace(x.feats.detach().bfloat16())
    for size in (1, 3):
        conv = SubmanifoldConv3d(3, 4, size)
        with torch.autocast("cpu", torch.bfloat16):
            out = conv(x).feats
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, conv(x.replace(x.feats.float())).feats)
        out.sum().backward()
        assert conv.weight.grad.dtype == torch.float32


def test_misfits_are_refused() -> None:
    kernel_map = KernelMaps(CASES["full block"].int()).submanifold(1, 3)
    with pytest.raises(ValueError, match="do not fit"):
        sparse_conv(torch.zeros(5, 2), torch.zeros(27, 2, 2), kernel_map)
    with pytest.raises(ValueError, match="do not fit"):
        sparse_conv(torch.zeros(128, 2), torch.zeros(8, 2, 2), kernel_map)
    with pytest.raises(ValueError, match="2 feature rows for 3 voxels"):
        SparseTensor(torch.zeros(2, 1), CASES["isolated voxels"].int())


def as_half(tensor: Tensor) -> Tensor:
    return tensor.half().to(tensor.dtype)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_cpu_imitates_float16(kernel_size):
    """Operands, results and gradients are numbers of float16, as a GPU's would be; where autocast does
    not ask for it, and in float64, nothing is rounded."""
    torch.manual_seed(0)
    double = tensor_of(CASES["random"], 16)
    x = double.replace(double.feats.detach().float().requires_grad_())
    conv = SubmanifoldConv3d(16, 8, kernel_size, bias=False)
    rounded = SubmanifoldConv3d(16, 8, kernel_size, bias=False)
    rounded.load_state_dict({"weight": as_half(conv.weight.detach())})
    with torch.autocast("cpu", torch.float16):
        out = conv(x).feats
        with torch.no_grad():
            assert torch.equal(conv(x).feats, out)
        assert not conv(x.replace(x.feats * 1e5)).feats.isfinite().all()
    assert out.dtype == torch.float32
    assert torch.equal(out, as_half(rounded(x.replace(as_half(x.feats))).feats))
    assert not torch.equal(out, conv(x).feats)
    in_double = conv.double()(double).feats
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(conv(double).feats, in_double)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize(("scale", "fate"), [(1.0, "fine"), (1e9, "infinite"), (1e-12, "zero")])
def test_gradients_in_imitated_float16_overflow_and_vanish(kernel_size, scale, fate):
    torch.manual_seed(0)
    double = tensor_of(CASES["random"], 16)
    feats = double.feats.detach().float().requires_grad_()
    conv = SubmanifoldConv3d(16, 8, kernel_size, bias=False)
    with torch.autocast("cpu", torch.float16):
        loss = scale * conv(double.replace(feats)).feats.sum()
    of_feats, of_weight = torch.autograd.grad(loss, [feats, conv.weight])
    if fate == "fine":
        assert torch.equal(of_feats, as_half(of_feats)) and of_weight.isfinite().all()
    assert of_feats.isfinite().all() == (fate != "infinite")
    assert bool((of_feats == 0).all() and (of_weight == 0).all()) == (fate == "zero")
