"""The GPU engine on a GPU: each type against float64, to the bit twice alike, no host that waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import needs
from bifusion.errors import InputError
from bifusion.sparse import reference
from bifusion.sparse.backends import backend_for
from bifusion.sparse.functional import sparse_conv
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.modules import InverseConv3d, StridedConv3d, SubmanifoldConv3d
from bifusion.sparse.tensor import KernelMaps, SparseTensor
from kernel_maps import kernel_map_of

triton = needs.module("triton", "bifusion.sparse.triton")
pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def device() -> None:
    if not torch.cuda.is_available():
        needs.lacking("gpu", "torch finds no CUDA device")


MAPS = ["kernel 2", "kernel 3", "kernel 5", "strided 2", "strided 3", "inverse 2", "inverse 3"]
TOLERANCES = {
    # of the largest value; the sums are float32 in all of them
    "ieee": (torch.float32, 2e-6),
    "tf32": (torch.float32, 2e-3),
    "float16": (torch.float16, 1e-3),
    "bfloat16": (torch.bfloat16, 8e-3),
}


@pytest.fixture(autouse=True)
def ieee() -> Iterator[None]:
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision("highest")


def surface_voxels(count: int) -> Tensor:
    """(count, 4): two noisy planes and a wall, about as sparse as a scan."""
    generator = torch.Generator().manual_seed(0)
    side = int((count / 3) ** 0.5) + 2
    plane = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    sheets = []
    for axis in range(3):
        height = (torch.rand(len(plane), 1, generator=generator) < 0.25).long() + 40 * axis
        sheets.append(torch.cat([plane[:, :axis], height, plane[:, axis:]], dim=1))
    voxels = torch.cat(sheets).unique(dim=0)
    voxels = voxels[torch.randperm(len(voxels), generator=generator)[:count]] - side // 2
    scene = torch.randint(0, 2, (len(voxels), 1), generator=generator)
    return torch.cat([scene, voxels], dim=1).int().cuda()


def leaves(
    kernel_map: KernelMap, channels_in: int, channels_out: int, dtype: torch.dtype
) -> list[Tensor]:
    """Features, weights, gradient of the result."""
    generator = torch.Generator("cuda").manual_seed(2)
    shapes = (
        (kernel_map.num_inputs, channels_in),
        (kernel_map.volume, channels_in, channels_out),
        (kernel_map.num_outputs, channels_out),
    )
    return [torch.randn(shape, generator=generator, device="cuda").to(dtype) for shape in shapes]


def outcome(
    backend, feats: Tensor, weight: Tensor, upstream: Tensor, kernel_map: KernelMap
) -> list[Tensor]:
    feats, weight = feats.detach().requires_grad_(), weight.detach().requires_grad_()
    out = backend.conv(feats, weight, kernel_map)
    return [out.detach(), *torch.autograd.grad(out, (feats, weight), upstream)]


def check(kernel_map: KernelMap, channels_in: int, channels_out: int, kind: str) -> None:
    dtype, tolerance = TOLERANCES[kind]
    if kind == "tf32":
        torch.set_float32_matmul_precision("high")
    tensors = leaves(kernel_map, channels_in, channels_out, dtype)
    found = outcome(triton, *tensors, kernel_map)
    expected = outcome(reference, *(tensor.double() for tensor in tensors), kernel_map)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_the_engine_is_the_default_on_a_gpu() -> None:
    assert backend_for(torch.device("cuda")) is triton


@pytest.mark.parametrize("kind", TOLERANCES)
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("channels", [(6, 32), (32, 32), (33, 20), (64, 96), (160, 128)])
def test_equals_float64(name: str, channels: tuple[int, int], kind: str) -> None:
    check(kernel_map_of(surface_voxels(3000), name), *channels, kind)


@pytest.mark.parametrize("kind", TOLERANCES)
@pytest.mark.parametrize("name", ["kernel 3", "strided 2", "inverse 2"])
def test_equals_float64_on_a_scan_of_80000_voxels(name: str, kind: str) -> None:
    check(kernel_map_of(surface_voxels(80_000), name), 64, 64, kind)


@pytest.mark.parametrize(
    "coords", [torch.zeros(0, 4), torch.tensor([[0, 3, -4, 5]])], ids=["none", "one"]
)
@pytest.mark.parametrize("name", MAPS)
def test_hardly_any_voxels(coords: Tensor, name: str) -> None:
    kernel_map = kernel_map_of(coords.int().cuda(), name)
    tensors = leaves(kernel_map, 8, 16, torch.float32)
    found, expected = outcome(triton, *tensors, kernel_map), outcome(reference, *tensors, kernel_map)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_index_equals_bisection(kernel_size: int, stride: int) -> None:
    coords = surface_voxels(20_000)
    others = coords.flip(0).div(coords.new_tensor([1, stride, stride, stride]), rounding_mode="floor")
    found = triton.index_voxels(coords).table(others, kernel_size, stride)
    assert torch.equal(found, reference.index_voxels(coords).table(others, kernel_size, stride))


def test_levels_equal_those_of_the_cpu() -> None:
    coords = surface_voxels(20_000)
    here, there = KernelMaps(coords), KernelMaps(coords.cpu())
    for stride in (1, 2, 4, 8, 16):
        table = here.strided(stride, 2, 2).neighbors
        assert torch.equal(table.cpu(), there.strided(stride, 2, 2).neighbors)
        assert torch.equal(here.coords(2 * stride).cpu(), there.coords(2 * stride))


def test_equal_voxels_are_refused() -> None:
    coords = surface_voxels(100)
    with pytest.raises(InputError, match="some of them equal"):
        KernelMaps(torch.cat([coords, coords[:1]])).submanifold(1, 3)


@pytest.mark.parametrize("kind", TOLERANCES)
@pytest.mark.parametrize("name", ["kernel 3", "strided 2", "inverse 2"])
def test_twice_the_same_to_the_bit(name: str, kind: str) -> None:
    dtype, _ = TOLERANCES[kind]
    coords = surface_voxels(30_000)
    tensors = leaves(kernel_map_of(coords, name), 48, 64, dtype)
    first = outcome(triton, *tensors, kernel_map_of(coords, name))
    for strict in (False, True, True):  # as training runs: nothing may raise, nor differ from without
        torch.use_deterministic_algorithms(strict)
        try:
            again = outcome(triton, *tensors, kernel_map_of(coords, name))
        finally:
            torch.use_deterministic_algorithms(False)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_computes_in_its_type_and_keeps_the_gradient_in_float32(dtype: torch.dtype) -> None:
    kernel_map = kernel_map_of(surface_voxels(3000), "kernel 3")
    feats = torch.randn(kernel_map.num_inputs, 32, device="cuda")
    weight = torch.randn(27, 32, 32, device="cuda", requires_grad=True)
    with torch.autocast("cuda", dtype):
        out = sparse_conv(feats, weight, kernel_map)
    assert out.dtype == dtype
    upstream = torch.randn_like(out)
    grad = torch.autograd.grad(out, weight, upstream)[0]
    assert grad.dtype == torch.float32
    expected = outcome(
        reference, feats.to(dtype).double(), weight.double(), upstream.double(), kernel_map
    )[2]
    assert (grad - expected).abs().max() <= 1e-5 * expected.abs().max()


class SmallUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = SubmanifoldConv3d(6, 32, 5)
        self.down, self.up = StridedConv3d(32, 64), InverseConv3d(64, 32)
        self.coarse, self.last = SubmanifoldConv3d(64, 64, 3), SubmanifoldConv3d(32, 16, 1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.last(self.up(self.coarse(self.down(self.inner(x)))))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_the_host_waits_once_a_batch() -> None:
    """Not in layers, nor for their plans; for the coordinates' survey it does."""
    coords = surface_voxels(30_000)
    feats = torch.randn(len(coords), 6, device="cuda")
    net = SmallUNet().cuda()
    net(SparseTensor(feats, coords)).feats.sum().backward()  # compiled, and memory is there
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            net(SparseTensor(feats, coords))
        torch.cuda.set_sync_debug_mode("default")
        x = SparseTensor(feats, coords)
        x.maps.submanifold(1, 2)  # the survey
        torch.cuda.set_sync_debug_mode("error")
        net(x).feats.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
