"""What each target does with its sample: what a command would, as far as the file is concerned."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from bifusion.config.run import load_config
from bifusion.data.open_scene import open_folder
from bifusion.data.scene_folder import load_array, read_description, read_offset, scene_files
from bifusion.data.scene_sums import files_without_sum, read_scene_files, scene_files_state
from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.scannet.posed_images import find_posed_images, pose_is_lost
from bifusion.datasets.scannet.scan import read_label_table, read_scan
from bifusion.datasets.scannet.views import sensor_calibration
from bifusion.diagnosis.bundle import read_bundle
from bifusion.diagnosis.replay import replay
from bifusion.errors import InputError
from bifusion.inference.scan_files import scan_files, scan_page
from bifusion.models.towers.clip_architecture import image_tower_size, text_tower_size
from bifusion.models.towers.clip_weights import read_image_tower
from bifusion.official.import_checkpoint import read_checkpoint
from bifusion.runs.check_config import check_config
from bifusion.runs.checkpoint import check_intact, load_training_state
from bifusion.runs.run_folder import RunFolder
from bifusion.runs.trained_model import load_model
from bifusion.studies.comparison.judge import judge_comparison
from bifusion.studies.comparison.page import render_page
from bifusion.studies.figures.arms import group_runs
from bifusion.studies.figures.run import load_run
from bifusion.studies.page.room_views import write_room_views
from bifusion.torch_files.files import open_torch_file
from bifusion.torch_files.objects import MalformedFileError
from bifusion.torch_files.pickle_machine import PickleMachine
from bifusion.torch_files.state_dicts import find_state_dict
from bifusion.untrusted.files import read_bytes
from bifusion.untrusted.pictures import read_color, read_depth_m
from bifusion.viewer.found import show_with
from bifusion.viewer.page import render_view
from bifusion.viewer.prediction import show_prediction
from bifusion.viewer.scene import show_scene


def mesh(path: Path) -> None:
    found = read_mesh_file(path)
    count = len(found.coord)
    assert np.isfinite(found.coord).all() and found.color.shape == (count, 3)
    assert not found.faces.size or 0 <= found.faces.min() <= found.faces.max() < count


def recording(path: Path) -> None:
    """The first frame and the last."""
    found = open_recording(path)
    for index in {0, len(found) - 1}:
        assert np.isfinite(found.cam2world(index)).all()
        try:
            frame = found.frame(index)
        except InputError:
            continue
        assert frame.depth_m is None or np.isfinite(frame.depth_m).all()


def opened_recording(path: Path) -> None:
    found = open_recording(path)
    assert all(np.isfinite(found.cam2world(index)).all() for index in range(len(found)))


def scene(folder: Path) -> None:
    found = open_folder(folder)
    assert len(found.color) == len(found.coord) == len(found.superpoint)
    for name in found.views:
        view = found.views[name]
        assert np.isfinite(view.depth_m).all()


def description(folder: Path) -> None:
    read_description(folder)
    scene_files(folder)
    read_offset(folder)


def shown_scene(folder: Path) -> None:
    render_view(show_scene(folder))


def array(path: Path) -> None:
    found = load_array(path, None, (3,), np.float32)
    np.asarray(found).sum()


def color(path: Path) -> None:
    assert read_color(path).dtype == np.uint8


def depth(path: Path) -> None:
    assert np.isfinite(read_depth_m(path)).all()


def scan(folder: Path) -> None:
    table = read_label_table(folder.parent / "labels.tsv")
    found = read_scan(folder, table)
    count = len(found.scene.coord)
    assert all(len(segment) == count for segment in found.segments.values())
    sensor_calibration(found.meta, (96, 72))


def posed_images(folder: Path) -> None:
    for frame in find_posed_images(folder).frames:
        pose_is_lost(frame)


def pickle(path: Path) -> None:
    try:
        find_state_dict(PickleMachine().load(io.BytesIO(read_bytes(path))))
    except MalformedFileError as error:
        raise InputError(str(error)) from error


def torch_file(path: Path) -> None:
    with open_torch_file(path) as file:
        found = find_state_dict(file.content)
        for tensor in found.tensors.values() if found else ():
            file.tensor(tensor)
        if file.is_torchscript:
            file.module_tensors()
        else:
            file.loaded()


def weights(path: Path) -> None:
    read_checkpoint(path)


def tower(path: Path) -> None:
    read_image_tower(path, "small", quick_gelu=False)


def config(path: Path) -> None:
    """As `predict` and `train FILE.json` read one; networks are built of them by other targets."""
    check_config(load_config(path))


def checkpoint(folder: Path) -> None:
    load_model(folder)
    load_training_state(folder)
    check_intact(folder)


def bundle(path: Path) -> None:
    read_bundle(path)


def replayed(path: Path) -> None:
    replay(path)


def records(folder: Path) -> None:
    """As a resumed run and a comparison's verdicts read them."""
    run = RunFolder(folder)
    run.read_status()
    run.read_stages()
    run.read_scenes()
    run.read_lines(run.epochs)
    judge_comparison(group_runs([load_run(folder)]), audit=None, title="fuzz")


def report(folder: Path) -> None:
    """With its page, and those of what was predicted."""
    arms = group_runs([load_run(folder)])
    found = judge_comparison(arms, audit=None, title="fuzz")
    render_page(found, arms, write_room_views(arms, folder.parent / "out"))


def prediction(folder: Path) -> None:
    render_view(show_prediction(folder))


def scan_description(folder: Path) -> None:
    scan_files(folder)
    scan_page(folder)


def sums(folder: Path) -> None:
    """As a run that begins looks at a scene, and as one with --verify-data does."""
    scene_files_state(folder)
    files_without_sum(folder)
    read_scene_files(folder)


def scan_with_words(folder: Path) -> None:
    render_view(show_with(folder / "scene", folder))


def architecture(path: Path) -> None:
    image_tower_size(str(path))
    text_tower_size(str(path))
