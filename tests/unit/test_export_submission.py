"""Submission files, read back as the benchmark reads them."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from bifusion.cli import main
from bifusion.config.run import Config
from bifusion.errors import InputError
from bifusion.evaluation.evaluator import Evaluator
from bifusion.inference.export_submission import (
    _split,
    export_submission,
    write_instances,
    write_semantic,
)
from bifusion.labels.label_set import LabelSet
from bifusion.labels.sets import SCANNET20, SCANNET200
from bifusion.models.build import build_model
from bifusion.runs.checkpoint import save_checkpoint
from bifusion.storage.files import DiskFullError
from bifusion.types import SceneResult, SceneTruth
from scene_factory import make_tiny_scene
from tiny_runs import tiny_config

POINTS = 1503  # no multiple of eight: the last byte of a packed mask is partly used


def random_result(label_set: LabelSet, name: str, seed: int) -> tuple[SceneResult, SceneTruth]:
    """Runs of points as instances; masks near them; some points misclassified."""
    rng = np.random.default_rng(seed)
    instance = np.arange(POINTS) * 8 // POINTS
    class_of = rng.choice(label_set.thing_classes, 8)
    aimed = rng.integers(0, 8, 30)
    masks = (instance[None] == aimed[:, None]) ^ (rng.random((30, POINTS)) < 0.05)
    semantic = class_of[instance]
    guessed = np.where(
        rng.random(POINTS) < 0.2, rng.integers(0, label_set.num_classes, POINTS), semantic
    )
    result = SceneResult(
        name=name,
        num_points=POINTS,
        masks=np.packbits(masks, axis=1),
        labels=class_of[aimed].astype(np.int16),
        scores=np.sort(rng.random(30).astype(np.float32))[::-1],
        semantic=guessed.astype(np.int16),
    )
    return result, SceneTruth(name, semantic, instance)


def read_submission(folder: Path, name: str, label_set: LabelSet) -> SceneResult:
    """Instances of a scene by the rules of ScanNet's util_3d.py; ids back to classes."""
    class_of = {source: index for index, source in enumerate(label_set.source_ids)}
    masks, labels, scores = [], [], []
    for line in (folder / f"{name}.txt").read_text().splitlines():
        path, label, score = line.split(" ")
        assert not Path(path).is_absolute()
        assert len(Path(path).parts) > 1, "mask files must live in a subfolder"
        ids = np.array((folder / path).read_text().splitlines(), dtype=np.int64)
        masks.append(ids != 0)
        labels.append(class_of[int(label)])
        scores.append(float(score))
    return SceneResult(
        name=name,
        num_points=POINTS,
        masks=np.packbits(np.array(masks), axis=1),
        labels=np.array(labels, dtype=np.int16),
        scores=np.array(scores, dtype=np.float32),
    )


def test_a_whole_data_set_is_told_with_its_splits(tmp_path):
    for split in ("train", "val"):
        make_tiny_scene(tmp_path / split / "hall")
    with pytest.raises(InputError, match="whole data set; .* one split: .*/train or .*/val$"):
        _split(tmp_path, tiny_config("oneformer3d_small", tmp_path))
    assert len(_split(tmp_path / "val", tiny_config("oneformer3d_small", tmp_path))) == 1


@pytest.mark.parametrize("label_set", [SCANNET20, SCANNET200], ids=lambda s: s.name)
def test_files_evaluate_to_the_same_figures(tmp_path, label_set) -> None:
    direct, through_files = Evaluator(label_set), Evaluator(label_set)
    class_of = {source: index for index, source in enumerate(label_set.source_ids)}
    for seed, name in enumerate(("scene0707_00", "scene0707_01")):
        result, truth = random_result(label_set, name, seed)
        write_instances(tmp_path / "instance", result, label_set)
        ids = write_semantic(tmp_path / "semantic", result, label_set).read_text().splitlines()
        read = read_submission(tmp_path / "instance", name, label_set)
        read.semantic = np.array([class_of[int(label)] for label in ids])
        direct.add(result, truth)
        through_files.add(read, truth)
    expected, found = direct.compute(), through_files.compute()
    np.testing.assert_equal(found, expected)
    assert 0 < found["miou"] < 1
    assert 0 < found["ap"] < 1


def test_ids_are_the_benchmarks_own(tmp_path) -> None:
    result, _ = random_result(SCANNET20, "scene0707_00", 0)
    result.semantic[:] = SCANNET20.class_names.index("otherfurniture")
    result.labels[:] = SCANNET20.class_names.index("shower curtain")
    semantic = write_semantic(tmp_path / "semantic", result, SCANNET20)
    assert set(semantic.read_text().split("\n")) == {"39", ""}
    instance = write_instances(tmp_path / "instance", result, SCANNET20)
    first = instance.read_text().splitlines()[0].split(" ")
    assert first[:2] == ["predicted_masks/scene0707_00_000.txt", "28"]


@pytest.mark.parametrize("name", ["scene1", "scene[1]"])
def test_masks_of_an_earlier_export_vanish_and_those_of_other_scenes_stay(tmp_path, name) -> None:
    result, _ = random_result(SCANNET20, name, 0)
    other, _ = random_result(SCANNET20, f"{name}_00", 1)
    write_instances(tmp_path, other, SCANNET20)
    write_instances(tmp_path, result, SCANNET20)
    result.masks, result.labels, result.scores = result.masks[:2], result.labels[:2], result.scores[:2]
    write_instances(tmp_path, result, SCANNET20)
    masks = [path.name for path in (tmp_path / "predicted_masks").iterdir()]
    assert sorted(name for name in masks if "_00_" not in name) == [f"{name}_000.txt", f"{name}_001.txt"]
    assert len(masks) == 2 + len(other.masks)


@pytest.mark.parametrize("full_at", [0, 17, 30])
def test_a_full_disk_leaves_the_earlier_export_whole(tmp_path, monkeypatch, full_at) -> None:
    before, _ = random_result(SCANNET20, "scene1", 0)
    write_instances(tmp_path, before, SCANNET20)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.txt")}
    calls = iter(range(100))

    def room_for(path: Path) -> None:
        if next(calls) == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: (room_for(path), write(path, data))[1])
    after, _ = random_result(SCANNET20, "scene1", 1)
    after.masks, after.labels = np.tile(after.masks, (2, 1)), np.tile(after.labels, 2)
    after.scores = np.tile(after.scores, 2)
    with pytest.raises(DiskFullError, match="scene1"):
        write_instances(tmp_path, after, SCANNET20)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_scene_without_instances_has_an_empty_list(tmp_path) -> None:
    empty = SceneResult("a", 9, np.zeros((0, 2), np.uint8), np.zeros(0, np.int16), np.zeros(0, "f4"))
    assert write_instances(tmp_path, empty, SCANNET20).read_text() == ""
    with pytest.raises(InputError, match="no semantic head"):
        write_semantic(tmp_path, empty, SCANNET20)


def saved_run(root: Path, config: Config) -> Path:
    """A run folder with nothing but an untrained last checkpoint."""
    model = build_model(config.model, config.seed, config.labels)
    save_checkpoint(root / "checkpoints", model, config, {"time": 3.0}, step=1, links=["last"])
    return root


@pytest.mark.parametrize("recipe", ["oneformer3d_small", "bifusion_small"])
def test_unlabelled_test_scans_are_exported(tmp_path, recipe) -> None:
    config = tiny_config(recipe, tmp_path)
    config.postprocess.min_points = 5
    run = saved_run(tmp_path / "run", config)
    split = tmp_path / "scans" / "test"
    names = ["scene0707_00", "scene0708_00"]
    for seed, name in enumerate(names):
        folder = make_tiny_scene(split / name, seed=seed, annotated=False)
        assert not list(folder.glob("segment*")) + list(folder.glob("instance*"))
    done = []
    for task in ("semantic", "instance"):
        paths = export_submission(
            run, split, tmp_path / task, task, device="cpu", progress=lambda *step: done.append(step)
        )
        assert [path.name for path in paths] == [f"{name}.txt" for name in names]
    assert done == [(1, 2), (2, 2)] * 2
    for name in names:
        count = len(np.load(split / name / "coord.npy"))
        ids = np.loadtxt(tmp_path / "semantic" / f"{name}.txt", dtype=int)
        assert len(ids) == count
        assert set(ids) <= set(SCANNET20.source_ids)
        for line in (tmp_path / "instance" / f"{name}.txt").read_text().splitlines():
            mask = np.loadtxt(tmp_path / "instance" / line.split()[0], dtype=int)
            assert len(mask) == count


@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_weights_that_answer_with_nan_are_named(tmp_path, task) -> None:
    """They had made a submission of walls alone, and of no instance."""
    config = tiny_config("oneformer3d_small", tmp_path)
    model = build_model(config.model, config.seed, config.labels)
    for parameter in model.get_submodule("decoder").parameters():
        parameter.data.fill_(torch.nan)
    save_checkpoint(tmp_path / "checkpoints", model, config, {"time": 3.0}, step=1, links=["last"])
    make_tiny_scene(tmp_path / "test" / "room", num_views=0, annotated=False)
    with pytest.raises(InputError, match=r"room: .*checkpoints.* answers with NaN.*another checkpoint"):
        export_submission(tmp_path, tmp_path / "test", tmp_path / "out", task, device="cpu")


def test_device_and_defaults_of_torch_are_looked_after(tmp_path) -> None:
    run = saved_run(tmp_path / "run", tiny_config("oneformer3d_small", tmp_path))
    split = tmp_path / "test"
    make_tiny_scene(split / "room", num_views=0, annotated=False)
    with pytest.raises(InputError, match="device: 'gpu' cannot be used"):
        export_submission(run, split, tmp_path / "out", "semantic", device="gpu")
    (usual,) = export_submission(run, split, tmp_path / "out", "semantic", device="cpu")
    before = usual.read_bytes()
    torch.set_default_dtype(torch.float64)
    try:
        (changed,) = export_submission(run, split, tmp_path / "out", "semantic", device="cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert changed.read_bytes() == before


def test_bad_split_is_named(tmp_path) -> None:
    run = saved_run(tmp_path / "run", tiny_config("oneformer3d_small", tmp_path))
    with pytest.raises(InputError, match="nowhere"):
        export_submission(run, tmp_path / "nowhere", tmp_path / "out", "semantic", device="cpu")
    for number, name in enumerate(("my room", "my\nroom", "room\t")):
        split = tmp_path / f"test{number}"
        make_tiny_scene(split / name, num_views=0, annotated=False)
        with pytest.raises(InputError, match="a scene name with a space, tab or line break"):
            export_submission(run, split, tmp_path / "out", "instance", device="cpu")


def test_command_says_what_is_wrong_without_a_traceback(tmp_path, monkeypatch, capsys) -> None:
    command = ["bifusion", "export-submission", str(tmp_path), str(tmp_path)]
    command += ["--out", str(tmp_path / "out"), "--task", "semantic"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "no checkpoint" in capsys.readouterr().err
