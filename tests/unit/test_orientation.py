"""Scans turned anyhow come upright with their walls along x and y, or a direction is asked for."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from trimesh import Trimesh

from bifusion.datasets.orientation.facing import Facing, cloud_facing, mesh_facing
from bifusion.datasets.orientation.gravity import camera_ups
from bifusion.datasets.orientation.orient import (
    about_z,
    orient,
    parse_up,
    turn_up,
    wall_angle,
)
from bifusion.datasets.rooms import RoomsConfig, make_scan
from bifusion.datasets.rooms.cameras import look_at
from bifusion.errors import InputError
from bifusion.rng import numpy_rng

WITHIN_DEG = 1.0
UP = np.array([0.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def room() -> Facing:
    """A generated room's scan: z up, walls along x and y, no ceiling."""
    scene, _ = make_scan(RoomsConfig(), "train", 1)
    assert scene.normal is not None
    return cloud_facing(scene.coord, scene.normal, signed=True)


@pytest.fixture(scope="module")
def poses() -> np.ndarray:
    """(8, 4, 4) a walk around the room's middle, looking ahead and down."""
    turns = np.linspace(0, 1.5 * np.pi, 8)
    ring = np.stack([np.cos(turns), np.sin(turns), np.zeros(8)], axis=1)
    middle = np.array([1.9, 1.9, 1.5])
    return np.stack([look_at(middle + 0.3 * ahead, middle + 2 * ahead - 0.8 * UP) for ahead in ring])


def random_turns(seed: int, purpose: str, count: int = 1) -> np.ndarray:
    """(count, 3, 3) rotations, evenly spread: normal quaternions, as SciPy draws them."""
    return Rotation.from_quat(numpy_rng(seed, purpose).normal(size=(count, 4))).as_matrix()


def turned(facing: Facing, poses: np.ndarray, rotation: np.ndarray) -> tuple[Facing, np.ndarray]:
    turn = np.eye(4)
    turn[:3, :3] = rotation
    return facing.turned(rotation), turn @ poses


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(np.arccos(np.clip(a @ b, -1, 1))))


def assert_upright(rotation: np.ndarray, back: np.ndarray) -> None:
    """`back` undoes `rotation` but for quarter turns about z."""
    assert np.linalg.det(back) == pytest.approx(1)
    whole = back @ rotation
    assert degrees(whole @ UP, UP) < WITHIN_DEG
    yaw = np.rad2deg(np.arctan2(whole[1, 0], whole[0, 0]))
    assert abs((yaw + 45) % 90 - 45) < WITHIN_DEG


@pytest.mark.parametrize("seed", range(6))
def test_a_room_turned_anyhow_is_brought_back(room: Facing, poses: np.ndarray, seed: int) -> None:
    rotation = random_turns(seed, "turn")[0]
    facing, cameras = turned(room, poses, rotation)
    for cam2world in (None, cameras):
        found = orient(facing, cam2world)
        assert_upright(rotation, found.rotation)
        assert found.notes[0].startswith("up is") and found.how in found.notes[0]
        assert (found.alignment[:3, :3] == found.rotation).all()


def test_a_room_without_signed_normals_is_known_by_its_floor(room: Facing) -> None:
    rotation = random_turns(7, "turn")[0]
    flips = numpy_rng(0, "flips").choice([-1.0, 1.0], len(room.normal))
    facing = Facing(room.point, room.normal * flips[:, None], room.area, signed=False).turned(rotation)
    assert_upright(rotation, orient(facing).rotation)


@pytest.mark.parametrize("off", [0.0, 1e-13, 1e-9, 1e-6, 1e-5, 1e-3, 1.0, 2.0])
@pytest.mark.parametrize("near", [1.0, -1.0])
def test_the_smallest_turn_up_is_exact_near_both_ends_too(off: float, near: float) -> None:
    direction = np.array([0.6 * np.sin(off), -0.8 * np.sin(off), near * np.cos(off)])
    turn = turn_up(direction)
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-12) and np.linalg.det(turn) > 0
    assert np.allclose(turn @ direction, UP, atol=1e-12)
    if off > 1e-9 or near > 0:
        angle = off if near > 0 else np.pi - off
        assert np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)) == pytest.approx(angle, abs=1e-6)


@pytest.mark.parametrize("up", ["y", "z", "-z", "-x", "0.1,0.9,-0.2"])
def test_up_of_the_format_or_of_the_user_is_taken_exactly(room: Facing, up: str) -> None:
    direction = parse_up(up)
    rotation = turn_up(direction).T @ about_z(0.4)
    facing = room.turned(rotation)
    by_format, by_user = orient(facing, hint=direction), orient(facing, up=direction)
    for found, how in ((by_format, "format"), (by_user, "given")):
        assert found.how == how
        assert np.allclose(found.rotation @ direction, UP)
        assert_upright(rotation, found.rotation)
    assert "by the format; the scan's own is 0." in by_format.notes[0]
    assert "about z" in by_format.notes[1]


def test_up_within_a_degree_of_an_axis_of_the_file_is_that_axis(room: Facing) -> None:
    """So a scan comes out alike from formats that say which way is up and from those that do not."""
    slightly, clearly = (Rotation.from_euler("x", tilt, degrees=True).as_matrix() for tilt in (0.6, 3.0))
    y_up = turn_up(parse_up("y")).T
    for to_file, axis in ((np.eye(3), UP), (y_up, parse_up("y"))):
        found = orient(room.turned(to_file @ slightly))
        assert np.allclose(found.rotation @ axis, UP, atol=1e-12)
        assert_upright(to_file @ clearly, orient(room.turned(to_file @ clearly)).rotation)


def test_format_and_scan_that_contradict_each_other_are_refused(room: Facing, poses: np.ndarray) -> None:
    tilted = Rotation.from_euler("x", 8, degrees=True).as_matrix()
    for hint in (tilted @ UP, -UP, np.array([0.0, 1.0, 0.0])):
        for cameras in (None, poses):
            with pytest.raises(InputError, match=r"format says that up is .* with --up"):
                orient(room, cameras, hint)
    assert np.allclose(orient(room, poses, -UP, up=tilted @ UP).rotation @ tilted @ UP, UP)


def test_what_does_not_tell_is_asked_for(poses: np.ndarray) -> None:
    corner = one_corner()
    with pytest.raises(InputError, match=r"seen from one side.*--up y, --up -z"):
        orient(corner)
    assert degrees(orient(corner, poses).rotation[2], UP) < WITHIN_DEG  # cameras decide
    confirmed = orient(corner, hint=UP)
    assert confirmed.how == "format" and "does not confirm it" in confirmed.notes[0]
    ball = mesh_facing(*spread(3000))
    with pytest.raises(InputError, match="which way is up is not known"):
        orient(ball)
    with pytest.raises(InputError, match="lie below the lowest plane"):
        below = poses.copy()
        below[:, 2, 3] -= 5
        orient(corner, below)


def one_corner() -> Facing:
    """A floor and two walls, 2 m each, seen from within: nothing tells one from another."""
    a, b = numpy_rng(0, "corner").uniform(0, 2, (2, 9000))
    axis = np.arange(9000) % 3
    point = np.where(np.arange(3) == axis[:, None], 0, np.stack([a, b, a * 0], 1))
    point[axis == 0] = np.stack([a * 0, a, b], 1)[axis == 0]
    point[axis == 1] = np.stack([a, a * 0, b], 1)[axis == 1]
    return cloud_facing(point, np.eye(3)[axis], signed=True)


def spread(count: int) -> tuple[np.ndarray, np.ndarray]:
    """A ball of triangles."""
    hull = Trimesh(numpy_rng(0, "ball").normal(size=(count, 3))).convex_hull
    vertices = hull.vertices / np.linalg.norm(hull.vertices, axis=1, keepdims=True)
    return np.asarray(vertices), np.asarray(hull.faces)


QUARTER = np.array([[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def test_sideways_cameras_show_up_by_their_side(room: Facing, poses: np.ndarray) -> None:
    for turn in (np.eye(4), QUARTER, np.linalg.inv(QUARTER)):
        assert degrees(camera_ups(poses @ turn)[0], UP) < 5
        few = poses[:2] @ turn  # they have hardly turned: any side may be up, and the scan decides
        assert min(degrees(up, UP) for up in camera_ups(few)) < 40
        assert degrees(orient(room, few).rotation[2], UP) < WITHIN_DEG
    anyhow = np.tile(np.eye(4), (40, 1, 1))
    anyhow[:, :3, :3] = random_turns(0, "held", 40)
    assert camera_ups(anyhow) == []
    assert degrees(orient(room, anyhow).rotation[2], UP) < WITHIN_DEG


def test_cameras_upside_down_contradict_the_scan(room: Facing, poses: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"what stands on it and its cameras.*contradict"):
        orient(room, poses @ QUARTER @ QUARTER)


def test_faces_wound_the_other_way_round_do_not_turn_a_room_over(room: Facing) -> None:
    inside_out = Facing(room.point, -room.normal, room.area, signed=True)
    assert degrees(orient(inside_out).rotation[2], UP) < WITHIN_DEG  # by its floor, without ceiling
    closed = with_ceiling(room)
    assert degrees(orient(closed).rotation[2], UP) < WITHIN_DEG
    with pytest.raises(InputError, match="neither a floor without ceiling nor furniture"):
        orient(Facing(closed.point, -closed.normal, closed.area, signed=True))


@pytest.mark.parametrize("seed", range(8))
def test_normals_of_any_sign_lay_no_room_on_its_side(room: Facing, seed: int) -> None:
    """A closed room, the normals of each plane of one sign, as estimates without orientation leave them,
    or parts of a mesh that are wound at random."""
    closed = with_ceiling(room)
    offset = np.rint(np.abs((closed.point * closed.normal).sum(axis=1)) / 0.1)
    plane = np.unique([np.abs(closed.normal).argmax(axis=1), offset], axis=1, return_inverse=True)[1]
    by_part = numpy_rng(seed, "parts").choice([-1.0, 1.0], plane.max() + 1)[plane]
    by_direction = np.sign(closed.normal @ numpy_rng(seed, "sign").normal(size=3))
    for sign in (by_part, by_direction):
        rotation = random_turns(seed, "turn")[0]
        normal = closed.normal * sign[:, None]
        told = Facing(closed.point, normal, closed.area, signed=True).turned(rotation)
        try:
            found = orient(told)
        except InputError as asked:
            assert "--up" in str(asked)
        else:
            assert_upright(rotation, found.rotation)


def with_ceiling(room: Facing) -> Facing:
    """The room with its lowest plane once more, above."""
    floor = room.point[:, 2] < 0.05
    top = room.point[:, 2].max()
    point = np.concatenate([room.point, room.point[floor] + (0, 0, top)])
    normal = np.concatenate([room.normal, room.normal[floor] * (1, 1, -1)])
    return Facing(point, normal, np.full(len(point), 1 / len(point)), signed=True)


def test_walls_are_found_modulo_a_quarter_turn(room: Facing) -> None:
    for angle in np.deg2rad([-44, -10, 0, 30, 44]):
        for quarter in (0, np.pi / 2):
            found = wall_angle(room.turned(about_z(angle + quarter)))
            assert found is not None and abs(found - angle) < np.deg2rad(WITHIN_DEG)
    floor = cloud_facing(numpy_rng(0, "floor").uniform(0, 2, (500, 3)), np.tile(UP, (500, 1)), True)
    assert wall_angle(floor) is None
    assert "no walls" in orient(floor, up=UP).notes[-1]


def test_up_is_read_from_text() -> None:
    assert parse_up("y").tolist() == [0, 1, 0] == parse_up("+y").tolist()
    assert parse_up("-z").tolist() == [0, 0, -1]
    assert parse_up("0,3,-4").tolist() == [0, 0.6, -0.8]
    for wrong in ("", "up", "w", "1,2", "0,0,0", "1,nan,0", "1,2,3,4", "--z"):
        with pytest.raises(InputError, match="expected x, y, z"):
            parse_up(wrong)


def test_pieces_without_normal_are_left_out() -> None:
    normal = np.array([[0, 0, 2.0], [0, 0, 0], [np.nan, 0, 0], [0, 3.0, 0]])
    facing = cloud_facing(np.arange(12.0).reshape(4, 3), normal, signed=False)
    assert facing.normal.tolist() == [[0, 0, 1], [0, 1, 0]] and facing.area.sum() == pytest.approx(1)


def test_a_scan_without_area_or_normals_is_refused() -> None:
    with pytest.raises(InputError, match="none of the 1 faces has an area"):
        mesh_facing(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    with pytest.raises(InputError, match="none of the 2 points has a normal"):
        cloud_facing(np.zeros((2, 3)), np.zeros((2, 3)), signed=True)
