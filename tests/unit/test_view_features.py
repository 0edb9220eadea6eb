"""Features of a whole data set computed in advance: runs find them, and an interrupted call goes on."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from bifusion.config.run import Config
from bifusion.data.batching import collate
from bifusion.data.dataset import SceneDataset
from bifusion.errors import InputError
from bifusion.models.bifusion import BiFusion
from bifusion.models.build import build_model
from bifusion.models.towers import view_cache
from bifusion.models.towers.pixels import PixelsConfig
from bifusion.models.towers.view_cache import bytes_under
from bifusion.training import view_features
from bifusion.training.tower_cache import attach_view_cache
from bifusion.training.view_features import keep_features
from tiny_runs import make_tiny_data, tiny_config

VIEWS = 2


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=2, val=1)


@pytest.fixture
def config(data: Path) -> Config:
    return tiny_config("bifusion_small", data)


def entries(folder: Path) -> set[Path]:
    return set(folder.glob("*/*.safetensors"))


def test_a_run_finds_every_view(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / ".tower-cache"
    kept = keep_features(config, folder)
    assert (kept.computed, kept.found, kept.scenes, kept.wrong) == (3 * VIEWS, 0, 3, {})
    model = build_model(config.model, config.seed, config.labels)
    assert isinstance(model, BiFusion) and model.tower is not None
    model.tower.requires_grad_(False)
    attach_view_cache(model, config.trainer, tmp_path / "run", torch.device("cpu"))
    dataset = SceneDataset(config.data, "train", config.seed, training=True)
    views = [view for epoch in range(3) for view in collate([dataset.sample(0, epoch)]).views]
    maps = model.tower.encode_views(views)
    cache = model.tower.cache
    assert (cache.hits, cache.misses) == (len(views), 0) and len(views) > 0
    model.tower.cache = None
    assert all(torch.equal(*pair) for pair in zip(maps, model.tower.encode_views(views), strict=True))


def test_an_interrupted_call_goes_on(config: Config, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert total == 3
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_features(config, tmp_path, progress=interrupt)
    assert len(entries(tmp_path)) == VIEWS
    kept = keep_features(config, tmp_path, splits=("val", "train"))
    assert (kept.computed, kept.found) == (2 * VIEWS, VIEWS)


def test_a_full_cache_ends_it(config: Config, tmp_path: Path) -> None:
    whole = keep_features(config, tmp_path / "whole")
    size = bytes_under(tmp_path / "whole")
    config.trainer.tower_cache_gb = 0.4 * size / 2**30
    part = keep_features(config, tmp_path / "part")
    assert part.full and not whole.full
    assert 0 < bytes_under(tmp_path / "part") <= 0.4 * size


def test_a_scene_that_cannot_be_read_is_told_and_the_others_are_kept(
    config: Config, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    scene = tmp_path / "data" / "train" / "roomtrain0"
    next((scene / "views").glob("*.jpg")).write_bytes(b"no picture")
    config.data.root = tmp_path / "data"
    kept = keep_features(config, tmp_path / "cache")
    assert list(kept.wrong) == ["train/roomtrain0"] and ".jpg" in kept.wrong["train/roomtrain0"]
    assert kept.scenes == 2 and kept.computed >= 2 * VIEWS


def test_a_recipe_without_such_a_tower_is_refused(config: Config, tmp_path: Path) -> None:
    plan_a = tiny_config("bifusion_small_plan_a", config.data.root)
    lifted = dataclasses.replace(config, model=dataclasses.replace(config.model, tower=PixelsConfig()))
    for wrong in (plan_a, lifted, tiny_config("oneformer3d_small", config.data.root)):
        with pytest.raises(InputError, match="no image tower whose features can be kept"):
            keep_features(wrong, tmp_path)


@pytest.mark.slow
def test_the_command_in_several_processes(bifusion, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    options = ("bifusion_small", "--data", data, "--out", out, "--jobs", 2, "--threads", 1)
    first, second = (bifusion("prepare", "features", *options) for _ in range(2))
    assert first.status == second.status == 0
    assert "6 views computed, 0 were there, of 3 scenes" in first.out
    assert "0 views computed, 6 were there" in second.out


def test_an_entry_that_is_closed_to_this_user_is_computed_again(config, tmp_path, monkeypatch):
    """As where people share a folder, and one of them keeps what they write to themselves."""
    assert keep_features(config, tmp_path).computed > 0

    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    view_features._tower.cache_clear()
    monkeypatch.setattr(view_cache, "load_file", closed)
    again = keep_features(config, tmp_path)
    assert again.computed > 0 and again.found == 0 and not again.wrong
