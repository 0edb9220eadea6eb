"""Arrays become a scene: what is refused and how it is named, what is written and read again."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

import bifusion
import bifusion.datasets.arrays.scene as scene_of_arrays
from bifusion.errors import InputError
from bifusion.labels.files import labels_text
from bifusion.labels.label_set import LabelClass, LabelSet
from bifusion.labels.sets import SCANNET20
from scene_factory import SURFACE_COLORS, make_view, sample_surfaces

OWN = LabelSet("mine", (LabelClass("wall", "stuff"), LabelClass("desk")))


@pytest.fixture(scope="module")
def room() -> dict:
    """Arguments of `make_scene`: a room of some 2,000 points with labels and two views."""
    rng = np.random.default_rng(0)
    coord, surface = sample_surfaces(rng)
    return {
        "coord": coord,
        "color": SURFACE_COLORS[surface],
        "segment": (surface >= 5).astype(int),
        "instance": np.where(surface < 5, -1, (surface - 5) // 2),
        "labels": OWN,
        "views": [make_view(index, rng, (64, 48), (40, 30), 0.0) for index in range(2)],
    }


def test_scene_folder_has_what_was_given(room, tmp_path):
    folder = tmp_path / "data" / "train" / "room"
    assert bifusion.write_scene(folder, **room) == folder
    scene = bifusion.open_scene(folder)
    assert np.array_equal(scene.coord, room["coord"].astype(np.float32))
    for name in ("color", "segment", "instance"):
        assert np.array_equal(getattr(scene, name), room[name]), name
    assert scene.labels == OWN and scene.name == "room"
    assert list(scene.views) == scene.view_names == ["00000", "00001"]
    view, given = scene.views["00001"], room["views"][1]
    assert np.abs(view.depth_m - given.depth_m).max() < 1e-3
    assert np.array_equal(view.color_cam2world, given.color_cam2world)
    assert 1 < len(np.unique(scene.superpoint)) < len(scene.coord) / 10
    with pytest.raises(KeyError):
        scene.views["2"]
    # In memory it is the same.
    made = bifusion.make_scene(**room)
    assert np.array_equal(made.superpoint, scene.superpoint)
    assert np.array_equal(made.normal, scene.normal)


def test_labels_of_the_data_set_are_taken_and_kept(room, tmp_path):
    data = tmp_path / "data"
    bifusion.write_scene(data / "train" / "a", **room)
    bifusion.write_scene(data / "val" / "b", **{**room, "labels": None})
    assert bifusion.open_scene(data / "val" / "b").labels == OWN
    other = LabelSet("mine", (LabelClass("wall", "stuff"), LabelClass("chair")))
    with pytest.raises(InputError, match="labels has the classes of mine.*1 is 'chair' and 'desk'"):
        bifusion.write_scene(data / "val" / "c", **{**room, "labels": other})
    with pytest.raises(InputError, match="path: .* is in no split"):
        bifusion.write_scene(tmp_path / "elsewhere" / "c", **room)
    assert not (tmp_path / "labels.json").exists() and not (data / "val" / "c").exists()


def test_built_in_classes_need_no_file(room, tmp_path):
    folder = tmp_path / "data" / "anywhere"
    bifusion.write_scene(folder, **{**room, "labels": "scannet20"})
    assert (folder / "segment20.npy").exists() and not (tmp_path / "labels.json").exists()
    assert bifusion.open_scene(folder).labels.name == "scannet20"


def test_classes_are_read_by_the_set_that_is_there(room, tmp_path):
    folder = tmp_path / "data" / "train" / "a"
    bifusion.write_scene(folder, **room)
    renamed = dataclasses.replace(OWN, name="other")
    bifusion.write_scene(folder.with_name("b"), **{**room, "labels": renamed})
    assert bifusion.open_scene(folder.with_name("b")).labels == OWN
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "labels.json").write_text(labels_text(dataclasses.replace(SCANNET20, name="x")))
    there = tmp_path / "more" / "train" / "a"
    bifusion.write_scene(there, **{**room, "labels": "scannet20"})
    assert np.array_equal(bifusion.open_scene(there).segment, room["segment"])


def test_other_classes_under_a_built_in_name_are_refused(room, tmp_path):
    folder = tmp_path / "data" / "train" / "a"
    wrong = dataclasses.replace(OWN, name="scannet20")
    with pytest.raises(InputError, match="the built-in set of that name"):
        bifusion.write_scene(folder, **{**room, "labels": wrong})
    view = dataclasses.replace(room["views"][0], name="../a")
    with pytest.raises(InputError, match="views: a view is called '../a'"):
        bifusion.write_scene(folder, **{**room, "views": [view]})
    assert not (tmp_path / "data" / "labels.json").exists() and not folder.exists()


def test_own_classes_beside_scenes_of_built_in_ones_are_refused(room, tmp_path):
    """A labels.json would leave those without labels."""
    there = tmp_path / "data" / "train" / "a"
    bifusion.write_scene(there, **{**room, "labels": "scannet20"})
    with pytest.raises(
        InputError, match="segment20.npy, of built-in classes, which would count no longer"
    ):
        bifusion.write_scene(tmp_path / "data" / "val" / "b", **room)
    assert not (tmp_path / "data" / "labels.json").exists()
    assert bifusion.open_scene(there).segment is not None


def test_labels_without_classes_are_refused_where_they_are_read(room, tmp_path):
    folder = bifusion.write_scene(tmp_path / "data" / "train" / "a", **room)
    (tmp_path / "data" / "labels.json").unlink()
    with pytest.raises(InputError, match="segment.npy: nothing says its classes"):
        bifusion.open_scene(folder)
    assert bifusion.open_scene(folder, labels=OWN).labels == OWN


def test_far_coordinates_and_poses_keep_their_place(room, tmp_path):
    offset = np.array([500_000.25, 4e6, 12])
    views = [
        dataclasses.replace(
            view, **{f"{c}_cam2world": _moved(getattr(view, f"{c}_cam2world"), offset) for c in CAMERAS}
        )
        for view in room["views"]
    ]
    scene = bifusion.make_scene(**{**room, "coord": room["coord"] + offset, "views": views})
    assert np.abs(scene.coord + scene.offset_m - (room["coord"] + offset)).max() < 1e-3
    for view in room["views"]:
        placed = scene.views[view.name].color_cam2world[:3, 3] + scene.offset_m - offset
        assert np.abs(placed - view.color_cam2world[:3, 3]).max() < 1e-6
    folder = bifusion.write_scene(
        tmp_path / "data" / "val" / "far", **{**room, "coord": room["coord"] + offset, "views": views}
    )
    assert json.loads((folder / "scene.json").read_text())["offset_m"] == scene.offset_m.tolist()


CAMERAS = ("color", "depth")


def _moved(pose: np.ndarray, offset: np.ndarray) -> np.ndarray:
    moved = pose.copy()
    moved[:3, 3] += offset
    return moved


NAN = float("nan")
POINTS = 2574
"""Of the room."""


def with_row(values: np.ndarray, row: int, value: float) -> np.ndarray:
    changed = values.astype(float)
    changed[row] = value
    return changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coord": lambda x: x[:, :2]}, r"coord: is float64 of shape \(\d+, 2\); expected numbers of"),
        ({"coord": lambda x: x[:0]}, "coord: holds no point"),
        ({"coord": lambda x: with_row(x, 7, NAN)}, "coord: 1 of 2574 .*first: point 7"),
        ({"coord": lambda x: x * 1000}, "coord: the scan is 2,[0-9]+ m across.*millimetres.*0.001"),
        ({"coord": lambda x: x.astype(str)}, "coord: is <U"),
        ({"coord": lambda x: [[1, 2, 3], [4, 5]]}, "coord: is no array for numpy"),
        ({"color": lambda x: x / 255}, r"color: holds float64 from 0\.\d+ to .*multiply"),
        ({"color": lambda x: np.zeros((0, 3))}, "color: has 0 rows; coord has"),
        ({"color": lambda x: x[1:]}, "color: has .* rows; coord has"),
        ({"color": lambda x: with_row(x, 3, NAN)}, "points have a colour that is not finite"),
        ({"normal": lambda x: np.ones((POINTS, 3))}, "normal: 2574 of 2574 are no unit vectors"),
        ({"faces": lambda x: [[0, 1, 10**6]]}, "faces: indices go from 0 to 1000000; expected 0 to"),
        ({"faces": lambda x: [[0.0, 1.0, 2.0]]}, "faces: is float64 .* expected whole numbers"),
        ({"segment": lambda x: x + 1}, "segment: labels go from 1 to 2; expected -1.*1 .desk"),
        ({"segment": lambda x: x * 1.0}, r"segment: is float64.*expected whole .*segment.astype\(int\)"),
        ({"segment": lambda x: x[:, None]}, r"segment: is .*: segment\.ravel\(\)"),
        ({"coord": lambda x: x.T}, r"coord: is .*: coord\.T"),
        ({"coord": lambda x: x.astype(object)}, r"coord: is object.*: coord\.astype\(float\)"),
        (
            {"instance": lambda x: x.astype(np.uint32)},
            r"is -1 without its sign: instance\.view\('int32'\)",
        ),
        ({"labels": lambda x: None}, "labels: segment is given, but nothing says its classes"),
        ({"labels": lambda x: "scanet20"}, "label set 'scanet20'"),
        ({"instance": lambda x: x - 1}, "instance: holds -2; expected ids"),
        ({"instance": lambda x: x + 2**40}, "instance: goes up to .* 32 bits"),
        ({"superpoint": lambda x: np.arange(POINTS) * 2}, "superpoint ids go from 0 to 5146"),
        ({"views": lambda x: x[:1] * 2}, "views: two are called '00000'"),
        ({"views": lambda x: [x[0].color]}, "views: found a ndarray"),
    ],
)
def test_what_is_wrong_is_named(room, changes, message, tmp_path):
    wrong = {name: change(room.get(name)) for name, change in changes.items()}
    folder = tmp_path / "data" / "train" / "room"
    with pytest.raises(InputError, match=message):
        bifusion.write_scene(folder, **{**room, **wrong})
    assert not folder.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth_m": lambda x: (x * 1000).astype(np.uint16)}, "depth_m holds uint16.*1000"),
        ({"depth_m": lambda x: x * 1000}, "median of depth_m is [0-9.e+]+ m, as in no room"),
        ({"depth_m": lambda x: x / 1000}, "median of depth_m is"),
        ({"depth_m": lambda x: x - 100}, "depth must be finite and ≥ 0"),
        ({"cam2world": lambda x: np.diag([1, 1, -1, 1]) @ x}, "no rigid transform"),
        ({"cam2world": lambda x: x * 1.01}, "no rigid transform"),
        ({"K": lambda x: x * [[2], [2], [1]]}, "intrinsics belong to another image size"),
        ({"K": lambda x: x[:2]}, "intrinsics have shape"),
        ({"color": lambda x: x / 255}, "color is float64 .*expected uint8 .*multiply .* by 255"),
        ({"color": lambda x: np.dstack([x, x[..., :1]])}, r"color is .*color\[\.\.\., :3\]"),
        ({"color": lambda x: x.transpose(2, 0, 1)}, r"color is .*color.transpose\(1, 2, 0\)"),
        ({"color": lambda x: x[..., 0]}, r"color is .*np.stack\(\[color\] \* 3, axis=2\)"),
        ({"color": lambda x: x.astype(int)}, "color is int64 .*clip to 0 … 255 and take as uint8"),
        ({"color": lambda x: x[:0]}, r"color is uint8 of shape \(0, .* at least one pixel$"),
        ({"color": lambda x: x[:0], "depth_m": lambda x: x[:0]}, "color is .* at least one pixel$"),
        ({"depth_m": lambda x: x[:, :0]}, "depth_m is of shape .* at least one pixel$"),
        ({"depth_m": lambda x: x[..., None]}, r"depth_m is .*: depth_m\[\.\.\., 0\]"),
        ({"depth_m": lambda x: None}, "depth_m is None; expected"),
        ({"depth_m": lambda x: x * 0}, "depth_m is 0 everywhere.*leave the view out"),
        ({"depth_m": lambda x: x * np.nan}, "depth must be finite"),
        ({"K": lambda x: x * 0}, "positive focal lengths"),
        ({"cam2world": lambda x: x * np.nan}, "pose is not finite"),
    ],
)
def test_what_is_wrong_with_a_view_is_named(room, changes, message):
    view = room["views"][0]
    given = {"color": view.color, "depth_m": view.depth_m, "K": view.color_K,
             "cam2world": view.color_cam2world}  # fmt: skip
    wrong = {name: change(given[name]) for name, change in changes.items()}
    bifusion.posed_view(**given, name="a")
    with pytest.raises(InputError, match=f"views: view a.*{message}"):
        bifusion.posed_view(**{**given, **wrong}, name="a")


def test_registered_depth_of_another_size_takes_the_color_camera(room):
    view = room["views"][0]
    made = bifusion.posed_view(view.color, view.depth_m, view.color_K, view.color_cam2world)
    assert np.allclose(made.depth_K, view.depth_K) and made.depth_cam2world is made.color_cam2world


def test_depth_of_another_shape_needs_its_own_camera(room):
    """16:9 colour beside 4:3 depth: one of the two is cropped, and nobody says how."""
    view = room["views"][0]
    given = (view.color[:36], view.depth_m, view.color_K - [[0, 0, 0], [0, 0, 6], [0, 0, 0]])
    with pytest.raises(InputError, match="view a: depth_m is 40×30 and color 64×36.* give depth_K"):
        bifusion.posed_view(*given, view.color_cam2world, name="a")
    bifusion.posed_view(*given, view.color_cam2world, depth_K=view.depth_K)


@pytest.mark.parametrize("name", [".0", "x" * 201, "ü" * 101, "a/b", ""])
def test_a_view_s_name_must_be_one_of_a_file_that_is_seen(room, name):
    view = room["views"][0]
    with pytest.raises(InputError, match="a view is called .* expected a file name .* dot, of"):
        bifusion.posed_view(view.color, view.depth_m, view.color_K, view.color_cam2world, name=name)


@pytest.mark.parametrize(("name", "called"), [(7, "7"), (np.int64(12), "12"), (np.str_("hall"), "hall")])
def test_a_view_may_be_called_by_a_number(room, name, called):
    view = room["views"][0]
    made = bifusion.posed_view(view.color, view.depth_m, view.color_K, view.color_cam2world, name=name)
    assert made.name == called


@pytest.mark.parametrize("name", [None, 2.5, b"hall", True])
def test_a_view_s_name_is_no_other_object_s_text(room, name):
    view = room["views"][0]
    with pytest.raises(InputError, match="name: is a .*; expected a name"):
        bifusion.posed_view(view.color, view.depth_m, view.color_K, view.color_cam2world, name=name)


def test_a_scene_may_be_called_as_a_mesh_file_is(room, tmp_path):
    folder = bifusion.write_scene(tmp_path / "room.ply", room["coord"], room["color"])
    assert len(bifusion.open_scene(folder).coord) == len(room["coord"])


def test_what_is_masked_is_no_measurement(room):
    coord, color = np.ma.array(room["coord"]), room["color"]
    assert len(bifusion.make_scene(coord, color).coord) == len(coord)  # nothing is masked
    coord[3] = np.ma.masked
    with pytest.raises(InputError, match="coord: 3 of .* numbers are masked; .*leave those points out"):
        bifusion.make_scene(coord, color)


def test_a_small_scan_warns(room):
    with pytest.warns(UserWarning, match="coord: the scan is 0.24 m across"):
        bifusion.make_scene(room["coord"] / 10, room["color"])


def test_a_hall_warns(room):
    with pytest.warns(UserWarning, match="coord: the scan is .* m high, as a hall"):
        bifusion.make_scene(room["coord"] * 4, room["color"])


def test_one_stray_point_makes_no_millimetres(room):
    coord = room["coord"].copy()
    coord[5, 0] = 1000.0
    with pytest.warns(
        UserWarning, match="coord: 1 of .* points lies far from the rest .first: point 5 "
    ):
        bifusion.make_scene(coord, room["color"])


def test_ragged_intrinsics_are_named(room):
    view = room["views"][0]
    with pytest.raises(InputError, match="K: is no array for numpy"):
        bifusion.posed_view(view.color, view.depth_m, [[1, 2], [3]], view.color_cam2world)


def test_tensors_and_faces_will_do():
    coord = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]])
    color = torch.arange(12).reshape(4, 3) * 20
    scene = bifusion.make_scene(coord, color, faces=[[0, 1, 2], [0, 2, 3]])
    assert scene.notes == ["normals of the faces"] and np.array_equal(scene.normal[:, 2], np.ones(4))


def test_what_stood_there_stays_unless_it_was_written_here(room, tmp_path):
    folder = tmp_path / "data" / "train" / "room"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="nothing there was changed"):
        bifusion.write_scene(folder, **room)
    (folder / "notes.txt").unlink()
    bifusion.write_scene(folder, **room)
    (folder / "notes.txt").write_text("mine")
    bifusion.write_scene(folder, **{**room, "views": ()})
    assert (folder / "notes.txt").read_text() == "mine" and not (folder / "views").exists()


@pytest.mark.parametrize("function", ["make_scene", "write_scene"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": "one"}, r"views: is one View; expected a list of them: views=\[view\]"),
        ({"views": 3}, "views: is a int; expected a list of bifusion.View"),
        ({"labels": ["wall", "desk"]}, "labels: is a list; expected a LabelSet .* or the name of"),
        ({"coord": "leaf"}, "coord: is no array for numpy .*requires grad"),
    ],
)
def test_what_an_argument_is_not_is_told_before_superpoints_are_computed(
    room, tmp_path, monkeypatch, function, changes, message
):
    def computed(*_):
        raise AssertionError("superpoints were computed")

    monkeypatch.setattr(scene_of_arrays, "surface_superpoints", computed)
    stands_for = {"one": room["views"][0], "leaf": torch.tensor(room["coord"], requires_grad=True)}
    wrong = {name: stands_for.get(str(value), value) for name, value in changes.items()}
    where = [tmp_path / "data" / "train" / "room"] if function == "write_scene" else []
    with pytest.raises(InputError, match=message):
        getattr(bifusion, function)(*where, **{**room, **wrong})


def test_a_wrong_view_is_told_before_superpoints_are_computed(room, monkeypatch):
    monkeypatch.setattr(scene_of_arrays, "surface_superpoints", None)
    with pytest.raises(InputError, match="views: found a str; expected bifusion.View"):
        bifusion.make_scene(**{**room, "views": ["0"]})


def test_a_picture_that_requires_its_gradient_is_named(room):
    view = room["views"][0]
    depth = torch.tensor(view.depth_m, requires_grad=True)
    with pytest.raises(InputError, match="depth_m: is no array for numpy"):
        bifusion.posed_view(view.color, depth, view.color_K, view.color_cam2world)


def test_complex_numbers_are_no_camera(room):
    """numpy would leave out their imaginary part."""
    view = room["views"][0]
    with pytest.raises(InputError, match="K: holds complex numbers; expected real ones"):
        bifusion.posed_view(view.color, view.depth_m, view.color_K * 1j, view.color_cam2world)


def test_a_view_of_an_empty_picture_is_refused_like_others(room):
    view = dataclasses.replace(room["views"][0], color=np.zeros((0, 0, 3), np.uint8))
    with pytest.raises(InputError, match=r"views: view 00000: colour image is uint8 \(0, 0, 3\)"):
        bifusion.make_scene(**{**room, "views": [view]})


@pytest.mark.parametrize(
    ("dtype", "offset", "step"), [("float32", 5e6, "0.5"), ("float16", 40.0, "0.031")]
)
def test_points_that_lost_their_millimetres_are_told(room, dtype, offset, step):
    coord = (np.asarray(room["coord"]) + offset).astype(dtype)
    with pytest.warns(
        UserWarning, match=f"coord: is {dtype} around .*its steps are {step} m: points lie"
    ):
        bifusion.make_scene(coord, room["color"], superpoint=np.zeros(len(coord), int))
