"""ScanNet as released into scene folders: a made-up scan, what is there already, and the real one."""

import json
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

import needs
from bifusion.data.scene_folder import load_scene
from bifusion.data.view_files import load_view
from bifusion.datasets.processes import Died
from bifusion.datasets.scannet.prepare import prepare_scannet
from bifusion.datasets.scannet.views import ViewOptions
from bifusion.datasets.shards import Shard
from bifusion.datasets.superpoints.normals import mesh_normals
from bifusion.errors import InputError, SomeFailedError
from bifusion.labels.sets import SCANNET20, SCANNET200
from scannet_release import ALIGNMENT, COLOR_TO_DEPTH, NAME, K, prepare, write_matrix
from scene_factory import look_at

REAL = needs.folder("BIFUSION_REAL_DATA", "data") / "scannet"


def test_labels_superpoints_and_alignment(released):
    assert prepare(released).written == [NAME]
    folder = released / "out" / "train" / NAME
    scene = load_scene(folder, SCANNET20)
    assert scene.segment.tolist() == [0] * 9 + [4] * 6 + [-1] * 3  # the first row of a category counts
    assert load_scene(folder, SCANNET200).segment.tolist() == [0] * 9 + [9] * 6 + [-1] * 3
    assert scene.instance.tolist() == [-1] * 9 + [0] * 6 + [-1] * 3  # walls have no instance
    assert scene.superpoint.tolist() == [1] * 9 + [0] * 6 + [2] * 3
    assert np.allclose(scene.coord[5], ALIGNMENT[:3] @ [0.1, 0.2, 0, 1])
    assert np.allclose(np.abs(scene.normal), [0, 0, 1]) and scene.color[:, 0].tolist() == list(range(18))
    stored = json.loads((folder / "scene.json").read_text())
    assert stored["axis_alignment"] == ALIGNMENT.tolist() and stored["superpoints"] == 3


def test_views_are_aligned_and_depth_intrinsics_scaled_from_colour(released):
    prepare(released)
    view = load_view(released / "out" / "train" / NAME, "00000")
    raw = look_at(np.array([0.1, -1.0, 0.3]), np.array([0.1, 0, 0.3]))
    assert np.allclose(view.color_cam2world, ALIGNMENT @ raw, atol=1e-5)
    assert np.array_equal(view.depth_cam2world, view.color_cam2world)
    assert np.allclose(view.depth_K, [[30, 0, 15.5], [0, 30.5, 11.5], [0, 0, 1]])
    assert np.allclose(view.depth_m, 1.5)


def test_depth_of_the_sensor_uses_its_own_calibration(released):
    prepare(released, view_options=ViewOptions(depth_frame="sensor"))
    view = load_view(released / "out" / "train" / NAME, "00000")
    point = np.array([0.2, 0.1, 1.0, 1])
    in_depth_camera = np.linalg.inv(view.depth_cam2world) @ view.color_cam2world @ point
    assert np.allclose(in_depth_camera, COLOR_TO_DEPTH @ point)
    assert np.allclose(view.depth_K, [[30, 0, 15.5], [0, 30, 11.5], [0, 0, 1]])


@pytest.mark.parametrize("value", [0, 65535])
def test_depth_that_measured_nothing_is_told(released, posed, value):
    Image.fromarray(np.full((24, 32), value, np.uint16)).save(posed / "00010.png")
    notes = {}
    prepare(released, notes=notes)
    (told,) = [note for note in notes[NAME] if "nothing was measured" in note]
    assert told.startswith("in the depth of 1 of 2 views nothing was measured") and "00010.png" in told


def test_layout_of_a_sens_export(released, posed):
    for stem in ("00000", "00010"):
        number = str(int(stem))
        for kind, ending in (("color", "jpg"), ("depth", "png"), ("pose", "txt")):
            (posed / kind).mkdir(exist_ok=True)
            (posed / f"{stem}.{ending}").rename(posed / kind / f"{number}.{ending}")
    (posed / "intrinsic.txt").unlink()
    write_matrix(posed / "intrinsic" / "intrinsic_color.txt", K)
    write_matrix(posed / "intrinsic" / "intrinsic_depth.txt", [[29, 0, 15], [0, 31, 12], [0, 0, 1]])
    write_matrix(posed / "intrinsic" / "extrinsic_depth.txt", np.linalg.inv(COLOR_TO_DEPTH))
    prepare(released)
    folder = released / "out" / "train" / NAME
    assert load_scene(folder, SCANNET20).view_names == ["0", "10"]
    view = load_view(folder, "10")
    assert view.depth_K.tolist() == [[29, 0, 15], [0, 31, 12], [0, 0, 1]]
    assert np.allclose(
        np.linalg.inv(view.depth_cam2world) @ view.color_cam2world, COLOR_TO_DEPTH, atol=1e-6
    )


def test_large_images_can_be_reduced(released):
    prepare(released, view_options=ViewOptions(long_side=32))
    view = load_view(released / "out" / "train" / NAME, "00000")
    assert view.color.shape == (24, 32, 3)
    assert np.allclose(view.color_K, [[30, 0, 15.5], [0, 30.5, 11.5], [0, 0, 1]])


def test_lost_poses_are_left_out_and_counted(released, posed):
    write_matrix(posed / "00000.txt", np.full((4, 4), -np.inf))
    assert prepare(released).lost_views == {NAME: 1}
    assert load_scene(released / "out" / "train" / NAME, SCANNET20).view_names == ["00010"]


def test_frame_skip_and_no_views(released):
    prepare(released, view_options=ViewOptions(frame_skip=2))
    folder = released / "out" / "train" / NAME
    assert load_scene(folder, SCANNET20).view_names == ["00000"]
    prepare(released, posed_images=None, overwrite=True)
    assert load_scene(folder, SCANNET20).view_names == [] and not (folder / "views").exists()


def test_complete_scenes_are_kept_and_others_written(released, scan):
    shutil.copytree(scan, scan.parent / "scene0002_00")
    for path in (scan.parent / "scene0002_00").iterdir():
        path.rename(path.with_name(path.name.replace(NAME, "scene0002_00")))
    seen = []
    prepare(released, posed_images=None)
    shutil.rmtree(released / "out" / "train" / "scene0002_00")
    again = prepare(released, posed_images=None, done=lambda *told: seen.append(told))
    assert (again.kept, again.written) == ([NAME], ["scene0002_00"])
    assert seen == [(f"train/{NAME}", "kept", 1, 2), ("train/scene0002_00", "written", 2, 2)]


def test_scenes_made_with_other_options_are_no_others(released):
    """Images that are added, or a unit that is put right, must not be lost in silence."""
    prepare(released, posed_images=None)
    with pytest.raises(SomeFailedError, match=r"without images; asked for is ScanNet v2; with posed im"):
        prepare(released)
    prepare(released, overwrite=True)
    fifths = ViewOptions(depth_scale=5000)
    with pytest.raises(SomeFailedError, match=r"depth_scale 5000\. Nothing was changed; --overwrite"):
        prepare(released, view_options=fifths)
    assert prepare(released, view_options=fifths, overwrite=True).written == [NAME]
    assert prepare(released, view_options=fifths).kept == [NAME]
    path = released / "out" / "train" / NAME / "scene.json"
    stored = json.loads(path.read_text()) | {"source": "ScanNet v2"}  # of a former version
    path.write_text(json.dumps(stored))
    assert prepare(released).kept == [NAME]


def test_a_split_given_later_leaves_no_scan_in_another(released):
    prepare(released, posed_images=None)
    (released / "scannetv2_train.txt").write_text("")
    (released / "scannetv2_val.txt").write_text(NAME)
    with pytest.raises(InputError, match=f"train/{NAME}: prepared before, in a split that the lists do"):
        prepare(released, posed_images=None, splits=released)
    assert not (released / "out" / "val").exists()


def test_shards_share_the_scans(released, scan):
    shutil.copytree(scan, scan.parent / "scene0002_00")
    for path in (scan.parent / "scene0002_00").iterdir():
        path.rename(path.with_name(path.name.replace(NAME, "scene0002_00")))
    left = released / "out" / "train" / ".scene0002_00.writing-1"  # by the other shard, at work
    left.mkdir(parents=True)
    first = prepare(released, posed_images=None, shard=Shard(1, 2))
    assert left.is_dir() and first.written == [NAME]
    assert prepare(released, posed_images=None, shard=Shard(2, 2)).written == ["scene0002_00"]


def test_one_bad_scan_does_not_stop_the_others(released, scan):
    (scan.parent / "scene0000_00").mkdir()
    with pytest.raises(
        InputError, match="1 of 2 scans could not be prepared:\n.*scene0000_00.txt: missing"
    ):
        prepare(released)
    assert load_scene(released / "out" / "train" / NAME, SCANNET20).view_names == ["00000", "00010"]


def test_splits_and_unlabelled_test_scans(released, scan):
    (released / "scannetv2_train.txt").write_text("scene0000_00\n")
    (released / "scannetv2_test.txt").write_text(f"{NAME}\n")
    (scan / f"{NAME}.aggregation.json").unlink()
    (scan / f"{NAME}_vh_clean_2.0.010000.segs.json").unlink()
    (scan / f"{NAME}.txt").write_text("sceneType = Office\n")
    prepare(released, splits=released)
    scene = load_scene(released / "out" / "test" / NAME, SCANNET20)
    assert scene.segment is None and scene.instance is None
    assert len(np.unique(scene.superpoint)) == 2  # the two squares are not connected


def test_scan_in_two_lists_goes_to_both_splits(released):
    for split in ("train", "val"):
        (released / f"scannetv2_{split}.txt").write_text(f"{NAME}\n")
    assert prepare(released, splits=released).written == [NAME, NAME]
    ours = [load_scene(released / "out" / split / NAME, SCANNET20) for split in ("train", "val")]
    assert ours[0].view_names == ours[1].view_names == ["00000", "00010"]
    assert np.array_equal(ours[0].segment, ours[1].segment)


def test_normals_are_weighted_by_area():
    coord = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 1], [9, 9, 9.0]])
    normals = mesh_normals(coord, np.array([[0, 1, 2], [0, 3, 1]]))
    assert np.allclose(normals[0], np.array([0, 4, 16]) / np.hypot(4, 16))
    assert np.allclose(normals[4], 0)


# -------------------------------------------------------------------------- what is there already


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_was_not_written_here_stays_and_is_named(released, overwrite):
    """Pointcept's arrays, or a user's notes; the other scans are prepared all the same."""
    folder = released / "out" / "train" / NAME
    folder.mkdir(parents=True)
    np.save(folder / "coord.npy", np.zeros((3, 3), np.float32))
    (folder / "notes.txt").write_text("mine")
    shutil.copytree(released / "scans" / NAME, released / "scans" / "scene0002_00")
    for path in (released / "scans" / "scene0002_00").iterdir():
        path.rename(path.with_name(path.name.replace(NAME, "scene0002_00")))
    with pytest.raises(InputError, match=rf"1 of 2 .*\n.*{NAME}: holds coord.npy, notes.txt, and noth"):
        prepare(released, posed_images=None, overwrite=overwrite)
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["coord.npy", "notes.txt"]
    assert len(load_scene(folder.with_name("scene0002_00"), SCANNET20).coord) == 18


def test_overwriting_keeps_what_else_is_in_a_scene_folder(released):
    prepare(released)
    folder = released / "out" / "train" / NAME
    (folder / "notes.txt").write_text("mine")
    assert prepare(released, posed_images=None, overwrite=True).written == [NAME]
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "views").exists() and load_scene(folder, SCANNET20).view_names == []


@pytest.mark.parametrize("new", ["there", "beside"])
def test_the_next_call_takes_up_what_a_killed_one_left(released, new):
    """Killed between "old aside" and "new in", or before "old away"."""
    prepare(released, posed_images=None)
    folder = released / "out" / "train" / NAME
    hidden = shutil.copytree(folder, folder.with_name(f".{NAME}.replaced-77"))
    (hidden / "notes.txt").write_text("mine")
    if new == "beside":
        folder.rename(folder.with_name(f".{NAME}.writing-77"))
    assert prepare(released, posed_images=None).kept == [NAME]
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in folder.parent.iterdir()] == [NAME]
    assert len(load_scene(folder, SCANNET20).coord) == 18


# ---------------------------------------------------------------------------------------- real scan


@pytest.mark.real_data
def test_real_scan_agrees_with_its_published_labels(tmp_path):
    if not REAL.is_dir():
        needs.lacking("real_data", REAL)
    meta = REAL / "meta"
    prepare_scannet(
        REAL / "scans",
        tmp_path,
        labels=meta / "scannetv2-labels.combined.tsv",
        posed_images=REAL / "posed_images",
        splits=meta,
    )
    folder = tmp_path / "train" / "scene0000_00"
    scene = load_scene(folder, SCANNET20)
    published = np.load(REAL / "labelled_points" / "scene0000_00.npz")
    assert np.abs(scene.coord - published["coord"]).max() < 1e-4
    assert np.array_equal(scene.color, published["color"])
    class_of_nyu40 = np.full(256, -1)
    class_of_nyu40[list(SCANNET20.source_ids)] = range(20)
    assert (scene.segment == class_of_nyu40[published["nyu40"]]).mean() > 0.999
    pairs = np.unique(np.stack([scene.instance, published["instance"]])[:, scene.instance >= 0], axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]  # one to one
    assert scene.superpoint.max() + 1 == 668
    assert share_of_vertices_on_the_depth_map(scene, load_view(folder, "00000")) > 0.5


def share_of_vertices_on_the_depth_map(scene, view):
    """Of the vertices inside the image, how many lie at the depth that was rendered there."""
    camera = np.linalg.inv(view.depth_cam2world)
    points = scene.coord @ camera[:3, :3].T + camera[:3, 3]
    points = points[points[:, 2] > 0.1]
    pixels = np.rint((points / points[:, 2:]) @ view.depth_K.T).astype(int)[:, :2]
    inside = ((pixels >= 0) & (pixels < view.depth_m.shape[::-1])).all(axis=1)
    depth = view.depth_m[pixels[inside, 1], pixels[inside, 0]]
    return (np.abs(depth - points[inside, 2]) < 0.02).mean()


def test_a_scan_whose_process_is_killed_is_named(released, monkeypatch):
    monkeypatch.setattr(
        "bifusion.datasets.scannet.prepare.run_in_processes",
        lambda work, jobs, workers: [(0, Died(-signal.SIGKILL))],
    )
    with pytest.raises(InputError, match=f"scan {NAME} of train: its process was killed by SIGKILL"):
        prepare(released)


def test_several_processes_write_what_one_writes(released):
    """Files alike, the same order of failures, and notes of both."""
    for number in (2, 4):
        other = f"scene000{number}_00"
        for kind in ("scans", "posed_images"):
            shutil.copytree(released / kind / NAME, released / kind / other)
        for path in (released / "scans" / other).glob(f"{NAME}*"):
            path.rename(path.with_name(path.name.replace(NAME, other)))
    broken = released / "scans" / "scene0003_00"
    broken.mkdir()
    found = {}
    for jobs in (1, 2):
        shutil.rmtree(released / "out", ignore_errors=True)
        with pytest.raises(
            InputError, match="1 of 4 scans could not be prepared:\n.*scene0003_00"
        ) as no:
            prepare(released, jobs=jobs)
        files = [path for path in sorted((released / "out").rglob("*")) if path.is_file()]
        found[jobs] = [(path, path.read_bytes()) for path in files], str(no.value)
    assert len(found[1][0]) > 30
    assert found[1] == found[2]
    with pytest.raises(InputError, match="jobs: found 0"):
        prepare(released, jobs=0)
