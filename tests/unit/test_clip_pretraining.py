"""Pretraining of the small tower: its regions and crops, that it learns, and that its file loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from bifusion.data.dataset import DataConfig, SceneDataset
from bifusion.datasets.rooms.pretraining.config import TowerPretrainConfig
from bifusion.datasets.rooms.pretraining.contrastive import pretrain_tower, start_as_cosines
from bifusion.datasets.rooms.pretraining.crops import CropConfig, draw_crops, sample_image, shown_regions
from bifusion.datasets.rooms.pretraining.regions import find_regions, patch_regions
from bifusion.errors import InputError
from bifusion.models.towers.clip import ClipConfig, ClipEncoder
from bifusion.rng import torch_rng
from scene_factory import make_tiny_scene

TINY = ClipConfig("small", blocks=1, width=16, layers=1, heads=2, patch_size=8, image_size=32)


def tiny_config(**changes) -> TowerPretrainConfig:
    fields = {
        "tower": TINY,
        "image_size": 64,
        "views_per_scene": 2,
        "voxel_size_m": 0.05,
        "embedding_dim": 16,
        "steps": 30,
        "batch_size": 4,
        "crop": CropConfig(size=32),
        "lr": 1e-2,
        "warmup_steps": 2,
    }
    return TowerPretrainConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms")
    for seed, split in enumerate(("train", "train", "val")):
        make_tiny_scene(root / split / f"scene{seed}", seed=seed)
    return root


def dataset(root: Path) -> SceneDataset:
    data = DataConfig(root=root, voxel_size_m=0.05, max_views=2, image_size=64, patch_size=8)
    return SceneDataset(data, "train", seed=0, training=False)


def redness(images: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Red minus blue, -1 … 1, of the uint8 image (3, H, W) at pixels (n, 2)."""
    x, y = (at + 0.5).floor().long().unbind(1)
    red, _, blue = images.float()[:, y, x] / 255
    return red - blue


def test_regions_lie_on_their_own_class(rooms: Path) -> None:
    """The two boxes are red (table, class 6) and blue (chair, class 4)."""
    views = find_regions(dataset(rooms))
    assert views.images.shape == (4, 3, 48, 64)
    assert sum(views.points_per_view) == len(views.pixel) == len(views.region)
    assert set(views.region_class.tolist()) <= {0, 1, 4, 6} and {4, 6} <= set(
        views.region_class.tolist()
    )
    for view in range(4):
        pixel, region = views.points_of(view)
        assert (views.region_view[region[region >= 0]] == view).all()
        color = redness(views.images[view], pixel)
        for label, sign in ((6, 1), (4, -1)):
            on_box = (region >= 0) & (views.region_class[region] == label)
            assert (sign * color[on_box] > 0.2).float().mean() > 0.9 if on_box.any() else True


def test_patches_belong_to_the_region_of_nearly_all_their_points() -> None:
    pixel = torch.tensor([[0.0, 0], [7.4, 0], [3, 3], [3, 4], [8, 0], [9, 0], [10, 0], [20, 1], [-1, 0]])
    region = torch.tensor([5, 5, 5, -1, 5, 5, 6, 5, 5])
    grid = patch_regions(pixel, region, rows=1, columns=3, patch_size=8)
    assert grid.tolist() == [[5, -1, -1]]  # 3 of 4 points; 2 of 3; a single point


def test_a_region_in_two_crops_is_shown_twice() -> None:
    grid = torch.full((3, 6, 8), -1)
    grid[0, :, :4], grid[0, :, 4:], grid[1, 2:4, 2:7] = 0, 1, 2
    grid[2] = grid[0]
    patch, shown, region = shown_regions(grid)
    assert region.tolist() == [0, 1, 2, 0, 1]
    assert torch.equal(grid.reshape(-1)[patch], region[shown])
    assert torch.bincount(shown).tolist() == [24, 24, 10, 24, 24]
    assert [len((patch[shown == number] // 48).unique()) for number in range(5)] == [1] * 5


def test_crops_move_labels_with_the_pixels(rooms: Path) -> None:
    """Red patches stay the table's however a crop is zoomed, mirrored and shifted."""
    views = find_regions(dataset(rooms))
    config = CropConfig(size=32, zoom=(1.0, 2.0), gain=0.0, offset=0.0)
    images, grid = draw_crops(views, 40, 8, config, torch_rng(0, "crops"))
    assert images.shape == (40, 3, 32, 32) and grid.shape == (40, 4, 4)
    color = images.unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2))
    color = color[:, 0] - color[:, 2]
    label = torch.where(grid >= 0, views.region_class[grid], -1)
    assert (color[label == 6] > 0.2).float().mean() > 0.9 and (label == 6).sum() > 10
    assert (color[label == 4] < -0.2).float().mean() > 0.9 and (label == 4).sum() > 10


def test_sampling_whole_pixels_gives_them_back() -> None:
    image = torch.arange(3 * 4 * 6, dtype=torch.uint8).view(3, 4, 6)
    crop = sample_image(image, torch.tensor([5.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]))
    assert torch.allclose(crop, image[:, 1:4, [5, 4]] / 255, atol=1e-5)


def test_cosine_filters_are_orthogonal_and_the_first_is_the_mean() -> None:
    conv1 = torch.nn.Conv2d(3, 128, 16, stride=16, bias=False)
    start_as_cosines(conv1)
    filters = torch.nn.functional.normalize(conv1.weight.detach().flatten(1), dim=1)
    assert torch.allclose(filters @ filters.T, torch.eye(128), atol=1e-5)
    assert conv1.weight[0].std() < 1e-6


def test_pretraining_learns_and_its_file_loads(rooms: Path, tmp_path: Path) -> None:
    out, calls = tmp_path / "folder" / "tower.safetensors", []
    result = pretrain_tower(rooms, out, tiny_config(), lambda done, total: calls.append((done, total)))
    assert calls[-1] == (30, 30)
    assert result["chance"] == 1 / 20 and result["held-out accuracy"] > 0.5
    with safe_open(out, framework="pt") as file:
        conv1 = file.get_tensor("visual.conv1.weight")
        assert "held-out" in file.metadata()["description"]
    tower = ClipEncoder(ClipConfig(**{**vars(TINY), "pretrained": str(out)}))
    assert torch.equal(tower.conv1_rgb.weight, conv1)
    assert torch.equal(tower.conv1_depth.weight, torch.zeros(16, 1, 8, 8))
    assert "held-out retrieval" in tower.describe()


def test_same_seed_same_weights(rooms: Path, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> torch.Tensor:
        pretrain_tower(rooms, tmp_path / name, tiny_config(steps=3, seed=seed))
        with safe_open(tmp_path / name, framework="pt") as file:
            return file.get_tensor("visual.conv1.weight")

    first = weights("a.safetensors", 0)
    assert torch.equal(first, weights("b.safetensors", 0))
    assert not torch.equal(first, weights("c.safetensors", 1))


def test_rooms_without_annotation_are_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        make_tiny_scene(tmp_path / split / "scene", annotated=False)
    with pytest.raises(InputError, match="no view shows an annotated region"):
        pretrain_tower(tmp_path, tmp_path / "tower.safetensors", tiny_config())


def test_dense_features_of_their_own_are_not_pretrained(rooms: Path, tmp_path: Path) -> None:
    config = TowerPretrainConfig()
    config.tower.dense = "values"
    with pytest.raises(InputError, match="tower.dense is 'values'.*only plain tokens are pretrained"):
        pretrain_tower(rooms, tmp_path / "tower.safetensors", config)
