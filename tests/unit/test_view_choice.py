"""Frames chosen as views: those that see what others do not, sharp ones before blurred ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from bifusion.datasets.fusion.choice import (
    Choice,
    choose_frames,
    choose_views,
    places_seen,
    sharpness,
    thinned,
)
from bifusion.datasets.recordings.frame import Frame
from bifusion.datasets.scan.recording_scan import view_names
from bifusion.errors import InputError
from bifusion.rng import numpy_rng
from depth_pictures import HALF, Pictures, around, box_from_within, sphere


def patterned(frame: Frame, blur: float = 0.0) -> Frame:
    """The frame with noise as its picture, the same for the same name."""
    assert frame.color is not None
    noise = numpy_rng(0, frame.name).uniform(0, 255, frame.color.shape)
    return replace(frame, color=gaussian_filter(noise, (blur, blur, 0)).astype(np.uint8))


def walk(places: int, frames: int, width: int) -> np.ndarray:
    """(frames, places) bool: each sees a run of places; most frames dwell at the beginning."""
    first = ((places - width) * np.linspace(0, 1, frames) ** 3).astype(int)
    return (np.arange(places) >= first[:, None]) & (np.arange(places) < first[:, None] + width)


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_chosen_frames_see_at_least_as_much_as_every_nth(count: int) -> None:
    for seed in range(5):
        rng = numpy_rng(seed, "choice")
        seen = walk(200, 60, 40) & (rng.uniform(size=(60, 200)) < 0.9)
        sharp = rng.uniform(90, 110, 60)
        chosen = choose_views(seen, sharp, count)
        assert len(set(chosen)) == count and chosen == choose_views(seen, sharp, count)
        every_nth = np.linspace(0, 59, count).astype(int)
        assert seen[chosen].any(axis=0).mean() >= seen[every_nth].any(axis=0).mean()


def test_a_blurred_twin_never_comes_before_its_sharp_one() -> None:
    for seed in range(20):
        rng = numpy_rng(seed, "twins")
        seen = walk(120, 20, 30)
        sharp = rng.uniform(80, 120, 20)
        twins = np.repeat(seen, 2, axis=0)
        blurred = np.arange(40) % 2 == seed % 2
        order = choose_views(twins, np.repeat(sharp, 2) * np.where(blurred, 0.4, 1.0), 40)
        place = np.argsort(order)
        assert (place[blurred] > place[~blurred]).all()


def test_a_slightly_blurred_twin_that_sees_a_little_more_loses() -> None:
    seen = np.ones((2, 100), bool)
    seen[1, :3] = False
    assert choose_views(seen, np.array([80.0, 100.0]), 2) == [1, 0]


def test_once_all_is_seen_it_is_seen_again() -> None:
    seen = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    assert choose_views(seen, np.full(4, 100.0), 9) == [0, 1, 2, 3]
    assert choose_views(np.zeros((2, 4), bool), np.array([100.0, 101.0]), 2) == [1, 0]
    with pytest.raises(InputError, match="found 0"):
        choose_views(seen, np.ones(4), 0)


def test_sharpness_falls_with_blur_and_is_that_of_small_pictures() -> None:
    picture = numpy_rng(0, "picture").uniform(0, 255, (240, 641, 3)).astype(np.uint8)
    blurred = [gaussian_filter(picture, (sigma, sigma, 0)) for sigma in (0, 1, 2, 4)]
    values = [sharpness(image) for image in blurred]
    assert values == sorted(values, reverse=True) and values[0] > 4 * values[2]
    assert sharpness(np.full((48, 64, 3), 7, np.uint8)) == 0


def test_a_place_is_seen_where_depth_measured_it() -> None:
    frame = around(sphere(0.7), 2.0)[0]
    assert frame.depth_camera is not None
    eye = frame.depth_camera.cam2world[:3, 3]
    front = 0.7 * eye / np.linalg.norm(eye)
    places = torch.tensor(np.stack([front, -front, 2 * front, 3 * eye])).float()
    assert places_seen(frame, places).tolist() == [True, False, False, False]


def test_frames_of_a_recording_are_chosen_with_their_coverage() -> None:
    frames = [patterned(frame, blur) for frame in box_from_within() for blur in (0.0, 3.0)]
    recording = Pictures([InputError("lost.png: is cut off"), *frames])
    rng = numpy_rng(0, "walls")
    points = rng.uniform(-1, 1, (4000, 3)) * HALF
    wall, on_it = rng.integers(0, 3, 4000), np.arange(4000)
    points[on_it, wall] = np.sign(points[on_it, wall]) * HALF[wall]
    choice = choose_frames(recording, points, 6)
    assert all(index % 2 == 1 for index in choice.indices)  # the sharp ones
    assert choice.coverage > 0.3 and f"see {choice.coverage:.0%}" in choice.notes[0]
    assert choice.names == [recording.frame(index).name for index in choice.indices]
    more = choose_frames(recording, points, 12)
    assert more.indices[:6] == choice.indices and more.coverage > choice.coverage
    with pytest.raises(InputError, match="views need both"):
        choose_frames(Pictures([replace(frames[0], color=None)]), points, 3)


def test_thinned_points_are_some_of_the_points() -> None:
    points = numpy_rng(0, "thin").uniform(-2, 2, (5000, 3))
    thin = thinned(points, 0.5)
    assert 300 < len(thin) <= 9**3 and (points[:, None] == thin[:5]).all(axis=2).any(axis=0).all()


def test_points_very_far_apart_are_thinned() -> None:
    """A mesh with a stray vertex: all cells in between are more than an integer counts."""
    points = np.array([[0.0, 0, 0], [0.02, 0, 0], [1e6, 1e6, 1e6], [0.3, 0, 0]])
    assert thinned(points, 0.1).tolist() == points[[0, 2, 3]].tolist()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["frame-000120", "frame-000015"], {"000015": 2, "000120": 7}),
        (["120", "15"], {"000015": 2, "000120": 7}),
        (["1305031102.175304", "1305031102.211214"], {"000002": 2, "000007": 7}),  # TUM's are times
        (["left 15", "right 15"], {"000002": 2, "000007": 7}),
        (["15", "hall"], {"000002": 2, "000007": 7}),
    ],
)
def test_views_have_their_frames_numbers(names: list[str], expected: dict[str, int]) -> None:
    found = view_names(Choice([7, 2], names, 0.5, []))
    assert found == expected and list(found.values()) == [2, 7]
