"""What is said of scene folders whose points are in another unit or lie on their side."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

import room_meshes as rooms
from bifusion.data.open_scene import open_folder
from bifusion.datasets.rooms import RoomsConfig
from bifusion.datasets.rooms import make_scan as make_room
from bifusion.datasets.scan.make import make_scan, open_made
from bifusion.datasets.scan.options import ScanOptions
from bifusion.datasets.scan.telling import Telling
from bifusion.datasets.scene_notes import scene_notes
from bifusion.inference.segmenter import Segmenter
from bifusion.types import Scene
from scene_factory import make_tiny_scene
from untrained_runs import baseline, bifusion, save_run

Y_UP = [0, 2, 1]
"""y and z swapped, as files of programs with y up have them."""


@pytest.fixture(scope="module", params=range(3))
def room(request) -> Scene:
    return make_room(RoomsConfig(), "train", request.param)[0]


def test_nothing_is_said_of_a_room_as_it_should_be(room: Scene) -> None:
    assert scene_notes(room.coord, room.normal) == [] == scene_notes(room.coord)


def test_a_room_on_its_side_or_upside_down_is_told_with_and_without_normals(room: Scene) -> None:
    assert room.normal is not None
    for normal in (None, room.normal, room.normal[:, Y_UP]):  # the second was not turned with them
        (said,) = scene_notes(room.coord[:, Y_UP], normal)
        assert "y points up rather than z" in said
    (said,) = scene_notes(room.coord * (1, 1, -1))
    assert "-z points up rather than z" in said


def test_millimetres_and_stray_points_are_told(room: Scene) -> None:
    (said,) = scene_notes(room.coord * 1000)
    assert "likely in millimetres" in said and "multiplying coordinates and poses by 0.001" in said
    coord = room.coord.copy()
    coord[3] = (900.0, 0.0, 0.0)
    (said,) = scene_notes(coord)
    assert "1 of" in said and "first: point 3 " in said


def test_too_few_points_and_points_that_are_refused_elsewhere_tell_nothing() -> None:
    assert scene_notes(np.zeros((1, 3))) == []
    assert scene_notes(np.full((20, 3), np.nan)) == []


def test_a_folder_is_told_where_it_is_predicted_and_where_it_is_scanned(tmp_path, caplog) -> None:
    run = save_run(tmp_path / "run", baseline())
    scene = make_tiny_scene(tmp_path / "data" / "room", num_views=0)
    coord = np.load(scene / "coord.npy")
    Segmenter(run, device="cpu").predict(scene).write(tmp_path / "out")
    assert not caplog.records
    np.save(scene / "coord.npy", coord[:, Y_UP])
    Segmenter(run, device="cpu").predict(scene).write(tmp_path / "out")
    assert f"{scene}: by its floor and what stands on it, y points up rather than z" in caplog.text
    telling = Telling()
    open_made(scene, telling)
    assert any("y points up rather than z" in line for line in telling.lines)


def test_views_are_not_blamed_where_there_are_none(tmp_path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    scene = make_tiny_scene(tmp_path / "data" / "room", num_views=0)
    Segmenter(save_run(tmp_path / "run", bifusion()), device="cpu").predict(scene)
    assert "views see" not in caplog.text


@pytest.mark.parametrize(
    ("size", "scale", "said"),
    [
        ((20, 20, 9), None, "in feet (2.7 m then)"),
        ((20, 20, 9), 1.0, ""),
        ((45, 44, 43), 1.0, "m by the unit that is stated for it: large for a room"),
    ],
)
def test_a_scene_of_a_stated_unit_is_offered_no_other(
    size: tuple[int, ...], scale: float | None, said: str, tmp_path: Path
) -> None:
    """Neither by scan, nor by whatever reads the scene that scan writes."""
    hall = rooms.room_mesh(0.5)
    hall.coord = hall.coord * (size / np.ptp(hall.coord, axis=0))
    path = rooms.write_ply(tmp_path / "hall.ply", hall)
    made = make_scan(path, ScanOptions(scale=scale, spacing_m=3.0, up="z"))
    made.write_scene(tmp_path / "scene")
    scene = open_folder(tmp_path / "scene")
    assert scene.unit_stated is made.scene.unit_stated is (scale is not None)
    notes = scene_notes(scene.coord, unit_stated=scene.unit_stated)
    for lines in (made.lines, open_made(tmp_path / "scene", Telling()).lines, notes):
        assert ("large for a room" in str(lines) or "in feet" in str(lines)) is bool(said)
        assert said in str(lines) and "inches" not in str(lines)
