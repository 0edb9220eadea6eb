from __future__ import annotations

import pytest
import torch

from bifusion.labels.sets import SCANNET20
from bifusion.losses.context import CriterionConfig
from bifusion.losses.criterion import Criterion
from bifusion.models.oneformer3d import OneFormer3D, OneFormer3DConfig
from bifusion.models.postprocess import PostprocessConfig, postprocess
from bifusion.models.query_decoder import DecoderConfig
from bifusion.models.unet import UNetConfig
from bifusion.types import FusionControl
from small_batches import batch_of_superpoints, targets_of

SMALL = OneFormer3DConfig(
    unet=UNetConfig(kind="residual", in_channels=6, planes=(8, 16)),
    decoder=DecoderConfig(num_layers=2, dim=16, heads=2, ffn_dim=32),
)


def small_model() -> OneFormer3D:
    torch.manual_seed(0)
    return OneFormer3D(SMALL, SCANNET20)


def two_scenes():
    """40 voxels in 4 superpoints with two instances, and 12 voxels in 2 without any."""
    superpoints = [torch.arange(40) // 10, torch.arange(12) // 6]
    return batch_of_superpoints(
        superpoints, [targets_of([3, 7], [0, 0, 1, -1]), targets_of([], [-1, -1])]
    )


def test_prediction_of_a_batch():
    model, batch = small_model().eval(), two_scenes()
    prediction = model(batch)
    assert prediction.superpoint_features.shape == (6, model.unet.out_channels)
    assert len(prediction.layers) == 3
    assert [x.shape for x in prediction.layers[-1].mask_logits] == [(4, 4), (2, 2)]
    assert [x.shape for x in prediction.semantic_logits] == [(4, 21), (2, 21)]
    assert prediction.fusion is None


def test_every_parameter_is_in_one_group():
    model = small_model()
    groups = model.parameter_groups()
    assert set(groups) == {"backbone", "decoder"}
    grouped = [id(p) for group in groups.values() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_losses_reach_every_parameter():
    model, batch = small_model(), two_scenes()
    terms = Criterion(CriterionConfig(), SCANNET20)(model(batch), batch)
    sum(terms.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_training_step_repeats_exactly():
    gradients = []
    for _ in range(2):
        model, batch = small_model(), two_scenes()
        sum(Criterion(CriterionConfig(), SCANNET20)(model(batch), batch).values()).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("points", [1, 3])
def test_single_scene_of_one_superpoint(points: int):
    batch = batch_of_superpoints([torch.zeros(points, dtype=torch.int64)], [targets_of([4], [0])])
    model = small_model()
    terms = Criterion(CriterionConfig(), SCANNET20)(model(batch), batch)
    assert all(torch.isfinite(value) for value in terms.values())
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_single_colour_cloud():
    """All voxels alike inside: superpoints with equal features, so equal queries and equal costs."""
    batch = two_scenes()
    batch.voxel_feats = torch.ones_like(batch.voxel_feats)
    model = small_model()
    terms = Criterion(CriterionConfig(), SCANNET20)(model(batch), batch)
    assert all(torch.isfinite(value) for value in terms.values())


def test_prediction_to_results():
    model, batch = small_model().eval(), two_scenes()
    results = postprocess(model(batch), batch, SCANNET20, PostprocessConfig())
    assert [result.num_points for result in results] == [40, 12]
    assert [len(result.semantic) for result in results] == [40, 12]


def test_control_changes_nothing():
    model, batch = small_model().eval(), two_scenes()
    a, b = model(batch), model(batch, FusionControl(scale=0.0, run_2d=False))
    assert torch.equal(a.semantic_logits[0], b.semantic_logits[0])


def test_can_overfit_one_scene():
    torch.manual_seed(0)
    model, batch = small_model(), two_scenes()
    criterion = Criterion(CriterionConfig(), SCANNET20)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(40):
        optimiser.zero_grad()
        total = sum(criterion(model(batch), batch).values())
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert totals[-1] < 0.3 * totals[0]
