"""The C++ engine against the plain backend, and how it behaves in a process."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import needs
from bifusion.errors import InputError
from bifusion.sparse import backends, reference
from bifusion.sparse.functional import sparse_conv
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.tensor import KernelMaps
from bifusion.sparse.voxel_index import CoordinateIndex
from kernel_maps import kernel_map_of

native = needs.module("engine", "bifusion.sparse.native")


def random_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_voxels(side: int, share: float, scenes: int = 1, seed: int = 0) -> Tensor:
    """(M, 4) in random order: `share` of the voxels of a cube of `side`, some coordinates negative."""
    filled = torch.rand(scenes, side, side, side, generator=random_generator(seed)) < share
    coords = filled.nonzero() - torch.tensor([0, side // 2, side // 2, side // 2])
    return coords[torch.randperm(len(coords), generator=random_generator(seed))].int()


LIMIT = 2**20
VOXELS = {
    "no voxel": torch.zeros(0, 4, dtype=torch.int32),
    "one voxel": torch.tensor([[0, 3, -4, 5]], dtype=torch.int32),
    "isolated voxels": torch.tensor([[0, 9 * i, 0, -9 * i] for i in range(20)], dtype=torch.int32),
    "full block": torch.cartesian_prod(*[torch.arange(n) for n in (1, 9, 9, 9)]).int(),
    "empty scene in between": torch.tensor(
        [[s, 0, y, z] for s in (0, 2, 7) for y in (0, 1) for z in (0, 1)], dtype=torch.int32
    ),
    "limits": torch.tensor(
        [
            [s, *corner]
            for s in (0, 200_000)
            for corner in itertools.product((-LIMIT, 1 - LIMIT, LIMIT - 1, LIMIT), repeat=3)
        ],
        dtype=torch.int32,
    ),
    "random": random_voxels(12, 0.3, scenes=2),
    "several blocks of rows": random_voxels(22, 0.3),
}
MAPS = [
    "kernel 1",
    "kernel 2",
    "kernel 3",
    "kernel 5",
    "strided 2",
    "strided 3",
    "inverse 2",
    "inverse 3",
]


def outcome(backend, feats: Tensor, weight: Tensor, kernel_map: KernelMap) -> list[Tensor]:
    """Result and both gradients for an arbitrary gradient of the result."""
    feats, weight = feats.detach().requires_grad_(), weight.detach().requires_grad_()
    out = backend.conv(feats, weight, kernel_map)
    upstream = torch.randn(out.shape, generator=random_generator(1), dtype=out.dtype)
    return [out.detach(), *torch.autograd.grad(out, (feats, weight), upstream)]


def compare(kernel_map: KernelMap, channels_in: int, channels_out: int, dtype: torch.dtype) -> None:
    generator = random_generator(2)
    feats = torch.randn(kernel_map.num_inputs, channels_in, generator=generator, dtype=dtype)
    weight = torch.randn(kernel_map.volume, channels_in, channels_out, generator=generator, dtype=dtype)
    found = outcome(native, feats, weight, kernel_map)
    expected = outcome(reference, feats, weight, kernel_map)
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        scale = max(1.0, b.abs().max().item() if b.numel() else 1.0)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * scale)


def test_native_engine_is_loaded() -> None:
    """Where it could be built it is used."""
    assert backends.backend_for(torch.device("cpu")) is native


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("voxels", VOXELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_plain_backend(voxels: str, name: str, dtype: torch.dtype) -> None:
    compare(kernel_map_of(VOXELS[voxels], name), 5, 20, dtype)


@pytest.mark.parametrize("channels", [1, 3, 6, 15, 16, 17, 48, 72, 96, 100])
@pytest.mark.parametrize("isa", native.available_isas())
def test_any_number_of_channels(channels: int, isa: str, restore_isa: None) -> None:
    native.use_isa(isa)
    kernel_map = kernel_map_of(VOXELS["random"], "kernel 3")
    compare(kernel_map, channels, 7, torch.float32)
    compare(kernel_map, 7, channels, torch.float32)


@pytest.mark.parametrize("isa", native.available_isas())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_layers(isa: str, dtype: torch.dtype, restore_isa: None) -> None:
    native.use_isa(isa)
    compare(kernel_map_of(VOXELS["random"], "strided 2"), 160, 256, dtype)


@pytest.fixture
def restore_isa() -> Iterator[None]:
    before = native._native.isa()
    yield
    native.use_isa(before)


TWO_VOXELS = """
import torch
from bifusion.sparse import native
from bifusion.sparse.tensor import KernelMaps
from bifusion.sparse.voxel_index import CoordinateIndex

maps = KernelMaps(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32))
out = native.conv(torch.ones(2, 3), torch.ones(27, 3, 5), maps.submanifold(1, 3))
assert (out == 6).all(), out
print(native.describe())
"""


@pytest.mark.parametrize("isa", native.available_isas())
def test_instruction_set_can_be_forced(isa: str) -> None:
    done = run_python(TWO_VOXELS, BIFUSION_ISA=isa)
    assert done.returncode == 0, done.stderr
    assert f"({isa}, " in done.stdout
    assert isa.endswith("_bf16") or "never bfloat16" in done.stdout


def test_unknown_instruction_set_is_refused() -> None:
    done = run_python("import bifusion.sparse.native", BIFUSION_ISA="mmx")
    assert "InputError: BIFUSION_ISA: found 'mmx'; expected one" in done.stderr


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("name", ["kernel 2", "kernel 3", "strided 3", "inverse 2"])
def test_gradcheck(name: str) -> None:
    kernel_map = kernel_map_of(VOXELS["random"][:24], name)
    feats = torch.randn(kernel_map.num_inputs, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(kernel_map.volume, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w: native.conv(f, w, kernel_map), (feats, weight))


def test_only_the_gradients_that_are_asked_for() -> None:
    kernel_map = kernel_map_of(VOXELS["random"], "kernel 3")
    feats, weight = torch.randn(kernel_map.num_inputs, 4), torch.randn(27, 4, 4, requires_grad=True)
    native.conv(feats, weight, kernel_map).sum().backward()
    assert feats.grad is None
    assert weight.grad is not None
    frozen = weight.detach()
    feats.requires_grad_()
    native.conv(feats, frozen, kernel_map).sum().backward()
    assert feats.grad is not None


def test_views_and_transposed_inputs() -> None:
    kernel_map = kernel_map_of(VOXELS["random"], "kernel 3")
    wide = torch.randn(kernel_map.num_inputs, 12)
    columns, weight = wide[:, 2:9], torch.randn(27, 16, 7).transpose(1, 2)
    expected = reference.conv(columns, weight, kernel_map)
    torch.testing.assert_close(native.conv(columns, weight, kernel_map), expected)
    leaf = wide.clone().requires_grad_()
    out = native.conv(leaf[:, 2:9], weight, kernel_map)
    out.backward(torch.ones(out.shape[1], out.shape[0]).T)  # a gradient that is not contiguous
    assert leaf.grad is not None
    assert leaf.grad[:, :2].abs().sum() == 0


def test_inputs_stay_as_they_are() -> None:
    kernel_map = kernel_map_of(VOXELS["random"], "kernel 3")
    feats, weight = torch.randn(kernel_map.num_inputs, 16), torch.randn(27, 16, 16)
    before = feats.clone(), weight.clone()
    outcome(native, feats, weight, kernel_map)
    assert torch.equal(feats, before[0])
    assert torch.equal(weight, before[1])


def test_autocast_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.BACKEND_VARIABLE, "native")
    kernel_map = kernel_map_of(VOXELS["random"], "kernel 3")
    feats = torch.randn(kernel_map.num_inputs, 8, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(27, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse_conv(feats, weight, kernel_map)
    torch.testing.assert_close(out, reference.conv(feats.float(), weight, kernel_map))
    out.sum().backward()
    assert (feats.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)


def test_a_model_in_bfloat16_is_computed_in_float32() -> None:
    kernel_map = kernel_map_of(VOXELS["random"], "kernel 3")
    feats = torch.randn(kernel_map.num_inputs, 8).bfloat16()
    weight = torch.randn(27, 8, 8).bfloat16()
    out = native.conv(feats, weight, kernel_map)
    assert torch.equal(out, native.conv(feats.float(), weight.float(), kernel_map).bfloat16())


def test_repeated_runs_on_two_threads_are_bit_identical(two_threads: None) -> None:
    kernel_map = kernel_map_of(random_voxels(32, 0.3), "kernel 3")
    feats, weight = torch.randn(kernel_map.num_inputs, 32), torch.randn(27, 32, 32)
    first = outcome(native, feats, weight, kernel_map)
    for _ in range(5):
        again = outcome(native, feats, weight, kernel_map)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("channels", [32, 96])
@pytest.mark.parametrize("threads", [2, 5, 16])
def test_result_does_not_depend_on_the_number_of_threads(
    two_threads: None, threads: int, channels: int
) -> None:
    kernel_map = kernel_map_of(random_voxels(16, 0.3), "kernel 3")
    feats, weight = torch.randn(kernel_map.num_inputs, channels), torch.randn(27, channels, 32)
    torch.set_num_threads(1)
    on_one = outcome(native, feats, weight, kernel_map)
    torch.set_num_threads(threads)
    on_many = outcome(native, feats, weight, kernel_map)
    assert all(torch.equal(a, b) for a, b in zip(on_one, on_many, strict=True))


class ConvolvedScenes(Dataset):
    """A data set whose items are computed by a convolution, in whatever process asks."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        kernel_map = kernel_map_of(random_voxels(16, 0.3, seed=index), "kernel 3")
        plan = native._native.make_plan(kernel_map.neighbors, kernel_map.num_inputs, 16, 2)
        feats, out = torch.ones(kernel_map.num_inputs, 16), torch.empty(kernel_map.num_outputs, 16)
        native._native.convolve(plan, feats, torch.ones(27, 16, 16), out, 2)
        assert torch.equal(out, native.conv(feats, torch.ones(27, 16, 16), kernel_map))
        return out.sum()


def test_forked_data_workers_do_not_hang(two_threads: None) -> None:
    """The parent's OpenMP threads are gone in a forked child, and a team of them waits for ever.

    Torch gives a worker one thread for that reason; the kernels do not even trust their caller there.
    """
    scenes = ConvolvedScenes()
    expected = [scenes[index].item() for index in range(4)]  # starts the parent's threads
    loader = DataLoader(scenes, batch_size=1, num_workers=2, multiprocessing_context="fork", timeout=300)
    watch = signal.getsignal(signal.SIGCHLD)
    try:
        assert [item.item() for item in loader] == expected
    finally:  # torch's own watch on workers would raise in the tests that kill some
        signal.signal(signal.SIGCHLD, watch)


def test_one_openmp_runtime_in_the_process() -> None:
    if not Path("/proc/self/maps").exists():
        needs.lacking("proc", "/proc/self/maps")
    code = (
        "import torch; from bifusion.sparse import native; torch.ones(9, 9) @ torch.ones(9, 9); "
        "print(open('/proc/self/maps').read())"
    )
    maps = run_python(code).stdout
    files = {line.split()[-1] for line in maps.splitlines() if "/" in line}
    runtimes = {file for file in files if "libgomp" in file or "libiomp" in file or "libomp" in file}
    assert any("_native" in file for file in files)
    assert len(runtimes) == 1, runtimes


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("voxels", VOXELS)
def test_hash_index_equals_bisection(voxels: str, kernel_size: int) -> None:
    coords = VOXELS[voxels]
    found, expected = native.index_voxels(coords), CoordinateIndex(coords)
    for stride, others in ((1, coords), (2, coords // 2), (3, coords.flip(0) // 3)):
        table = found.table(others, kernel_size, stride)
        assert table.dtype == torch.int32
        assert torch.equal(table, expected.table(others, kernel_size, stride))


def test_hash_index_takes_any_integers_in_any_layout() -> None:
    coords = VOXELS["random"]
    table = native.index_voxels(coords).table(coords, 3, 1)
    other = coords.long().T.contiguous().T
    assert torch.equal(native.index_voxels(other).table(other, 3, 1), table)


def test_duplicate_voxels_are_refused() -> None:
    with pytest.raises(InputError, match="2 voxel coordinates, some of them equal"):
        native.index_voxels(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]))


def test_backward_of_an_inverse_convolution_builds_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way back from a transposed map is weak; autograd must hold on to both."""
    feats = torch.randn(4, 3, requires_grad=True)
    coords = torch.tensor([[0, 4 * i, 0, 0] for i in range(4)], dtype=torch.int32)
    out = native.conv(feats, torch.randn(8, 3, 4), KernelMaps(coords).strided(1, 2, 2).transposed)
    monkeypatch.setattr(KernelMap, "_exchanged", property(lambda self: pytest.fail("map built again")))
    out.sum().backward()
    assert feats.grad is not None


def test_misfits_are_refused_by_the_compiled_module() -> None:
    plan = native._native.make_plan(
        kernel_map_of(VOXELS["full block"], "kernel 3").neighbors, 729, 64, 1
    )
    feats, weight, out = torch.zeros(729, 4), torch.zeros(27, 4, 16), torch.zeros(729, 16)
    convolve = native._native.convolve
    convolve(plan, feats, weight, out, 1)
    for bad in (
        (plan, feats[1:], weight, out, 1),
        (plan, feats, weight[1:], out, 1),
        (plan, feats, weight, out[1:], 1),
        (plan, feats[:, 1:].contiguous(), weight, out, 1),
        (plan, feats, weight[..., :15].contiguous(), out[:, :15].contiguous(), 1),
    ):
        with pytest.raises(ValueError, match="in:|weight:|out:|channels"):
            convolve(*bad)
    for bad in (
        (plan, feats.double(), weight, out, 1),  # converting an output would lose the result
        (plan, feats, weight, out.T, 1),
    ):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            convolve(*bad)
    with pytest.raises(ValueError, match="a row that the input does not have"):
        native._native.make_plan(torch.full((2, 8), 5, dtype=torch.int32), 5, 64, 1)
    with pytest.raises(ValueError, match="a row that the input does not have"):
        native._native.make_plan(torch.full((2, 8), -2, dtype=torch.int32), 5, 64, 1)
