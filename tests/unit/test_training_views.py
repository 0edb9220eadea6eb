"""What of the views a training step uses: by default everything, to the bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bifusion.geometry import Sightings
from bifusion.labels.sets import SCANNET20
from bifusion.models.bifusion import BiFusion, BiFusionConfig
from bifusion.models.fusion import FusionConfig
from bifusion.models.query_decoder import DecoderConfig
from bifusion.models.towers.pixels import PixelsConfig
from bifusion.models.training_views import TrainingViewsConfig, used_sightings
from bifusion.models.unet import UNetConfig
from bifusion.types import Batch, BatchView
from small_batches import batch_of_superpoints

POINTS = 96


def make_batch(seeds: list[int] | None = None) -> Batch:
    batch = batch_of_superpoints([torch.arange(POINTS) % 9, torch.arange(POINTS) % 7])
    return dataclasses.replace(batch, seeds=seeds or batch.seeds)


def make_sightings(batch: Batch) -> Sightings:
    """Voxel v is seen by v % 4 views, numbered from 0; its pixel in view i is (v, i)."""
    voxels = len(batch.voxel_coords)
    count = torch.arange(voxels) % 4
    voxel = torch.arange(voxels).repeat_interleave(count)
    view = torch.cat([torch.arange(int(number)) for number in count])
    pixel = torch.stack([voxel, view], dim=1).float()
    return Sightings(voxel, view, pixel, count, torch.nonzero(count > 0)[:, 0])


def is_consistent(sightings: Sightings) -> bool:
    counted = torch.bincount(sightings.voxel, minlength=len(sightings.count))
    rows = torch.nonzero(sightings.count > 0)[:, 0]
    return torch.equal(counted, sightings.count) and torch.equal(rows, sightings.rows)


def test_by_default_nothing_is_drawn_or_copied() -> None:
    batch = make_batch()
    sightings = make_sightings(batch)
    before = torch.random.get_rng_state()
    assert used_sightings(sightings, batch, TrainingViewsConfig()) is sightings
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("rows_known", [True, False])
def test_one_random_view_of_each_voxel(rows_known) -> None:
    batch, config = make_batch(), TrainingViewsConfig(feature="random")
    all_of_them = make_sightings(batch)
    if not rows_known:
        all_of_them = dataclasses.replace(all_of_them, rows=None)
    one = used_sightings(all_of_them, batch, config)
    assert is_consistent(one) and torch.equal(one.seen, all_of_them.seen)
    assert int(one.count.max()) == 1
    assert torch.equal(one.pixel, torch.stack([one.voxel, one.view], dim=1).float())
    assert bool((one.view < all_of_them.count[one.voxel]).all())
    again = used_sightings(all_of_them, batch, config)
    assert torch.equal(one.view, again.view), "the same step draws the same"
    other = used_sightings(all_of_them, make_batch([7, 8]), config)
    assert not torch.equal(one.view, other.view), "another epoch draws another"


def test_every_view_is_drawn_as_often() -> None:
    counts = torch.zeros(3)
    for seed in range(60):
        batch = make_batch([seed, 1000 + seed])
        one = used_sightings(make_sightings(batch), batch, TrainingViewsConfig(feature="random"))
        of_three = make_sightings(batch).count[one.voxel] == 3
        counts += torch.bincount(one.view[of_three], minlength=3)
    share = counts / counts.sum()
    assert torch.allclose(share, torch.full((3,), 1 / 3), atol=0.03), share


def test_a_share_of_superpoints_is_dropped_whole() -> None:
    dropped = []
    for seed in range(60):
        batch = make_batch([seed, 1000 + seed])
        before = make_sightings(batch)
        after = used_sightings(before, batch, TrainingViewsConfig(dropout=0.7))
        assert is_consistent(after)
        left = (before.count > 0) & (after.count == 0)
        # One voxel a point here: all seen voxels of a superpoint go, or none.
        for superpoint in range(batch.num_superpoints):
            seen = left[(batch.point_to_superpoint == superpoint) & (before.count > 0)]
            assert bool(seen.all()) or not bool(seen.any())
            dropped.append(float(seen.any()))
        assert torch.equal(after.count[~left], before.count[~left])
    assert abs(sum(dropped) / len(dropped) - 0.7) < 0.05


def test_everything_dropped_is_no_view_at_all() -> None:
    batch = make_batch()
    nothing = used_sightings(make_sightings(batch), batch, TrainingViewsConfig(dropout=1.0))
    assert is_consistent(nothing) and not bool(nothing.seen.any()) and len(nothing.view) == 0


def overhead_view(scene: int) -> BatchView:
    world2cam = torch.tensor([[1.0, 0, 0, -0.175], [0, -1, 0, 0.1], [0, 0, -1, 1.0], [0, 0, 0, 1]])
    K, depth = torch.tensor([[40.0, 0, 11.5], [0, 40.0, 7.5], [0, 0, 1]]), torch.ones(1, 16, 24)
    return BatchView(
        scene, f"v{scene}", torch.rand(3, 16, 24), depth, K, world2cam, depth[0], K, world2cam
    )


def test_a_model_uses_them_in_training_alone() -> None:
    torch.manual_seed(0)
    config = BiFusionConfig(
        unet=UNetConfig(kind="residual", in_channels=6, planes=(8, 16)),
        decoder=DecoderConfig(num_layers=1, dim=16, heads=2, ffn_dim=32, score_head=True),
        tower=PixelsConfig(),
        fusion=FusionConfig(dim=16, hidden=24),
        training_views=TrainingViewsConfig(dropout=0.7),
    )
    model = BiFusion(config, SCANNET20)
    batch = dataclasses.replace(make_batch(), views=[overhead_view(0), overhead_view(1)])
    whole, trained = model.eval()(batch).fusion, model.train()(batch).fusion
    assert whole is not None and trained is not None
    assert 0 < int(trained.seen.sum()) < int(whole.seen.sum())
    assert not trained.f2d_in[~trained.seen].any()
    unused = ~trained.seen
    assert not trained.gate[unused].any(), "where nothing is seen the decoder gets 3D features"
