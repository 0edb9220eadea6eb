"""Mask3D: queries, levels, decoder, criterion. Agreement with the official numbers: tests/reference."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20
from bifusion.losses.criterion import Criterion
from bifusion.models.mask3d import Mask3D, Mask3DConfig
from bifusion.models.mask_decoder import FourierCode, MaskDecoderConfig, furthest_voxels
from bifusion.models.pooling import pool_superpoints
from bifusion.models.pyramid_geometry import (
    is_first_of_voxel,
    level_sizes,
    scene_levels,
    superpoint_of_voxel,
)
from bifusion.models.unet import UNetConfig
from bifusion.recipes.mask3d import OFFICIAL_WEIGHTS, mask3d_criterion
from bifusion.sparse.tensor import SparseTensor
from bifusion.types import Batch, Prediction
from small_batches import batch_of_superpoints, targets_of

SMALL = Mask3DConfig(
    unet=UNetConfig(kind="res16", in_channels=3, planes=(8, 16, 16, 8), stem_planes=8, stem_kernel=3),
    decoder=MaskDecoderConfig(
        dim=16, heads=2, ffn_dim=32, rounds=2, num_queries=6, eval_queries=9, key_samples=(4, 8)
    ),
)
CRITERION = mask3d_criterion(sum_over_scenes=False)


def small_model() -> Mask3D:
    torch.manual_seed(0)
    return Mask3D(SMALL, SCANNET20)


def two_scenes() -> Batch:
    """200 voxels in 4 superpoints with two instances, and 80 voxels in 2 without any."""
    superpoints = [torch.arange(200) // 50, torch.arange(80) // 40]
    targets = [targets_of([3, 7], [0, 0, 1, -1]), targets_of([], [-1, -1])]
    return batch_of_superpoints(superpoints, targets, channels=3)


def total_loss(prediction: Prediction, batch: Batch) -> torch.Tensor:
    terms = Criterion(CRITERION, SCANNET20)(prediction, batch)
    assert terms.keys() == OFFICIAL_WEIGHTS.keys()
    return torch.stack([OFFICIAL_WEIGHTS[name] * term for name, term in terms.items()]).sum()


def test_prediction_of_a_batch():
    model, batch = small_model(), two_scenes()
    for training, queries in ((True, 6), (False, 9)):
        prediction = model.train(training)(batch)
        assert len(prediction.layers) == 1 + 2 * 2
        for layer in prediction.layers:
            assert [x.shape for x in layer.class_logits] == [(queries, 19), (queries, 19)]
            assert [x.shape for x in layer.mask_logits] == [(queries, 4), (queries, 2)]
        assert prediction.semantic_logits is None and prediction.query_superpoints is None
        assert prediction.superpoint_features.shape == (6, 16)


def test_scenes_do_not_influence_each_other():
    model, both = small_model().eval(), two_scenes()
    alone = batch_of_superpoints([torch.arange(80) // 40], channels=3)
    alone.voxel_feats = both.voxel_feats[200:]
    alone.seeds = both.seeds[1:]
    first, second = model(both).layers[-1], model(alone).layers[-1]
    torch.testing.assert_close(first.mask_logits[1], second.mask_logits[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.class_logits[1], second.class_logits[0], rtol=1e-4, atol=1e-5)


def test_losses_reach_every_parameter_but_the_unused_layer():
    model, batch = small_model(), two_scenes()
    total_loss(model(batch), batch).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"unet.final.weight", "unet.final.bias"}


def test_training_step_repeats_exactly():
    gradients = []
    for _ in range(2):
        model, batch = small_model(), two_scenes()
        total_loss(model(batch), batch).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_keys_are_sampled_in_training_from_the_scene_seed():
    model, batch = small_model(), two_scenes()
    same = model(batch).layers[-1].class_logits[0]
    other = dataclasses.replace(batch, seeds=[7, 8])
    assert torch.equal(same, model(batch).layers[-1].class_logits[0])
    assert not torch.equal(same, model(other).layers[-1].class_logits[0])
    model.eval()
    assert torch.equal(model(batch).layers[-1].class_logits[0], model(other).layers[-1].class_logits[0])


def test_can_overfit_one_scene():
    model, batch = small_model(), two_scenes()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(60):
        optimiser.zero_grad()
        total = total_loss(model(batch), batch)
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert totals[-1] < 0.4 * totals[0]


@pytest.mark.parametrize("points", [1, 3])
def test_scene_of_one_superpoint_and_one_coarse_voxel(points: int):
    """The official code refuses a level of one voxel; more queries than voxels repeat the first."""
    targets = [targets_of([4], [0])]
    batch = batch_of_superpoints([torch.zeros(points, dtype=torch.int64)], targets, channels=3)
    model = small_model()
    total = total_loss(model(batch), batch)
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_sum_over_scenes_adds_what_the_mean_averages():
    model, batch = small_model().eval(), two_scenes()
    batch.targets[1] = targets_of([5], [0, -1])
    prediction = model(batch)
    mean = Criterion(CRITERION, SCANNET20)(prediction, batch)
    summed = Criterion(mask3d_criterion(sum_over_scenes=True), SCANNET20)(prediction, batch)
    torch.testing.assert_close(summed["mask_bce"], 2 * mean["mask_bce"])
    torch.testing.assert_close(summed["mask_dice"], 2 * mean["mask_dice"])
    torch.testing.assert_close(summed["instance_class"], mean["instance_class"])


# ----------------------------------------------------------------------------- queries and positions


def test_furthest_voxels_start_at_the_first_and_prefer_the_lowest_row():
    coords = torch.tensor([[0, 0, 0], [4, 0, 0], [0, 4, 0], [1, 0, 0], [-4, 0, 0]])
    # after row 0 three are equally far, 1 the first; then 4 is 8 from it but 4 from row 0, as is 2
    assert furthest_voxels(coords, 4).tolist() == [0, 1, 2, 4]


def test_more_queries_than_voxels_repeat_the_first():
    assert furthest_voxels(torch.tensor([[5, 5, 5], [6, 5, 5]]), 4).tolist() == [0, 1, 0, 0]


def test_flat_scene_has_a_finite_code():
    code = FourierCode(8)
    position = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 2.5]])
    found = code(position, position.amin(0), position.amax(0))
    assert found.shape == (2, 8) and torch.isfinite(found).all()
    assert torch.equal(found[0], torch.cat([torch.zeros(4), torch.ones(4)]))


def test_position_code_follows_the_augmentation():
    model, batch = small_model().eval(), two_scenes()
    turned = batch.voxel_position_m[:, [1, 0, 2]] * torch.tensor([-1.0, 1.0, 1.0])
    plain = model(batch).layers[-1].class_logits[0]
    augmented = model(dataclasses.replace(batch, voxel_augmented_m=turned)).layers[-1].class_logits[0]
    assert not torch.allclose(plain, augmented)
    moved = model(dataclasses.replace(batch, voxel_augmented_m=batch.voxel_position_m)).layers[-1]
    assert torch.equal(plain, moved.class_logits[0])


# -------------------------------------------------------------------------------------------- levels


def test_levels_average_positions_and_superpoints_level_by_level():
    """Voxels at x = 0, 1, 2 and 6: pairs (0, 1), (2), (6), then (pairs 0 and 1), (6)."""
    batch = batch_of_superpoints([torch.tensor([0, 0, 1, 1])], channels=1)
    batch.voxel_coords = torch.tensor([[0, x, 0, 0] for x in (0, 1, 2, 6)], dtype=torch.int32)
    batch.voxel_position_m = batch.voxel_coords[:, 1:].float()
    fine = SparseTensor(batch.voxel_feats, batch.voxel_coords)
    pyramid = [fine]
    for stride in (1, 2):
        fine.maps.strided(stride, 2, 2)
        coords = fine.maps.coords(2 * stride)
        pyramid.insert(0, fine.at(2 * stride, torch.zeros(len(coords), 1)))
    sizes = level_sizes(batch, [x.stride for x in pyramid])
    levels = scene_levels(pyramid, batch, batch.voxel_position_m, sizes)
    coarse, middle, finest = (level[0] for level in levels)
    assert finest.position_m[:, 0].tolist() == [0, 1, 2, 6]
    assert middle.position_m[:, 0].tolist() == [0.5, 2, 6]
    assert coarse.position_m[:, 0].tolist() == [1.25, 6]  # mean of means, not of all three
    values = torch.tensor([[1.0], [5.0]])
    assert middle.spread(values)[:, 0].tolist() == [1, 5, 5]
    assert coarse.spread(values)[:, 0].tolist() == [3, 5]


def test_a_voxel_has_the_superpoint_of_its_first_point():
    batch = batch_of_superpoints([torch.tensor([1, 0, 0, 1])], channels=1)
    batch.point_to_voxel = torch.tensor([1, 0, 1, 0])
    batch.voxel_coords = batch.voxel_coords[:2]
    assert superpoint_of_voxel(batch).tolist() == [0, 1]


def test_masks_count_voxels_and_where_a_superpoint_has_none_its_points():
    """Voxel 0 has two points of superpoint 0 and one of 2, voxel 1 one of 0 and one of 2, voxel 2 one of
    1: of superpoint 2 no point is the first of its voxel."""
    batch = batch_of_superpoints([torch.tensor([0, 0, 2, 0, 2, 1, 2])], channels=1)
    batch.point_to_voxel = torch.tensor([0, 0, 0, 1, 1, 2, 1])
    batch.voxel_coords = batch.voxel_coords[:3]
    first = is_first_of_voxel(batch)
    assert first.tolist() == [True, False, False, True, False, True, False]
    rows = torch.tensor([[1.0], [4.0], [7.0]], requires_grad=True)
    pooled = pool_superpoints(rows, batch, first)
    assert pooled[:, 0].tolist() == [2.5, 7.0, 3.0]
    pooled.sum().backward()
    torch.testing.assert_close(rows.grad[:, 0], torch.tensor([1 / 2 + 1 / 3, 1 / 2 + 2 / 3, 1.0]))


# ------------------------------------------------------------------------------------- configuration


def test_residual_network_is_refused():
    with pytest.raises(InputError, match="res16"):
        Mask3DConfig(unet=UNetConfig(kind="residual"))


def test_more_visited_levels_than_there_are_is_refused():
    decoder = dataclasses.replace(SMALL.decoder, key_samples=(1, 2, 3, 4))
    with pytest.raises(InputError, match="key_samples: 4 numbers; the network has 3"):
        Mask3D(dataclasses.replace(SMALL, decoder=decoder), SCANNET20)
