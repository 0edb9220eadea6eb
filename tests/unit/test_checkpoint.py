"""Checkpoints and run folders: nothing half-written, nothing of another model, no NaN in JSON."""

import errno
import json
import math
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20
from bifusion.models.build import build_model
from bifusion.runs.checkpoint import (
    check_intact,
    find_checkpoint,
    load_training_state,
    save_checkpoint,
)
from bifusion.runs.resume_point import find_resume_point, settle
from bifusion.runs.run_folder import RunFolder
from bifusion.runs.trained_model import load_model, load_weights
from bifusion.storage.checksums import SummedFile
from bifusion.storage.files import DiskFullError, append_line, free_bytes, locked
from bifusion.storage.json_files import write_json
from small_disks import small_disk
from tiny_runs import tiny_config


@pytest.fixture
def config(tmp_path):
    return tiny_config("bifusion_small", tmp_path)


def save(folder, config, step=1, links=("last",), state=None):
    model = build_model(config.model, config.seed, config.labels)
    state = state or {"step": step, "time": 0.0}
    save_checkpoint(folder, model, config, state, step=step, links=links)
    return model


def test_round_trip_in_evaluation_mode(tmp_path, config):
    saved = save(tmp_path / "checkpoints", config)
    model, loaded_config = load_model(tmp_path)
    assert loaded_config == config and not model.training
    assert all(t.equal(model.state_dict()[n]) for n, t in saved.state_dict().items())
    assert load_training_state(find_checkpoint(tmp_path)) == {"step": 1, "time": 0.0}


@pytest.mark.parametrize("recipe", ["bifusion_tiny", "bifusion_tiny_lifted_rgb"])
def test_a_loaded_model_is_whole_and_has_the_file_no_more(tmp_path, recipe):
    """No weights are drawn for it: what no checkpoint holds must be there all the same."""
    config = tiny_config(recipe, tmp_path)
    saved = save(tmp_path / "checkpoints", config)
    model, _ = load_model(tmp_path)
    for (name, found), (_, wanted) in zip(_tensors_of(model), _tensors_of(saved), strict=True):
        assert found.dtype == wanted.dtype and torch.equal(found, wanted), name
        assert found.requires_grad == wanted.requires_grad, name
    path = find_checkpoint(tmp_path) / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(t, dict(_tensors_of(saved))[n]) for n, t in _tensors_of(model))


def _tensors_of(model):
    return [*model.named_parameters(), *model.named_buffers()]


def test_every_way_to_name_a_checkpoint(tmp_path, config):
    save(tmp_path / "checkpoints", config, links=("last", "best"))
    last = tmp_path / "checkpoints" / "last"
    for path in (tmp_path, last, last / "model.safetensors"):
        assert find_checkpoint(path).resolve() == last.resolve()
    with pytest.raises(InputError, match="no checkpoint here"):
        find_checkpoint(tmp_path / "checkpoints")


def test_weights_beside_run_folders_are_no_checkpoint_of_theirs(tmp_path, config):
    """As a file of the Hugging Face hub is called."""
    save(tmp_path / "run" / "checkpoints", config)
    last = tmp_path / "run" / "checkpoints" / "last"
    shutil.copy(last / "model.safetensors", tmp_path / "model.safetensors")
    assert find_checkpoint(tmp_path / "run").resolve() == last.resolve()
    with pytest.raises(InputError, match="no checkpoint here"):
        find_checkpoint(last / "mistyped")


def folders(checkpoints):
    """Everything in a checkpoint folder but its links."""
    return sorted(path.name for path in checkpoints.iterdir() if not path.is_symlink())


def test_the_last_two_and_the_best_are_kept(tmp_path, config):
    save(tmp_path, config, step=1, links=("last", "best"))
    for step in (2, 3, 4):
        save(tmp_path, config, step=step)
    assert folders(tmp_path) == ["step-00000001", "step-00000003", "step-00000004"]
    targets = {link: os.readlink(tmp_path / link) for link in ("best", "previous", "last")}
    assert list(targets.values()) == folders(tmp_path)
    save(tmp_path, config, step=4)
    assert os.readlink(tmp_path / "last") == "step-00000004-2"
    assert load_training_state(tmp_path / "last") == {"step": 4, "time": 0.0}


def everything(folder):
    """Content of all files and links, by path."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_a_full_disk_leaves_all_as_it_was_and_is_named(tmp_path, config, monkeypatch):
    """Room runs out in the middle of the training state, where torch hides the disk's error."""
    save(tmp_path, config, step=1)
    before = everything(tmp_path)
    open_as_before = SummedFile.__init__

    class FullDisk:
        def __init__(self, file):
            self.file, self.room = file, 2000

        def write(self, data):
            self.room -= len(data)
            if self.room < 0 and self.file.name.endswith(".pt"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

    with monkeypatch.context() as patch:
        patch.setattr(SummedFile, "__init__", lambda self, file: open_as_before(self, FullDisk(file)))
        with pytest.raises(DiskFullError) as error:
            save(tmp_path, config, step=2, state={"x": torch.zeros(1000), "time": 1.0})
    assert re.search(
        r"step-00000002: cannot be written, the disk is full: [\d,]+ bytes are needed, [\d,]+ are free",
        str(error.value),
    )
    assert everything(tmp_path) == before
    save(tmp_path, config, step=2)
    assert os.readlink(tmp_path / "last") == "step-00000002"


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        yield disk


def test_a_disk_that_is_full(disk, config):
    """Too little room from the start; then room that turns out to be too little."""
    save(disk / "run", config, step=1)
    before = everything(disk / "run")
    with pytest.raises(
        DiskFullError, match=r"step-00000002: .* 4,\d+,\d+ bytes are needed, \d+,\d+ are"
    ):
        save(disk / "run", config, step=2, state={"x": torch.zeros(10**6), "time": 1.0})
    assert everything(disk / "run") == before
    filler = disk / "filler"
    filler.write_bytes(bytes(free_bytes(disk) - 40_000))
    with pytest.raises(DiskFullError, match="step-00000002"):
        save(disk / "run", config, step=2)
    assert everything(disk / "run") == before
    filler.unlink()
    save(disk / "run", config, step=2)
    check_intact(disk / "run" / "last")


def save_under_a_limit(folder, config):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        save(folder, config, step=2)
    except DiskFullError as error:
        sys.exit(0 if "ulimit -f" in str(error) else 1)
    sys.exit(2)


def test_files_may_not_grow_beyond_a_limit(tmp_path, config):
    """`ulimit -f`, in a process of its own."""
    save(tmp_path, config, step=1)
    before = everything(tmp_path)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([])  # conftest.py says which
    process = processes.Process(target=save_under_a_limit, args=(tmp_path, config))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert everything(tmp_path) == before


def flip_a_bit(path, at=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "weights flipped": (lambda folder: flip_a_bit(folder / "model.safetensors"), "checksum differs"),
    "state flipped": (lambda folder: flip_a_bit(folder / "training.pt"), "checksum differs"),
    "weights cut": (lambda folder: cut(folder / "model.safetensors"), r"bytes instead of"),
    "state cut": (lambda folder: cut(folder / "training.pt"), r"bytes instead of"),
    "state gone": (lambda folder: (folder / "training.pt").unlink(), "no such file"),
    "sums flipped": (lambda folder: (folder / "sums.json").write_text('{"x": 1}'), "no checksums"),
    "sums of other names": (
        lambda folder: flip_a_bit(folder / "sums.json", 5),
        "no file of a checkpoint",
    ),
    "sums of nothing": (lambda folder: (folder / "sums.json").write_text("{}"), "no checksum of model"),
    "config flipped": (lambda folder: flip_a_bit(folder / "config.json", 0), "not valid JSON"),
    "folder gone": (shutil.rmtree, "no such folder"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_last_checkpoint_is_named_and_the_one_before_taken(tmp_path, config, caplog, damage):
    for step in (1, 2, 3):
        save(tmp_path, config, step=step)
    do, message = DAMAGE[damage]
    do(tmp_path / "step-00000003")
    point = find_resume_point(tmp_path)
    assert point.checkpoint == tmp_path / "step-00000002" and point.state["step"] == 2
    settle(tmp_path, point)
    assert re.search(f"DAMAGED CHECKPOINT .*step-00000003.*{message}", caplog.text)
    assert "Going on from" in caplog.text and "step-00000002" in caplog.text
    assert os.readlink(tmp_path / "last") == "step-00000002"
    assert find_resume_point(tmp_path).damaged == {}


def test_no_intact_checkpoint_is_refused(tmp_path, config):
    assert find_resume_point(tmp_path) is None
    for step in (1, 2):
        save(tmp_path, config, step=step)
    before = everything(tmp_path)
    for step in (1, 2):
        flip_a_bit(tmp_path / f"step-0000000{step}" / "model.safetensors")
    with pytest.raises(InputError, match=r"(?s)no checkpoint can be resumed.*0002.*0001.*from a copy"):
        find_resume_point(tmp_path)
    assert everything(tmp_path).keys() == before.keys()


def test_a_disk_that_changes_what_is_written_costs_nothing(tmp_path, config, monkeypatch):
    save(tmp_path, config, step=1)
    before = everything(tmp_path)
    monkeypatch.setattr("bifusion.runs.checkpoint.forget_cached", flip_a_bit)
    with pytest.raises(InputError, match="is not as it was saved.*the disk does not keep"):
        save(tmp_path, config, step=2)
    assert everything(tmp_path) == before


def test_damage_is_seen_wherever_a_checkpoint_is_read(tmp_path, config):
    save(tmp_path, config)
    flip_a_bit(tmp_path / "last" / "model.safetensors")
    with pytest.raises(InputError, match=r"model.safetensors: is not as it was saved"):
        load_model(tmp_path / "last")
    flip_a_bit(tmp_path / "last" / "training.pt")
    with pytest.raises(InputError, match=r"training.pt: is not as it was saved"):
        load_training_state(tmp_path / "last")


def test_checkpoints_without_checksums_are_still_read(tmp_path, config):
    """Those of version 0.1.0."""
    for step in (1, 2):
        save(tmp_path, config, step=step)
    (tmp_path / "step-00000002" / "sums.json").unlink()
    assert find_resume_point(tmp_path).state["step"] == 2
    cut(tmp_path / "step-00000002" / "training.pt")
    assert find_resume_point(tmp_path).state["step"] == 1


def test_leftovers_of_a_killed_process_go_when_a_run_starts(tmp_path, config):
    for step in (1, 2):
        save(tmp_path, config, step=step)
    kept = everything(tmp_path)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000003")  # renamed, not yet linked
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000004.writing-1234")
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000000.removing-1234")
    (tmp_path / ".last.writing-1234").symlink_to("step-00000003")
    settle(tmp_path, find_resume_point(tmp_path))
    assert everything(tmp_path) == kept


def test_a_copy_with_folders_instead_of_links_goes_on(tmp_path, config):
    for step in (1, 2):
        save(tmp_path / "run", config, step=step)
    shutil.copytree(tmp_path / "run", tmp_path / "copy", symlinks=False)
    point = find_resume_point(tmp_path / "copy")
    assert point.state["step"] == 2
    settle(tmp_path / "copy", point)
    save(tmp_path / "copy", config, step=3)
    assert os.readlink(tmp_path / "copy" / "last") == "step-00000003"
    assert load_training_state(tmp_path / "copy" / "last")["step"] == 3


def test_another_process_in_the_run_folder_is_refused(tmp_path):
    code = f"""
from pathlib import Path
from bifusion.storage.files import locked
with locked(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    input()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(InputError, match="another process is writing here"), locked(tmp_path):
        pass
    other.kill()
    other.communicate()
    with locked(tmp_path):
        pass


def test_pretrained_weights_are_not_needed_to_load(tmp_path, config):
    save(tmp_path, config)
    stored = json.loads((tmp_path / "last" / "config.json").read_text())
    stored["model"]["tower"]["pretrained"] = "/nowhere/clip.safetensors"
    write_json(tmp_path / "last" / "config.json", stored)
    load_model(tmp_path / "last")


def test_checkpoint_of_another_model_names_what_matched(tmp_path, config):
    save(tmp_path, config)
    other = build_model(tiny_config("oneformer3d_small", tmp_path).model, 0, SCANNET20)
    with pytest.raises(
        InputError, match=r"another model: \d+ of \d+ tensors match; missing: .*unknown: "
    ):
        load_weights(other, tmp_path / "last")


def test_damaged_weights_are_an_input_error(tmp_path, config):
    save(tmp_path, config)
    path = tmp_path / "last" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="model.safetensors: has 1,000 bytes instead of"):
        load_model(tmp_path / "last")
    (tmp_path / "last" / "sums.json").unlink()
    with pytest.raises(InputError, match="model.safetensors: cannot be read"):
        load_model(tmp_path / "last")


def test_json_has_no_nan(tmp_path):
    value = {
        "nan": math.nan,
        "inf": [math.inf, np.float32("-inf")],
        "array": np.array([1.0, math.nan]),
        "path": Path("a/b"),
        "flag": True,
        "none": None,
    }
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    nulls = {"nan": None, "inf": [None, None], "array": [1.0, None], "none": None}
    assert json.loads(text) == {**nulls, "path": "a/b", "flag": True}


@pytest.mark.parametrize("torn", ['{"step": 5, "tot', '{"step": 5, "epoch": 0}', '{"scenes": ["k\u00fc'])
def test_lines_that_a_crash_cut_or_a_resume_repeats_are_dropped(tmp_path, torn):
    """Cut within JSON, before the line's end, within a character."""
    folder = RunFolder(tmp_path)
    for step in range(5):
        folder.append(folder.steps, {"step": step, "epoch": 0, "total": math.nan})
    with open(folder.steps, "ab") as file:
        file.write(torn.encode()[:-1] if torn.endswith("\u00fc") else torn.encode())
    assert [record["step"] for record in folder.read_lines(folder.steps)] == [0, 1, 2, 3, 4]
    folder.keep_lines_before(folder.steps, "step", 3)
    folder.append(folder.steps, {"step": 3, "epoch": 0})
    assert [record["step"] for record in folder.read_lines(folder.steps)] == [0, 1, 2, 3]
    folder.keep_lines_before(folder.epochs, "epoch", 0)
    assert folder.epochs.read_text() == ""


def test_a_line_for_which_there_is_no_room_leaves_the_file_as_it_was(disk):
    path = disk / "steps.jsonl"
    append_line(path, "first")
    (disk / "filler").write_bytes(bytes(free_bytes(disk)))
    with pytest.raises(DiskFullError, match=r"steps.jsonl: cannot be written, the disk is full"):
        append_line(path, "x" * 10_000)
    assert path.read_text() == "first\n"


def test_training_state_is_loaded_without_unpickling_code(tmp_path, config):
    save(tmp_path, config)
    (tmp_path / "last" / "sums.json").unlink()
    torch.save({"step": Path("x")}, tmp_path / "last" / "training.pt")
    with pytest.raises(InputError, match="an object, .*, where a number or tensor belongs"):
        load_training_state(tmp_path / "last")
