"""Activations that the backward pass computes again: the same step to the bit, and what it keeps."""

import copy
import dataclasses
from unittest.mock import patch

import pytest
import torch
from torch import nn

from bifusion.changes import changes
from bifusion.config.plain import from_plain
from bifusion.config.run import TrainerConfig
from bifusion.diagnosis.diagnose import diagnose
from bifusion.diagnosis.rerun import run_again
from bifusion.diagnosis.tracing import Tracer
from bifusion.errors import InputError
from bifusion.models import recompute as recomputing
from bifusion.models.recompute import is_recomputing, recompute
from bifusion.sparse import tensor
from bifusion.step.runtime import deterministic
from bifusion.training.memory import kept_by_part
from equality import same
from step_factory import tiny_step
from tiny_runs import make_tiny_data, tiny_config, tiny_mask3d

ALL = ("backbone", "decoder", "tower")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=4, val=1)


def step_of(root, recipe="bifusion_small", parts=(), precision="32-true", **when):
    """With dropout in the decoder, and blocks of two widths."""
    config = tiny_mask3d(root) if recipe.startswith("mask3d") else tiny_config(recipe, root)
    config.model.decoder.dropout = 0.2
    config.trainer.recompute, config.trainer.precision = parts, precision
    return tiny_step(config, **when)


def after_steps(step, count=2):
    """All that some steps of two batches each make: losses, gradients, weights, statistics."""
    made, model = [], step.stepper.model.module
    step.inputs.batches.append(step.batch([2, 3]))
    with deterministic(True, torch.device("cpu")):
        for number in range(count):
            inputs = dataclasses.replace(step.inputs, step=number)
            outcome = step.stepper.compute(inputs, step.state)
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            step.stepper.act(outcome, inputs, step.state)
            figures = outcome.losses, outcome.grad_norm, outcome.statistics
            made.append((*figures, gradients, outcome.conflicts))
    return made, model.state_dict()


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [
        ("oneformer3d_small", "bf16-mixed"),
        ("bifusion_small", "32-true"),
        ("bifusion_small_efficientnet", "bf16-mixed"),
        ("mask3d_small", "32-true"),
    ],
)
def test_steps_are_the_same_to_the_bit(root, recipe, precision):
    usual, again = (step_of(root, recipe, parts, precision) for parts in ((), ALL))
    assert same(after_steps(usual), after_steps(again))


def test_measured_gradients_go_through_the_blocks_before_the_steps_own(root):
    """Those of the alignment and the other terms, at the 2D head, in every fiftieth step."""
    usual, again = (step_of(root, parts=parts, time=1.5) for parts in ((), ALL))
    made = after_steps(again, count=1)
    assert "alignment|others" in made[0][0][-1]
    assert same(after_steps(usual, count=1), made)


def test_blocks_are_computed_again_and_keep_less(root):
    kept = {}
    for parts in ((), *((part,) for part in ALL)):
        step = step_of(root, "bifusion_small", parts)
        kept[parts] = kept_by_part(step.stepper, step.inputs, step.state)
    labels = {"backbone": "3D backbone", "decoder": "Decoder", "tower": "image tower"}
    for part, label in labels.items():
        assert kept[(part,)][label] < 0.7 * kept[()][label]
        assert {k: v for k, v in kept[(part,)].items() if k != label} == {
            k: v for k, v in kept[()].items() if k != label
        }


def test_the_parts_of_mask3d_keep_what_is_theirs(root):
    """Its backbone is entered by another method than its forward."""
    step = step_of(root, "mask3d_small")
    kept = kept_by_part(step.stepper, step.inputs, step.state)
    assert kept["3D backbone"] > kept["Decoder"] > 0


def test_where_nothing_is_trained_nothing_is_computed_again(root):
    """Here the tower is frozen; in use nothing has a gradient."""
    step = step_of(root, parts=ALL)
    model = step.stepper.model.module
    model.tower.requires_grad_(False)
    entered = []
    for part, blocks in model.recomputable().items():
        assert blocks, part
        for block in blocks:
            block.register_forward_pre_hook(lambda *_, part=part: entered.append(part))
    with patch.object(recomputing, "checkpoint", wraps=recomputing.checkpoint) as used:
        step.stepper.compute(step.inputs, step.state)
        of_tower = entered.count("tower")
        assert of_tower > 0 and used.call_count == len(entered) - of_tower > 0
        step.stepper.discard()
        model.eval()
        with torch.no_grad():
            model(step.inputs.batches[0])
        assert used.call_count < len(entered) / 2


def test_maps_are_built_once(root):
    step = step_of(root, "oneformer3d_small", ALL)
    step.stepper.compute(step.inputs, step.state)
    with (
        patch.object(tensor, "submanifold_map", wraps=tensor.submanifold_map) as submanifold,
        patch.object(tensor, "strided_map", wraps=tensor.strided_map) as strided,
    ):
        step.stepper.compute(step.inputs, step.state)
    assert (submanifold.call_count, strided.call_count) == (2, 1)


def test_who_watches_sees_the_step_once(root):
    """Every call, its ranges and the gradients that come back to it are told as without."""
    told = []
    for parts in ((), ALL):
        step = step_of(root, parts=parts)
        tracer = Tracer(step.stepper.model.module)
        rerun = run_again(step.stepper, step.inputs, step.state, tracer=tracer)
        told.append((rerun.fingerprint, tracer.calls, step.stepper.model.module.state_dict()))
        assert not is_recomputing()
    assert told[0][:2] == told[1][:2] and same(told[0][2], told[1][2])


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_fault_is_found_in_a_block(root, direction):
    found = []
    for parts in ((), ALL):
        step = step_of(root, "oneformer3d_small", parts)
        module = step.stepper.model.module.unet.encoder[0][0].conv1.norm

        def strike(_module, _inputs, output):
            if direction == "forward":
                return output / 0
            output.register_hook(lambda gradient: gradient * torch.inf)
            return output

        handle = module.register_forward_hook(strike)
        fault = step.stepper(step.inputs, step.state).event
        found.append(diagnose(step.stepper, step.inputs, step.state, fault, None, None))
        handle.remove()
        assert step.stepper(step.inputs, step.state).event is None
    assert found[0] == found[1] and found[0].module.startswith("unet.encoder.0.0.conv1")


def test_an_error_on_the_way_back_leaves_the_statistics(root):
    """Those of a block that was being computed again, too."""
    step = step_of(root, "oneformer3d_small", ALL)
    model = step.stepper.model.module
    before = copy.deepcopy(model.state_dict())

    def stop(*_):
        if is_recomputing():
            raise KeyboardInterrupt

    handle = model.unet.encoder[0][0].conv2.conv.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        step.stepper.measure(step.inputs, step.state)
    handle.remove()
    assert not is_recomputing() and same(before, model.state_dict())
    assert step.stepper(step.inputs, step.state).event is None


def test_it_can_be_turned_off_and_goes_along_with_a_copy(root):
    model = step_of(root, parts=ALL).stepper.model.module
    other = copy.deepcopy(model)
    recompute(model, ())
    with patch.object(recomputing, "checkpoint", wraps=recomputing.checkpoint) as used:
        for net, calls in ((model, 0), (other, 1)):
            block = net.decoder.ffn_layers[0]
            block(torch.ones(2, 16)).sum().backward()
            assert used.call_count == calls
    assert model.decoder.ffn_layers[0].net[0].weight.grad is not None
    assert other.decoder.ffn_layers[0].net[0].weight.grad is not None


def test_what_cannot_be_is_refused(root):
    model = step_of(root).stepper.model.module
    with (
        patch.object(type(model.tower), "recomputable", lambda self: list[nn.Module]()),
        pytest.raises(InputError, match=r"trainer.recompute: the image tower .* leave 'tower' out"),
    ):
        recompute(model, ALL)
    with pytest.raises(InputError, match=r"recompute\[0\]: found 'unet', expected one of 'backbone'"):
        from_plain(TrainerConfig, {"recompute": ["unet"]}, "trainer")
    assert not list(changes(TrainerConfig(), TrainerConfig(recompute=ALL)))
