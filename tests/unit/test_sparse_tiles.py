"""Float32 convolution on AMX's tiles, each number as three of bfloat16, against plain torch in float64.

Tiles are used from 2²⁷ multiply-adds on; layers here have more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

import needs
from bifusion.sparse import reference
from bifusion.sparse.kernel_map import KernelMap
from kernel_maps import kernel_map_of

native = needs.module("engine", "bifusion.sparse.native")

TILES, VECTORS = "amx_bf16", "avx512"
SIDE = 26
"""Of two scenes of voxels: 100,000 pairs and more."""
Results = tuple[Tensor, Tensor, Tensor]
"""What comes out, and the gradients of features and weights."""


@pytest.fixture(autouse=True)
def tiles() -> Iterator[None]:
    before = native._native.isa()
    if TILES not in native.available_isas():
        pytest.skip("the processor, the system or the compiler has no AMX")
    native.use_isa(TILES)
    if not native._native.computes_bfloat16():
        pytest.skip("the system does not permit AMX")
    yield
    native.use_isa(before)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@cache
def map_of(name: str) -> KernelMap:
    filled = random(2, SIDE, SIDE, SIDE) > 0.4
    return kernel_map_of(filled.nonzero()[torch.randperm(int(filled.sum()))].int(), name)


def operands(kernel_map: KernelMap, cin: int, cout: int) -> Results:
    feats, weight = random(kernel_map.num_inputs, cin), random(kernel_map.volume, cin, cout, seed=1)
    return feats, weight, random(kernel_map.num_outputs, cout, seed=2)


def results(
    conv: Callable, kernel_map: KernelMap, feats: Tensor, weight: Tensor, grad: Tensor
) -> Results:
    feats, weight = feats.clone().requires_grad_(), weight.clone().requires_grad_()
    out = conv(feats, weight, kernel_map)
    out.backward(grad)
    assert feats.grad is not None and weight.grad is not None
    return out.detach(), feats.grad, weight.grad


def in_vectors(kernel_map: KernelMap, *given: Tensor) -> Results:
    native.use_isa(VECTORS)
    found = results(native.conv, kernel_map, *given)
    native.use_isa(TILES)
    return found


def errors(found: Results, expected: Results) -> list[float]:
    """Root mean square over that of what is expected."""
    pairs = zip(found, expected, strict=True)
    return [float((a - b).square().mean().sqrt() / b.square().mean().sqrt()) for a, b in pairs]


@pytest.mark.parametrize(
    ("name", "cin", "cout"),
    [
        ("kernel 3", 64, 64),
        ("kernel 3", 96, 32),
        ("kernel 3", 72, 80),
        ("kernel 3", 33, 112),
        ("kernel 5", 32, 48),
        ("strided 2", 96, 160),
        ("inverse 3", 160, 96),
    ],
)
def test_tiles_are_as_exact_as_vectors(name: str, cin: int, cout: int) -> None:
    kernel_map = map_of(name)
    given = operands(kernel_map, cin, cout)
    expected = results(reference.conv, kernel_map, *(one.double() for one in given))
    found, plain = results(native.conv, kernel_map, *given), in_vectors(kernel_map, *given)
    for ours, vectors in zip(errors(found, expected), errors(plain, expected), strict=True):
        assert ours <= 1.05 * vectors < 5e-6
    assert not torch.equal(found[0], plain[0])  # else tiles were not used
    assert cin % 32 or cout % 32 or min(cin, cout) < 64 or not torch.equal(found[2], plain[2])


def test_bias_residual_and_relu_come_in_the_same_pass() -> None:
    kernel_map = map_of("kernel 3")
    feats, weight, residual = operands(kernel_map, 64, 72 + 8)
    bias = random(80, seed=3)
    for given in ((bias, None, False), (None, residual, True), (bias, residual, True)):
        plain = reference.finished(native.conv(feats, weight, kernel_map), *given)
        torch.testing.assert_close(native.conv_finished(feats, weight, kernel_map, *given), plain)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_no_bit(threads: int) -> None:
    before = torch.get_num_threads()
    kernel_map, given = map_of("kernel 3"), operands(map_of("kernel 3"), 128, 64)
    try:
        torch.set_num_threads(1)
        alone = results(native.conv, kernel_map, *given)
        torch.set_num_threads(threads)
        together = results(native.conv, kernel_map, *given)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_small_layers_are_computed_as_on_every_processor() -> None:
    kernel_map = map_of("strided 2")
    given = operands(kernel_map, 32, 32)
    found, plain = results(native.conv, kernel_map, *given), in_vectors(kernel_map, *given)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**60])
def test_numbers_far_from_one_keep_their_bits(scale: float) -> None:
    kernel_map = map_of("kernel 3")
    feats, weight, grad = operands(kernel_map, 64, 64)
    near = results(native.conv, kernel_map, feats, weight, grad)
    far = results(native.conv, kernel_map, feats * scale, weight, grad)
    assert torch.equal(near[0] * scale, far[0]) and torch.equal(near[2] * scale, far[2])


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_reaches_its_neighbours_alone(broken: float) -> None:
    kernel_map = map_of("kernel 3")
    feats, weight, grad = operands(kernel_map, 64, 64)
    feats[7, 5] = broken
    out, _, of_weight = results(native.conv, kernel_map, feats, weight, grad)
    reached = (kernel_map.neighbors == 7).any(1)
    assert torch.equal(~out.isfinite().all(1), reached)
    assert torch.equal((~of_weight.isfinite()).any(2).any(0), torch.arange(64) == 5)
