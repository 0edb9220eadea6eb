"""Features of a frozen tower: computed once, found by content, the same to the bit."""

from __future__ import annotations

import dataclasses
import importlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifusion.config.run import TrainerConfig
from bifusion.labels.sets import SCANNET20
from bifusion.models.bifusion import BiFusion
from bifusion.models.build import build_model
from bifusion.models.towers.clip import ClipConfig, ClipEncoder
from bifusion.models.towers.code_of import code_of
from bifusion.models.towers.dense import DenseTower
from bifusion.models.towers.view_cache import (
    TOLD_EVERY_S,
    UNCOUNTED,
    ViewCache,
    _arithmetic,
    bytes_under,
    tower_key,
    view_key,
)
from bifusion.precision import float32_products
from bifusion.runs.checkpoint import find_checkpoint
from bifusion.training.tower_cache import attach_view_cache
from bifusion.training.train import train
from bifusion.types import BatchView
from tiny_runs import make_tiny_data, tiny_config

CONFIG = ClipConfig(architecture="small", width=16, layers=2, heads=2, blocks=2, image_size=64)
GB = 2**30


def frozen_tower(seed: int = 0) -> ClipEncoder:
    torch.manual_seed(seed)
    return ClipEncoder(CONFIG).requires_grad_(False)


def view(seed: int, size: tuple[int, int] = (48, 64)) -> BatchView:
    generator = torch.Generator().manual_seed(seed)
    eye = torch.eye(4)
    return BatchView(
        scene=0,
        name=f"view{seed}",
        image=torch.rand(3, *size, generator=generator),
        image_depth_m=3 * torch.rand(1, *size, generator=generator),
        K=eye[:3, :3],
        world2cam=eye,
        depth_m=torch.ones(4, 4),
        depth_K=eye[:3, :3],
        depth_world2cam=eye,
    )


def count_forwards(tower: ClipEncoder, monkeypatch) -> list[int]:
    """Views of each call of the tower's forward from now on."""
    calls, forward = [], tower.forward
    monkeypatch.setattr(
        tower, "forward", lambda images, depth: (calls.append(len(images)), forward(images, depth))[1]
    )
    return calls


def test_second_look_computes_nothing_and_gives_the_same_bits(tmp_path, monkeypatch) -> None:
    tower, views = frozen_tower(), [view(0), view(1, (32, 48)), view(2)]
    plain = tower.encode_views(views)
    tower.cache = ViewCache(tmp_path / "cache", GB)
    calls = count_forwards(tower, monkeypatch)
    first, second = tower.encode_views(views), tower.encode_views(views[::-1])[::-1]
    assert calls == [1, 1, 1]
    assert (tower.cache.hits, tower.cache.misses) == (3, 3)
    for maps in (first, second):
        assert all(torch.equal(a, b) for a, b in zip(maps, plain, strict=True))
    # Another process, or a resumed run, finds them as well.
    other = frozen_tower()
    other.cache = ViewCache(tmp_path / "cache", GB)
    other.encode_views(views)
    assert other.cache.misses == 0


def test_training_in_tf32_and_validation_find_the_same_entries(tmp_path) -> None:
    tower, cuda = frozen_tower(), torch.device("cuda")
    tower.cache = ViewCache(tmp_path / "cache", GB)
    for matmul in ("tf32", "ieee"):
        with float32_products(matmul, cuda):
            tower.encode_views([view(0)])
    assert (tower.cache.hits, tower.cache.misses) == (1, 1)


def test_frozen_map_does_not_depend_on_the_other_views(tmp_path) -> None:
    tower, views = frozen_tower(), [view(seed) for seed in range(5)]
    together = tower.encode_views(views)
    assert all(torch.equal(tower.encode_views([v])[0], m) for v, m in zip(views, together, strict=True))


def test_trained_tower_ignores_the_cache(tmp_path) -> None:
    tower = frozen_tower()
    tower.cache = ViewCache(tmp_path / "cache", GB)
    tower.blocks[-1].requires_grad_(True)
    assert not tower.frozen
    assert tower.encode_views([view(0)])[0].requires_grad
    assert not (tmp_path / "cache").exists()


def changed_pixel(v: BatchView) -> None:
    v.image[1, 5, 7] += 1e-6


def changed_depth(v: BatchView) -> None:
    v.image_depth_m[0, 0, 0] = 0


def changed_shape(v: BatchView) -> None:
    v.image = v.image.reshape(3, 64, 48)
    v.image_depth_m = v.image_depth_m.reshape(1, 64, 48)


@pytest.mark.parametrize("change", [changed_pixel, changed_depth, changed_shape])
def test_whatever_the_tower_reads_is_part_of_the_key(change) -> None:
    other = view(0)
    assert view_key(other) == view_key(view(0))
    change(other)
    assert view_key(other) != view_key(view(0))


def test_name_and_pose_are_not() -> None:
    moved = dataclasses.replace(view(0), name="other", scene=3, world2cam=torch.zeros(4, 4))
    assert view_key(moved) == view_key(view(0))


def test_changed_weights_find_nothing(tmp_path) -> None:
    tower = frozen_tower()
    tower.cache = ViewCache(tmp_path / "cache", GB)
    before = tower.encode_views([view(0)])[0]
    with torch.no_grad():
        tower.blocks[0].mlp.c_fc.bias += 1  # in place, as an optimiser writes
    after = tower.encode_views([view(0)])[0]
    assert not torch.equal(before, after)
    tower.load_state_dict(frozen_tower().state_dict())
    assert torch.equal(tower.encode_views([view(0)])[0], before)
    assert (tower.cache.hits, tower.cache.misses) == (1, 2)


def test_numbers_that_no_tensor_shows_are_part_of_the_key() -> None:
    other = ClipEncoder(dataclasses.replace(CONFIG, heads=4))
    other.load_state_dict(frozen_tower().state_dict())
    assert tower_key(other, "") != tower_key(frozen_tower(), "")
    assert tower_key(frozen_tower(), "float32") != tower_key(frozen_tower(), "bfloat16")


class Shifted(DenseTower):
    """A tower from outside, whose mean no checkpoint stores."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.out_channels, self.patch = 3, 16
        self.scale = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)

    def forward(self, images: Tensor, depth_m: Tensor) -> Tensor:
        return F.avg_pool2d(images - self.mean, 16).permute(0, 2, 3, 1) * self.scale


def test_a_tensor_that_is_not_stored_is_part_of_the_key(tmp_path) -> None:
    maps = []
    for mean in (0.0, 0.5):
        tower = Shifted(mean)
        tower.keep_views(ViewCache(tmp_path, GB))
        maps += tower.encode_views([view(0)])
    assert torch.allclose(maps[0] - 0.5, maps[1], atol=1e-6)


def test_code_from_outside_is_part_of_the_key(tmp_path, monkeypatch) -> None:
    """Edited between two runs; what it imports counts too, installed code by its version."""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "edited"
    package.mkdir()
    tower = "import torch\nfrom edited import pooling\nclass Tower(torch.nn.Identity):\n    layer = {}\n"
    keys = set()
    for layer, size in ((1, 1), (2, 1), (2, 2), (2, 2)):
        (package / "tower.py").write_text(tower.format(layer))
        (package / "pooling.py").write_text(f"SIZE = {size}\n")
        for name in [name for name in sys.modules if name.partition(".")[0] == "edited"]:
            monkeypatch.delitem(sys.modules, name)
        keys.add(tower_key(importlib.import_module("edited.tower").Tower(), ""))
    assert len(keys) == 3
    assert code_of(timm.layers.Mlp(4)) == f"timm {timm.__version__}"


def map_bytes(tower: ClipEncoder) -> int:
    return tower.encode_views([view(0)])[0].nbytes


def test_limit_ends_storing_and_keeps_what_is_there(tmp_path) -> None:
    tower = frozen_tower()
    tower.cache = ViewCache(tmp_path / "cache", int(4.5 * map_bytes(tower)))
    views = [view(seed) for seed in range(8)]
    for _ in range(2):
        tower.encode_views(views)
    stored = list((tmp_path / "cache").glob("*/*"))
    assert 3 <= len(stored) <= 4  # files have a header
    assert tower.cache.hits == len(stored)


def test_entries_of_other_towers_make_room(tmp_path) -> None:
    limit = int(4.5 * map_bytes(frozen_tower()))
    for seed in (0, 1):
        tower = frozen_tower(seed)
        tower.cache = ViewCache(tmp_path / "cache", limit)
        tower.encode_views([view(seed) for seed in range(3)])
    (only,) = (tmp_path / "cache").iterdir()
    assert len(list(only.iterdir())) == 3
    assert tower.cache.misses == 3


def test_the_tower_that_was_used_last_is_kept(tmp_path) -> None:
    """Reading an entry counts as use."""
    for seed in (0, 1):
        ViewCache(tmp_path, GB).get(frozen_tower(seed), view(0), lambda: torch.zeros(1000))
        _grow_older(tmp_path)
    late = ViewCache(tmp_path, 2 * 5000)
    found = ViewCache(tmp_path, GB)
    found._used[tmp_path / _key(0)] = time.time() - 2 * TOLD_EVERY_S  # as it does after each minute
    found.get(frozen_tower(0), view(0), lambda: pytest.fail("computed"))
    _grow_older(tmp_path)
    late.get(frozen_tower(2), view(0), lambda: torch.zeros(1000))
    assert {path.name for path in tmp_path.iterdir()} == {_key(0), _key(2)}


def _key(seed: int) -> str:
    return tower_key(frozen_tower(seed), _arithmetic(torch.device("cpu")))


def _grow_older(folder: Path) -> None:
    """All that was written until now."""
    for path in folder.iterdir():
        os.utime(path, (path.stat().st_mtime - 100,) * 2)


def test_runs_side_by_side_keep_to_the_limit_and_to_their_own(tmp_path) -> None:
    one = 4000 + 80  # with its header
    caches = [ViewCache(tmp_path, 40 * one) for _ in range(2)]
    for number in range(30):
        for seed, cache in enumerate(caches):
            cache.get(frozen_tower(seed), view(number), lambda: torch.zeros(1000))
    assert 38 * one <= bytes_under(tmp_path) <= 40 * one * (1 + 2 * UNCOUNTED)
    again = [cache.hits for cache in caches]
    for seed, cache in enumerate(caches):
        for number in range(30):
            cache.get(frozen_tower(seed), view(number), lambda: torch.zeros(1000))
    assert sum(cache.hits for cache in caches) - sum(again) >= 38


def test_others_may_make_room_at_the_same_time(tmp_path, monkeypatch) -> None:
    """Runs side by side share the folder, and who wants the room may delete it at any time."""
    of_other = ViewCache(tmp_path, GB)
    other, tower = frozen_tower(1), frozen_tower()
    for number in range(2):
        of_other.get(other, view(number), lambda: torch.zeros(1000))
    (theirs,) = tmp_path.iterdir()
    stat = Path.stat

    def too_late(path: Path, **options: Any) -> os.stat_result:
        if path == theirs or theirs in path.parents:
            shutil.rmtree(theirs, ignore_errors=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", too_late)
    assert bytes_under(tmp_path) == 0
    monkeypatch.undo()
    of_other.get(other, view(0), lambda: torch.zeros(1000))
    late = ViewCache(tmp_path, 5000)
    assert late._make_room(100, tmp_path / "own")  # it has looked, and one entry is there
    monkeypatch.setattr(Path, "stat", too_late)
    assert late.get(tower, view(0), lambda: torch.zeros(1000)).shape == (1000,)


def test_what_others_keep_in_the_folder_makes_no_room(tmp_path) -> None:
    """The folder may be one that a user has named; an old tower's may have got a note."""
    limit = int(4.5 * map_bytes(frozen_tower()))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.safetensors").write_text("mine")
    for seed in (0, 1):
        tower = frozen_tower(seed)
        tower.cache = ViewCache(tmp_path, limit)
        tower.encode_views([view(seed) for seed in range(3)])
        for folder in tmp_path.iterdir():
            (folder / "notes.txt").write_text("mine")
    assert (tmp_path / "thesis" / "chapter.safetensors").read_text() == "mine"
    assert len(list(tmp_path.glob("*/notes.txt"))) == 3
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 1 + 3


def test_damaged_entry_is_computed_again(tmp_path) -> None:
    tower = frozen_tower()
    tower.cache = ViewCache(tmp_path / "cache", GB)
    expected = tower.encode_views([view(0)])[0]
    (entry,) = (tmp_path / "cache").glob("*/*")
    entry.write_bytes(entry.read_bytes()[:100])
    assert torch.equal(tower.encode_views([view(0)])[0], expected)
    tower.encode_views([view(0)])
    assert (tower.cache.hits, tower.cache.misses) == (1, 2)


def test_map_that_is_not_finite_is_not_kept(tmp_path) -> None:
    tower = frozen_tower()
    tower.cache = ViewCache(tmp_path / "cache", GB)
    handle = tower.ln_pre.register_forward_hook(lambda _, __, output: output * torch.nan)
    assert tower.encode_views([view(0)])[0].isnan().all()
    handle.remove()
    assert tower.encode_views([view(0)])[0].isfinite().all()


def test_folder_that_cannot_be_written_is_announced_once(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    tower = frozen_tower()
    tower.cache = ViewCache(tmp_path / "file" / "cache", GB)
    with pytest.warns(UserWarning, match="cannot be kept") as warned:
        maps = tower.encode_views([view(0), view(1)])
    assert len(warned) == 1
    assert len(maps) == 2


@pytest.mark.parametrize(
    ("mode", "device", "expected"),
    [("auto", "cpu", True), ("auto", "cuda", False), ("on", "cuda", True), ("off", "cpu", False)],
)
def test_switch(tmp_path, mode, device, expected) -> None:
    model = build_model(tiny_config("bifusion_small", tmp_path).model, 0, SCANNET20)
    trainer = TrainerConfig(tower_cache=mode)
    attach_view_cache(model, trainer, tmp_path / "runs" / "a", torch.device(device))
    assert isinstance(model, BiFusion)
    assert (model.tower.cache is not None) == expected
    if expected:
        assert model.tower.cache.folder == tmp_path / "runs" / ".tower-cache"


# ----------------------------------------------------------------------------------------- training


def trained_weights(root, data, monkeypatch, cache: str) -> tuple[dict[str, Tensor], list[bool]]:
    """Weights after a run of all three stages, and, for each forward of the tower, "was frozen"."""
    from safetensors.torch import load_file

    calls, forward = [], ClipEncoder.forward

    def counted(self, images, depth_m):
        calls.append(self.frozen)
        return forward(self, images, depth_m)

    config = tiny_config("bifusion_small", data, epochs=6)
    config.trainer.tower_cache = cache
    with monkeypatch.context() as patch:
        patch.setattr(ClipEncoder, "forward", counted)
        status = train(config, root / cache)
    assert status.state == "completed"
    return load_file(find_checkpoint(root / cache) / "model.safetensors"), calls


@pytest.fixture(scope="module")
def with_the_cache(tmp_path_factory) -> tuple[Path, dict[str, Tensor], list[bool]]:
    """A folder with data and a run, and what `trained_weights` says of that run."""
    root = tmp_path_factory.mktemp("cached")
    data = make_tiny_data(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        return root, *trained_weights(root, data, patch, "on")


def test_training_with_and_without_the_cache_is_the_same_to_the_bit(
    with_the_cache, tmp_path, monkeypatch
) -> None:
    root, with_cache, computed_once = with_the_cache
    data = make_tiny_data(tmp_path / "data")
    files = sorted(tmp_path.rglob("data/**/*"))
    without, computed = trained_weights(tmp_path, data, monkeypatch, "off")
    assert sorted(without) == sorted(with_cache)
    assert [name for name in without if not torch.equal(without[name], with_cache[name])] == []
    # 6 rooms of 2 views, each computed at most once while the tower is frozen.
    assert sum(computed_once) <= 12 < sum(computed)
    assert computed_once.count(False) == computed.count(False) > 0
    for folder in (tmp_path, root):
        names = sorted(folder / file.relative_to(tmp_path) for file in files)
        assert sorted(folder.rglob("data/**/*")) == names, "the data may be read-only"


def test_second_run_of_a_comparison_computes_nothing_while_frozen(with_the_cache, monkeypatch) -> None:
    root = with_the_cache[0]
    os.rename(root / "on", root / "first")
    _, computed = trained_weights(root, root / "data", monkeypatch, "on")
    assert not any(computed)
