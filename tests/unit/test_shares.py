"""The mean over batches and processes of what each makes of its scenes is that of one batch of all."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bifusion import plugins
from bifusion.data.batching import select_scenes
from bifusion.labels.sets import SCANNET20
from bifusion.losses.context import CriterionConfig
from bifusion.losses.criterion import Criterion
from bifusion.losses.matcher import MatcherConfig
from bifusion.losses.shares import shares
from bifusion.types import Batch, FusionTrace, Prediction, Targets
from small_batches import batch_of_superpoints, targets_of
from unit.test_losses import make_case

SCENES = [
    targets_of([3, 7], [0, 0, 1, -1, 1]),
    targets_of([], [-1, -1, -1]),  # neither an instance nor a label
    targets_of([1], [-1, 0, 0, 0]),
    dataclasses.replace(targets_of([], [-1, -1]), semantic=torch.tensor([0, 20])),  # a wall alone
    targets_of([2, 2, 5], [0, 1, 1, 2, 2, 2]),
]
CONFIGS = {
    "ours": CriterionConfig(),
    "official": CriterionConfig(official_dice_scaling=True),
    "summed": CriterionConfig(sum_over_scenes=True, over_outputs="mean"),
    "hungarian": CriterionConfig(matcher=MatcherConfig(kind="hungarian")),
}
PARTS = [[[0, 1, 2], [3, 4]], [[4], [1], [0, 2, 3]], [[1], [3], [0, 2, 4]], [[0, 1, 2, 3], [4]]]


def whole_case() -> tuple[Prediction, Batch]:
    """A prediction for all scenes; every second voxel is seen, in scene 1 none."""
    prediction, batch, _ = make_case(SCENES, layers=2)
    scene, count = batch.voxel_coords[:, 0], len(batch.voxel_coords)
    generator = torch.Generator().manual_seed(1)
    seen = (torch.arange(count) % 2 == 0) & (scene != 1)
    features = torch.randn(2, count, 4, generator=generator)
    prediction.fusion = trace_of(features, seen)
    return prediction, batch


def trace_of(features: torch.Tensor, seen: torch.Tensor) -> FusionTrace:
    rows, empty = seen.nonzero()[:, 0], torch.zeros(len(seen), 1)
    pairs = [(features[0][rows], features[1][rows])] if len(rows) else []
    return FusionTrace(
        seen=seen, alpha=empty, gate=empty, seen_f2d_in=features[0][rows], f3d_in=features[1],
        seen_f2d=features[0][rows], f3d=features[1], alignment_pairs=pairs, learned=False, rows=rows,
    )  # fmt: skip


def part_of(prediction: Prediction, batch: Batch, chosen: list[int]) -> tuple[Prediction, Batch]:
    """What a process sees that has the chosen scenes."""

    def of(per_scene):
        return None if per_scene is None else [per_scene[b] for b in chosen]

    layers = [
        dataclasses.replace(
            layer,
            class_logits=of(layer.class_logits),
            mask_logits=of(layer.mask_logits),
            scores=of(layer.scores),
        )
        for layer in prediction.layers
    ]
    trace = prediction.fusion
    mine = torch.isin(batch.voxel_coords[:, 0], torch.tensor(chosen))
    own = dataclasses.replace(
        prediction,
        layers=layers,
        semantic_logits=of(prediction.semantic_logits),
        query_superpoints=of(prediction.query_superpoints),
        fusion=trace_of(torch.stack([trace.f2d_in[mine], trace.f3d_in[mine]]), trace.seen[mine]),
    )
    return own, select_scenes(batch, chosen)


def terms_of_step(
    criterion: Criterion, parts: list[tuple[Prediction, Batch]], processes: int = 1
) -> dict:
    """Means over batches and processes, which share the parts out, each told what all count."""
    own = [criterion.counts(batch, prediction.query_superpoints) for prediction, batch in parts]
    a_process = len(own) // processes
    own_of = [own[at : at + a_process] for at in range(0, len(own), a_process)]
    told: list[torch.Tensor] = []
    for counts in own_of:
        shares(counts, lambda mine: told.append(mine) or mine)
    total = torch.stack(told).sum(dim=0)
    of_parts = [share for counts in own_of for share in shares(counts, lambda mine: total)]
    found = [criterion(*part, share) for part, share in zip(parts, of_parts, strict=True)]
    names = dict.fromkeys(name for terms in found for name in terms)
    return {n: sum(terms.get(n, torch.zeros(())) for terms in found) / len(parts) for n in names}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("processes", [False, True], ids=["batches", "processes"])
def test_the_mean_over_batches_and_processes_is_that_of_one_batch(config, parts, processes):
    criterion, (prediction, batch) = Criterion(config, SCANNET20), whole_case()
    wanted = criterion(prediction, batch)
    assert len(wanted) == 6
    own = [part_of(prediction, batch, part) for part in parts]
    found = terms_of_step(criterion, own, len(parts) if processes else 1)
    for name, term in wanted.items():
        assert found[name].item() == pytest.approx(term.item(), rel=1e-5, abs=1e-7), name
    gradients = [
        torch.autograd.grad(sum(terms.values()), prediction.layers[0].mask_logits)
        for terms in (wanted, found)
    ]
    for whole, shared in zip(*gradients, strict=True):
        torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-7)


def test_means_of_batches_alone_would_be_another_loss():
    """What the factors are for: a scene without instances takes half the weight of the other's masks."""
    criterion, (prediction, batch) = Criterion(CriterionConfig(), SCANNET20), whole_case()
    parts = [part_of(prediction, batch, share) for share in ([0], [1])]
    wanted = criterion(*part_of(prediction, batch, [0, 1]))["mask_dice"].item()
    alone = sum(criterion(*part)["mask_dice"].item() for part in parts) / 2
    assert alone == pytest.approx(wanted / 2)
    assert terms_of_step(criterion, parts)["mask_dice"].item() == pytest.approx(wanted)


@pytest.mark.parametrize("parts", PARTS)
def test_a_term_from_outside_counts_as_divided_by_scenes(monkeypatch, parts):
    def term(prediction, batch, context):
        return torch.stack([x.square().mean() for x in prediction.layers[-1].mask_logits]).mean()

    monkeypatch.setattr(plugins, "load", lambda target, where: term)
    criterion = Criterion(CriterionConfig(extra={"own": "somebody:term"}), SCANNET20)
    prediction, batch = whole_case()
    found = terms_of_step(criterion, [part_of(prediction, batch, part) for part in parts])
    assert found["own"].item() == pytest.approx(criterion(prediction, batch)["own"].item(), rel=1e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_batch_that_stands_in_counts_nothing(config):
    """Other batches of its process do: it stands in at an epoch's end alone."""
    criterion, (prediction, batch) = Criterion(config, SCANNET20), whole_case()
    parts = [part_of(prediction, batch, part) for part in ([0], [2], [3, 4], [4])]
    parts[3] = parts[3][0], dataclasses.replace(parts[3][1], counts=False)
    wanted = criterion(*part_of(prediction, batch, [0, 2, 3, 4]))
    found = terms_of_step(criterion, parts, processes=2)
    assert {n: t.item() for n, t in found.items()} == pytest.approx(
        {n: t.item() for n, t in wanted.items()}
    )


def test_a_scene_without_targets_of_any_kind_is_a_part():
    criterion = Criterion(CriterionConfig(), SCANNET20)
    prediction, batch, _ = make_case([SCENES[1]])
    terms = terms_of_step(criterion, [(prediction, batch)])
    assert all(term.isfinite() for term in terms.values()) and isinstance(batch.targets[0], Targets)
    assert batch_of_superpoints([torch.arange(3)]).counts
