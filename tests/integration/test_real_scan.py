"""The whole way on a real scan, by commands: prepare, train, evaluate, compare, predict.

A short form of README's "Try it on one scan". It overfits a few epochs on the scene it is evaluated on,
so that no figure of it means anything; the comparison has to say so.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData

import needs
from bifusion import cli
from bifusion.data.scene_folder import load_scene
from bifusion.labels.sets import SCANNET20

REAL = needs.folder("BIFUSION_REAL_DATA", "data") / "scannet"
SCENE = "scene0000_00"
VERTICES = 81_369
EPOCHS = 3
"""One a stage."""

pytestmark = pytest.mark.real_data


def command(name: str, *args: object) -> int:
    return cli.COMMANDS[name]([str(arg) for arg in args])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The scan as a data set whose training and validation split both hold it."""
    if not REAL.is_dir():
        needs.lacking("real_data", REAL)
    splits = tmp_path_factory.mktemp("splits")
    for split in ("train", "val"):
        (splits / f"scannetv2_{split}.txt").write_text(f"{SCENE}\n")
    root = tmp_path_factory.mktemp("data")
    options = {
        "--scans": REAL / "scans",
        "--labels": REAL / "meta" / "scannetv2-labels.combined.tsv",
        "--posed-images": REAL / "posed_images",
        "--splits": splits,
        "--long-side": 640,
        "--out": root,
    }
    assert command("prepare", "scannet", *(part for pair in options.items() for part in pair)) == 0
    return root


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> dict[str, Path]:
    """Both models, trained and evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    for recipe in ("oneformer3d_small", "bifusion_small"):
        options = ["--data.root", data, "--data.voxel-size-m", 0.05, "--out", folder / recipe]
        options += ["--trainer.epochs", EPOCHS, "--trainer.eval-every", EPOCHS]
        assert command("train", recipe, *options, "--optim.warmup-steps", 1) == 0
    return {path.name: path for path in folder.iterdir() if path.name.endswith("small")}


def test_both_splits_hold_the_scan(data):
    for split in ("train", "val"):
        scene = load_scene(data / split / SCENE, SCANNET20)
        assert len(scene.coord) == VERTICES and len(scene.view_names) == 2
        assert scene.segment is not None and scene.segment.max() > 0


def test_every_step_was_finite(runs):
    for run in runs.values():
        status = json.loads((run / "status.json").read_text())
        assert (status["state"], status["steps"], status["raw_nonfinite"]) == ("completed", EPOCHS, 0)
    lines = (runs["bifusion_small"] / "steps.jsonl").read_text().splitlines()
    with_views = [step for step in map(json.loads, lines) if step["gate"] and step["seen_share"]]
    last = with_views[-1]  # view dropout leaves steps without any
    assert last["gate"]["scale"] == 1 and 0 < last["gate"]["gate_mean"] < 1
    assert last["ranges"]["ratio_out"] > 0


def test_evaluation(runs):
    for recipe, run in runs.items():
        evaluation = json.loads((run / "evaluation.json").read_text())
        assert 0 <= evaluation["full"]["miou"] <= 1 and 0 <= evaluation["full"]["ap"] <= 1
        assert evaluation["seen"]["miou"] is not None and evaluation["unseen"]["miou"] is not None
        assert (evaluation["views_withheld"] is not None) == (recipe == "bifusion_small")


def test_comparison_refuses_to_judge_performance(runs, tmp_path):
    assert command("compare", "--runs", *runs.values(), "--out", tmp_path) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    outcomes = {v["criterion"]: v for v in report["verdicts"] if v["arm"] == "staged"}
    assert outcomes["performance"]["outcome"] == "refused"
    assert SCENE in outcomes["performance"]["evidence"]
    assert outcomes["stability"]["outcome"] != "fail"
    assert (tmp_path / "report.html").stat().st_size > 1_000_000


def test_prediction_has_a_label_for_every_vertex(data, runs, tmp_path):
    assert command("predict", runs["bifusion_small"], data / "val" / SCENE, "--out", tmp_path) == 0
    scene = load_scene(data / "val" / SCENE, SCANNET20)
    for name in ("semantic.ply", "instance.ply"):
        vertex = PlyData.read(tmp_path / name)["vertex"]
        assert len(vertex) == VERTICES
        assert np.array_equal(np.stack([vertex[axis] for axis in "xyz"], axis=1), scene.coord)
        assert set(np.unique(vertex["label"])) <= set(range(-1, 20))
    assert json.loads((tmp_path / "instances.json").read_text())["num_points"] == VERTICES
