"""Pretraining without labels: what it matches, that it learns, and that labels play no part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import safe_open

from bifusion.data.dataset import DataConfig, SceneDataset
from bifusion.datasets.rooms.pretraining.config import TowerPretrainConfig
from bifusion.datasets.rooms.pretraining.contrastive import pretrain_tower
from bifusion.datasets.rooms.pretraining.crops import CropConfig
from bifusion.datasets.rooms.pretraining.matches import CropPairs, MatchedViews, draw_pairs, find_matches
from bifusion.errors import InputError
from bifusion.models.towers.clip import ClipConfig, ClipEncoder
from bifusion.rng import torch_rng
from bifusion.studies.demo import PretrainTower, run_pretraining
from scene_factory import make_tiny_scene

PATCH, SIZE = 8, 32
TINY = ClipConfig("small", blocks=1, width=16, layers=1, heads=2, patch_size=PATCH, image_size=SIZE)
PLAIN = CropConfig(size=SIZE, zoom=(1.0, 2.0), gain=0.0, offset=0.0)


def tiny_config(**changes) -> TowerPretrainConfig:
    fields = {
        "objective": "views",
        "tower": TINY,
        "image_size": 64,
        "views_per_scene": 2,
        "voxel_size_m": 0.05,
        "embedding_dim": 16,
        "steps": 120,
        "batch_size": 8,
        "crop": CropConfig(size=SIZE),
        "lr": 1e-2,
        "warmup_steps": 2,
    }
    return TowerPretrainConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not annotated: there is nothing that labels could tell."""
    root = tmp_path_factory.mktemp("rooms")
    for seed, split in enumerate(("train", "train", "val")):
        make_tiny_scene(root / split / f"scene{seed}", seed=seed, annotated=False)
    return root


@pytest.fixture(scope="module")
def views(rooms: Path) -> MatchedViews:
    data = DataConfig(root=rooms, voxel_size_m=0.05, max_views=2, image_size=64, patch_size=PATCH)
    return find_matches(SceneDataset(data, "train", seed=0, training=False, annotated=False))


def pairs(views: MatchedViews, seed: int = 0, number: int = 24) -> CropPairs:
    return draw_pairs(views, number, 8, PATCH, PLAIN, torch_rng(seed, "pairs"))


def test_views_of_a_room_share_voxels_and_those_of_two_rooms_none(views: MatchedViews) -> None:
    assert views.scene.tolist() == [0, 0, 1, 1]
    seen = [set(voxels.tolist()) for voxels in views.voxel]
    assert seen[0] & seen[1] and seen[2] & seen[3] and not (seen[0] | seen[1]) & (seen[2] | seen[3])
    assert all(bool((voxels.diff() > 0).all()) for voxels in views.voxel)


def test_matched_patches_show_the_same_colours(views: MatchedViews) -> None:
    """Across views, zooms and mirroring; patches paired at random do not."""
    drawn = pairs(views)
    mean = [
        crops.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).mean((-1, -2)).permute(0, 2, 3, 1)
        for crops in (drawn.one, drawn.other)
    ]
    one, other = (
        part.reshape(-1, 3)[rows]
        for part, rows in zip(mean, (drawn.patch_one, drawn.patch_other), strict=True)
    )
    assert len(one) > 40
    apart = (one - other).abs().mean()
    assert apart < 0.5 * (one - other.roll(len(other) // 2, 0)).abs().mean()
    for rows in (drawn.patch_one, drawn.patch_other):
        assert len(rows.unique()) == len(rows), "no patch twice: it would be its own negative"


def test_depth_is_cut_out_with_the_image(views: MatchedViews) -> None:
    """Where a view shows its depth as its colours, both crops agree."""
    shown = MatchedViews(
        (views.depth_m * 40).byte().expand(-1, 3, -1, -1),
        views.depth_m,
        views.pixel,
        views.voxel,
        views.scene,
    )
    drawn = pairs(shown)
    told, known = drawn.one[:, :1] * 255 / 40, drawn.depth_m > 0
    assert float(known.float().mean()) > 0.4
    assert float((told - drawn.depth_m)[known].abs().median()) < 0.05


def test_it_learns_and_its_file_loads(rooms: Path, tmp_path: Path) -> None:
    out = tmp_path / "tower.safetensors"
    result = pretrain_tower(rooms, out, tiny_config())
    assert result["train accuracy"] > 2 * result["train chance"]
    assert result["held-out accuracy"] > 2 * result["held-out chance"]
    assert result["train depth accuracy"] > 2 * result["train chance"]
    tower = ClipEncoder(ClipConfig(**{**vars(TINY), "pretrained": str(out)}))
    assert "without labels" in tower.describe()
    again = tmp_path / "again.safetensors"
    pretrain_tower(rooms, again, tiny_config(steps=3))
    pretrain_tower(rooms, tmp_path / "third.safetensors", tiny_config(steps=3))
    with (
        safe_open(again, framework="pt") as one,
        safe_open(tmp_path / "third.safetensors", framework="pt") as other,
    ):
        name = "visual.conv1.weight"
        assert torch.equal(one.get_tensor(name), other.get_tensor(name)), "the seed decides all"


def test_a_tower_of_another_objective_is_not_taken(rooms: Path, tmp_path: Path) -> None:
    wanted = PretrainTower(tmp_path / "t.safetensors", rooms, 1, tiny_config(steps=1))
    pretrain_tower(rooms, wanted.out, wanted.config)
    run_pretraining(wanted, Console(quiet=True))
    wanted.config.objective = "names"
    with pytest.raises(InputError, match="pretrained on 'views', asked for is 'names'"):
        run_pretraining(wanted, Console(quiet=True))


def test_rooms_without_views_are_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        make_tiny_scene(tmp_path / split / "scene", num_views=0)
    with pytest.raises(InputError, match="no view sees a point"):
        pretrain_tower(tmp_path, tmp_path / "tower.safetensors", tiny_config())
