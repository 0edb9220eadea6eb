"""A step can be computed again; what is measured in it, and which of its faults is named."""

import copy
import dataclasses

import pytest
import torch

from bifusion.step.checks import border_activations
from bifusion.step.events import Alarm, Fault
from bifusion.step.outcome import StepOutcome
from bifusion.step.processes import mean_of
from bifusion.training.recorder import Progress
from equality import same
from step_factory import tiny_step
from tiny_runs import make_tiny_data, tiny_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=2, val=1)


@pytest.fixture
def step(data):
    return tiny_step(tiny_config("bifusion_small", data))


def state_of(stepper):
    return copy.deepcopy(
        (
            dict(stepper.model.module.state_dict()),
            stepper.optimizer.optimizer.state_dict()["state"],
            stepper.guard.state_dict(),
        )
    )


def test_computing_and_discarding_leaves_no_trace(step):
    step.stepper(step.inputs, step.state)
    before = state_of(step.stepper)
    first = step.stepper.compute(step.inputs, step.state)
    assert any(p.grad is not None for p in step.stepper.model.parameters())
    step.stepper.discard()
    assert same(before, state_of(step.stepper))
    assert all(p.grad is None for p in step.stepper.model.parameters())
    assert step.stepper.compute(step.inputs, step.state) == first


def test_what_a_fault_leaves_of_a_steps_losses_is_not_counted(step):
    """Two batches, the second bad: the sums of the first alone are no step's losses."""
    progress, good = Progress(), step.inputs.batches[0]
    step.inputs.batches = [good, copy.deepcopy(good)]
    whole = step.stepper(step.inputs, step.state)
    progress.count_step(whole, 2, 1.0)
    step.inputs.batches[1].voxel_feats[0] = float("nan")
    step.inputs.step += 1
    cut = step.stepper(step.inputs, step.state)
    assert cut.event.phase == "input" and cut.total is None and cut.losses == {}
    progress.count_step(cut, 2, 1.0)
    scenes = len(whole.scenes)
    sums = {name: scenes * value for name, value in {**whole.losses, "total": whole.total}.items()}
    assert progress.sums == sums and progress.epoch_skipped == 1


def test_a_short_step_counts_towards_an_epochs_losses_by_its_scenes():
    progress = Progress()
    progress.count_step(StepOutcome(["a", "b", "c"], {"semantic": 1.0}, total=1.0), 1, 1.0)
    progress.count_step(StepOutcome(["d"], {"semantic": 5.0}, total=float("nan")), 1, 1.0)
    assert progress.sums == {"semantic": 8.0, "total": 3.0}
    assert progress.counts == {"semantic": 4, "total": 3}


def test_mask_losses_that_are_summed_are_summed_over_the_steps_batches(data):
    config = tiny_config("bifusion_small", data)
    config.criterion.sum_over_scenes = True
    step = tiny_step(config)
    one = step.stepper.compute(step.inputs, step.state)
    step.stepper.discard()
    step.inputs.batches *= 2
    two = step.stepper.compute(step.inputs, step.state)
    assert two.losses["mask_bce"] == pytest.approx(2 * one.losses["mask_bce"], rel=1e-5)
    assert two.losses["semantic"] == pytest.approx(one.losses["semantic"], rel=1e-5)


def test_borders_are_looked_at_where_views_see_alone(step):
    prediction = step.stepper.model(step.inputs.batches[0], step.state.control)
    activations, trace = border_activations(prediction), prediction.fusion
    assert len(trace.seen_f2d) < len(trace.seen)
    assert activations["f2d"] == [trace.seen_f2d] and activations["f2d_in"] == [trace.seen_f2d_in]


def test_a_step_does_not_depend_on_the_generators_state(step):
    torch.manual_seed(1)
    first = step.stepper.compute(step.inputs, step.state)
    step.stepper.discard()
    torch.manual_seed(2)
    assert step.stepper.compute(step.inputs, step.state) == first


def test_conflicts_and_updates_are_measured_in_the_steps_that_are_due(step):
    rules = step.stepper.guard.config.rules
    rules.updates_every, rules.conflicts_every = 2, 3
    measured = []
    for number in (4, 6, 7):
        step.inputs.step = number
        outcome = step.stepper(step.inputs, step.state)
        measured.append((outcome.update_ratio is not None, outcome.conflicts is not None))
    assert measured == [(True, False), (True, True), (False, False)]


def test_conflicts_are_those_of_all_batches(step):
    step.stepper.guard.config.rules.conflicts_every = 1
    batches = [step.batch([0]), step.batch([1])]
    first, second, both = (
        step.stepper.compute(dataclasses.replace(step.inputs, batches=of_step), step.state).conflicts
        for of_step in (batches[:1], batches[1:], batches)
        if step.stepper.discard() is None
    )
    assert both.keys() == first.keys() | second.keys() and first != second
    for pair in first.keys() & second.keys():
        assert abs(both[pair] - (first[pair] + second[pair]) / 2) < 1e-3


def test_conflicts_are_measured_under_mixed_precision(data):
    """Fabric refuses gradients it was not asked for there; without the scaler's help they are taken."""
    config = tiny_config("bifusion_small", data)
    config.trainer.precision = "bf16-mixed"
    step = tiny_step(config)
    step.stepper.guard.config.rules.conflicts_every = 1
    outcome = step.stepper(step.inputs, step.state)
    assert outcome.event is None and outcome.conflicts


def test_a_negative_variance_is_a_fault_and_a_jump_of_one_is_measured(step):
    """Training reads neither: losses stay as they are, evaluations do not."""
    name, norm = next(
        (n, m) for n, m in step.stepper.model.module.named_modules() if hasattr(m, "running_var")
    )
    handle = norm.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 1e4,))
    assert step.stepper(step.inputs, step.state).statistics[name] > 1e3
    handle.remove()
    norm.running_var.view(-1)[0] = -1e3
    fault = step.stepper(step.inputs, step.state).event
    assert fault is not None and (fault.phase, fault.where) == ("buffers", ["buffers.backbone"])


def test_measuring_changes_nothing(step, data):
    other = tiny_step(tiny_config("bifusion_small", data))
    rules, off = step.stepper.guard.config.rules, other.stepper.guard.config.rules
    rules.updates_every = rules.conflicts_every = 1
    off.updates_every = off.conflicts_every = 0
    for one in (step, other):
        one.stepper(one.inputs, one.state)
    assert same(*(dict(one.stepper.model.module.state_dict()) for one in (step, other)))


def test_the_first_check_that_fails_names_the_fault(step):
    """Inputs before activations, these before gradients, these before the optimiser's state."""
    step.stepper(step.inputs, step.state)
    moments = next(iter(step.stepper.optimizer.optimizer.state.values()))
    moments["exp_avg"].view(-1)[0] = float("nan")
    phases = [step.stepper(step.inputs, step.state).event.phase]
    model = step.stepper.model.module
    hook = model.fusion.head_3d[0].weight.register_hook(lambda gradient: gradient * float("nan"))
    phases.append(step.stepper(step.inputs, step.state).event.phase)
    handle = model.unet.register_forward_hook(lambda module, inputs, output: output * float("inf"))
    phases.append(step.stepper(step.inputs, step.state).event.phase)
    step.inputs.batches[0].voxel_feats[0, 0] = float("nan")
    phases.append(step.stepper(step.inputs, step.state).event.phase)
    hook.remove()
    handle.remove()
    assert phases == ["optimizer", "gradient", "activation", "input"]


def test_rules_take_in_nothing_of_a_step_that_is_dropped(step):
    step.stepper(step.inputs, step.state)
    rules, clipping = step.stepper.guard.rules.state_dict(), step.stepper.clipping.state_dict()
    rules, clipping = copy.deepcopy((rules, clipping))
    step.inputs.batches[0].voxel_feats[0, 0] = float("nan")
    assert step.stepper(step.inputs, step.state).event is not None
    assert step.stepper.guard.rules.state_dict() == rules
    assert step.stepper.clipping.state_dict() == clipping


def test_what_is_so_or_not_stays_that_over_several_processes():
    told = [{"learned": True, "mean": 0.25}, {"learned": False, "mean": 0.75}, None]
    mean = mean_of(told)
    assert mean == {"learned": True, "mean": 0.5} and mean["learned"] is True


def test_records():
    fault = Fault("loss", ["loss.semantic"], ["a"], diagnosis={"verdict": "data"})
    assert fault.record() == {
        "kind": "nonfinite", "phase": "loss", "where": ["loss.semantic"], "scenes": ["a"],
        "action": "skip", "diagnosis": {"verdict": "data"}, "bundle": None,
    }  # fmt: skip
    alarm = Alarm("loss_spike", ["loss.total"], ["a"], 5.0, 2.0, "the loss jumped")
    assert alarm.record()["rule"] == "loss_spike" and alarm.record()["threshold"] == 2.0
