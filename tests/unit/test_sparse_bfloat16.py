"""Convolution with operands in bfloat16 on CPUs that have it, against plain torch in float64.

An operand is rounded to 8 bits: by 2⁻⁸ of it at most, a product so by 2⁻⁷ + 2⁻¹⁶. Sums are of float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import needs
from bifusion.models.folding import for_inference
from bifusion.models.unet import UNetConfig, build_unet
from bifusion.sparse import reference
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.modules import StridedConv3d, SubmanifoldConv3d
from bifusion.sparse.tensor import SparseTensor
from kernel_maps import kernel_map_of

native = needs.module("engine", "bifusion.sparse.native")

SETS = [isa for isa in native.available_isas() if isa in ("amx_bf16", "avx512_bf16")]
OTHERS = [isa for isa in native.available_isas() if isa not in SETS]
ROUNDING = 2**-7 + 2**-16
FLOAT32 = 2**-23


@pytest.fixture
def restore_isa() -> Iterator[None]:
    before = native._native.isa()
    yield
    native.use_isa(before)


@pytest.fixture(params=SETS or ["none"])
def isa(request: pytest.FixtureRequest, restore_isa: None) -> str:
    """Each set that computes in bfloat16, in use; elsewhere these tests have nothing to hold."""
    if not SETS:
        pytest.skip("the processor, the system or the compiler has neither AMX nor AVX512-BF16")
    native.use_isa(request.param)
    if not native._native.computes_bfloat16():
        pytest.skip(f"the system does not permit {request.param}")
    return request.param


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def voxels_of(side: int) -> Tensor:
    filled = random(2, side, side, side) > 0.4
    return filled.nonzero()[torch.randperm(int(filled.sum()))].int()


VOXELS = {
    "no voxel": torch.zeros(0, 4, dtype=torch.int32),
    "one voxel": torch.tensor([[0, 3, -4, 5]], dtype=torch.int32),
    "isolated voxels": torch.tensor([[0, 9 * i, 0, -9 * i] for i in range(20)], dtype=torch.int32),
    "random": voxels_of(12),
}
MAPS = ("kernel 1", "kernel 3", "kernel 5", "strided 2", "strided 3", "inverse 2", "inverse 3")


def check(
    kernel_map: KernelMap, cin: int, cout: int, *, finish: bool = False, exact: bool = False
) -> None:
    """Held to what rounding may cost; `exact`: operands that bfloat16 holds, and float32's alone."""
    feats, weight = random(kernel_map.num_inputs, cin), random(kernel_map.volume, cin, cout, seed=1)
    if exact:
        feats, weight = feats.bfloat16().float(), weight.bfloat16().float()
    bias = random(cout, seed=2) if finish else None
    residual = random(kernel_map.num_outputs, cout, seed=3) if finish else None
    before = feats.clone(), weight.clone()
    found = native.narrowed(weight, torch.bfloat16)(feats, kernel_map, bias, residual, finish)
    assert found.dtype == torch.float32 and found.shape == (kernel_map.num_outputs, cout)
    assert torch.equal(feats, before[0]) and torch.equal(weight, before[1])
    added = [None if values is None else values.double() for values in (bias, residual)]
    wide = feats.double(), weight.double()
    expected = reference.conv_finished(*wide, kernel_map, added[0], added[1], finish)
    bias, residual = (None if values is None else values.abs() for values in added)
    most = reference.conv_finished(wide[0].abs(), wide[1].abs(), kernel_map, bias, residual)
    allowed = (FLOAT32 * (kernel_map.volume * cin + 2) + (0 if exact else ROUNDING)) * most
    assert ((found.double() - expected).abs() <= allowed).all()


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("voxels", VOXELS)
def test_every_kernel_map(voxels: str, name: str, isa: str) -> None:
    kernel_map = kernel_map_of(VOXELS[voxels], name)
    check(kernel_map, 5, 20)
    check(kernel_map, 40, 33, finish=True)
    check(kernel_map, 33, 7, exact=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 15, 16, 17, 31, 32, 48, 64, 65, 96, 160])
def test_any_number_of_channels(channels: int, isa: str) -> None:
    kernel_map = kernel_map_of(VOXELS["random"], "kernel 3")
    check(kernel_map, channels, 7, exact=True)
    check(kernel_map, 7, channels, exact=True)


def test_two_threads_give_the_bits_of_one(isa: str) -> None:
    feats, weight, found = None, random(27, 48, 40), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            kernel_map = kernel_map_of(VOXELS["random"], "kernel 3")
            feats = random(kernel_map.num_inputs, 48) if feats is None else feats
            run = native.narrowed(weight, torch.bfloat16)
            found.append(run(feats, kernel_map, None, None, False))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])


def test_nan_and_infinity_pass_relu(isa: str) -> None:
    kernel_map = kernel_map_of(VOXELS["one voxel"], "kernel 3")
    feats = torch.tensor([[float("nan"), 0.0], [float("inf"), 0.0]])
    run = native.narrowed(torch.ones(27, 2, 3), torch.bfloat16)
    for row in feats:
        assert torch.equal(
            run(row[None], kernel_map, None, None, True).isfinite(), torch.zeros(1, 3) > 0
        )


def unet_and_room() -> tuple[torch.nn.Module, SparseTensor]:
    torch.manual_seed(0)
    unet = build_unet(UNetConfig(planes=(16, 32, 48), blocks=(1, 1, 1))).eval()
    return unet, SparseTensor(random(len(VOXELS["random"]), 6), VOXELS["random"])


def test_a_network_in_use_is_near_and_one_in_training_the_same(isa: str) -> None:
    unet, room = unet_and_room()
    folded = for_inference(copy.deepcopy(unet))
    narrow = for_inference(copy.deepcopy(unet), torch.bfloat16)
    convolutions = [m for m in narrow.modules() if isinstance(m, SubmanifoldConv3d | StridedConv3d)]
    assert convolutions and all(m.narrowed is not None for m in convolutions)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, found, untouched = folded(room), narrow(room), unet(room)
    torch.testing.assert_close(untouched, expected, rtol=1e-4, atol=1e-5)
    apart = (found - expected).norm() / expected.norm()
    assert 1e-5 < apart < 0.02
    with torch.autocast("cpu", torch.bfloat16):  # where a gradient may be asked for, float32
        torch.testing.assert_close(narrow(room), expected, rtol=1e-4, atol=1e-5)
    assert all(getattr(m, "narrowed", None) is None for m in unet.modules())


@pytest.mark.parametrize("without", OTHERS)
def test_other_instruction_sets_stay_in_float32(without: str, restore_isa: None) -> None:
    native.use_isa(without)
    assert native.narrowed(torch.ones(27, 4, 4), torch.bfloat16) is None
    assert "never bfloat16" in native.describe()
    unet, room = unet_and_room()
    with torch.no_grad():
        expected = for_inference(copy.deepcopy(unet))(room)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(for_inference(unet, torch.bfloat16)(room), expected)


def test_float16_and_float64_stay_as_they_are(isa: str) -> None:
    assert native.narrowed(torch.ones(27, 4, 4), torch.float16) is None
    assert native.narrowed(torch.ones(27, 4, 4).double(), torch.bfloat16) is None


def test_misfits_are_refused_by_the_compiled_module(isa: str) -> None:
    kernel_map = kernel_map_of(VOXELS["random"], "kernel 3")
    rows, packed = kernel_map.num_inputs, native._packed(torch.ones(27, 6, 20))
    plan, convolve = native.plan_of(kernel_map), native._native.convolve_bfloat16
    feats, out = torch.zeros(rows, 6), torch.zeros(rows, 20)
    convolve(plan, feats, packed, out, 1, None, None, False)
    for bad in (
        (plan, feats[1:], packed, out),
        (plan, feats, packed[1:], out),
        (plan, feats, packed, out[1:]),
        (plan, torch.zeros(rows, 33), packed, out),
        (plan, feats, packed, torch.zeros(rows, 33)),
        (plan, feats, torch.zeros(packed.numel() + 1, dtype=torch.int16)[1:].view(packed.shape), out),
    ):
        with pytest.raises(ValueError, match="in:|weight:|out:"):
            convolve(*bad, 1, None, None, False)
    with pytest.raises(ValueError, match="bias:"):
        convolve(plan, feats, packed, out, 1, torch.zeros(19), None, False)
    with pytest.raises(ValueError, match="residual:"):
        convolve(plan, feats, packed, out, 1, None, out[1:], False)
    native.use_isa("portable")
    with pytest.raises(ValueError, match="does not compute in it"):
        convolve(plan, feats, packed, out, 1, None, None, False)
