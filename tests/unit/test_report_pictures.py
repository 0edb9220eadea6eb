"""Pictures of rooms in a report: the camera above them, what it draws, predictions that do not fit."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from bifusion.errors import InputError
from bifusion.studies.comparison.run import write_report
from bifusion.studies.page.pictures import Camera, fill_holes, view_axes, visible_part
from run_factory import FakeRun


def test_the_view_is_orthonormal_and_looks_down():
    axes = view_axes()
    assert np.allclose(axes @ axes.T, np.eye(3))
    assert axes[2, 2] < 0  # away from the viewer is downwards
    assert axes[1, 2] < 0  # up in the room is up in the picture


def test_ceiling_and_near_walls_are_cut():
    coord = np.array(
        [[2, 2, 0], [2, 2, 2.5], [0.01, 2, 1], [2, 0.01, 1], [4, 2, 1], [0, 0, 0], [4, 4, 1]]
    )
    assert visible_part(coord).tolist() == [True, False, False, False, True, True, True]


def test_the_nearest_point_is_the_one_drawn():
    plate = np.stack(np.meshgrid(np.linspace(0, 4, 60), np.linspace(0, 4, 60)), axis=-1).reshape(-1, 2)
    floor = np.column_stack([plate, np.zeros(len(plate))])
    table = np.column_stack([plate / 4 + 1.5, np.full(len(plate), 0.8)])
    coord = np.concatenate([floor, table])
    red, blue = np.array([255, 0, 0], np.uint8), np.array([0, 0, 255], np.uint8)
    color = np.concatenate([np.tile(blue, (len(floor), 1)), np.tile(red, (len(table), 1))])
    camera = Camera.above(coord)
    image = decode(camera.draw(coord, color))
    assert image.shape[1] == 520
    middle = (np.array([2.0, 2.0, 0.8]) @ camera.axes.T)[:2]
    x, y = ((middle - camera.offset) * camera.pixels_per_m / 2).astype(int)
    assert image[y, x, 0] > 150
    assert image[y, x, 2] < 80
    assert image[0, 0, 3] == 0  # nothing there: clear


def test_one_point_is_drawn_too():
    coord = np.zeros((1, 3), dtype=np.float32)
    image = decode(Camera.above(coord).draw(coord, np.full((1, 3), 200, np.uint8)))
    assert image[..., 3].any()


def test_holes_are_filled_between_neighbours_only():
    owner = np.array([[1, -1, 2, -1, -1], [-1, -1, -1, -1, -1]])
    assert fill_holes(owner).tolist() == [[1, 1, 2, -1, -1], [-1, -1, -1, -1, -1]]


def test_predictions_that_do_not_fit_are_told(tmp_path):
    folders = [
        FakeRun(arm=arm, epochs=4, predictions=True).write(tmp_path) for arm in ("baseline", "staged")
    ]
    path = folders[1] / "predictions" / "val00.npz"
    with np.load(path) as archive:
        shorter = {key: archive[key][:100] for key in archive}
    np.savez(path, **shorter)
    with pytest.raises(InputError, match="100 points, but"):
        write_report(folders, tmp_path)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="not a readable"):
        write_report(folders, tmp_path)


def prediction_with(tmp_path, **changes):
    """A run whose prediction has other arrays, cut to a thousand points."""
    folder = FakeRun(arm="staged", epochs=4, predictions=True).write(tmp_path)
    path = folder / "predictions" / "val00.npz"
    with np.load(path) as archive:
        arrays = {key: archive[key][::32] for key in archive}
    np.savez(
        path, **{key: changes[key](value) if key in changes else value for key, value in arrays.items()}
    )
    return folder


def test_a_prediction_out_of_this_world_is_refused(tmp_path):
    folder = prediction_with(tmp_path, coord=lambda coord: np.full_like(coord, 1e10))
    with pytest.raises(
        InputError, match=r"val00\.npz: a point lies 1e\+10 m .* evaluate that run again"
    ):
        write_report([folder], tmp_path / "out")


def test_classes_that_are_none_of_the_set_count_as_none(tmp_path):
    lowest = np.iinfo(np.int16).min
    folder = prediction_with(
        tmp_path, truth_semantic=lambda truth: np.full(len(truth), lowest, np.int16)
    )
    write_report([folder], tmp_path / "out")
    assert len(list((tmp_path / "out" / "views").glob("*.html"))) == 1


def decode(url):
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.array(Image.open(io.BytesIO(data)).convert("RGBA"))
