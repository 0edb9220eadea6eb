"""What is said of a scan's unit of length, by how large and how high it is."""

import numpy as np
import pytest

from bifusion.datasets.placement import (
    UNITS,
    Placement,
    extent_note,
    far_offset,
    placement_notes,
    stray_note,
)
from bifusion.rng import numpy_rng


def room(height: float, length: float = 5.0) -> np.ndarray:
    return numpy_rng(0, "room").uniform(0, 1, (2000, 3)) * (length, 4.0, height)


def note(coord_m: np.ndarray) -> str | None:
    return extent_note(coord_m, lambda factor: f"--scale {factor:g}")


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("height", [2.2, 2.6, 3.5])
def test_a_room_in_another_unit_is_told_with_what_makes_metres_of_it(unit: str, height: float) -> None:
    said = note(room(height) / UNITS[unit])
    assert said is not None and f"in {unit}" in said and f"--scale {UNITS[unit]:g} makes metres" in said


def test_a_flat_in_centimetres_is_not_taken_for_millimetres() -> None:
    said = note(room(2.6, length=14.0) * 100)
    assert said is not None and "in centimetres (14 m then); --scale 0.01 makes metres" in said


def test_a_part_of_a_room_in_millimetres_may_be_a_hall_in_centimetres() -> None:
    said = note(room(1.2, length=3.0) * (1000, 625, 1000))
    assert said is not None and "in millimetres (3 m then) or in centimetres (30 m)" in said
    assert "--scale 0.001 makes metres of the former, --scale 0.01 of the latter" in said


def test_inches_are_told_of_a_small_room_too() -> None:
    said = note(room(1.8, length=2.4) * (1, 0.6, 1) / UNITS["inches"])
    assert said is not None and "in inches (2.4 m then); --scale 0.0254 makes metres" in said


@pytest.mark.parametrize("coord_m", [room(2.4), room(4.5), room(2.5, length=80.0), room(20.0, 60.0)])
def test_nothing_is_said_of_metres(coord_m: np.ndarray) -> None:
    assert note(coord_m) is None


def test_stray_points_make_no_hall_of_a_room() -> None:
    coord_m = room(2.5)
    coord_m[0, 2] = 9.0
    assert note(coord_m) is None


def test_a_stray_point_changes_no_unit_and_is_named() -> None:
    coord_m = room(2.5)
    assert stray_note(coord_m) is None
    coord_m[7] = (1000.0, 2.0, 1.0)
    assert note(coord_m) is None
    said = stray_note(coord_m)
    assert said is not None and "1 of 2,000 points lies far" in said and "first: point 7 at 1000" in said


def test_a_stray_point_decides_no_offset() -> None:
    """A scanner's empty return, 0 0 0, in a scan on a map's grid; a far point in a scan that is near."""
    on_map = room(2.5) + (3_500_000.0, 5_600_000.0, 100.0)
    offset = far_offset(on_map)
    assert np.abs(on_map - offset).max() < 10
    on_map[7] = 0
    assert np.abs(far_offset(on_map) - offset).max() <= 1
    near = room(2.5)
    near[7] = (9e6, 9e6, 9e6)
    assert not far_offset(near).any() and not far_offset(room(2.5)).any()


def test_a_small_part_of_a_scan_with_nearly_all_points_makes_no_strays_of_the_others() -> None:
    coord_m = np.concatenate([room(2.5, 8.0)[:8], room(2.5)[:1500] * 0.4])
    assert stray_note(coord_m) is None


def test_a_large_scan_of_a_stated_unit_is_offered_no_other() -> None:
    def said(coord_m: np.ndarray) -> list[str]:
        return placement_notes(Placement(0.3048), coord_m, 0.0, stated=True)

    assert said(room(9.0, 30.0)) == []  # feet are told of no hall either
    large = room(1.0) * (60, 50, 40)
    assert said(large) == [
        "the scan is 300 × 200 × 40 m by the unit that is stated for it: large for a room (an outdoor "
        "scan?)"
    ]


def test_a_hall_is_only_asked_about() -> None:
    said = note(room(9.0, 30.0))
    assert said is not None and "as a hall or two storeys are; if it is one room, in feet (2.7 m" in said
