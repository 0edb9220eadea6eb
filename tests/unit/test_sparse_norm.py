"""BatchNorm with ReLU and a residual in the engine against plain torch, and its own promises."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import needs
from bifusion.sparse import reference
from bifusion.sparse.modules import BatchNorm

native = needs.module("engine", "bifusion.sparse.native")

KINDS = [(relu, residual) for relu in (False, True) for residual in (False, True)]


def rows_of(rows: int, channels: int, dtype: torch.dtype = torch.float32, offset: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 100 + channels)
    return torch.randn(rows, channels, generator=generator, dtype=dtype) * 2 + offset


def drawn_norm(channels: int, dtype: torch.dtype = torch.float32) -> BatchNorm:
    norm = BatchNorm(channels, eps=1e-4).to(dtype)
    torch.manual_seed(channels)
    assert norm.running_mean is not None and norm.running_var is not None
    for values in (norm.weight, norm.bias, norm.running_mean):
        torch.nn.init.normal_(values, std=0.7)
    torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm


def outcome(
    backend, norm: BatchNorm, x: Tensor, residual: Tensor | None, relu: bool
) -> dict[str, Tensor]:
    """Result, gradients and running statistics."""
    norm, x = copy.deepcopy(norm), x.clone().requires_grad_()
    residual = None if residual is None else residual.clone().requires_grad_()
    out = backend.batch_norm(x, norm, True, residual, relu)
    out.backward(rows_of(len(x), x.shape[1] + 1, x.dtype)[:, 1:])
    found = {"out": out.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    found |= {} if residual is None else {"residual": residual.grad}
    found |= {"mean": norm.running_mean, "variance": norm.running_var}
    assert all(value is not None for value in found.values())
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(("relu", "residual"), KINDS)
@pytest.mark.parametrize(("rows", "channels"), [(2, 1), (3, 5), (130, 32), (4500, 7), (2049, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_plain_torch(rows, channels, dtype, relu, residual):
    norm, x = drawn_norm(channels, dtype), rows_of(rows, channels, dtype)
    added = rows_of(rows, channels + 2, dtype)[:, 2:] if residual else None
    found, expected = (outcome(b, norm, x, added, relu) for b in (native, reference))
    tolerance = {torch.float32: 3e-5, torch.float64: 1e-11}[dtype]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance * scale, msg=name)


@pytest.mark.parametrize(("relu", "residual"), KINDS)
def test_gradients_are_those_of_differences(relu, residual):
    norm = drawn_norm(3, torch.float64)
    x = rows_of(9, 3, torch.float64).requires_grad_()
    added = rows_of(9, 4, torch.float64)[:, 1:].clone().requires_grad_() if residual else None

    def function(x: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor) -> Tensor:
        moved = drawn_norm(3, torch.float64)
        moved.weight, moved.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
        moved._parameters.update(weight=weight, bias=bias)  # pyright: ignore[reportArgumentType]
        return native.batch_norm(x, moved, True, rest[0] if rest else None, relu)

    line = [p.detach().clone().requires_grad_() for p in (norm.weight, norm.bias)]
    assert torch.autograd.gradcheck(function, (x, *line, *([] if added is None else [added])))


@pytest.mark.parametrize("isa", native.available_isas())
def test_every_instruction_set(isa):
    before = native._native.isa()
    x, added = rows_of(2500, 24), rows_of(2500, 25)[:, 1:]
    try:
        native.use_isa(isa)
        found = outcome(native, drawn_norm(24), x, added, True)
    finally:
        native.use_isa(before)
    expected = outcome(reference, drawn_norm(24), x, added, True)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=3e-5, atol=1e-3, msg=name)


def test_neither_threads_nor_repetition_change_a_bit(two_threads):
    x, added = rows_of(9000, 48), rows_of(9000, 49)[:, 1:]
    first = outcome(native, drawn_norm(48), x, added, True)
    again = outcome(native, drawn_norm(48), x, added, True)
    torch.set_num_threads(1)
    alone = outcome(native, drawn_norm(48), x, added, True)
    for name, value in first.items():
        assert torch.equal(value, again[name]) and torch.equal(value, alone[name]), name


def test_statistics_are_right_where_the_mean_is_far_from_zero():
    """Sums of squares about zero would lose the variance: it is 1e-8 of them."""
    x = rows_of(5000, 8, torch.float64, offset=2e4)
    mean, variance = native.normalisation._moments(x.float())
    exact = x.float().double()
    torch.testing.assert_close(mean, exact.mean(0), rtol=1e-9, atol=0)
    torch.testing.assert_close(variance, exact.var(0, unbiased=False), rtol=1e-4, atol=0)


def test_nan_passes_as_in_torch():
    x = rows_of(40, 4)
    x[3, 1] = torch.nan
    out = native.batch_norm(x, drawn_norm(4), True, None, True)
    assert out[:, 1].isnan().all() and out[:, [0, 2, 3]].isfinite().all()
    broken = rows_of(40, 4)
    broken[3, 1] = torch.nan
    found = outcome(native, drawn_norm(4), rows_of(40, 4), broken, True)
    expected = outcome(reference, drawn_norm(4), rows_of(40, 4), broken, True)
    for name, value in expected.items():
        assert torch.equal(found[name].isnan(), value.isnan()), name


@pytest.mark.parametrize(("relu", "residual"), KINDS)
def test_evaluation_uses_running_statistics_and_leaves_them(relu, residual):
    norm, x = drawn_norm(6).eval(), rows_of(300, 6)
    added = rows_of(300, 7)[:, 1:] if residual else None
    before = copy.deepcopy(norm.state_dict())
    with torch.no_grad():
        found = norm(x, residual=added, relu=relu)
        expected = reference.batch_norm(x, norm, False, added, relu)
    torch.testing.assert_close(found, expected)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_gradients_through_running_statistics_are_plain_torchs():
    norm, x = drawn_norm(6).eval(), rows_of(30, 6).requires_grad_()
    (grad,) = torch.autograd.grad(norm(x, relu=True).sum(), x)
    (expected,) = torch.autograd.grad(reference.batch_norm(x, norm, False, None, True).sum(), x)
    assert torch.equal(grad, expected)


def test_misfits_are_refused_by_the_compiled_module():
    x, norm, sums = rows_of(9, 4), torch.zeros(4, 4), torch.zeros(2, 4, dtype=torch.float64)
    normalise, gradient = native._native.normalise, native._native.norm_gradient
    normalise(x, norm, None, False, torch.empty_like(x), 1)
    gradient(x, norm, x, None, False, None, torch.empty_like(x), sums, 1)
    for call in (
        lambda: normalise(x, norm[:2], None, False, torch.empty_like(x), 1),
        lambda: normalise(x, norm, x[1:], False, torch.empty_like(x), 1),
        lambda: normalise(x, norm, None, False, torch.empty(8, 4), 1),
        lambda: gradient(x, norm[:3], x, None, False, None, torch.empty_like(x), sums, 1),
        lambda: gradient(x, norm, x[1:], None, False, None, torch.empty_like(x), sums, 1),
        lambda: gradient(x, norm, x, None, False, None, torch.empty_like(x), sums[:1], 1),
        lambda: native._native.moments(x, sums[0], sums[0, 1:], 1),
    ):
        with pytest.raises(ValueError, match="norm:|residual:|out:|grad:|sums:|mean, squares:"):
            call()
