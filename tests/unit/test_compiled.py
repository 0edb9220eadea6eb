"""Tower and decoder under torch.compile: the same steps but for rounding, names and hooks as without."""

import copy
import dataclasses
from unittest.mock import patch

import pytest
import torch
from torch._dynamo.utils import counters

from bifusion.changes import changes
from bifusion.config.run import TrainerConfig
from bifusion.diagnosis.rerun import run_again
from bifusion.diagnosis.tracing import Tracer
from bifusion.errors import InputError
from bifusion.models.compiled import compile_blocks
from bifusion.models.towers.view_cache import ViewCache
from bifusion.runs.check_config import check_config
from bifusion.step import assembly
from bifusion.step.runtime import deterministic
from equality import same
from step_factory import tiny_step
from tiny_runs import make_tiny_data, tiny_config

# torch's compiler looks at `.grad` of the activations that it is given
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
PARTS = ("decoder", "tower")
CPU = torch.device("cpu")
SCENES = [(0, 1), (2,), (0, 2, 3)]
"""Of three steps: batches of different size."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=4, val=1)


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def step_of(root, parts=(), backend="inductor"):
    config = tiny_config("bifusion_tiny", root)
    config.trainer.compile = parts
    # a batch of one view is another case to the compiler, as 1 is in each size
    config.data.augment.fewer_views_probability = config.data.augment.no_views_probability = 0.0
    config.trainer.guard.rules.conflicts_every = 1
    with patch.object(
        assembly, "compile_blocks", lambda *given: compile_blocks(*given, backend=backend)
    ):
        return tiny_step(config)


def steps(step, scenes, like=None):
    """Weights, losses, cosines and gradients of steps on these scenes, one after the other; `like`: each
    from the weights of that one, as Adam makes much of what rounding decides."""
    made, model = [], step.stepper.model.module
    with deterministic(True, CPU):
        for number, chosen in enumerate(scenes):
            if like is not None:
                model.load_state_dict(like[number][0])
            weights = copy.deepcopy(model.state_dict())
            inputs = dataclasses.replace(step.inputs, step=number, batches=[step.batch(list(chosen))])
            outcome = step.stepper.measure(inputs, step.state)
            grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            step.stepper.act(outcome, inputs, step.state)
            assert outcome.event is None and outcome.conflicts
            made.append((weights, outcome.losses, outcome.conflicts, grads))
    return made


def assert_close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one[1] == pytest.approx(other[1], rel=1e-5)
        assert one[2] == pytest.approx(other[2], abs=1e-4)
        assert (one[3] - other[3]).norm() < 1e-5 * other[3].norm()


def test_steps_of_other_sizes_are_the_same_and_are_not_compiled_anew(root):
    """Traced as for a compiler, whose place PyTorch's own operations take."""
    usual, compiled = step_of(root), step_of(root, PARTS, "eager")
    names = [list(s.stepper.model.module.state_dict()) for s in (usual, compiled)]
    assert names[0] == names[1]
    wanted = steps(usual, SCENES)
    first = steps(compiled, SCENES[:1], wanted)
    graphs = counters["stats"]["unique_graphs"]
    assert 0 < graphs <= 8 and not counters["graph_break"]
    assert_close(first + steps(compiled, SCENES[1:], wanted[1:]), wanted)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
def test_compiled_steps_are_the_same_but_for_rounding(root):
    wanted = steps(step_of(root), SCENES)
    compiled = step_of(root, PARTS)
    assert_close(steps(compiled, SCENES, wanted), wanted)
    layer, queries = compiled.stepper.model.module.decoder.ffn_layers[0], torch.ones(40, 16)
    total = layer(queries.requires_grad_()).square().sum()
    torch.autograd.grad(total, queries, retain_graph=True)  # as the cosines between loss terms are found
    total.backward()
    assert layer.norm.weight.grad is not None


def test_who_watches_sees_what_is_within_blocks(root):
    """Hooks come after the compilation, and the step is seen as one that is not compiled."""
    told = []
    for parts in ((), PARTS):
        step = step_of(root, parts, "eager")
        if parts:
            step.stepper.compute(step.inputs, step.state)
            step.stepper.discard()
            assert counters["stats"]["unique_graphs"] > 0
        graphs = counters["stats"]["unique_graphs"]
        tracer = Tracer(step.stepper.model.module)
        rerun = run_again(step.stepper, step.inputs, step.state, tracer=tracer)
        assert counters["stats"]["unique_graphs"] == graphs
        told.append((rerun.fingerprint, [dataclasses.asdict(call) for call in tracer.calls]))
    assert same(*told)
    assert any(call["module"] == "decoder.ffn_layers.0.net.0" for call in told[1][1])


def test_maps_that_other_runs_read_too_are_not_compiled(root, tmp_path):
    model = step_of(root, PARTS, "eager").stepper.model.module
    views = step_of(root).inputs.batches[0].views
    model.tower.requires_grad_(False)
    model.tower.keep_views(ViewCache(tmp_path, 10**7))
    before = counters["stats"]["unique_graphs"]
    with torch.no_grad():
        model.tower.encode_views(views)
        assert counters["stats"]["unique_graphs"] == before
        model.tower.cache = None
        model.tower.encode_views(views)
    assert counters["stats"]["unique_graphs"] > before


def test_what_cannot_be_is_refused(root):
    model = step_of(root).stepper.model.module

    def broken(graph, inputs):
        raise RuntimeError("No working C++ compiler found")

    with pytest.raises(InputError, match=r"compile: .* makes nothing for cpu here \(.*No working C\+\+"):
        compile_blocks(model, PARTS, CPU, broken)
    with (
        patch.object(type(model.tower), "recomputable", lambda self: []),
        pytest.raises(InputError, match="trainer.compile: the image tower .* leave 'tower' out"),
    ):
        compile_blocks(model, ("tower",), CPU, backend="eager")
    config = tiny_config("bifusion_tiny", root)
    config.trainer.recompute = config.trainer.compile = ("decoder",)
    with pytest.raises(InputError, match="recompute and trainer.compile both name decoder"):
        check_config(config)
    assert not list(changes(TrainerConfig(), TrainerConfig(compile=PARTS)))
