"""Scene folders: round trip, Pointcept's variants, and every bad input with its message."""

import shutil

import numpy as np
import pytest
from PIL import Image

from bifusion.data.dataset import DataConfig, SceneDataset
from bifusion.data.scene_folder import as_bytes, load_scene, scene_files, write_scene
from bifusion.data.view_files import load_cameras, load_view
from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20, SCANNET200
from bifusion.types import Scene
from scene_factory import make_tiny_scene


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return make_tiny_scene(tmp_path_factory.mktemp("scenes") / "room", depth_offset_m=0.05)


@pytest.fixture
def folder(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "room")


def edit_cameras(folder, **changes):
    path = folder / "views" / "cameras.npz"
    stored = dict(np.load(path))
    stored.update({key: change(stored[key].copy()) for key, change in changes.items()})
    np.savez(path, **stored)


MIRRORED_LAST = np.stack([np.eye(4), np.diag([1.0, 1, -1, 1])])


def small_scene(**changes):
    arrays = {
        "coord": np.zeros((3, 3), np.float32),
        "color": np.zeros((3, 3), np.uint8),
        "superpoint": np.array([0, 1, 1], np.int32),
    }
    return Scene(name="small", **{**arrays, **changes})


@pytest.mark.parametrize(
    ("name", "array", "remedy"),
    [
        ("coord", np.zeros((3, 9), np.float32), r"expected \(N, 3\), one row .*: coord\.T"),
        ("coord", np.zeros((1, 9, 3), np.float32), r": coord\[0\]"),
        ("color", np.zeros((9, 4), np.uint8), r": color\[:, :3\], if those come first"),
        ("coord", np.zeros((3, 3), object), r"an array of object .*\.astype\(float\) of objects"),
        ("coord", np.zeros(3, [(axis, "f4") for axis in "xyz"]), "structured_to_unstructured of fields"),
        ("instance", np.array([0, 1, 2**32 - 1], np.uint32), r"is -1 without its sign: instance\.view"),
        ("instance", np.array([0, 1, 10**12]), r"number them anew, np\.unique\(instance"),
        ("segment20", np.array([0, 1, 65535], np.uint16), r"65535 is -1 without its sign: segment20\.v"),
    ],
)
def test_arrays_of_another_form_are_told_with_what_mends_them(tmp_path, name, array, remedy):
    write_scene(tmp_path / "room", small_scene(), segments={}, source="a test")
    np.save(tmp_path / "room" / f"{name}.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=f"{name}.npy: .*{remedy}"):
        load_scene(tmp_path / "room", SCANNET20)


def test_places_that_half_floats_blurred_are_told(tmp_path):
    write_scene(tmp_path / "room", small_scene(), segments={}, source="a test")
    np.save(tmp_path / "room" / "coord.npy", np.full((3, 3), 5.3, np.float16))
    with pytest.warns(UserWarning, match=r"coord\.npy holds float16, whose steps are up to 0\.0039"):
        load_scene(tmp_path / "room", SCANNET20)


def test_round_trip_is_memory_mapped_and_complete(folder):
    scene = load_scene(folder, SCANNET20)
    assert isinstance(scene.coord, np.memmap) and scene.coord.shape == (len(scene.color), 3)
    assert scene.view_names == ["00000", "00001"]
    assert set(np.unique(scene.segment)) == {0, 1, 4, 6} and scene.segment.dtype == np.int16
    assert set(np.unique(load_scene(folder, SCANNET200).segment)) == {0, 1, 2, 3}
    view = load_view(folder, "00001")
    assert view.color.shape == (48, 64, 3) and view.depth_m.shape == (30, 40)
    assert 0.5 < view.depth_m.max() < 4 and view.depth_m.dtype == np.float32
    assert np.allclose(
        view.depth_cam2world[:3, 3] - view.color_cam2world[:3, 3], 0.05 * view.color_cam2world[:3, 0]
    )


def test_rewriting_replaces_the_whole_folder(folder):
    write_scene(folder, small_scene(), segments={}, source="test")
    assert sorted(p.name for p in folder.iterdir()) == [
        "color.npy",
        "coord.npy",
        "scene.json",
        "sums.json",
        "superpoint.npy",
    ]
    assert load_scene(folder, SCANNET20).segment is None
    assert [p.name for p in folder.parent.iterdir()] == ["room"]


def test_failed_write_leaves_nothing(tmp_path, pristine):
    def views():
        yield load_view(pristine, "00000")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scene(tmp_path / "room", small_scene(), segments={}, views=views(), source="test")
    assert list(tmp_path.iterdir()) == []


def test_pointcept_variants_load(tmp_path):
    shape = (5, 1)
    np.save(tmp_path / "coord.npy", np.zeros((5, 3), np.float64))
    np.save(tmp_path / "color.npy", np.full((5, 3), 255.0))
    np.save(tmp_path / "superpoint.npy", np.zeros(5, np.int64))
    np.save(tmp_path / "segment20.npy", np.full(shape, -1, np.int64))
    np.save(tmp_path / "instance.npy", np.full(shape, 7, np.int64))
    scene = load_scene(tmp_path, SCANNET20)
    assert scene.segment.shape == (5,) and scene.instance.tolist() == [7] * 5 and scene.view_names == []
    assert scene.color.dtype == np.uint8 and scene.coord.dtype == np.float32


def test_missing_superpoints_say_how_to_make_them(folder):
    (folder / "superpoint.npy").unlink()
    with pytest.raises(InputError, match="superpoint.npy is missing.*prepare superpoints"):
        load_scene(folder, SCANNET20)


@pytest.mark.parametrize("name", ["coord.npy", "color.npy"])
def test_missing_array(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: missing"):
        load_scene(folder, SCANNET20)


@pytest.mark.parametrize("keep", [0, 40, 5000])
def test_truncated_array(folder, keep):
    path = folder / "coord.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="coord.npy: truncated"):
        load_scene(folder, SCANNET20)


def test_no_folder(folder):
    with pytest.raises(InputError, match="no such scene folder"):
        load_scene(folder / "absent", SCANNET20)


def test_counts_that_disagree(folder):
    np.save(folder / "segment20.npy", np.zeros(7, np.int16))
    with pytest.raises(InputError, match=r"segment20.npy: has shape \(7,\)"):
        load_scene(folder, SCANNET20)
    with pytest.raises(InputError, match="color has shape"):
        write_scene(folder, small_scene(color=np.zeros((2, 3), np.uint8)), segments={}, source="test")
    with pytest.raises(InputError, match="segment20.npy: has shape"):
        write_scene(folder, small_scene(), segments={SCANNET20: np.zeros(2)}, source="test")


def test_colors_must_be_bytes(folder):
    np.save(folder / "color.npy", np.full((len(load_scene(folder, SCANNET20).coord), 3), 0.5))
    with pytest.raises(InputError, match="color.npy: holds float64 from 0.5"):
        load_scene(folder, SCANNET20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"coord": np.array([[0, 0, 0], [0, np.nan, 0], [0, 0, 0]], np.float32)},
            "1 of 3 points .* not finite",
        ),
        ({"superpoint": np.array([0, 2, 2], np.int32)}, "superpoint ids go from 0 to 2 but 2 are used"),
        ({"coord": np.zeros((0, 3), np.float32)}, "N ≥ 1"),
    ],
)
def test_bad_content_is_not_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        write_scene(tmp_path / "bad", small_scene(**changes), segments={}, source="test")
    assert not (tmp_path / "bad").exists()


def test_label_outside_the_set(tmp_path):
    with pytest.raises(InputError, match="labels go from 0 to 20; expected -1"):
        write_scene(
            tmp_path / "bad", small_scene(), segments={SCANNET20: np.array([0, 1, 20])}, source="test"
        )


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (np.full((4, 4), -np.inf), "not finite.*-inf"),
        (np.diag([2.0, 2, 2, 1]), "no rigid transform"),
        (np.diag([1.0, 1, -1, 1]), "no rigid transform"),
        (np.diag([1.0, 1, 1, 2]), "last row"),
    ],
)
def test_bad_pose(folder, pose, message):
    edit_cameras(folder, color_cam2world=lambda poses: np.stack([poses[0], pose]))
    for read in (load_cameras, lambda f: load_view(f, "00000"), lambda f: load_scene(f, None)):
        with pytest.raises(InputError, match=f"view 00001, colour camera.*{message}"):
            read(folder)
    load_scene(folder, None, read_views=False)  # models without images have no use for cameras
    assert "views/00001.jpg" in scene_files(folder)  # still ours, whatever its pose


def test_bad_poses_are_all_named(folder):
    edit_cameras(folder, depth_cam2world=lambda poses: poses * [[[-1], [1], [1], [1]]])
    match = r"00000, depth camera: the pose is no rigid.*; so it is with 1 other views \(00001\)"
    with pytest.raises(InputError, match=match):
        load_cameras(folder)


@pytest.mark.parametrize("seed", range(4))
def test_a_mirrored_pose_is_refused_whatever_view_is_drawn(folder, seed):
    edit_cameras(folder, color_cam2world=lambda poses: poses @ MIRRORED_LAST)
    config = DataConfig(root=folder.parent, max_views=1, image_size=64, patch_size=8, voxel_size_m=0.1)
    dataset = SceneDataset(config, ".", seed=seed, training=True)
    with pytest.raises(InputError, match="view 00001, colour camera: the pose is no rigid transform"):
        dataset.sample(0, epoch=0)


def test_intrinsics_of_another_size_or_shape(folder):
    edit_cameras(folder, color_K=lambda K: K * [[[2], [2], [1]]])
    with pytest.raises(InputError, match="belong to another image size: cx = .* 64×48"):
        load_view(folder, "00000")
    for factor in (1e-320, 1e-4, 1e6):
        edit_cameras(
            folder,
            color_K=lambda K, factor=factor: K * 0 + [[32, 0, 32], [0, 64 * factor, 24], [0, 0, 1]],
        )
        with pytest.raises(InputError, match="expected 0.64 to 64000 pixels for an image of 64×48"):
            load_view(folder, "00000")
    edit_cameras(folder, color_K=lambda K: K[:, :2])
    with pytest.raises(InputError, match=r"color_K has shape \(2, 2, 3\); expected \(2, 3, 3\)"):
        load_view(folder, "00000")


def test_image_of_another_size_than_stored(folder):
    Image.new("RGB", (32, 24)).save(folder / "views" / "00000.jpg")
    with pytest.raises(
        InputError, match="00000.jpg: is 32×24 pixels but its cameras were stored for 64×48"
    ):
        load_view(folder, "00000")


def test_undecodable_or_missing_image(folder):
    path = folder / "views" / "00000.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="00000.jpg: cannot be decoded"):
        load_view(folder, "00000")
    path.unlink()
    with pytest.raises(InputError, match="00000.jpg: no such image"):
        load_view(folder, "00000")


def test_view_without_depth_and_wrong_depth(folder):
    path = folder / "views" / "00000.png"
    for mode, advice in (("L", "8 bits or fewer do not hold"), ("RGB", "a picture for the eye")):
        Image.new(mode, (40, 30)).save(path)
        with pytest.raises(InputError, match=f"00000.png: depth has image mode {mode}; .*{advice}"):
            load_view(folder, "00000")
    Image.new("F", (40, 30)).save(path, "TIFF")
    with pytest.raises(InputError, match="floats; if they are metres, store 1000 times as much"):
        load_view(folder, "00000")
    path.unlink()
    with pytest.raises(InputError, match="00000.png: the view has no depth"):
        load_view(folder, "00000")


def test_unknown_view_and_missing_cameras(folder):
    with pytest.raises(InputError, match="has no view 'x'; it has 00000, 00001"):
        load_view(folder, "x")
    (folder / "views" / "cameras.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="cameras.npz: not a readable .npz"):
        load_scene(folder, SCANNET20)
    (folder / "views" / "cameras.npz").unlink()  # as by a rule that ignores *.npz
    with pytest.raises(InputError, match="cameras.npz: missing; a scene with views needs it"):
        load_scene(folder, SCANNET20)
    assert load_scene(folder, SCANNET20, read_views=False).view_names == []


# ------------------------------------------------------------------------------ arrays of other software


def test_coordinates_that_float32_would_move_are_refused(folder):
    coord = np.load(folder / "coord.npy").astype(np.float64)
    np.save(folder / "coord.npy", coord + (9_000, 0, 0))  # moved by less than a millimetre
    assert np.allclose(load_scene(folder, SCANNET20).coord, coord + (9_000, 0, 0), atol=1e-3)
    np.save(folder / "coord.npy", coord * 30_000)  # in another unit, which is told elsewhere
    assert load_scene(folder, SCANNET20).coord.max() > 30_000
    far = coord + (500_000, 4_000_000, 100)
    far[0] = 0  # a stray point
    np.save(folder / "coord.npy", far)
    with pytest.raises(InputError, match=r"coord.npy: holds float64 up to 4,000,00\d .*steps of 0.25;"):
        load_scene(folder, SCANNET20)


@pytest.mark.parametrize("name", ["segment20", "instance", "superpoint"])
def test_labels_that_are_not_finite_are_named(folder, name):
    values = np.load(folder / f"{name}.npy").astype(np.float64)
    values[3] = np.nan
    np.save(folder / f"{name}.npy", values)
    with pytest.raises(InputError, match=f"{name}.npy: .*not finite; expected whole ones, −1 for none"):
        load_scene(folder, SCANNET20)


@pytest.mark.parametrize(
    ("color", "message"),
    [
        (np.float32([[1, 1, 1]]), "from 1.0 to 1.0; .*multiply colours of 0 … 1 by 255"),
        (np.float32([[-1, 0.5, 1]]), "add 1, multiply by 127.5"),
        (np.uint16([[0, 257, 65535]]), "divide 16-bit colours by 257"),
        (np.float32([[0, 3, 65535]]), "divide 16-bit colours by 257"),
        (np.float32([[-3, 30, 256.5]]), "clip what went beyond it"),
        (np.float32([[-2.1, 0.1, 2.6]]), "undo a normalisation"),
        (np.int16([[-127, 3, 127]]), "undo a normalisation"),
        (np.int8([[-127, 3, 127]]), r"color.view\(np.uint8\)"),
        (
            np.float32([[1, 2, 3], [4, np.nan, 6]]),
            r"1 of 2 points have a colour that is not finite \(first: point 1\)",
        ),
    ],
)
def test_colors_of_other_ranges_are_told_apart(color, message):
    with pytest.raises(InputError, match=message):
        as_bytes(color, "color")


def test_black_is_black_in_floats_too():
    assert as_bytes(np.zeros((2, 3)), "color").tolist() == [[0, 0, 0]] * 2
