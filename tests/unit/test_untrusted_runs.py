"""Runs of strangers that ask for more than there is, and data of which a part is bad."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import room_meshes
import untrained_runs
from bifusion.data.scene_folder import scene_complete
from bifusion.datasets.scannet.scan import read_label_table
from bifusion.errors import InputError
from bifusion.inference.segmenter import Segmenter
from bifusion.runs.checkpoint import check_intact
from bifusion.runs.trained_model import load_model
from bifusion.studies.comparison.run import write_report
from run_factory import FakeRun


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_runs.save_run(tmp_path_factory.mktemp("runs") / "run", untrained_runs.baseline())


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    """A copy, whose files may be changed."""
    folder = tmp_path / "step"
    folder.mkdir()
    for path in (saved / "checkpoints" / "last").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change(checkpoint: Path, field: str, value: Any) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    *parts, last = field.split(".")
    within = config
    for part in parts:
        within = within[part]
    within[last] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.decoder.num_layers", 10**9, "num_layers: found 1000000000, expected from 0 to 1,000"),
        ("model.decoder.num_layers", 1000, "of another model"),
        ("model.decoder.ffn_dim", 1 << 16, "of another model: .* other shapes"),
        ("model.decoder.dim", 10**12, "dim: found 1000000000000, expected from 1 to 65,536"),
        ("model.unet.planes", [1 << 16, 1 << 16], "of another model: .* other shapes"),
        ("model.unet.blocks", [10**9, 1], "blocks: found 1000000000"),
        ("model.unet.planes", [8] * 5000, "unet"),
        ("data.voxel_size_m", 0, "voxel_size_m: found 0"),
        ("data.voxel_size_m", -1, "voxel_size_m: found -1"),
        ("data.voxel_size_m", 1e-300, "voxel_size_m: found 1e-300"),
        ("data.voxel_size_m", float("nan"), "NaN is no JSON number"),
        ("data.image_size", 10**9, "image_size: found 1000000000"),
        ("trainer.workers", 10**6, "workers: found 1000000, expected from 0 to 1,024"),
    ],
)
def test_configurations_are_checked_before_anything_is_built(checkpoint, field, value, message):
    change(checkpoint, field, value)
    with pytest.raises(InputError, match=message):
        Segmenter(checkpoint)


def test_a_checkpoint_as_it_was_saved_is_taken(checkpoint):
    check_intact(checkpoint)
    assert Segmenter(checkpoint).config.name == "tiny"


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        ({}, "no checksum of model.safetensors"),
        ({"../../secret": {"bytes": 1, "sha256": "0"}}, "no file of a checkpoint"),
        ({"model.safetensors": {"bytes": True, "sha256": "0"}}, "holds no checksums"),
        ([], "holds no checksums"),
    ],
)
def test_checksums_that_vouch_for_nothing(checkpoint, sums, message):
    (checkpoint / "sums.json").write_text(json.dumps(sums))
    for read in (check_intact, load_model):
        with pytest.raises(InputError, match=message):
            read(checkpoint)


def test_weights_beyond_the_memory_are_refused(checkpoint, monkeypatch):
    """As where a hole of 1 TB lies in their place, and the process may not have so much."""

    def too_large(path):
        raise MemoryError("Cannot allocate memory")

    (checkpoint / "sums.json").unlink()
    monkeypatch.setattr("bifusion.runs.checkpoint.load_file", too_large)
    with pytest.raises(
        InputError, match=r"model\.safetensors: cannot be read \(Cannot allocate memory\)"
    ):
        load_model(checkpoint)


def test_one_bad_file_does_not_stop_the_others(tmp_path, bifusion):
    good, bad, pipe = (tmp_path / f"{name}.ply" for name in ("good", "bad", "pipe"))
    room_meshes.write_ply(good, room_meshes.room_mesh(0.3))
    bad.write_bytes(good.read_bytes()[:500])
    os.mkfifo(pipe)
    called = bifusion("prepare", "scan", bad, pipe, good, "--out", tmp_path / "out")
    assert called.status == 1 and "2 inputs could not be prepared" in called.err
    assert "bad.ply: cut short" in called.err or "bad.ply: the header" in called.err
    assert "pipe.ply: is a pipe" in called.err
    assert scene_complete(tmp_path / "out" / "good")


def test_label_rows_that_cannot_be_read_are_said(tmp_path):
    path = tmp_path / "labels.tsv"
    path.write_text(
        "id\traw_category\tnyu40id\n1\twall\t1\nx\tchair\t5\n2\t\t3\n3\tlamp\n4\tbelt\t\n5\tdoor\t8\n"
    )
    table = read_label_table(path)
    assert set(table.classes["scannet20"]) == {"wall", "belt", "door"}
    (note,) = table.notes
    assert note.startswith("3 rows without category") and "line 3, 4, 5" in note


@pytest.mark.parametrize(
    "name",
    ["config.json", "status.json", "steps.jsonl", "epochs.jsonl", "evaluation.json", "data.json",
     "predictions/val00.npz", "predictions"],
)  # fmt: skip
def test_a_report_reads_nothing_outside_its_runs(tmp_path, name):
    folder = FakeRun(epochs=4, predictions=True).write(tmp_path)
    data = {"root": "rooms", "scenes": {}, "threads": 1, "versions": {}}
    (folder / "data.json").write_text(json.dumps(data))
    write_report([folder], tmp_path / "out")
    secret = tmp_path / "secret"
    (folder / name).rename(secret)
    (folder / name).symlink_to(secret)
    with pytest.raises(InputError, match="leads out of"):
        write_report([folder], tmp_path / "out")


def test_a_tower_that_is_there_and_is_none(tmp_path, bifusion):
    text, pipe = tmp_path / "text.safetensors", tmp_path / "pipe.safetensors"
    text.write_text("no weights")
    os.mkfifo(pipe)
    for path, why in ((text, "is no tower"), (pipe, "is a pipe")):
        called = bifusion("pretrain-tower", "--out", path, "--rooms", tmp_path / "rooms")
        assert called.status == 2 and f"{path.name}: {why}" in called.err
    assert not (tmp_path / "rooms").exists()
