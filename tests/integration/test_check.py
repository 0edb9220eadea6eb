"""`bifusion check`: every kind of damage in one table, no scene stops the others, no process is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bifusion import cli
from bifusion.data.scene_folder import load_scene
from bifusion.datasets.check import check_data
from bifusion.datasets.processes import Died, run_in_processes
from bifusion.labels.sets import SCANNET20
from scene_factory import make_tiny_scene

Damage = Callable[[Path], object]


def change(name: str, alter: Callable[[np.ndarray], np.ndarray]) -> Damage:
    return lambda scene: np.save(scene / name, alter(np.load(scene / name)))


def put(where: object, value: object) -> Callable[[np.ndarray], np.ndarray]:
    def alter(array: np.ndarray) -> np.ndarray:
        array[where] = value
        return array

    return alter


def cameras(alter: Callable[[np.ndarray], np.ndarray], *keys: str) -> Damage:
    def damage(scene: Path) -> None:
        file = scene / "views" / "cameras.npz"
        fields = dict(np.load(file))
        np.savez(file, **(fields | {key: alter(fields[key]) for key in keys}))

    return damage


def picture(name: str, image: Image.Image) -> Damage:
    return lambda scene: image.save(scene / "views" / name)


def other_units(scene: Path) -> None:
    for path in (scene / "views").glob("*.png"):
        Image.fromarray(np.array(Image.open(path)) * 5).save(path)


POSES = ("color_cam2world", "depth_cam2world")
MIRRORED = np.diag([1.0, 1, -1, 1])

WRONG: dict[str, tuple[Damage, str, list[str]]] = {
    "truncated": (
        lambda s: (s / "coord.npy").write_bytes((s / "coord.npy").read_bytes()[:900]),
        "error", ["coord.npy: truncated", "copy or prepare it again"],
    ),
    "not_finite": (change("coord.npy", put((3, 1), np.nan)), "error", ["1 of", "remove these points"]),
    "counts": (change("color.npy", lambda a: a[:-5]), "error", ["color.npy: has shape", "expected"]),
    "colour_of_one": (change("color.npy", lambda a: a / 255.0), "error", ["multiply colours"]),
    "grey": (change("color.npy", lambda a: a * 0 + 9), "warning", ["colour [9, 9, 9]"]),
    "no_superpoints": (lambda s: (s / "superpoint.npy").unlink(), "error", ["prepare superpoints"]),
    "superpoint": (change("superpoint.npy", put(3, -1)), "error", ["superpoint id -1 found"]),
    "order": (change("segment20.npy", np.random.default_rng(0).permutation), "warning", ["same order"]),
    "label": (change("segment20.npy", put(3, 99)), "error", ["segment20.npy: labels go", "scannet20"]),
    "label200": (change("segment200.npy", put(3, 999)), "error", ["segment200.npy: labels go"]),
    "zero": (change("instance.npy", put(slice(-400, None), 0)), "warning", ["zero, instance 0"]),
    "below_none": (change("instance.npy", put(3, -7)), "error", ["instance id -7 found"]),
    "spanning": (change("instance.npy", put(slice(-400, None), 1)), "warning", ["several classes"]),
    "millimetres": (change("coord.npy", lambda a: a * 1000), "warning", ["likely in millimetres"]),
    "mirrored": (cameras(put(1, MIRRORED), "depth_cam2world"), "error", ["00001, depth", "det R"]),
    "lost": (cameras(put(0, -np.inf), "color_cam2world"), "error", ["00000, colour camera", "-inf"]),
    "intrinsics": (cameras(lambda K: K * [[2], [2], [1]], "color_K"), "error", ["another image size"]),
    "broken": (
        lambda s: (s / "views" / "00001.jpg").write_bytes(b"\xff\xd8 no picture"),
        "error", ["00001.jpg: cannot be decoded"],
    ),
    "size": (picture("00000.jpg", Image.new("RGB", (10, 10))), "error", ["is 10×10 pixels"]),
    "no_depth": (lambda s: (s / "views" / "00000.png").unlink(), "error", ["the view has no depth"]),
    "empty_depth": (
        picture("00001.png", Image.fromarray(np.zeros((30, 40), np.uint16))),
        "warning", ["nothing was measured"],
    ),
    "inverted": (cameras(np.linalg.inv, *POSES), "error", ["poses look like world-to-camera"]),
    "opengl": (
        cameras(lambda p: p @ np.diag([1.0, -1, -1, 1]), *POSES),
        "error", ["OpenGL cameras (y up, z backward)"],
    ),
    "fifths": (other_units, "error", ["by a factor 5: they say 5 times", "stored depth by 5,"]),
    "stray": (picture("7.jpg", Image.new("RGB", (64, 48))), "warning", ["7.jpg", "no camera"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data set: one scene of each kind of damage, two right ones, one that is in both splits."""
    root = tmp_path_factory.mktemp("data")
    for number, (name, (damage, _, _)) in enumerate(WRONG.items()):
        damage(make_tiny_scene(root / "train" / name, seed=number))
    for number, name in enumerate(("right", "another", "seen")):
        make_tiny_scene(root / "val" / name, seed=1000 + number)
    leaked = shutil.copytree(root / "val" / "seen", root / "train" / "leaked")
    for name in ("coord", "color", "superpoint", "segment20", "segment200", "instance"):
        change(f"{name}.npy", lambda array: array[::-1])(leaked)  # the same, in another order
    return root


@pytest.fixture
def check(monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """Runs the command; its status, and what it printed."""

    def run(*args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bifusion", "check", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "500")
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), " ".join((printed.out + printed.err).replace("│", " ").split())

    return run


def test_every_kind_of_wrong_is_told_in_one_table(data, check, tmp_path):
    status, printed = check(data, "--json", tmp_path / "found.json", "--workers", 2)
    assert status == 1
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    of_scene = {scene["name"]: scene["findings"] for scene in found["scenes"]}
    assert of_scene["right"] == of_scene["another"] == [] and len(of_scene) == len(WRONG) + 4
    (leak,) = of_scene["seen"]
    assert leak["severity"] == "error" and "has the same points as" in leak["message"]
    for name, (_, severity, words) in WRONG.items():
        messages = [one["message"] for one in of_scene[name] if one["severity"] == severity]
        assert any(all(word in message for word in words) for message in messages), (
            name,
            of_scene[name],
        )
        assert f"train/{name}" in printed
        if severity == "warning":
            assert all(one["severity"] == "warning" for one in of_scene[name]), of_scene[name]
    flat = [one for findings in of_scene.values() for one in findings]
    assert found["errors"] == sum(one["severity"] == "error" for one in flat)
    summary = f"{len(of_scene)} scenes, {2 * len(of_scene)} views: {found['errors']} errors"
    assert summary in printed and "val/right" not in printed


def test_right_data_a_split_and_a_scene(data, check):
    status, printed = check(data / "val", "--workers", 0)
    assert status == 0 and "3 scenes, 6 views: 0 errors, 0 warnings" in printed
    assert check(data / "val" / "right")[0] == 0
    assert check(data / "train" / "inverted")[0] == 1
    assert check(data / "train" / "grey")[0] == 0  # a warning


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "holds no scene folder"),
        ([".", "--workers", -1], "--workers: found -1"),
        ([".", "--label-set", "mine"], "mine"),
    ],
)
def test_a_bad_call_leaves_with_status_2(args, words, check, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed = check(*args)
    assert status == 2 and words in printed


def test_empty_and_archived_arrays_of_the_scene_that_one_is_in(check, tmp_path, monkeypatch):
    scene = make_tiny_scene(tmp_path / "train" / "room")
    np.save(scene / "coord.npy", np.zeros((0, 3), np.float32))
    np.save(scene / "color.npy", np.zeros((0, 3)))
    np.savez(tmp_path / "a.npz", np.zeros(3))
    shutil.copy(tmp_path / "a.npz", scene / "superpoint.npy")
    monkeypatch.chdir(scene)
    status, printed = check(".")
    assert status == 1 and "train/room" in printed
    assert "coord.npy: holds no point" in printed, printed
    assert "superpoint.npy: truncated or no .npy file" in printed, printed


def test_names_that_steer_a_terminal_are_told_whole(tmp_path, check):
    scene = make_tiny_scene(tmp_path / "val" / "a\x1b]0;owned\x07")
    np.save(scene / "coord.npy", np.full_like(np.load(scene / "coord.npy"), np.nan))
    status, printed = check(tmp_path)
    assert status == 1 and "\x1b" not in printed and "val/a\\x1b]0;owned\\x07" in printed


def test_classes_of_the_data_set_itself(tmp_path, check):
    scene = make_tiny_scene(tmp_path / "train" / "room")
    status, printed = check(tmp_path, "--label-set", "replica")  # as training refuses it
    assert status == 1 and "no scene has segment.npy, the labels of replica" in printed
    shutil.copy(scene / "segment20.npy", scene / "segment.npy")
    assert "segment.npy: its classes are not known" in check(tmp_path / "train")[1]
    assert check(tmp_path / "train", "--label-set", "nyu40")[0] == 0
    classes = [{"name": name, "kind": "thing"} for name in "abc"]
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"name": "mine", "classes": classes}))
    status, printed = check(tmp_path, "--workers", 0)
    assert status == 1 and "labels go from 0 to 6; expected -1 (unlabelled) to 2 (c)" in printed
    labels.write_text("{")
    assert "labels.json: not valid JSON" in check(tmp_path, "--workers", 0)[1]


def test_rooms_of_one_name_in_two_splits(tmp_path):
    for split, name, seed in (("train", "scene0001_00", 1), ("val", "scene0001_01", 2)):
        make_tiny_scene(tmp_path / split / name, seed=seed)
    report = check_data(tmp_path, workers=0)
    (found,) = report.scenes[1].findings
    assert found.severity == "warning" and "a scan of the same room as" in found.message


# ---------------------------------------------------------------------------------------- processes


def squared_unless_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def test_a_process_that_dies_takes_one_job_with_it():
    results = dict(run_in_processes(squared_unless_three, [2, 3, 4], workers=1))
    assert results == {0: 4, 1: Died(-signal.SIGKILL), 2: 16}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_ctrl_c_leaves_no_process_behind(tmp_path):
    """In the midst of many scenes, of which the processes have read none or a few."""
    scene = make_tiny_scene(tmp_path / "train" / "first")
    for number in range(400):
        shutil.copytree(scene, tmp_path / "train" / f"copy{number}", copy_function=os.link)
    command = [sys.executable, "-m", "bifusion.cli", "check", str(tmp_path), "--workers", "2"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    started: list[int] = []
    while len(started) < 3 and time.monotonic() < deadline:  # multiprocessing's tracker is one of them
        time.sleep(0.2)
        started = children(running.pid)
    assert len(started) == 3
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=300)
    assert running.returncode == 130 and "interrupted" in said and "Traceback" not in said
    while any(Path(f"/proc/{pid}").is_dir() for pid in started) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [pid for pid in started if Path(f"/proc/{pid}").is_dir()]


def test_what_check_calls_right_loads(data):
    for scene in (data / "val").iterdir():
        assert load_scene(scene, SCANNET20).view_names == ["00000", "00001"]
