"""Operations whose backward differs from run to run must not stand on the training path.

Indexing with a tensor (`x[idx]`) and accumulating `index_put_` add up in any order on several
threads; `index_select`, `index_add` and `scatter_add` do not. `grid_sample` does so on CUDA.
"""

import pytest
import torch

from bifusion.data.batching import collate
from bifusion.data.dataset import SceneDataset
from bifusion.losses.criterion import Criterion
from bifusion.models.build import build_model
from bifusion.step.step import weighted_total
from bifusion.types import FusionControl
from tiny_runs import make_tiny_data, tiny_config, tiny_mask3d

BANNED = ("IndexBackward", "IndexPutBackward", "PutBackward", "GridSampler", "MaskedSelect", "Take")


def backward_nodes(tensor):
    """Names of all nodes of the graph that ends in `tensor`."""
    names, seen, waiting = set(), set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        names.add(node.name())
        waiting += [following for following, _ in node.next_functions]
    return names


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=2, val=1)


@pytest.mark.parametrize(
    "recipe", ["oneformer3d_small", "mask3d_small", "bifusion_small", "bifusion_small_naive"]
)
def test_no_banned_operation_on_the_training_path(data, recipe):
    config = tiny_mask3d(data) if recipe == "mask3d_small" else tiny_config(recipe, data)
    dataset = SceneDataset(config.data, "train", config.seed, training=True)
    batch = collate([dataset.sample(index, epoch=0) for index in range(len(dataset))])
    model = build_model(config.model, config.seed, config.labels).train()
    prediction = model(batch, FusionControl(tower_gradient_scale=1.0))
    terms = Criterion(config.criterion, config.labels)(prediction, batch)
    nodes = backward_nodes(weighted_total(terms, dict.fromkeys(terms, 1.0)))
    assert len(nodes) > 10
    if config.uses_views:
        assert any("EmbeddingBag" in name for name in nodes), "the lifting is part of the graph"
    assert [name for name in nodes if name.split("0")[0].startswith(BANNED)] == []


def test_the_ban_sees_what_it_bans():
    x = torch.ones(3, requires_grad=True)
    assert any(name.startswith(BANNED) for name in backward_nodes(x[torch.tensor([0, 0])].sum()))
