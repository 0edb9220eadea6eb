"""A tiny Mask3D through the same trainer, evaluation, prediction and report as every other model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bifusion.inference.evaluate import evaluate_run
from bifusion.inference.segmenter import Segmenter
from bifusion.studies.comparison.run import write_report
from bifusion.training.train import train
from tiny_runs import make_tiny_data, tiny_mask3d


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A complete, evaluated run of two epochs."""
    data = make_tiny_data(tmp_path_factory.mktemp("rooms"))
    folder = tmp_path_factory.mktemp("runs") / "mask3d-seed0"
    assert train(tiny_mask3d(data, epochs=2), folder).state == "completed"
    evaluate_run(folder)
    return folder


def test_steps_have_instance_terms_only(run):
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    assert len(steps) == 4
    for step in steps:
        assert set(step["losses"]) == {"instance_class", "mask_bce", "mask_dice"}
        assert step["event"] is None and step["grad_norm"]["decoder"] > 0


def test_evaluation_has_ap_and_no_miou(run):
    full = json.loads((run / "evaluation.json").read_text())["full"]
    assert full["miou"] is None and full["pq"] is None and 0 <= full["ap"] <= full["ap25"] <= 1
    config = json.loads((run / "config.json").read_text())
    assert config["arm"] == config["model_kind"] == "mask3d" and not config["views_used"]
    assert (run / "checkpoints" / "best").exists()
    saved = np.load(sorted((run / "predictions").glob("*.npz"))[0])
    assert set(saved["semantic"].tolist()) == {-1}


def test_prediction_of_one_scene(run, tmp_path):
    root = Path(json.loads((run / "config.json").read_text())["config"]["data"]["root"])
    scene = sorted((root / "val").iterdir())[0]
    written = {path.name for path in Segmenter(run).predict(scene).write(tmp_path / "out")}
    assert {"instance.ply", "instances.json"} <= written


def test_report_shows_a_dash_for_miou(run, tmp_path):
    report = write_report([run], tmp_path, title="Mask3D alone")
    (arm,) = report.arms
    assert arm.label == "Mask3D" and not arm.figures.miou.by_seed
    assert arm.figures.ap.by_seed
    assert "Mask3D" in (tmp_path / "report.html").read_text()
