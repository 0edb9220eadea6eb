"""The loss of a step is that of one batch of all its scenes, whatever batches and processes share them:
some without instances, some without annotation, batches of uneven size."""

import dataclasses

import pytest
import torch

from batches_of_a_step import CASES, step_of, told_of, whole_batch
from bifusion.data.batching import select_scenes, split_scenes
from bifusion.losses.shares import Counts
from bifusion.step.step import weighted_total
from gloo import run_processes
from step_factory import tiny_step
from tiny_runs import make_tiny_data, tiny_config, tiny_mask3d


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=3, val=1)


@pytest.fixture(scope="module")
def step(data):
    return step_of(data)


@pytest.fixture(scope="module")
def whole(step):
    return whole_batch(step)


@pytest.fixture(scope="module")
def wanted(step, whole):
    return told_of(step, [whole])


def check(found, wanted):
    losses, gradients = wanted
    assert found[0] == pytest.approx(losses, rel=1e-5, abs=1e-7) and all(losses.values())
    assert found[1].keys() == gradients.keys()
    for name, gradient in gradients.items():
        largest = gradient.abs().max().item()
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4 * largest + 1e-7)


@pytest.mark.parametrize(
    "parts",
    [[[0], [1], [2], [3]], [[0, 1], [2, 3]], [[0, 1, 2], [3]], [[2], [0, 1, 3]]],
    ids=["of one", "even", "short last", "unannotated first"],
)
def test_batches_of_a_step_give_losses_and_gradients_of_one(step, whole, wanted, parts):
    check(told_of(step, [select_scenes(whole, scenes) for scenes in parts]), wanted)


@pytest.fixture(scope="module")
def of_two_processes(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("told")
    run_processes(2, "batches_of_a_step.py", data, out)
    return lambda case: [torch.load(out / f"{case}.{process}.pt") for process in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_batches_of_a_step_on_two_processes_do_too(of_two_processes, wanted, case):
    first, second = of_two_processes(case)
    check(first, wanted)
    assert all(gradient.equal(second[1][name]) for name, gradient in first[1].items())


def test_one_batch_on_one_process_is_taken_as_it_is(step, whole, wanted):
    """To the bit: no factor, and no sum of one."""
    stepper, inputs, state = step.stepper, step.inputs, step.state
    inputs.batches = [whole]
    given = []
    terms = stepper.criterion

    def noting(*args):
        given.append(args[2])
        return terms(*args)

    outcome = stepper.compute(inputs, state, criterion=noting)
    assert given == [None]
    stepper.discard()
    found = terms(stepper.model(whole, state.control), whole)
    assert {name: term.item() for name, term in found.items()} == outcome.losses
    stepper.fabric.backward(weighted_total(found, state.weights))
    gradients = {n: p.grad for n, p in stepper.model.module.named_parameters() if p.grad is not None}
    assert all(gradient.equal(wanted[1][name]) for name, gradient in gradients.items())
    stepper.optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("kind", ["own_superpoint", "hungarian"])
@pytest.mark.parametrize("recipe", ["bifusion_small", "oneformer3d_small", "mask3d_small"])
def test_what_is_counted_is_known_before_the_forward_pass(data, recipe, kind):
    """Which superpoints become queries, too: an instance without one has no match."""
    config = tiny_mask3d(data) if recipe == "mask3d_small" else tiny_config(recipe, data)
    if recipe != "mask3d_small":
        config.criterion.matcher.kind, config.model.decoder.query_share = kind, (0.02, 0.1)
    step = tiny_step(config, scenes=(0, 1, 2))
    criterion, model = step.stepper.criterion, step.stepper.model.module
    seen = set()
    for epoch in range(8):
        for batch in split_scenes(step.batch([0, 1, 2], epoch)):
            small = [
                dataclasses.replace(t, labels=t.labels[:1], masks=t.masks[:1]) for t in batch.targets
            ]
            batch = dataclasses.replace(batch, targets=small)
            made_of = model.query_superpoints(batch)
            counts = criterion.counts(batch, made_of)
            with torch.no_grad():
                prediction = model(batch, step.state.control)
            (context,) = criterion.contexts(prediction, batch, [0])
            chosen = prediction.query_superpoints
            matched = sum(len(of_scene.queries) > 0 for of_scene in context.matched)
            labelled = 0
            if chosen is None:
                assert made_of is None
            else:
                (now,), (then,) = chosen, made_of
                assert now.equal(then)
                labelled = int((batch.targets[0].semantic[now] != config.labels.num_classes).any())
            assert counts == Counts(1, matched, labelled, len(batch.voxel_coords))
            seen.add(matched)
    assert seen == ({0, 1} if made_of is not None and kind == "own_superpoint" else {1})
