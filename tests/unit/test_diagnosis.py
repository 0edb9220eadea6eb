"""Phase, path, module, scenes and verdict of faults put into a tiny step; and that nothing is left."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from laboratory.faults import change_gradient, replace_tensor

from bifusion.diagnosis import experiments
from bifusion.diagnosis.diagnose import diagnose
from bifusion.diagnosis.explanation import Diagnosis
from bifusion.runs.healthy import HealthyState
from bifusion.step.events import Fault
from bifusion.types import Batch
from equality import same
from step_factory import TinyStep, tiny_step
from tiny_runs import make_tiny_data, tiny_config


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=4, val=1)


@pytest.fixture
def step(root) -> TinyStep:
    return tiny_step(tiny_config("oneformer3d_small", root))


@pytest.fixture
def fused(root) -> TinyStep:
    return tiny_step(tiny_config("bifusion_small", root))


def _healthy(step: TinyStep) -> HealthyState:
    stepper = step.stepper
    precision = stepper.fabric.strategy.precision
    return HealthyState.capture(stepper.model.module, stepper.optimizer.optimizer, precision, 0)


def _diagnose(step: TinyStep, healthy: HealthyState | None, reference: bool = True) -> Diagnosis:
    """Takes the step, which must meet a fault, and diagnoses it."""
    fault = step.stepper(step.inputs, step.state).event
    assert fault is not None
    batches = [step.batch([2, 3])] if reference else None
    return diagnose(step.stepper, step.inputs, step.state, fault, healthy, batches)


def _enlarge(batch: Batch, scene: int, factor: float) -> None:
    rows = batch.voxel_coords[:, 0] == scene
    batch.voxel_feats[rows] *= factor


def test_a_scene_that_fails_from_the_healthy_state_too_is_bad_data(step):
    healthy = _healthy(step)
    _enlarge(step.inputs.batches[0], 1, 1e25)
    found = _diagnose(step, healthy)
    assert (found.verdict, found.scenes) == ("data", ["roomtrain1"])
    assert (found.path, found.module) == ("3d", "unet.encoder.0.0.conv1.norm")
    assert found.ranges_before["inputs"]["max"] > 1e20
    assert "roomtrain1" in found.explanation


def test_without_a_healthy_state_the_other_scenes_tell(step):
    _enlarge(step.inputs.batches[0], 0, 1e25)
    found = _diagnose(step, None, reference=False)
    assert (found.verdict, found.scenes) == ("data", ["roomtrain0"])


def test_weights_that_fail_on_healthy_data_are_a_bad_state(step):
    healthy = _healthy(step)
    with torch.no_grad():
        step.stepper.model.module.decoder.x_mask[2].weight.mul_(1e38)
    found = _diagnose(step, healthy)
    assert (found.verdict, found.scenes) == ("state", ["roomtrain0", "roomtrain1"])
    assert found.path == "decoder"


def test_a_bad_state_of_which_one_scene_is_sound_says_so(step):
    model = step.stepper.model.module
    healthy, names = _healthy(step), []
    weight = model.decoder.out_norm.weight
    with torch.no_grad():
        weight[0] = 1.2345

    def fail(module, inputs, output):
        bad = weight[0] == 1.2345 and {"roomtrain1", "roomtrain2"} & set(names)
        return output * torch.nan if bad else None

    def note(module, given):
        names[:] = given[0].names

    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(note).remove)
        hooks.callback(model.decoder.x_mask.register_forward_hook(fail).remove)
        told = _diagnose(step, healthy)
    assert told.verdict == "state" and "well before, and on roomtrain1: the weights" in told.explanation


def test_a_gradient_that_only_its_sum_over_batches_makes_infinite(root):
    step = tiny_step(tiny_config("oneformer3d_small", root))
    step.inputs.batches.append(step.batch([2, 3]))
    weight = step.stepper.model.module.decoder.out_norm.weight
    weight.register_hook(lambda gradient: torch.full_like(gradient, 2.5e38))
    told = _diagnose(step, None, reference=False)
    assert (told.module, told.operation) == ("decoder.out_norm", "accumulation of gradients")


def test_weights_that_are_not_finite_need_no_comparison(step):
    with torch.no_grad():
        step.stepper.model.module.unet.down[0].conv.weight[0, 0, 0] = torch.nan
    found = _diagnose(step, None, reference=False)
    assert (found.verdict, found.module) == ("state", "unet.down.0.conv")
    assert found.operation == "weight not finite"
    assert found.scenes == ["roomtrain0", "roomtrain1"]


def test_a_module_that_always_fails_is_neither_data_nor_state(fused):
    module = fused.stepper.model.module.fusion.film.hidden
    handle = module.register_forward_hook(lambda _, __, output: output / 0)
    found = _diagnose(fused, _healthy(fused))
    handle.remove()
    assert (found.verdict, found.path, found.module) == ("unclear", "fusion", "fusion.film.hidden")
    assert found.scenes == ["roomtrain0", "roomtrain1"]
    assert "the module itself" in found.explanation


def test_low_precision_that_float32_survives_is_numerics(root):
    config = tiny_config("oneformer3d_small", root)
    config.trainer.precision = "bf16-mixed"
    step = tiny_step(config)
    attention = step.stepper.model.module.decoder.self_attn_layers[0]

    def overflow(module, args, output):
        return output / 0 if torch.is_autocast_enabled("cpu") else output

    handle = attention.register_forward_hook(overflow)
    found = _diagnose(step, _healthy(step))
    handle.remove()
    assert found.verdict == "numerics" and found.module == "decoder.self_attn_layers.0"


def test_bad_input_names_the_scene_without_running_anything(step):
    step.inputs.batches[0].voxel_feats[-1, 0] = torch.nan
    found = _diagnose(step, None)
    assert (found.phase, found.verdict, found.scenes) == ("input", "data", ["roomtrain1"])


def test_bad_moments_are_a_state_and_name_their_module(step):
    assert step.stepper(step.inputs, step.state).event is None
    weight = step.stepper.model.module.decoder.out_cls[2].weight
    step.stepper.optimizer.optimizer.state[weight]["exp_avg_sq"][0, 0] = -1.0
    found = _diagnose(step, _healthy(step))
    assert (found.phase, found.verdict, found.module) == ("optimizer", "state", "decoder.out_cls.2")


def test_poisoned_statistics_name_their_norm(step):
    healthy = _healthy(step)
    step.stepper.model.module.unet.output_norm.running_mean[2] = torch.inf
    found = _diagnose(step, healthy)
    assert (found.phase, found.verdict, found.module) == ("buffers", "state", "unet.output_norm")


def test_a_gradient_on_the_way_back(step):
    module = step.stepper.model.module.unet.up[0]

    def poison(module, args, output):
        output.feats.register_hook(lambda gradient: gradient * torch.nan)

    handle = module.register_forward_hook(poison)
    found = _diagnose(step, _healthy(step))
    handle.remove()
    assert (found.phase, found.module, found.path) == ("gradient", "unet.up.0", "3d")
    assert found.operation == "gradient of its output"
    assert found.ranges_before["before"]


def test_an_invalid_matching_cost_names_scene_and_criterion(step):
    step.stepper.criterion.config.matcher.dice_weight = float("nan")
    found = _diagnose(step, _healthy(step))
    assert (found.phase, found.module, found.path) == ("matching", None, "decoder")
    assert found.operation is not None and "matching_cost" in found.operation


def test_a_spike_is_put_down_to_the_module_where_it_began(step):
    healthy = _healthy(step)
    with torch.no_grad():
        step.stepper.model.module.decoder.x_mask[0].weight.mul_(1e4)
    fault = Fault("loss", ["loss.total"], ["roomtrain0", "roomtrain1"], rule="loss_spike")
    found = diagnose(step.stepper, step.inputs, step.state, fault, healthy, [step.batch([2, 3])])
    assert (found.module, found.verdict) == ("decoder.x_mask.0", "state")


@pytest.mark.parametrize("place", ["decoder.input_proj.0", "decoder.x_mask.0", "unet.down.0.conv"])
def test_a_spike_on_the_way_back_is_put_down_to_the_module_that_made_it(step, place):
    """Neither to a sibling, which reads the same features, nor to a module around it."""
    model, reference = step.stepper.model.module, set(step.batch([2, 3]).names)
    healthy, names = _healthy(step), []

    def note(module, given):
        names[:] = given[0].names

    def grow(module, given, output):
        if reference & set(names):
            return None
        return replace_tensor(output, lambda x: change_gradient(x, lambda gradient: gradient * 1e4))

    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(note).remove)
        hooks.callback(model.get_submodule(place).register_forward_hook(grow).remove)
        spike = _spike_at(step, "gradient_spike", "gradient.total")
        batches = [step.batch([2, 3])]
        found = diagnose(step.stepper, step.inputs, step.state, spike, healthy, batches)
    assert found.module == place and found.operation.startswith("backward")


def test_a_spike_of_one_scene_is_its_fault(step):
    model, names = step.stepper.model.module, []

    def note(module, args):
        names[:] = args[0].names

    def enlarge(module, args, output):
        return output * 1e4 if "roomtrain1" in names else None

    handles = [model.register_forward_pre_hook(note)]
    handles.append(model.decoder.x_mask.register_forward_hook(enlarge))
    fault = Fault("gradient", ["gradient.total"], ["roomtrain0", "roomtrain1"], rule="gradient_spike")
    reference = [step.batch([2, 3])]
    found = diagnose(step.stepper, step.inputs, step.state, fault, _healthy(step), reference)
    for handle in handles:
        handle.remove()
    assert (found.module, found.verdict) == ("decoder.x_mask", "data")
    assert found.scenes == ["roomtrain1"]


def _spike_at(step: TinyStep, rule: str, place: str) -> Fault:
    """The fault that a guard makes of the step as it is, measured and dropped."""
    outcome = step.stepper.measure(step.inputs, step.state)
    step.stepper.discard()
    phase = "buffers" if rule == "statistics_spike" else "gradient"
    heights = outcome.heights(rule, [place])
    return Fault(phase, [place], ["roomtrain0", "roomtrain1"], rule=rule, heights=heights)


def test_a_spike_that_only_running_statistics_show_is_found_in_its_scene(step):
    for _ in range(4):  # running variances near their values
        assert step.stepper(step.inputs, step.state).event is None
    healthy, norm = _healthy(step), next(
        name
        for name, module in step.stepper.model.module.named_modules()
        if getattr(module, "running_var", None) is not None
    )  # fmt: skip
    _enlarge(step.inputs.batches[0], 1, 1e3)
    fault = _spike_at(step, "statistics_spike", f"buffers.{norm}")
    assert fault.heights[f"buffers.{norm}"] > 10
    reference = [step.batch([2, 3])]
    found = diagnose(step.stepper, step.inputs, step.state, fault, healthy, reference)
    assert (found.verdict, found.scenes) == ("data", ["roomtrain1"]), found.explanation


def test_a_spike_of_one_path_that_the_total_hides_is_found_in_its_scene(step):
    model, names = step.stepper.model.module, []
    healthy, usual = _healthy(step), step.stepper.measure(step.inputs, step.state).grad_norm
    step.stepper.discard()
    handles = [model.register_forward_pre_hook(lambda module, args: names.__setitem__(0, args[0].names))]
    names.append([])
    handles += [
        parameter.register_hook(lambda gradient: gradient * 20 if "roomtrain1" in names[0] else None)
        for parameter in model.unet.parameters()
    ]
    fault = _spike_at(step, "gradient_spike", "gradient.backbone")
    assert fault.heights["gradient.backbone"] > 5 * usual["backbone"]
    found = diagnose(step.stepper, step.inputs, step.state, fault, healthy, [step.batch([2, 3])])
    for handle in handles:
        handle.remove()
    assert (found.verdict, found.scenes) == ("data", ["roomtrain1"]), found.explanation


def test_a_spike_that_does_not_come_back_is_told(step):
    healthy = _healthy(step)
    fault = _spike_at(step, "gradient_spike", "gradient.total")
    fault.heights = {place: 1000 * height for place, height in fault.heights.items()}
    found = diagnose(step.stepper, step.inputs, step.state, fault, healthy, [step.batch([2, 3])])
    assert found.verdict == "unclear" and "did not come back" in found.explanation


@contextmanager
def _failing_at_run(step: TinyStep, number: int) -> Iterator[None]:
    compute, runs = step.stepper.compute, 0

    def counted(*args, **others):
        nonlocal runs
        runs += 1
        if runs == number:
            raise ValueError("a scene that the code cannot take alone")
        return compute(*args, **others)

    step.stepper.compute = counted
    yield
    step.stepper.compute = compute


def _everything(step: TinyStep) -> list[torch.Tensor]:
    model, optimizer = step.stepper.model.module, step.stepper.optimizer.optimizer
    moments = [m for p in model.parameters() for m in optimizer.state.get(p, {}).values()]
    return [t.detach().clone() for t in (*model.parameters(), *model.buffers(), *moments)]


@pytest.mark.parametrize("number", [0, 1, 2, 4, 6])
def test_everything_is_as_before_also_when_a_run_raises(step, number):
    assert step.stepper(step.inputs, step.state).event is None
    healthy = _healthy(step)
    _enlarge(step.inputs.batches[0], 1, 1e25)
    fault = step.stepper(step.inputs, step.state).event
    before, rng, model = _everything(step), torch.get_rng_state(), step.stepper.model.module
    with _failing_at_run(step, number):
        found = diagnose(step.stepper, step.inputs, step.state, fault, healthy, [step.batch([2, 3])])
    assert found.explanation
    assert all(torch.equal(b, a) for b, a in zip(before, _everything(step), strict=True))
    assert torch.equal(rng, torch.get_rng_state()) and model.training
    assert all(p.grad is None for p in model.parameters())
    _enlarge(step.inputs.batches[0], 1, 1e-25)
    assert step.stepper(step.inputs, step.state).event is None


@pytest.mark.parametrize("healthy", [False, True])
def test_a_run_that_raised_tells_nothing_of_the_scene(step, healthy):
    """The other scene of the step, or the step with healthy weights, is not sound for having raised."""
    state = _healthy(step) if healthy else None
    if healthy:  # every scene fails with the present weights, and nothing else is to compare with
        with torch.no_grad():
            step.stepper.model.module.decoder.x_mask[2].weight.mul_(1e38)
    else:
        _enlarge(step.inputs.batches[0], 0, 1e25)
    fault = step.stepper(step.inputs, step.state).event
    assert fault is not None
    with _failing_at_run(step, 5 if healthy else 3):
        found = diagnose(step.stepper, step.inputs, step.state, fault, state, None)
    assert found.verdict == "unclear"
    assert "no batch or state that is known to be sound" in found.explanation


def test_a_fault_that_does_not_come_back_is_unclear(step):
    fault = Fault("gradient", ["gradient.backbone"], ["roomtrain0", "roomtrain1"])
    found = diagnose(step.stepper, step.inputs, step.state, fault, None, None)
    assert found.verdict == "unclear" and found.path == "3d"
    assert "did not come back" in found.explanation


@pytest.mark.parametrize("room_for", [0, 1, 2])
def test_a_diagnosis_without_room_says_so_and_leaves_nothing(step, room_for, monkeypatch):
    """The first attempts have room, the next one has none; the allocation that fails is a real one."""
    healthy, runs = _healthy(step), []
    _enlarge(step.inputs.batches[0], 1, 1e25)
    again = experiments.run_again

    def full(*args, **options):
        runs.append(None)
        if len(runs) > room_for:
            torch.empty(10**14)
        return again(*args, **options)

    monkeypatch.setattr(experiments, "run_again", full)
    before = {name: tensor.clone() for name, tensor in step.stepper.model.module.state_dict().items()}
    found = _diagnose(step, healthy)
    assert found.verdict == "unclear" and found.scenes == ["roomtrain0", "roomtrain1"]
    assert "The device had no room to look into it" in found.explanation
    assert (found.module is not None) == (room_for > 0), "what was found before is told"
    assert same(before, step.stepper.model.module.state_dict())
