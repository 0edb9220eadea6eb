"""Data and software that change under a run are named before it goes on, or accepted and told."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import bifusion.runs.run_data as run_data
from bifusion.config.run import save_config
from bifusion.data.scene_sums import read_sums
from bifusion.datasets.superpoints.prepare_superpoints import prepare_superpoints
from bifusion.errors import InputError
from bifusion.runs.run_data import data_of, read_data
from bifusion.studies.comparison.run import write_report
from bifusion.training.train import train
from scene_factory import make_tiny_scene
from tiny_runs import make_tiny_data, tiny_config


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """ "data", and "run", two epochs of which one is trained on it."""
    root = tmp_path_factory.mktemp("begun")
    config = tiny_config("oneformer3d_small", make_tiny_data(root / "data", train=2, val=1), epochs=2)
    status = train(config, root / "run", on_epoch=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert status.state == "interrupted"
    return root


@pytest.fixture
def place(begun, tmp_path, monkeypatch):
    """A copy of both, dates included, in which a run may go on; the working folder."""
    shutil.copytree(begun, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    config = tiny_config("oneformer3d_small", Path("data"), epochs=2)
    save_config(config, Path("run.json"))
    stored = json.loads(Path("run/data.json").read_text())
    Path("run/data.json").write_text(json.dumps(stored | {"root": str(tmp_path / "data")}))
    return tmp_path


RESUME = ("train", "run.json", "--out", "run", "--resume")


def recolour(path):
    """One point, and all others as they were; the size stays."""
    color = np.load(path)
    color[0] ^= 1
    np.save(path, color)


def prepare_again(scene):
    make_tiny_scene(scene, seed=77)


CHANGES = {
    "gone": (lambda data: shutil.rmtree(data / "train/roomtrain0"), "train/roomtrain0: is gone"),
    "new": (lambda data: make_tiny_scene(data / "train/another"), "train/another: is new"),
    "validation": (
        lambda data: (data / "val/roomval0").rename(data / "val/b"), "val/roomval0: is gone",
    ),
    "recoloured": (
        lambda data: recolour(data / "train/roomtrain1/color.npy"),
        "train/roomtrain1: color.npy has changed",
    ),
    "prepared again": (
        lambda data: prepare_again(data / "val/roomval0"), "val/roomval0: coord.npy has changed",
    ),
    "view": (
        lambda data: (data / "val/roomval0/views/00000.jpg").unlink(),
        "val/roomval0: views has changed",
    ),
    "labels": (
        lambda data: (data / "val/roomval0/segment20.npy").unlink(),
        "val/roomval0: segment20.npy is gone",
    ),
    "normals": (
        lambda data: np.save(data / "val/roomval0/normal.npy", np.zeros((3, 3))),
        "val/roomval0: normal.npy is new",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", [*CHANGES])
def test_a_change_is_refused_by_name(place, bifusion, change):
    work, told = CHANGES[change]
    before = {path: path.read_bytes() for path in (place / "run").glob("*.js*")}
    work(place / "data")
    called = bifusion(*RESUME)
    assert called.status == 2, called.out
    assert "data, or the software, has changed since run was begun:\n" in called.err
    assert f"\n  {told}" in called.err
    assert "--accept-changes" in called.err
    assert {path: path.read_bytes() for path in before} == before


def test_a_finished_run_is_not_taken_over_other_data(place, bifusion):
    assert bifusion(*RESUME).status == 0
    recolour(place / "data/train/roomtrain1/color.npy")
    called = bifusion(*RESUME)
    assert called.status == 2 and "train/roomtrain1: color.npy has changed" in called.err


def test_what_is_accepted_is_told_for_good(place, bifusion, monkeypatch):
    recolour(place / "data/train/roomtrain1/color.npy")
    monkeypatch.setattr(run_data, "version", lambda name: "99" if name == "numpy" else "0.1.0")
    called = bifusion(*RESUME)
    assert called.status == 2 and f"numpy: was {np.__version__}, is 99" in called.err
    assert bifusion(*RESUME, "--accept-changes").status == 0
    data = read_data(place / "run")
    assert data is not None
    (lines,) = data.accepted
    assert "train/roomtrain1: color.npy has changed" in lines
    assert bifusion(*RESUME).status == 0, "it is the run's data now"
    report = write_report([place / "run"], place / "out", room_views=False)
    assert report.runs[0].accepted_changes == lines
    assert "changed while it trained: train/roomtrain1" in (place / "out/report.html").read_text()


def test_data_of_the_same_content_may_lie_elsewhere_and_be_touched(place, bifusion):
    shutil.copytree(place / "data", place / "moved", copy_function=shutil.copyfile)
    for path in (place / "moved").rglob("*.npy"):
        path.touch()
    called = bifusion(*RESUME, "--data.root", "moved")
    assert called.status == 0, called.err


def test_a_run_keeps_its_number_of_threads(place, caplog, monkeypatch):
    stored = json.loads((place / "run/data.json").read_text())
    before = torch.get_num_threads()
    (place / "run/data.json").write_text(json.dumps(stored | {"threads": before + 1}))
    seen = []
    monkeypatch.setattr(
        "bifusion.training.train._train", lambda *args: seen.append(torch.get_num_threads())
    )
    config = tiny_config("oneformer3d_small", place / "data", epochs=2)
    train(config, place / "run", resume=True)
    assert seen == [before + 1] and torch.get_num_threads() == before
    assert f"trained with {before + 1} threads so far" in caplog.text


@pytest.mark.parametrize(
    ("threads", "said"), [(0, "threads is"), (4096, "threads is"), (2**70, "does not fit 64 bits")]
)
def test_a_number_of_threads_that_makes_no_sense_is_refused(place, threads, said):
    stored = json.loads((place / "run/data.json").read_text())
    (place / "run/data.json").write_text(json.dumps(stored | {"threads": threads}))
    with pytest.raises(InputError, match=said):
        read_data(place / "run")


def test_all_data_is_read_where_that_is_wanted(place, bifusion):
    """A bit that flips on the disk changes neither size nor date."""
    path = place / "data/val/roomval0/views/00001.png"
    date, content = path.stat().st_mtime_ns, bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(date, date))
    refused = ("train", "run.json", "--out", "new", "--verify-data")
    called = bifusion(*refused)
    assert called.status == 2 and "roomval0: views/00001.png is not what was written" in called.err
    assert not (place / "new").exists()


@pytest.mark.parametrize("text", ["{}", None])
def test_sums_that_list_nothing_are_said_to_vouch_for_nothing(place, text, caplog):
    sums = place / "data/val/roomval0/sums.json"
    sums.unlink() if text is None else sums.write_text(text)
    data_of(tiny_config("oneformer3d_small", place / "data", epochs=2), read=True)
    (line,) = caplog.messages
    assert "files were read and compared with nothing" in line and "val/roomval0/color.npy" in line


def test_sums_follow_the_superpoints(tmp_path):
    scene = make_tiny_scene(tmp_path / "train" / "room")
    before = read_sums(scene)
    assert {"coord.npy", "superpoint.npy", "views/cameras.npz", "views/00000.jpg"} <= before.keys()
    color = (scene / "color.npy").read_bytes()
    prepare_superpoints([scene], overwrite=True)
    after = read_sums(scene)
    assert after["superpoint.npy"] != before.pop("superpoint.npy")
    assert before.items() <= after.items()
    (scene / "color.npy").write_bytes(color[:-1] + bytes([color[-1] ^ 1]))
    prepare_superpoints([scene], overwrite=True)
    assert "color.npy" not in read_sums(scene), "younger sums must not vouch for what was changed"


def test_a_foreign_folder_gets_the_sum_of_its_superpoints_alone(tmp_path):
    scene = make_tiny_scene(tmp_path / "train" / "room")
    for name in ("scene.json", "sums.json", "superpoint.npy"):
        (scene / name).unlink()
    prepare_superpoints([scene])
    assert list(read_sums(scene)) == ["superpoint.npy"]


def test_damaged_sums_are_an_input_error(tmp_path):
    scene = make_tiny_scene(tmp_path / "train" / "room")
    deep = "[" * 100_000
    for text in ("{", "[]", '{"coord.npy": 3}', '{"coord.npy": {"bytes": "1", "sha256": "x"}}', deep):
        (scene / "sums.json").write_text(text)
        with pytest.raises(InputError, match="sums.json: (holds no sums|not valid JSON)"):
            read_sums(scene)
