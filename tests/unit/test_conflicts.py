"""Cosines between loss terms, at the last weights that they share, without a trace left behind."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bifusion.data.batching import collate
from bifusion.data.dataset import SceneDataset
from bifusion.labels.sets import SCANNET20
from bifusion.losses.context import CriterionConfig
from bifusion.losses.criterion import Criterion
from bifusion.models.build import build_model
from bifusion.models.query_decoder import DecoderConfig, QueryDecoder
from bifusion.step.conflicts import conflict_figures, conflicts_of
from bifusion.types import FusionControl
from small_batches import batch_of_superpoints, targets_of
from tiny_runs import make_tiny_data, tiny_config, tiny_mask3d


def term_conflicts(*args) -> dict:
    return conflicts_of({name: figure.item() for name, figure in conflict_figures(*args).items()})


class TwoTerms(nn.Module):
    """Two terms that pull two shared numbers along given directions."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.zeros(2))
        self.decoder = self

    def shared_weights(self) -> list[nn.Parameter]:
        return [self.shared]

    def terms(self, first, second) -> dict:
        return {"a": self.shared @ torch.tensor(first), "b": self.shared @ torch.tensor(second)}


@pytest.mark.parametrize(
    ("first", "second", "cosine"),
    [
        ((1.0, 0.0), (0.0, 2.0), 0.0),
        ((1.0, 0.0), (-3.0, 0.0), -1.0),
        ((1.0, 1.0), (1e-6, 0.0), 0.5**0.5),
    ],
)
def test_cosine_of_known_directions(first, second, cosine):
    model = TwoTerms()
    conflicts = term_conflicts(model, model.terms(first, second), {"a": 1.0, "b": 2.0})
    assert conflicts == {"a|b": pytest.approx(cosine, abs=1e-6)}


def test_weights_count_with_their_sign_and_zero_leaves_out():
    model = TwoTerms()
    terms = model.terms((1.0, 0.0), (1.0, 0.0))
    assert term_conflicts(model, terms, {"a": 1.0, "b": -1.0}) == {"a|b": pytest.approx(-1.0)}
    assert term_conflicts(model, terms, {"a": 1.0, "b": 0.0}) == {}
    assert term_conflicts(model, terms, {"a": 1.0}) == {}


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_gradient_without_direction_has_no_cosine(bad):
    model = TwoTerms()
    assert term_conflicts(model, model.terms((1.0, 0.0), (bad, 0.0)), {"a": 1.0, "b": 1.0}) == {}


def test_frozen_weights_are_in_no_conflict():
    model = TwoTerms()
    other = nn.Parameter(torch.ones(()))
    model.shared.requires_grad_(False)
    terms = {"a": other * 1.0, "b": other * 2.0}
    assert term_conflicts(model, terms, {"a": 1.0, "b": 1.0}) == {}


def annotated_step(recipe: str, root: Path) -> tuple[nn.Module, dict, dict]:
    """A tiny model of the recipe, and the loss terms and weights of a batch of two rooms."""
    config = tiny_mask3d(root) if recipe.startswith("mask3d") else tiny_config(recipe, root)
    torch.manual_seed(0)
    model = build_model(config.model, config.seed, config.labels).train()
    dataset = SceneDataset(config.data, "train", 0, training=True)
    batch = collate([dataset.sample(index, 1) for index in range(2)])
    prediction = model(batch, FusionControl())
    assert prediction.optional_outputs() == model.optional_outputs()
    terms = Criterion(config.criterion, SCANNET20)(prediction, batch)
    return model, terms, dict.fromkeys(terms, 1.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=2, val=1)


@pytest.mark.parametrize(
    ("recipe", "pairs"), [("oneformer3d_small", 6), ("mask3d_small", 3), ("bifusion_small", 7)]
)
def test_terms_of_each_model(recipe, pairs, root):
    """All pairs of the decoder's terms, and alignment, which does not reach it, at the 2D head; the
    score loss of untrained masks, none of which is good enough to count, has no gradient."""
    conflicts = term_conflicts(*annotated_step(recipe, root))
    assert len(conflicts) == pairs and ("alignment|others" in conflicts) == (recipe == "bifusion_small")
    assert all(-1 <= cosine <= 1 for cosine in conflicts.values())
    assert len({round(cosine, 6) for cosine in conflicts.values()}) == pairs


def test_measuring_changes_nothing(root):
    """The gradients of the step are those that they would have been, to the bit."""

    def gradients(measure: bool) -> dict:
        model, terms, weights = annotated_step("bifusion_small", root)
        random = torch.get_rng_state()
        if measure:
            assert term_conflicts(model, terms, weights)
            assert all(p.grad is None for p in model.parameters())
        assert torch.equal(random, torch.get_rng_state())
        torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, measured = gradients(False), gradients(True)
    assert plain.keys() == measured.keys()
    assert all(torch.equal(plain[name], measured[name]) for name in plain)


def test_shared_weights_are_reached_by_every_term_of_the_decoder():
    torch.manual_seed(0)
    decoder = QueryDecoder(DecoderConfig(num_layers=1, dim=16, heads=2, ffn_dim=16), 8, 18, 20)
    batch = batch_of_superpoints([torch.arange(40) % 8], [targets_of([3], [0, 0, *[-1] * 6])])
    prediction = decoder(torch.randn(8, 8), batch)
    terms = Criterion(CriterionConfig(), SCANNET20)(prediction, batch)
    for term in terms.values():
        gradients = torch.autograd.grad(term, decoder.shared_weights(), retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)
