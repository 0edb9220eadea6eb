"""One model in memory, scenes of every kind: the same scene gives the same arrays however it comes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

import bifusion as package
from bifusion.cli import main
from bifusion.errors import InputError
from bifusion.inference.segmentation import Segmentation, as_segmentation
from bifusion.labels.sets import SCANNET20
from bifusion.models.postprocess import PostprocessConfig
from bifusion.types import Scene, SceneResult
from bifusion.wording import plural
from scene_factory import make_tiny_scene
from untrained_runs import baseline, bifusion, save_run


def same(one: Segmentation, other: Segmentation) -> bool:
    """To the bit."""
    names = ("points", "semantic", "instances", "scores", "classes", "masks")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return make_tiny_scene(tmp_path_factory.mktemp("data") / "room")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> package.Segmenter:
    """Of a model that reads views; its masks are not weighed, as it has learned nothing."""
    config = bifusion()
    config.postprocess = PostprocessConfig(
        min_points=5, superpoint_threshold=0.0, panoptic_score_threshold=0.0, object_normalization=False
    )
    return package.load(save_run(tmp_path_factory.mktemp("run"), config), device="cpu")


@pytest.mark.parametrize("part", ["out_cls", "x_mask", "out_sem"])
def test_weights_that_answer_with_nan_are_named(tmp_path, room, part):
    """As a training without a guard may end; classes and masks made of it would look like others."""
    diverged = package.load(save_run(tmp_path, bifusion()), device="cpu")
    for parameter in getattr(diverged.model.decoder, part).parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(InputError, match=r"room: .*checkpoints.* answers with NaN.*another checkpoint"):
        diverged.predict(room)


@pytest.mark.parametrize("part", ["out_cls", "out_score"])
def test_infinite_classes_and_scores_are_named_too(tmp_path, room, part):
    """As float16 may overflow to; softmax makes NaN of it, and candidates were dropped in silence."""
    config = bifusion()
    config.model.decoder = dataclasses.replace(config.model.decoder, score_head=True)
    wild = package.load(save_run(tmp_path, config), device="cpu")
    getattr(wild.model.decoder, part)[-1].bias.data[0] = torch.inf
    with pytest.raises(InputError, match="room: .* answers with NaN or infinity"):
        wild.predict(room)


def test_no_objects_are_told_with_the_least_score_that_hid_them(segmenter, room):
    best = float(segmenter.predict(room).scores[0])
    found = segmenter.predict(room, min_score=1)
    assert found.num_objects == 0 and found.min_score == 1
    told = (
        f"0 objects score above 1 ({len(found.scores)} candidates, the best {best:.2g}); --x lowers it"
    )
    assert found.describe_objects("--x") == told
    assert segmenter.predict(room, min_score=best / 2).num_objects > 0
    assert same(segmenter.predict(room, min_score=0), segmenter.predict(room))
    for wrong in (-0.1, 1.5, float("nan"), "much"):
        with pytest.raises(InputError, match="min_score: "):
            segmenter.predict(room, min_score=wrong)


def test_arrays_are_as_documented(segmenter, room):
    found = segmenter.predict(room)
    points, instances = len(np.load(room / "coord.npy")), len(found.scores)
    assert instances > 0
    shapes = {
        "points": ((points, 3), np.float32),
        "semantic": ((points,), np.int16),
        "instances": ((points,), np.int32),
        "scores": ((instances,), np.float32),
        "classes": ((instances,), np.int16),
        "masks": ((instances, points), np.bool_),
    }
    for name, (shape, dtype) in shapes.items():
        array = getattr(found, name)
        assert (array.shape, array.dtype) == (shape, dtype), name
    assert found.class_names.tolist() == list(SCANNET20.class_names)
    assert (np.diff(found.scores) <= 0).all() and 0 <= found.instances.max() < instances
    assert np.array_equal(found.mask(1), found.masks[1])
    objects = len(np.unique(found.instances[found.instances >= 0]))
    told = f"{plural(objects, 'object')} ({plural(instances, 'candidate')})"
    assert repr(found) == f"<Segmentation of room: {points:,} points, {told}, {SCANNET20.describe()}>"


@pytest.mark.wrong_types
def test_what_is_no_candidate_has_no_mask(segmenter, room):
    found = segmenter.predict(room)
    with pytest.raises(InputError, match="instance: found 'a', expected a whole number"):
        found.mask("a")
    for instance in (-1, len(found.scores)):  # −1 stands for none in `instances`
        with pytest.raises(InputError, match=f"instance: found {instance}, expected 0 or more and less"):
            found.mask(instance)


def test_the_same_scene_however_it_comes(segmenter, room):
    by_path = segmenter.predict(str(room))
    opened = package.open_scene(room)
    arrays = {
        "name": "room",
        "coord": opened.coord,
        "color": opened.color,
        "superpoint": opened.superpoint,
        "views": opened.views.values(),
    }
    assert same(by_path, segmenter.predict(opened))
    assert same(by_path, segmenter.predict(arrays))
    without = segmenter.predict({**arrays, "views": ()})
    assert not same(by_path, without)
    # A scene without its images, and without views.
    with pytest.raises(InputError, match="has no images of its views 00000, 00001; open its folder"):
        segmenter.predict(Scene("room", opened.coord, opened.color, opened.superpoint,
                                view_names=opened.view_names))  # fmt: skip
    assert same(without, segmenter.predict(Scene("room", opened.coord, opened.color, opened.superpoint)))


def test_files_are_those_of_the_command(room, tmp_path):
    run = save_run(tmp_path / "run", baseline())
    written = package.load(run, device="cpu").predict(room).write(tmp_path / "a")
    with pytest.raises(SystemExit, match="0"):
        main(["predict", str(run), str(room), "--out", str(tmp_path / "b"), "--no-view"])
    assert [path.name for path in written] == ["semantic.ply", "instance.ply", "instances.json"]
    for path in written:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("offset", [0, 5e5])
def test_ply_file_and_its_arrays(offset, tmp_path):
    coord = np.random.default_rng(0).random((600, 3)) * (2, 2, 0.02) + offset
    color = np.full((600, 3), 90, np.uint8)
    vertex = np.zeros(600, [*((a, "f8") for a in "xyz"), *((c, "u1") for c in ("red", "green", "blue"))])
    for column, axis in enumerate("xyz"):
        vertex[axis] = coord[:, column]
    for channel in ("red", "green", "blue"):
        vertex[channel] = 90
    PlyData([PlyElement.describe(vertex, "vertex")]).write(str(tmp_path / "hall.ply"))
    segmenter = package.load(save_run(tmp_path / "run", baseline()), device="cpu")
    of_file = segmenter.predict(tmp_path / "hall.ply")
    assert same(of_file, segmenter.predict({"coord": coord, "color": color, "name": "hall"}))
    assert same(of_file, segmenter.predict(package.open_scene(tmp_path / "hall.ply")))
    assert np.abs(of_file.points - coord).max() < (1e-6 if offset == 0 else 1e-4)
    assert of_file.points.dtype == (np.float64 if offset else np.float32)
    assert any("no faces" in note for note in of_file.notes)


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ({"coord": np.zeros((2, 3))}, "scene: color missing; expected arrays called coord, color"),
        ({"coord": 0, "colour": 0}, "scene: unknown colour; expected arrays"),
        (np.zeros((2, 3)), 'scene: is a ndarray; expected a path.* {"coord": coord, "color": color}'),
        ("no/such/room", "no such folder"),
        ("room.ply", "room.ply: missing"),
    ],
)
def test_what_is_no_scene_is_named(segmenter, scene, message):
    with pytest.raises(InputError, match=message):
        segmenter.predict(scene)


def test_what_is_printed_of_a_model_and_a_scene_is_a_line(segmenter, room):
    assert repr(segmenter) == (
        f"<Segmenter of {segmenter.config.name} on cpu, float32, {SCANNET20.describe()}>"
    )
    opened = package.open_scene(room)
    points, views = len(opened.coord), len(opened.views)
    assert repr(opened) == f"<OpenScene room: {points:,} points, {views} views, annotated>"
    bare = Scene("hall", opened.coord, opened.color, opened.superpoint)
    assert repr(bare) == f"<Scene hall: {points:,} points, 0 views, not annotated>"


def test_what_goes_with_mesh_files_is_refused_with_a_folder(segmenter, room):
    for scene in (room, package.open_scene(room)):
        with pytest.raises(InputError, match="is no mesh file; scale and up go with those"):
            segmenter.predict(scene, up="y")


def test_a_checkpoint_is_not_evaluated_and_a_device_is_named(tmp_path):
    run = save_run(tmp_path, baseline())
    with pytest.raises(InputError, match="device: 'gpu' cannot be used"):
        package.load(run, device="gpu")
    (weights,) = run.rglob("*.safetensors")
    with pytest.raises(InputError, match="is a checkpoint, no run folder"):
        package.evaluate(weights.parent)


def test_arrays_of_a_scene_are_checked(segmenter, room):
    opened = package.open_scene(room)
    for changes, message in (
        ({"color": opened.color / 255}, "scene room: color holds float64"),
        ({"superpoint": opened.superpoint[1:]}, "scene room: superpoint has shape"),
        ({"views": {n: dataclasses.replace(v, depth_m=-v.depth_m - 1) for n, v in opened.views.items()}},
         "scene room, view 00000: depth must be finite"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            segmenter.predict(dataclasses.replace(opened, **changes))


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coord": [[0.0, 0.0, 0.0]]}, "scene bare: coord is a list; expected a numpy array"),
        ({"superpoint": None}, "superpoint is a NoneType; .*make_scene .*computes superpoints"),
    ],
)
def test_a_bare_scene_of_anything_but_arrays_is_named(segmenter, room, changes, message):
    arrays = {name: np.load(room / f"{name}.npy") for name in ("coord", "color", "superpoint")}
    with pytest.raises(InputError, match=message):
        segmenter.predict(Scene("bare", **{**arrays, **changes}))


def test_a_bare_scene_in_millimetres_is_told(segmenter, room, caplog):
    arrays = {name: np.load(room / f"{name}.npy") for name in ("coord", "color", "superpoint")}
    segmenter.predict(Scene("bare", **arrays))
    assert "millimetres" not in caplog.text
    arrays["coord"] = arrays["coord"] * 1000
    segmenter.predict(Scene("bare", **arrays))
    assert "scene bare: the scan is 2,4" in caplog.text and "likely in millimetres" in caplog.text


def test_a_large_folder_whose_unit_is_stated_is_offered_no_other(segmenter, tmp_path, caplog):
    path = make_tiny_scene(tmp_path / "room", num_views=0)
    np.save(path / "coord.npy", np.load(path / "coord.npy") * 100)
    segmenter.predict(path)
    assert "likely in" in caplog.text
    caplog.clear()
    described = json.loads((path / "scene.json").read_text())
    (path / "scene.json").write_text(json.dumps({**described, "unit_stated": True}))
    segmenter.predict(path)
    assert "likely in" not in caplog.text and "large for a room" in caplog.text


def test_a_folder_on_its_side_is_told_however_it_is_opened(segmenter, tmp_path, caplog):
    path = make_tiny_scene(tmp_path / "room", num_views=0)
    np.save(path / "coord.npy", np.load(path / "coord.npy")[:, [0, 2, 1]])
    arrays = {name: np.load(path / f"{name}.npy") for name in ("coord", "color")}
    for scene in (path, package.open_scene(path), package.make_scene(**arrays)):
        caplog.clear()
        segmenter.predict(scene)
        assert caplog.text.count("y points up rather than z") == 1


def test_a_model_without_semantic_head_gives_the_class_of_the_instance():
    masks = np.packbits(np.array([[1, 1, 0, 0], [0, 1, 1, 0]], dtype=bool), axis=1)
    result = SceneResult("room", 4, masks, np.array([5, 3], np.int16), np.array([0.9, 0.4], np.float32))
    found = as_segmentation(result, np.zeros((4, 3), np.float32), SCANNET20, [])
    assert found.semantic.tolist() == [5, 5, 3, -1] and found.instances.tolist() == [0, 0, 1, -1]
