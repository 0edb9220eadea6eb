"""What a killed process left goes when the same thing is written again, and two writers keep apart."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import bifusion.storage.files as files
import untrained_runs
from bifusion.config.run import save_config
from bifusion.datasets.superpoints.prepare_superpoints import prepare_superpoints
from bifusion.errors import InputError
from bifusion.storage.files import locked, locked_beside, write_text
from prepare_inputs import KINDS
from scene_factory import make_tiny_scene
from tiny_runs import make_tiny_data, tiny_config


@pytest.fixture
def ended():
    """The number of a process that was."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_half_written_file_goes_when_the_file_is_written(tmp_path, ended):
    left, others = tmp_path / f".a.txt.writing-{ended}", tmp_path / f".b.txt.writing-{ended}"
    by_another = tmp_path / f".a.txt.writing-{os.getppid()}"
    for path in (left, others, by_another):
        path.write_text("half")
    write_text(tmp_path / "a.txt", "whole")
    assert names(tmp_path) == sorted(["a.txt", others.name, by_another.name])


def test_what_the_system_does_not_tell_stays(tmp_path, ended, monkeypatch):
    left = tmp_path / f".a.txt.writing-{ended}"
    left.write_text("half")
    monkeypatch.setattr(files.os, "name", "nt")
    write_text(tmp_path / "a.txt", "whole")
    assert left.exists()


def test_a_half_written_folder_goes_when_the_folder_is_written(tmp_path, ended):
    left = tmp_path / f".room.writing-{ended}"
    left.mkdir()
    (left / "coord.npy").write_text("half")
    make_tiny_scene(tmp_path / "room")
    assert names(tmp_path) == ["room"]


def test_a_folder_that_was_aside_comes_back_first(tmp_path, ended):
    room = make_tiny_scene(tmp_path / "room")
    (room / "notes.txt").write_text("mine")
    room.rename(tmp_path / f".room.replaced-{ended}")
    make_tiny_scene(room)
    assert names(tmp_path) == ["room"] and (room / "notes.txt").read_text() == "mine"


def test_a_lock_is_free_a_moment_after_its_process(tmp_path, monkeypatch):
    """Long enough for the processes of a killed command to end."""
    code = f"""
from pathlib import Path
from bifusion.storage.files import locked
with locked(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    input()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        monkeypatch.setattr(files, "LETTING_GO_SECONDS", 0.0)
        with pytest.raises(InputError, match="another process is writing here"), locked(tmp_path):
            pass
        threading.Timer(0.5, other.kill).start()
        monkeypatch.setattr(files, "LETTING_GO_SECONDS", 300.0)
        with locked(tmp_path):
            pass


def test_a_forked_child_holds_no_lock(tmp_path, monkeypatch):
    """A data worker outlives a killed run by a moment."""
    monkeypatch.setattr(files, "LETTING_GO_SECONDS", 0.0)
    reader, writer = os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)


def test_a_lock_beside_leaves_the_folder_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LETTING_GO_SECONDS", 0.0)
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    with locked_beside(tmp_path / "out"):
        assert names(tmp_path / "out") == []
        with pytest.raises(InputError, match="another process"), locked_beside(tmp_path / "link"):
            pass


@pytest.mark.parametrize("error", [files.NO_LOCKS[0], files.errno.EACCES])
def test_only_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, error):
    def acquire(*args, **kwargs):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(files.filelock.FileLock, "acquire", acquire)
    if error == files.errno.EACCES:
        with pytest.raises(PermissionError), locked(tmp_path):
            pass
        return
    with pytest.warns(UserWarning, match="cannot be locked"), locked(tmp_path):
        pass


def test_commands_work_without_what_windows_lacks(cases):
    command = [sys.executable, cases / "no_fcntl_windows" / "run.py", "info", "bifusion_tiny"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_a_run_trains_with_workers_without_what_windows_lacks(tmp_path):
    make_tiny_data(tmp_path / "data")
    done = train_without_unix(tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert (tmp_path / "run" / "checkpoints" / "last").is_symlink()


def test_a_folder_without_links_is_named_before_a_run_trains(tmp_path):
    make_tiny_data(tmp_path / "data")
    done = train_without_unix(tmp_path, NO_LINKS="1")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"{tmp_path / 'run' / 'checkpoints'}: no symbolic links can be made here" in done.stderr
    assert not (tmp_path / "run" / "steps.jsonl").exists()
    assert [*(tmp_path / "run" / "checkpoints").iterdir()] == []


def train_without_unix(folder, **environment):
    config = tiny_config("oneformer3d_small", folder / "data", epochs=1)
    config.trainer.workers = 1
    save_config(config, folder / "run.json")
    program = Path(__file__).parents[1] / "without_unix.py"
    options = ["train", folder / "run.json", "--out", folder / "run"]
    environment = {**os.environ, **environment}
    command = [sys.executable, program, *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


@pytest.mark.parametrize("kind", [*KINDS])
def test_a_scene_that_is_a_link_stays_one(tmp_path, monkeypatch, bifusion, kind):
    """It is refused, or, where the scene is only completed, written through; never replaced."""
    monkeypatch.chdir(tmp_path)
    prepared = KINDS[kind](tmp_path)
    place, elsewhere = tmp_path / prepared.scene, tmp_path / "elsewhere" / "room"
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        elsewhere.parent.mkdir()
        place.rename(elsewhere)
    else:
        make_tiny_scene(elsewhere)
    place.symlink_to(elsewhere)
    before = contents(elsewhere)
    more = [] if kind == "synthetic" else ["--overwrite"]
    called = bifusion("prepare", *prepared.arguments, *more)
    assert place.is_symlink() and place.resolve() == elsewhere
    after = contents(elsewhere)
    if kind == "superpoints":
        assert called.status == 0 and after.pop("superpoint.npy")
        sums = json.loads(after.pop("sums.json"))
        earlier = json.loads(before.pop("sums.json"))
        assert sums.pop("superpoint.npy") != earlier.pop("superpoint.npy") and sums == earlier
    else:
        assert called.status in (1, 2) and "is a link" in called.out + called.err
    assert after == before
    assert [path for path in tmp_path.rglob(".*") if ".writing-" in path.name] == []


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("kind", [*KINDS])
def test_two_that_write_the_same_data_set_are_kept_apart(tmp_path, monkeypatch, bifusion, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "LETTING_GO_SECONDS", 0.0)
    prepared = KINDS[kind](tmp_path)
    before = all_but_locks(tmp_path)
    with locked(tmp_path / "out"):
        called = bifusion("prepare", *prepared.arguments)
    assert called.status == 2 and "another process is writing here" in called.err
    assert all_but_locks(tmp_path) == before


def test_superpoints_of_a_scene_keep_others_from_the_folder_that_holds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LETTING_GO_SECONDS", 0.0)
    scene = make_tiny_scene(tmp_path / "train" / "room")
    with locked(scene.parent), pytest.raises(InputError, match="train: another process is writing"):
        prepare_superpoints([scene])
    prepare_superpoints([scene, scene.parent])
    assert not [name for name in names(scene) if name.startswith(".")]


DATA = ("--data", "data", "--out", "out")


@pytest.mark.parametrize(
    ("arguments", "lock"),
    [
        (("train", "oneformer3d_small", "--data.root", "data", "--out", "out"), locked),
        (("compare", "oneformer3d_small", *DATA), locked),
        (("compare", "--ablate", "--base", "bifusion_tiny", *DATA), locked),
        (("compare", "--sweep", "lr", *DATA), locked),
        (("demo", "--out", "out"), locked),
        (("dose", "--knob", "cover", "--values", "0.5", "--out", "out"), locked),
        (("scan", "room.ply", "--run", "run", "--out", "out"), locked_beside),
        (("export-submission", "run", "data/val", "--out", "out", "--task", "semantic"), locked_beside),
    ],
    ids=lambda given: " ".join(given[:2]) if isinstance(given, tuple) else "",
)
def test_two_that_write_the_same_folder_are_kept_apart(tmp_path, monkeypatch, bifusion, arguments, lock):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "LETTING_GO_SECONDS", 0.0)
    make_tiny_data(tmp_path / "data", train=1, val=1)
    untrained_runs.save_run(tmp_path / "run", untrained_runs.baseline())
    for name in ("room.ply", "out/report.json"):
        write_text(tmp_path / name, "of the first")
    before = all_but_locks(tmp_path)
    with lock(tmp_path / "out"):
        called = bifusion(*arguments)
    assert called.status == 2 and "another process is writing here" in called.err
    assert all_but_locks(tmp_path) == before


def all_but_locks(folder):
    """Content of all files, by path; the locks' own files hold nothing."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}
