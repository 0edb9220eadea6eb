"""Where a non-finite number came from: forward, backward, in modules and between them."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifusion import geometry, plugins
from bifusion.diagnosis.operations import Made, OperationWatch
from bifusion.diagnosis.ranges import is_finite, range_of
from bifusion.diagnosis.rerun import run_again
from bifusion.diagnosis.tracing import Tracer
from bifusion.models import pooling
from bifusion.rng import numpy_rng
from bifusion.step.runtime import deterministic
from module_faults import DIRECTIONS, VALUES, named_origin, trace, trained_leaves
from my_rooms import networks
from step_factory import TinyStep, tiny_step
from tiny_runs import make_tiny_data, tiny_config, tiny_mask3d

SAMPLED = 5
"""Modules a model and direction; `make attribution` tries all of them."""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyStep]:
    root = make_tiny_data(tmp_path_factory.mktemp("rooms"), train=2, val=1)
    return {
        "bifusion": tiny_step(tiny_config("bifusion_small", root)),
        "oneformer3d": tiny_step(tiny_config("oneformer3d_small", root)),
        "mask3d": tiny_step(tiny_mask3d(root)),
    }


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["bifusion", "oneformer3d", "mask3d"])
def test_every_module_is_found(steps, kind, direction):
    step, rng = steps[kind], numpy_rng(0, kind, direction)
    for name in rng.choice(trained_leaves(step), SAMPLED, replace=False):
        value = VALUES[rng.choice(list(VALUES))]
        module, where, phase = named_origin(step, name, direction, value)
        assert (module, where) == (name, direction) and phase is not None


def test_a_hook_before_a_module_counts_as_the_modules(steps):
    module = steps["oneformer3d"].stepper.model.module.decoder.x_mask
    handle = module.register_forward_pre_hook(lambda _, args: (args[0] * torch.nan,))
    tracer, _ = trace(steps["oneformer3d"])
    handle.remove()
    assert tracer.origin is not None and tracer.origin.module == "decoder.x_mask"


@pytest.mark.parametrize(("code", "part"), [(geometry, "lifting"), (pooling, "pooling")])
def test_parts_between_modules_have_names(steps, monkeypatch, code, part):
    def broken_sum(*args, **options):
        return F.embedding_bag(*args, **options) / torch.zeros(())

    monkeypatch.setattr(code, "F", SimpleNamespace(embedding_bag=broken_sum))
    tracer, _ = trace(steps["bifusion"], operations=True)
    origin = tracer.origin
    assert origin is not None and (origin.module, origin.operation) == (part, "div")
    assert origin.place is not None and origin.place.file in code.__file__


def test_the_fusions_mix_is_told_from_its_modules(steps):
    step = steps["bifusion"]
    state = step.state
    before = state.control.scale
    state.control.scale = math.inf
    tracer, _ = trace(step, operations=True)
    state.control.scale = before
    assert tracer.origin is not None and tracer.origin.module == "fusion.mix"
    assert tracer.origin.place is not None and tracer.origin.place.file == "models/fusion.py"


def test_a_line_of_a_gate_from_outside_is_named(steps, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "my_rooms")
    fusion = steps["bifusion"].stepper.model.module.fusion
    monkeypatch.setitem(fusion._modules, "gate", networks.Undefined())
    tracer, _ = trace(steps["bifusion"], operations=True)
    origin = tracer.origin
    assert origin is not None and (origin.module, origin.operation) == ("fusion.gate", "div")
    assert str(origin.place).startswith("Undefined.forward, my_rooms/networks.py:")


def test_operation_and_line_are_named(steps):
    step = steps["oneformer3d"]
    step.stepper.criterion.config.no_object_weight = math.nan
    tracer, phase = trace(step, operations=True)
    step.stepper.criterion.config.no_object_weight = 0.1
    origin = tracer.origin
    assert phase == "loss" and origin is not None and origin.term == "instance_class"
    assert origin.place is not None and origin.place.function == "instance_class"


def test_watching_changes_nothing(steps):
    step = steps["bifusion"]
    plain = run_again(step.stepper, step.inputs, step.state)
    tracer = Tracer(step.stepper.model.module, operations=True)
    watched = run_again(step.stepper, step.inputs, step.state, tracer=tracer)
    assert plain.fingerprint == watched.fingerprint
    assert tracer.origin is None
    assert not any(m._forward_hooks for m in step.stepper.model.module.modules())


def _watched(compute: Callable[[], Tensor]) -> list[str]:
    made: list[Made] = []
    watch = OperationWatch(made.append)
    for on in (True, False):
        watch.watch(on)
        compute()
    return [m.operation for m in made]


def test_infinities_on_purpose_are_none():
    scores = torch.zeros(2, 3)
    mask = torch.tensor([[True, False, False]] * 2)
    assert _watched(lambda: scores.masked_fill(mask, -torch.inf).softmax(1)) == []


def test_a_fully_masked_row_is_the_softmaxs_fault():
    scores = torch.zeros(2, 3)
    mask = torch.ones(2, 3, dtype=torch.bool)
    made = _watched(lambda: scores.masked_fill(mask, -torch.inf).softmax(1))
    assert [name.strip("_") for name in made] == ["softmax"]


def test_in_place_operations_are_seen():
    assert _watched(lambda: torch.ones(2).div_(torch.zeros(2))) == ["div_"]


def test_unwritten_memory_is_no_fault():
    with deterministic(True, torch.device("cpu")):
        torch.utils.deterministic.fill_uninitialized_memory = True
        assert _watched(lambda: torch.empty(10).isnan()) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_extremes_tell_what_is_not_finite(dtype):
    largest = torch.finfo(dtype).max
    for bad in (math.nan, math.inf, -math.inf):
        numbers = torch.tensor([largest, 0.0, -largest, 1.0], dtype=dtype)
        assert is_finite(numbers) and is_finite(numbers[:0])
        numbers[2] = bad
        assert not is_finite(numbers)


def test_range_counts_what_is_finite():
    found = range_of([torch.tensor([3.0, -4.0, torch.nan, torch.inf])])
    assert found is not None
    assert (found.min, found.max, found.finite) == (-4.0, 3.0, 0.5)
    assert found.rms == pytest.approx(12.5**0.5)
    huge = range_of([torch.full((2,), 3e38)])
    assert huge is not None and huge.rms == pytest.approx(3e38)
    assert range_of([]) is None
    empty = range_of([torch.zeros(0)])
    assert empty is not None and empty.finite == 1.0


def test_a_module_that_raises_leaves_no_hooks(steps):
    step = steps["oneformer3d"]
    model = step.stepper.model.module
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    rng = torch.get_rng_state()

    def fail(module: nn.Module, args: tuple) -> None:
        raise ValueError("broken")

    handle = model.decoder.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="broken"):
        run_again(step.stepper, step.inputs, step.state, tracer=Tracer(model, operations=True))
    handle.remove()
    assert not torch.is_anomaly_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    assert torch.equal(rng, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_data_root_is_not_needed(steps, tmp_path: Path):
    """A step that runs again reads no file: its batch is all it needs."""
    step = steps["bifusion"]
    step.config.data.root = tmp_path / "gone"
    assert trace(step)[1] is None
