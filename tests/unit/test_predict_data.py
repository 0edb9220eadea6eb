"""Predictions of all scenes of a folder: resumably, in shards, one that fails among others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bifusion.datasets.shards import Shard
from bifusion.inference.predict_data import predict_scenes, scenes_below
from bifusion.wording import plural
from scene_factory import make_tiny_scene
from untrained_runs import baseline, save_run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("val/one", "val/three", "val/two", "train/four"):
        make_tiny_scene(tmp_path / "data" / name, num_views=0)
    return tmp_path / "data"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(tmp_path / "run", baseline())


def test_what_is_below(data):
    assert list(scenes_below(data / "val")) == ["one", "three", "two"]
    assert list(scenes_below(data)) == ["train/four", "val/one", "val/three", "val/two"]
    assert scenes_below(data / "val" / "one") == {} and scenes_below(data / "nowhere") == {}


def test_shards_share_the_scenes_and_what_is_there_stays(data, run, tmp_path):
    scenes, out = scenes_below(data), tmp_path / "out"
    shards = [predict_scenes(run, scenes, out, shard=Shard(k, 2), device="cpu") for k in (1, 2)]
    assert [list(one.written) for one in shards] == [["train/four", "val/three"], ["val/one", "val/two"]]
    listing = out / "val" / "one" / "instances.json"
    assert json.loads(listing.read_text())["scene"] == "one"
    before = listing.stat().st_mtime_ns
    again = predict_scenes(run, scenes, out, device="cpu")
    assert again.kept == list(scenes) and listing.stat().st_mtime_ns == before
    predict_scenes(run, scenes, out, overwrite=True, device="cpu")
    assert listing.stat().st_mtime_ns > before


def test_one_bad_scene_does_not_stop_the_others(data, run, tmp_path, bifusion):
    (data / "val" / "one" / "color.npy").write_bytes(b"nothing")
    called = bifusion("predict", run, data / "val", "--out", tmp_path / "out", "--no-view")
    assert called.status == 1
    lines = called.out.splitlines()
    assert lines[0] == "1/3 one: failed" and lines[1].startswith("2/3 three: ")
    listing = json.loads((tmp_path / "out" / "three" / "instances.json").read_text())
    assert f" s, {plural(len(listing['segments']), 'object')} (" in lines[1]
    assert "1 scene could not be predicted" in called.err and "color.npy" in called.err
    assert not (tmp_path / "out" / "one").exists()


def test_predictions_of_other_weights_or_scenes_are_not_taken_for_these(data, run, tmp_path):
    scenes, out = scenes_below(data / "val"), tmp_path / "out"
    predict_scenes(run, scenes, out, device="cpu")
    coord = np.load(data / "val" / "two" / "coord.npy")
    np.save(data / "val" / "two" / "coord.npy", np.concatenate([coord, coord[:1]]))
    assert "the scene as it was before" in predict_scenes(run, scenes, out, device="cpu").failed["two"]
    other = baseline()
    other.seed = 5
    found = predict_scenes(save_run(tmp_path / "other", other), scenes, out, device="cpu")
    assert set(found.failed) == set(scenes) and "of other weights" in found.failed["one"]


def test_a_changed_scene_without_sums_is_not_taken_for_the_same(data, run, tmp_path):
    """As a foreign folder has none, and one of ours whose array is rewritten a second time."""
    scene = data / "val" / "two"
    (scene / "sums.json").unlink()
    scenes, out = scenes_below(data / "val"), tmp_path / "out"
    predict_scenes(run, scenes, out, device="cpu")
    assert predict_scenes(run, scenes, out, device="cpu").kept == list(scenes)
    np.save(scene / "color.npy", 255 - np.load(scene / "color.npy"))
    assert "the scene as it was before" in predict_scenes(run, scenes, out, device="cpu").failed["two"]


def test_predictions_in_another_precision_are_not_taken_for_these(data, run, tmp_path, bifusion):
    scenes, out = scenes_below(data / "val"), tmp_path / "out"
    asked = ("predict", run, data / "val", "--out", out, "--no-view")
    assert bifusion(*asked, "--precision", "bf16-mixed").status == 0
    assert predict_scenes(run, scenes, out, device="cpu", precision="bf16-mixed").kept == list(scenes)
    found = predict_scenes(run, scenes, out, device="cpu")
    assert set(found.failed) == set(scenes) and "of another precision" in found.failed["one"]


def test_predictions_of_another_least_score_are_not_taken_for_these(data, run, tmp_path, bifusion):
    scenes, out = scenes_below(data / "val"), tmp_path / "out"
    asked = ("predict", run, data / "val", "--out", out, "--no-view")
    assert bifusion(*asked, "--min-score", 0.2).status == 0
    assert predict_scenes(run, scenes, out, device="cpu", min_score=0.2).kept == list(scenes)
    found = predict_scenes(run, scenes, out, device="cpu")
    assert set(found.failed) == set(scenes) and "of another min_score" in found.failed["one"]
    refused = bifusion(*asked, "--min-score", 20)
    assert "--min-score: found 20.0; expected a score from 0 to 1" in refused.err


def test_a_prediction_alone_vouches_for_none_that_was_there(data, run, tmp_path, bifusion):
    """Nor is a page of other points left beside it."""
    scenes = scenes_below(data)
    predict_scenes(run, scenes, tmp_path)
    name, scene = next(iter(scenes.items()))
    place = tmp_path / name
    (place / "view.html").write_text("of a former prediction")
    (place / "notes.txt").write_text("mine")
    assert bifusion("predict", run, scene, "--out", place, "--no-view").status == 0
    assert sorted(path.name for path in place.iterdir()) == [
        "instance.ply", "instances.json", "notes.txt", "semantic.ply",
    ]  # fmt: skip
    again = predict_scenes(run, scenes, tmp_path)
    assert name in again.failed and len(again.kept) == len(scenes) - 1


def test_a_shard_of_one_scene_is_refused(data, run, bifusion):
    called = bifusion("predict", run, data / "val" / "one", "--shard", "1/2")
    assert called.status == 2 and "is one scene" in called.err
