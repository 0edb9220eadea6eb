"""Depth maps fused into a surface: exact bodies, a generated room, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from trimesh import Trimesh

from bifusion.datasets.fusion.blocks import BlockTable, block_keys, key_coords
from bifusion.datasets.fusion.fuse import evenly, fuse
from bifusion.datasets.fusion.surface import SurfaceConfig, extract_surface
from bifusion.datasets.fusion.volume import FusionConfig, Volume
from bifusion.datasets.recordings.frame import Camera, Frame, Recording
from bifusion.datasets.rooms import RoomsConfig, make_room
from bifusion.datasets.rooms.layout import make_layout
from bifusion.datasets.rooms.raycast import Faces, layout_faces
from bifusion.errors import InputError
from depth_pictures import HALF, Pictures, around, box_from_within, frame_of, sphere

MEDIAN_ERROR_M = 0.005


def ball(radius: float = 0.7) -> list[Frame]:
    """Pictures of a ball from all sides."""
    poles = [frame_of(sphere(radius), np.array([0.1, 0, z]), np.zeros(3)) for z in (-2.0, 2.0)]
    sides = around(sphere(radius), 2.0)
    below = [frame_of(sphere(radius), np.array([x, y, -1.4]), np.zeros(3))
             for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1))]  # fmt: skip
    return [*sides, *poles, *below]


def test_a_ball_is_closed_round_and_coloured() -> None:
    surface = fuse(Pictures(list(ball())))
    coord, faces = surface.mesh.coord, surface.mesh.faces
    body = Trimesh(coord, faces, process=False)
    assert body.is_watertight and body.body_count == 1 and body.volume > 0
    off = np.abs(np.linalg.norm(coord, axis=1) - 0.7)
    assert np.median(off) < MEDIAN_ERROR_M and off.max() < 0.02
    wanted = (coord + 2) / 4 * 255
    assert np.percentile(np.abs(surface.mesh.color - wanted), 99) < 4
    assert surface.seen.min() >= 1 and len(surface.seen) == len(coord)
    assert "18 of 18 frames fused at 2 cm" in surface.mesh.notes[0]


def test_a_box_from_within_faces_its_cameras() -> None:
    surface = fuse(Pictures(list(box_from_within())))
    coord, faces = surface.mesh.coord, surface.mesh.faces
    assert np.median(np.abs(np.abs(coord) - HALF).min(axis=1)) < MEDIAN_ERROR_M
    corner = coord[faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    assert ((normal * corner.mean(axis=1)).sum(axis=1) < 0).mean() > 0.99


def test_a_generated_room_with_a_noisy_sensor() -> None:
    config = RoomsConfig(
        views=12, cover=0.8, furniture=(2, 2), image_size=(80, 60), depth_size=(320, 240)
    )
    _, views = make_room(config, "train", 0)
    frames: list[Frame | InputError] = [
        Frame(
            view.name, view.color, Camera(view.color_K, view.color.shape[:2], view.color_cam2world),
            view.depth_m, Camera(view.depth_K, view.depth_m.shape, view.depth_cam2world),
        ) for view in views
    ]  # fmt: skip
    surface = fuse(Pictures(frames))
    off = distance_to_faces(layout_faces(make_layout(config, "train", 0)), surface.mesh.coord[::10])
    assert len(off) > 5_000
    assert np.median(off) < MEDIAN_ERROR_M and (off < 0.04).mean() > 0.98
    assert np.std(surface.mesh.color.astype(float), axis=0).min() > 10  # its colours, no grey


def distance_to_faces(faces: Faces, point: np.ndarray) -> np.ndarray:
    """(n,) metres to the nearest rectangle."""
    nearest = np.full(len(point), np.inf)
    for row in range(len(faces.item)):
        offset = point - faces.centre[row]
        along = np.stack([offset @ faces.u[row], offset @ faces.v[row]], axis=1)
        outside = np.maximum(np.abs(along) - faces.half[row], 0)
        nearest = np.minimum(nearest, np.hypot(np.hypot(*outside.T), offset @ faces.normal[row]))
    return nearest


def test_the_same_frames_give_the_same_mesh_wherever_tiles_end() -> None:
    there, moved = fuse(Pictures(list(ball()))), []
    shift = np.array([128, -64, 40]) * 0.02
    for frame in ball():
        assert frame.depth_camera is not None
        pose = frame.depth_camera.cam2world.copy()
        pose[:3, 3] += shift
        camera = replace(frame.depth_camera, cam2world=pose)
        moved.append(replace(frame, color_camera=camera, depth_camera=camera))
    away = fuse(Pictures(moved))
    assert len(away.mesh.coord) == pytest.approx(len(there.mesh.coord), rel=0.002)
    assert Trimesh(away.mesh.coord, away.mesh.faces, process=False).is_watertight


def test_what_few_pictures_saw_and_small_parts_can_be_cut_off() -> None:
    volume = Volume(FusionConfig())
    for frame in ball():
        volume.add(frame)
    all_of_it = extract_surface(volume)
    well_seen = extract_surface(volume, SurfaceConfig(least_seen=4))
    assert well_seen.seen.min() >= 4 > all_of_it.seen.min()
    with pytest.raises(InputError, match="as large as 100"):
        extract_surface(volume, SurfaceConfig(least_area_m2=100))
    with pytest.raises(InputError, match="no surface"):
        extract_surface(volume, SurfaceConfig(least_seen=1000))


def test_unsure_and_far_depth_is_not_used() -> None:
    frame = box_from_within()[1]
    assert frame.depth_m is not None
    unsure = replace(frame, confidence=np.where(frame.depth_m > 1.4, 0.0, 1.0).astype(np.float32))
    for used, config in (
        (unsure, FusionConfig()),
        (frame, FusionConfig(farthest_m=1.4)),
        (replace(frame, depth_m=np.where(frame.depth_m > 1.4, np.nan, frame.depth_m)), FusionConfig()),
    ):
        volume = Volume(config)
        volume.add(used)
        camera = frame.depth_camera
        assert camera is not None
        local = extract_surface(volume).mesh.coord - camera.cam2world[:3, 3]
        assert 1.0 < (local @ camera.cam2world[:3, 2]).max() < 1.45


def test_a_near_measurement_weighs_more() -> None:
    """Of two flat walls 4 cm apart, the fused one lies near the one that was seen from nearer."""

    def wall(y: float, eye: float) -> Frame:
        return frame_of(lambda origin, direction: (y - origin[1]) / direction[:, 1],
                        np.array([0.0, eye, 0.0]), np.array([0.0, y, 0.0]))  # fmt: skip

    surface = fuse(Pictures([wall(2.0, 1.0), wall(2.04, -1.0)]))
    middle = (np.abs(surface.mesh.coord[:, [0, 2]]) < 0.2).all(axis=1)
    assert np.median(surface.mesh.coord[middle, 1]) == pytest.approx(2.004, abs=0.002)


def test_memory_is_bounded_and_blocks_are_found_again() -> None:
    volume = Volume(FusionConfig(most_blocks=50))
    with pytest.raises(InputError, match="more than 50 blocks"):
        volume.add(ball()[0])
    table = BlockTable(10)
    coords = np.array([[-5, 0, 3], [0, 0, 0], [7, -1, 2]])
    keys = block_keys(coords)
    assert (np.diff(keys) > 0).all() and (key_coords(keys) == coords).all()
    assert table.add(keys[1:]).tolist() == [0, 1] and table.add(keys).tolist() == [2, 0, 1]
    assert table.find(block_keys(np.array([[9, 9, 9], [0, 0, 0]]))).tolist() == [-1, 0]
    assert (table.coords == coords[[1, 2, 0]]).all()


def test_frames_that_cannot_be_read_are_left_out_and_counted() -> None:
    frames: list[Frame | InputError] = [*ball()[:4], InputError("five.png: is cut off")]
    frames.append(replace(ball()[0], name="six", depth_m=None, depth_camera=None))
    recording: Recording = Pictures(frames)
    seen: list[tuple[int, int]] = []
    surface = fuse(recording, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]
    assert surface.mesh.notes[1] == "2 frames left out: five.png: is cut off; six: has no depth"
    with pytest.raises(InputError, match="pictures: no frame can be fused; five.png"):
        fuse(Pictures(frames[4:]))
    with pytest.raises(InputError, match="no frame can be fused; it has none"):
        fuse(Pictures([]))


def test_pictures_that_do_not_fit_are_refused() -> None:
    frame = ball()[0]
    assert frame.depth_m is not None and frame.depth_camera is not None
    cut = frame.depth_m[:10]
    for wrong, what in (
        (replace(frame, depth_m=cut), "depth map"),
        (replace(frame, confidence=cut), "confidence map"),
        (replace(frame, color=np.zeros((10, 160, 3), np.uint8)), "colour picture"),
    ):
        with pytest.raises(
            InputError, match=f"its {what} is \\(10, 160\\), its camera's \\(120, 160\\)"
        ):
            Volume(FusionConfig()).add(wrong)
    pose = frame.depth_camera.cam2world.copy()
    pose[0, 3] = 1e6
    with pytest.raises(InputError, match="take the offset off"):
        Volume(FusionConfig()).add(
            replace(frame, depth_camera=replace(frame.depth_camera, cam2world=pose))
        )
    with pytest.raises(InputError, match="voxel_size_m"):
        Volume(FusionConfig(voxel_size_m=0))


def test_a_budget_of_frames_is_spread_evenly() -> None:
    assert list(evenly(5, None)) == [0, 1, 2, 3, 4] == list(evenly(5, 9))
    assert evenly(101, 3) == [0, 50, 100]
    with pytest.raises(InputError, match="found 0"):
        evenly(5, 0)


def test_depth_alone_gives_a_grey_mesh() -> None:
    surface = fuse(Pictures([replace(frame, color=None) for frame in ball()[:3]]))
    assert (surface.mesh.color == 128).all() and "the mesh is grey" in surface.mesh.notes[1]


@pytest.mark.parametrize("depth_m", [1.0, 0.96, 1.005])
def test_a_wall_that_lies_in_the_voxels_own_planes(depth_m: float) -> None:
    """Distances are exactly 0 there, as of rendered depth and a first pose of no turn."""
    K = np.array([[100.0, 0, 79.5], [0, 100, 59.5], [0, 0, 1]])
    camera = Camera(K, (120, 160), np.eye(4))
    flat = np.full((120, 160), depth_m, np.float32)
    mesh = fuse(Pictures([Frame("0", depth_m=flat, depth_camera=camera)])).mesh
    assert mesh.coord[:, 2] == pytest.approx(depth_m, abs=1e-6)
    corner = mesh.coord[mesh.faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    seen_m2 = (159 / 100 * depth_m) * (119 / 100 * depth_m)
    assert -normal[:, 2].sum() / 2 == pytest.approx(seen_m2, rel=0.05)  # whole, towards the camera
