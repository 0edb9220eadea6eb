"""Generated rooms: repeatable, splits apart, classes of a group equal but for texture, cameras right."""

import dataclasses
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from bifusion.data.scene_folder import load_scene
from bifusion.data.view_files import load_cameras, load_view
from bifusion.datasets.processes import Died
from bifusion.datasets.rooms import (
    GEOMETRY_CLASSES,
    TEXTURE_GROUPS,
    RoomsConfig,
    make_room,
    make_rooms,
    rooms,
)
from bifusion.datasets.rooms.cameras import choose_rigs
from bifusion.datasets.rooms.layout import Layout, make_layout
from bifusion.datasets.rooms.lighting import Lighting
from bifusion.datasets.rooms.raycast import RayCaster, layout_faces
from bifusion.datasets.rooms.render import render_view
from bifusion.datasets.rooms.scan import scan_room
from bifusion.datasets.rooms.textures import PATTERNS, Appearance, blurred_albedo, pattern_value
from bifusion.datasets.superpoints.superpoints import graph_superpoints
from bifusion.errors import InputError
from bifusion.geometry import LiftingConfig, agrees_with_depth
from bifusion.labels.sets import SCANNET20

TINY = RoomsConfig(
    train_rooms=1, val_rooms=1, views=2, image_size=(96, 72), depth_size=(72, 54), point_spacing_m=0.1
)
LIGHT = Lighting(np.float32([2, 2, 2.3]), 1.0)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_same_seed_same_bytes_and_another_seed_other_rooms(tmp_path, monkeypatch):
    """Be they made here or by two processes."""
    make_rooms(tmp_path / "a", TINY, workers=1)
    monkeypatch.setattr(rooms, "FEW", 1)
    make_rooms(tmp_path / "b", TINY, workers=2)
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    assert any(name.endswith("views/01.png") for name in first)
    other, _ = make_room(dataclasses.replace(TINY, seed=1), "train", 0)
    assert not np.array_equal(
        other.coord, load_scene(tmp_path / "a/train/rooms0_train_0000", SCANNET20).coord
    )


def test_splits_and_streams_share_no_room():
    layouts = [make_layout(TINY, split, index) for split in ("train", "val") for index in range(3)]
    layouts.append(make_layout(RoomsConfig.for_pretraining(4), "train", 0))
    assert len({room.size_m for room in layouts}) == len(layouts)


def test_rooms_of_different_seeds_share_no_content():
    """Neither a room nor a thing in one nor a colour: the seeds that defaults are chosen on tell nothing
    of those they are shown on."""
    rooms = [
        make_layout(RoomsConfig(seed=seed), split, index)
        for seed in (0, 1, 2, 100, 101, 102, 103, 104)
        for split in ("train", "val")
        for index in range(8)
    ]
    sizes = [room.size_m for room in rooms]
    places = [place for room in rooms for place in set(_places(room))]
    colors = [tuple(color) for room in rooms for color in room.look.color[room.instance >= 0].tolist()]
    for drawn in (sizes, places, colors):
        assert len(set(drawn)) == len(drawn) >= len(rooms)


def _places(room: Layout) -> list[tuple[float, ...]]:
    """Where its things' boxes stand."""
    things = room.instance[room.item] >= 0
    return list(map(tuple, room.centre[things, :2].tolist()))


@pytest.mark.parametrize("ended", [Died(-signal.SIGKILL), OSError(28, "No space left on device")])
def test_what_ends_a_process_that_makes_rooms_is_told(monkeypatch, tmp_path, ended):
    monkeypatch.setattr(rooms, "run_in_processes", lambda work, jobs, workers: [(0, ended)])
    with pytest.raises((InputError, OSError), match="repeat the command|No space left"):
        make_rooms(tmp_path, dataclasses.replace(TINY, train_rooms=5), workers=2)


def test_what_keeps_a_room_from_being_written_leaves_its_process_as_a_value(tmp_path):
    (tmp_path / "train").write_text("no folder")
    assert isinstance(rooms._tried((tmp_path, TINY, "train", 0)), OSError)


def test_complete_rooms_are_kept_and_those_of_another_config_are_made_again(tmp_path):
    steps = []
    make_rooms(tmp_path, TINY, lambda done, total: steps.append((done, total)), workers=1)
    assert steps == [(1, 2), (2, 2)]
    before = contents(tmp_path)
    room = tmp_path / "train/rooms0_train_0000"
    made, notes = (room / "scene.json").stat().st_ino, room / "notes.txt"
    notes.write_text("mine")
    (tmp_path / "audit.json").touch()
    make_rooms(tmp_path, TINY, workers=1)
    assert (room / "scene.json").stat().st_ino == made
    assert (tmp_path / "audit.json").exists()
    notes.rename(tmp_path / "notes.txt")
    make_rooms(tmp_path, dataclasses.replace(TINY, color_noise=0.0), workers=1)
    assert not (tmp_path / "audit.json").exists()
    changed = contents(tmp_path)
    assert all(before[path] != changed[path] for path in before if path.endswith("scene.json"))


def test_a_users_files_are_kept_among_rooms(tmp_path):
    """In a room that is made again, and in the place of one."""
    make_rooms(tmp_path, TINY, workers=1)
    room = tmp_path / "train/rooms0_train_0000"
    (room / "notes.txt").write_text("mine")
    make_rooms(tmp_path, dataclasses.replace(TINY, color_noise=0.0), workers=1)
    assert (room / "notes.txt").read_text() == "mine"
    (room / "scene.json").unlink()
    with pytest.raises(InputError, match="rooms0_train_0000: holds .* nothing tells that"):
        make_rooms(tmp_path, TINY, workers=1)
    assert (room / "notes.txt").read_text() == "mine" and (room / "coord.npy").exists()


def test_foreign_scenes_are_refused(tmp_path):
    make_rooms(tmp_path, TINY, workers=1)
    with pytest.raises(InputError, match="1 scenes that these rooms do not include"):
        make_rooms(tmp_path, dataclasses.replace(TINY, val_rooms=0), workers=1)


@pytest.mark.parametrize(
    "change",
    [{"texture_contrast": 1.5}, {"cover": -0.1}, {"panels": (3, 2)}, {"room_size_m": (1, 4)},
     {"point_spacing_m": 0.0}, {"views": -1}],
)  # fmt: skip
def test_impossible_configs_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        RoomsConfig(**change)


@pytest.fixture(scope="module")
def many_rooms():
    return [make_layout(RoomsConfig(), "train", index) for index in range(100)]


@pytest.mark.parametrize("group", TEXTURE_GROUPS)
def test_classes_of_a_group_have_the_same_sizes_places_and_colors(group, many_rooms):
    rows, classes = [], TEXTURE_GROUPS[group]
    for room in many_rooms:
        for item, label in enumerate(room.labels):
            if label in classes:
                box = int(np.flatnonzero(room.item == item)[0])
                middle = np.abs(room.centre[box, :2] - np.array(room.size_m) / 2)
                numbers = [*room.half[box], room.centre[box, 2], *middle, *room.look.color[item]]
                rows.append([classes.index(label), *numbers])
    table = np.array(rows)
    spread = table[:, 1:].std(axis=0)
    for number in range(len(classes)):
        chosen = table[table[:, 0] == number, 1:]
        assert len(chosen) > 0.2 * len(table)
        deviation = np.abs(chosen.mean(axis=0) - table[:, 1:].mean(axis=0)) / spread
        assert (deviation < 3.5 / np.sqrt(len(chosen))).all()


def test_things_do_not_overlap():
    room = make_layout(RoomsConfig(), "train", 5)
    low, high = room.centre - room.half, room.centre + room.half
    straight = np.abs(np.sin(2 * room.yaw)) < 1e-9
    sideways = np.abs(np.sin(room.yaw)) > 0.5
    half = np.where(sideways[:, None], room.half[:, [1, 0, 2]], room.half)
    low, high = room.centre - half, room.centre + half
    boxes = np.flatnonzero(straight & (room.instance[room.item] >= 0))
    for a in boxes:
        for b in boxes:
            if room.item[a] != room.item[b]:
                assert not ((low[a] < high[b] - 1e-6) & (low[b] < high[a] - 1e-6)).all()


def test_all_classes_of_scannet20_occur():
    labels = {label for index in range(8) for label in make_layout(RoomsConfig(), "val", index).labels}
    assert labels >= set(SCANNET20.class_names)
    assert set(GEOMETRY_CLASSES) | {c for g in TEXTURE_GROUPS.values() for c in g} | {
        "wall",
        "floor",
    } == set(SCANNET20.class_names)


def patterned(count: int = 5) -> Appearance:
    zeros = np.zeros(count, dtype=np.float32)
    return Appearance(
        np.full((count, 3), 0.5, np.float32), np.arange(count), np.zeros((count, 2), np.float32), zeros
    )


def test_patterns_have_equal_mean_and_spread_and_differ():
    axis = (np.arange(600) + 0.5) / 1000
    uv = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float32)
    values = [
        pattern_value(patterned(), np.full(len(uv), k), uv, 0.06) for k in range(1, len(PATTERNS) + 1)
    ]
    for value in values:
        assert set(np.unique(value)) == {-1, 1}
        assert abs(value.mean()) < 0.01
    assert np.abs(np.corrcoef(values) - np.eye(len(values))).max() < 0.7


@pytest.mark.parametrize("sigma_m", [0.035, 0.045, 0.06])
def test_blurred_colors_do_not_show_the_pattern(sigma_m):
    uv = np.random.default_rng(0).uniform(-0.5, 0.5, (500, 2)).astype(np.float32)
    for pattern in range(1, 5):
        color = blurred_albedo(patterned(), np.full(500, pattern), uv, 0.06, 1.0, sigma_m)
        assert np.abs(255 * (color - 0.5)).max() < 0.5  # grey levels, of a swing of ± 54


@pytest.mark.parametrize("contrast", [0.0, 1.0])
def test_texture_off_images_are_the_same_whatever_the_class(contrast):
    config = dataclasses.replace(TINY, texture_contrast=contrast)
    room = make_layout(config, "train", 0)
    rays = RayCaster(layout_faces(room))
    rigs = choose_rigs(room, rays, room.centre, config, np.random.default_rng(0))

    def images():
        return [
            render_view("0", rig, room, rays, LIGHT, config, np.random.default_rng(1)).color
            for rig in rigs
        ]

    before = images()
    texture = (room.look.pattern > 0) & (room.look.pattern <= len(PATTERNS))
    room.look.pattern[texture] = room.look.pattern[texture] % len(PATTERNS) + 1
    equal = all(np.array_equal(a, b) for a, b in zip(before, images(), strict=True))
    assert equal == (contrast == 0)


@pytest.mark.parametrize("blur_m", [TINY.color_blur_m, 0.0])
def test_points_are_the_same_whatever_the_class_unless_they_are_sharp(blur_m):
    config = dataclasses.replace(TINY, color_blur_m=blur_m)
    room = make_layout(config, "train", 0)
    rays = RayCaster(layout_faces(room))
    before = scan_room(room, rays, LIGHT, config, np.random.default_rng(1))
    texture = (room.look.pattern > 0) & (room.look.pattern <= len(PATTERNS))
    room.look.pattern[texture] = room.look.pattern[texture] % len(PATTERNS) + 1
    after = scan_room(room, rays, LIGHT, config, np.random.default_rng(1))
    assert np.array_equal(before.coord, after.coord)
    difference = np.abs(before.color.astype(int) - after.color.astype(int)).max()
    assert difference > 10 if blur_m == 0 else difference <= 1  # 1: rounding


def test_superpoints_come_from_measurements_alone():
    scene, _ = make_room(TINY, "train", 0)
    assert np.array_equal(scene.superpoint, graph_superpoints(scene.coord, scene.normal, scene.color))


def test_nothing_hidden_is_scanned():
    scene, _ = make_room(TINY, "train", 0)
    size = make_layout(TINY, "train", 0).size_m
    assert (scene.coord[:, 2] > -0.03).all()
    assert (scene.coord[:, :2] > -0.03).all()
    assert (scene.coord[:, :2] < np.array(size) + 0.03).all()
    assert (scene.segment >= 0).all()
    assert np.array_equal(scene.instance < 0, np.isin(scene.segment, SCANNET20.stuff_classes))


def test_no_point_lies_in_a_box():
    config = dataclasses.replace(TINY, point_noise_m=0.0)
    room = make_layout(config, "train", 0)
    point = scan_room(room, RayCaster(layout_faces(room)), LIGHT, config, np.random.default_rng(1)).coord
    for centre, half, yaw in zip(room.centre, room.half, room.yaw, strict=True):
        x, y, z = (point - centre).T
        along, across = np.cos(yaw) * x + np.sin(yaw) * y, np.cos(yaw) * y - np.sin(yaw) * x
        depth = (half - np.abs([along, across, z]).T).min(axis=1)
        assert depth.max() < 1e-3


def test_which_of_two_touching_faces_a_ray_caster_names_changes_no_scan(monkeypatch):
    config = dataclasses.replace(TINY, furniture=(6, 6))
    room = make_layout(config, "train", 0)
    rays = RayCaster(layout_faces(room))
    usual = scan_room(room, rays, LIGHT, config, np.random.default_rng(1))
    first_hit = RayCaster.first_hit
    monkeypatch.setattr(
        RayCaster, "first_hit", lambda *given: (np.zeros(len(given[2]), int), first_hit(*given)[1])
    )
    other = scan_room(room, rays, LIGHT, config, np.random.default_rng(1))
    assert np.array_equal(usual.coord, other.coord) and np.array_equal(usual.color, other.color)


def agreement(config: RoomsConfig, tolerance: LiftingConfig) -> float:
    """Share of the unhidden points in a depth image, at pixels with a reading, that agree with it."""
    scene, views = make_room(config, "train", 0)
    room = make_layout(config, "train", 0)
    rays = RayCaster(layout_faces(room))
    agreed = total = 0
    coord = torch.from_numpy(scene.coord)
    for view in views:
        height, width = view.depth_m.shape
        direction = scene.coord - view.depth_cam2world[:3, 3]
        camera = direction @ view.depth_cam2world[:3, :3]
        pixel = camera[:, :2] / camera[:, 2:] * view.depth_K[[0, 1], [0, 1]] + view.depth_K[:2, 2]
        inside = (
            (camera[:, 2] > 0) & (pixel > 0).all(axis=1) & (pixel < (width - 1, height - 1)).all(axis=1)
        )
        _, t = rays.first_hit(view.depth_cam2world[:3, 3], direction)
        column, row = np.rint(np.where(inside[:, None], pixel, 0)).astype(int).T
        unhidden = inside & (t > 0.98) & (view.depth_m[row, column] > 0)
        matrices = [view.depth_m, np.linalg.inv(view.depth_cam2world), view.depth_K]
        agrees = agrees_with_depth(
            coord, *(torch.tensor(m, dtype=torch.float32) for m in matrices), tolerance
        )
        agreed, total = agreed + int((agrees.numpy() & unhidden).sum()), total + int(unhidden.sum())
    assert total > 200
    return agreed / total


def test_points_project_onto_their_depth():
    assert (
        agreement(
            dataclasses.replace(TINY, image_size=(320, 240), depth_size=(240, 180)), LiftingConfig()
        )
        > 0.9
    )


@pytest.mark.parametrize("same_camera", [False, True])
def test_exact_sensors_agree_to_millimetres(same_camera):
    exact = dataclasses.replace(
        TINY, depth_noise=0.0, pose_noise_m=0.0, pose_noise_rad=0.0, point_noise_m=0.0,
        depth_size=(480, 360), same_camera=same_camera,
    )  # fmt: skip
    assert agreement(exact, LiftingConfig(depth_tolerance_m=0.01, depth_tolerance_relative=0.01)) > 0.95


def test_color_and_depth_camera_differ_unless_asked_not_to():
    view = next(make_room(TINY, "train", 0)[1])
    assert not np.allclose(view.color_cam2world, view.depth_cam2world)
    assert view.color.shape == (72, 96, 3)
    assert view.depth_m.shape == (54, 72)
    same = next(make_room(dataclasses.replace(TINY, same_camera=True), "train", 0)[1])
    assert np.allclose(same.color_cam2world, same.depth_cam2world)


def test_empty_room_without_views_works(tmp_path):
    bare = dataclasses.replace(TINY, panels=(0, 0), boxes=(0, 0), furniture=(0, 0), views=0, val_rooms=0)
    make_rooms(tmp_path, bare, workers=1)
    scene = load_scene(tmp_path / "train/rooms0_train_0000", SCANNET20)
    assert set(np.unique(scene.segment)) == {0, 1}
    assert scene.view_names == []


def test_written_views_load(tmp_path):
    make_rooms(tmp_path, dataclasses.replace(TINY, val_rooms=0, depth_size=(240, 180)), workers=1)
    folder = tmp_path / "train/rooms0_train_0000"
    view = load_view(folder, "00", load_cameras(folder))
    assert view.color.std() > 5
    assert (view.depth_m > 0).mean() > 0.8
