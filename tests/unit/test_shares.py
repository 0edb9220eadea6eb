"""The mean over processes of what each makes of its scenes is what one process makes of all."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bifusion.data.batching import select_scenes
from bifusion.labels.sets import SCANNET20
from bifusion.losses.context import CriterionConfig
from bifusion.losses.criterion import Criterion
from bifusion.losses.matcher import MatcherConfig
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


def terms_of_processes(criterion: Criterion, parts: list[tuple[Prediction, Batch]]) -> dict:
    """Means over processes; each is asked twice, for its counts first."""
    told: list[torch.Tensor] = []

    def tell(counts):
        told.append(counts)
        return counts

    for part in parts:
        criterion(*part, tell)
    total = torch.stack(told).sum(dim=0)
    found = [criterion(*part, lambda counts: total) for part in parts]
    names = dict.fromkeys(name for terms in found for name in terms)
    return {n: sum(terms.get(n, torch.zeros(())) for terms in found) / len(parts) for n in names}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("shares", [[[0, 1, 2], [3, 4]], [[4], [1], [0, 2, 3]], [[1], [3], [0, 2, 4]]])
def test_the_mean_over_processes_is_that_of_one_batch(config, shares):
    criterion, (prediction, batch) = Criterion(config, SCANNET20), whole_case()
    wanted = criterion(prediction, batch)
    assert len(wanted) == 6
    found = terms_of_processes(criterion, [part_of(prediction, batch, share) for share in shares])
    for name, term in wanted.items():
        assert found[name].item() == pytest.approx(term.item(), rel=1e-5, abs=1e-7), name
    gradients = [
        torch.autograd.grad(sum(terms.values()), prediction.layers[0].mask_logits)
        for terms in (wanted, found)
    ]
    for whole, shared in zip(*gradients, strict=True):
        torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_mean_over_the_batches_of_a_step_is_that_of_one_batch(config):
    """Of scenes that each have a match and a label, in batches of like size."""
    criterion, (prediction, batch) = Criterion(config, SCANNET20), whole_case()
    wanted = criterion(*part_of(prediction, batch, [0, 2, 4]))
    parts = [part_of(prediction, batch, [scene]) for scene in (0, 2, 4)]
    found = [criterion(p, dataclasses.replace(b, step_scenes=(1, 1, 1))) for p, b in parts]
    for name in wanted.keys() - {"alignment"}:  # a mean over voxels
        mean = sum(terms[name].item() for terms in found) / len(found)
        assert mean == pytest.approx(wanted[name].item(), rel=1e-5), name


def test_the_batches_of_a_step_on_several_processes_are_those_of_one_batch():
    config = CriterionConfig(official_dice_scaling=True)
    criterion, (prediction, batch) = Criterion(config, SCANNET20), whole_case()
    wanted = criterion(*part_of(prediction, batch, [0, 2, 4, 0]))["mask_dice"].item()
    total = 0.0
    for scenes in ([0, 2], [4, 0]):
        parts = [part_of(prediction, batch, [scene]) for scene in scenes]
        parts = [(p, dataclasses.replace(b, step_scenes=(1, 1))) for p, b in parts]
        total += terms_of_processes(criterion, parts)["mask_dice"].item() / 2
    assert total == pytest.approx(wanted)


def test_means_of_processes_alone_would_be_another_loss():
    """What the factors are for: a scene without instances takes half the weight of the other's masks."""
    criterion, (prediction, batch) = Criterion(CriterionConfig(), SCANNET20), whole_case()
    parts = [part_of(prediction, batch, share) for share in ([0], [1])]
    wanted = criterion(*part_of(prediction, batch, [0, 1]))["mask_dice"].item()
    alone = sum(criterion(*part)["mask_dice"].item() for part in parts) / 2
    assert alone == pytest.approx(wanted / 2)
    assert terms_of_processes(criterion, parts)["mask_dice"].item() == pytest.approx(wanted)


def test_a_batch_that_stands_in_counts_nothing():
    criterion, (prediction, batch) = Criterion(CriterionConfig(), SCANNET20), whole_case()
    own, stand_in = (part_of(prediction, batch, [0, 2]) for _ in range(2))
    stand_in = stand_in[0], dataclasses.replace(stand_in[1], counts=False)
    wanted = criterion(*own)
    found = terms_of_processes(criterion, [own, stand_in])
    assert {n: t.item() for n, t in found.items()} == pytest.approx(
        {n: t.item() for n, t in wanted.items()}
    )


def test_a_scene_without_targets_of_any_kind_is_a_part():
    criterion = Criterion(CriterionConfig(), SCANNET20)
    prediction, batch, _ = make_case([SCENES[1]])
    terms = terms_of_processes(criterion, [(prediction, batch)])
    assert all(term.isfinite() for term in terms.values()) and isinstance(batch.targets[0], Targets)
    assert batch_of_superpoints([torch.arange(3)]).counts
