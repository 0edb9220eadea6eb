"""Seven classes of one's own from training to report: heads, files and figures carry their names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData
from rich.console import Console

from bifusion.config.run import Config
from bifusion.data.dataset import with_labels
from bifusion.errors import InputError
from bifusion.inference.evaluate import evaluate_run
from bifusion.inference.segmenter import Segmenter
from bifusion.labels.files import labels_text
from bifusion.labels.label_set import LabelSet
from bifusion.runs.trained_model import load_model
from bifusion.studies.comparison.run import ComparisonConfig, plan_comparison, write_report
from bifusion.studies.training_runs.plan import PlannedRun
from bifusion.studies.training_runs.train import train_runs
from bifusion.training.train import train
from own_classes import NAMES, ROOMS7, make_own_data
from tiny_runs import make_tiny_data, tiny_config, tiny_mask3d

OTHER = LabelSet.of("rooms6", (*NAMES[:3], "gate", *NAMES[4:6]), stuff_classes=(0, 1, 2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Runs of OneFormer3D and Mask3D on own classes, evaluated; the data set is gone afterwards."""
    root = tmp_path_factory.mktemp("own")
    data, runs = make_own_data(root / "data", train=2, val=1), {}
    configs = {
        "oneformer3d": tiny_config("oneformer3d_small", data, epochs=2),
        "mask3d": tiny_mask3d(data, epochs=2),
    }
    for name, config in configs.items():
        runs[name] = root / "runs" / name
        assert train(config, runs[name]).state == "completed"
        evaluate_run(runs[name])
    data.rename(root / "elsewhere")
    return {**runs, "data": root / "elsewhere"}


def test_run_and_checkpoint_hold_the_set_whole(trained):
    model, config = load_model(trained["oneformer3d"])
    assert config.labels == ROOMS7
    assert model.decoder.out_sem.out_features == len(NAMES) + 1
    described = json.loads((trained["oneformer3d"] / "config.json").read_text())
    assert described["label_set"] == "rooms7" and described["class_names"] == list(NAMES)


def test_every_kind_of_figure_has_the_names(trained):
    full = json.loads((trained["oneformer3d"] / "evaluation.json").read_text())["full"]
    assert list(full["iou"]) == list(full["pq_per_class"]) == list(NAMES)
    assert list(full["per_class"]) == ["door", "desk", "chair", "machine"]
    full = json.loads((trained["mask3d"] / "evaluation.json").read_text())["full"]
    assert full["iou"] is None and list(full["per_class"]) == ["door", "desk", "chair", "machine"]


def test_predict_needs_no_data_set(trained, tmp_path):
    scene = tmp_path / "scene"
    shutil.copytree(next((trained["data"] / "val").iterdir()), scene)
    np.save(scene / "segment.npy", np.full(len(np.load(scene / "coord.npy")), 149, np.int16))
    found = Segmenter(trained["oneformer3d"]).predict(scene)
    semantic, instance, listing = found.write(tmp_path / "out")
    for path in (semantic, instance):
        told = PlyData.read(path).comments
        assert told == ["label set rooms7; -1 is none", *(f"label {i} {n}" for i, n in enumerate(NAMES))]
    points = PlyData.read(semantic)["vertex"]
    assert (points["red"] == points["label"]).all() and (points["blue"] == 200).all()
    document = json.loads(listing.read_text())
    assert document["label_set"] == "rooms7"
    for one in document["instances"] + document["segments"]:
        assert one["class"] == NAMES[one["label"]]


def test_the_report_carries_the_names(trained, tmp_path):
    report = write_report([trained["oneformer3d"], trained["mask3d"]], tmp_path, title="own")
    assert set(report.classes.names) <= set(NAMES) and "desk" in report.classes.names
    assert all(entry.settings["data"]["labels"] == list(NAMES) for entry in report.runs)
    page = (tmp_path / "report.html").read_text()
    assert "rooms7" in page and "rgb(4,8,200)" in page.replace(" ", "")
    assert not any(name in page for name in ("otherfurniture", "bookshelf"))


# ----------------------------------------------------------------------- other classes are refused


def with_other_classes(trained, root: Path, labels: LabelSet | None = OTHER) -> Path:
    shutil.copytree(trained["data"], root)
    (root / "labels.json").unlink()
    if labels is not None:
        (root / "labels.json").write_text(labels_text(labels))
    return root


def test_evaluate_on_data_of_other_classes(trained, tmp_path):
    data = with_other_classes(trained, tmp_path / "data")
    with pytest.raises(InputError, match=r"class 3 is 'door' and 'gate'; 6 is 'machine' and none\. Use"):
        evaluate_run(trained["oneformer3d"], data=data)


def test_evaluate_on_data_that_does_not_say_its_classes(trained, tmp_path):
    data = with_other_classes(trained, tmp_path / "data", None)
    with pytest.raises(InputError, match=r"own, rooms7 \(7 classes.* has no labels\.json.*; copy there"):
        evaluate_run(trained["oneformer3d"], data=data)


def test_evaluate_on_other_data_of_the_same_classes(trained, tmp_path):
    shutil.copytree(trained["oneformer3d"], tmp_path / "run", symlinks=True)
    assert "desk" in evaluate_run(tmp_path / "run", data=trained["data"])["full"]["iou"]
    assert (tmp_path / "run" / "evaluation-elsewhere.json").is_file()


def test_resume_on_data_of_other_classes(trained, tmp_path):
    shutil.copytree(trained["oneformer3d"], tmp_path / "run", symlinks=True)
    data = with_other_classes(trained, tmp_path / "data")
    with pytest.raises(InputError, match="class 3 is 'door' and 'gate'"):
        train(tiny_config("oneformer3d_small", data, epochs=2), tmp_path / "run", resume=True)


def test_compare_does_not_mix_classes(trained, tmp_path):
    run = PlannedRun(planned(trained["data"]), tmp_path / "oneformer3d_small-seed0")
    run.folder.mkdir()
    shutil.copy(trained["oneformer3d"] / "config.json", run.folder / "run.json")
    other = with_other_classes(trained, tmp_path / "data")
    run = PlannedRun(planned(other), run.folder)
    with pytest.raises(InputError, match="class 3 is 'door' and 'gate'.*Choose another --out"):
        train_runs([run], jobs=1, console=Console(), report=list)


def test_compare_refuses_a_run_of_other_classes_before_it_trains(trained, tmp_path):
    data = with_other_classes(trained, tmp_path / "data")
    finished = (trained["oneformer3d"],)
    wanted = ComparisonConfig(("oneformer3d_small",), data, tmp_path / "out", runs=finished)
    with pytest.raises(InputError, match="class 3 is 'gate' and 'door'; 6 is none and 'machine'"):
        plan_comparison(wanted)


def planned(data: Path) -> Config:
    config = tiny_config("oneformer3d_small", data, epochs=2)
    config.data = with_labels(config.data)
    return config


# --------------------------------------------------------------------------------- no labels at all


def test_no_labelled_point_in_any_scene(tmp_path):
    data = make_own_data(tmp_path / "data", train=1, val=1)
    for path in data.glob("*/*/segment.npy"):
        np.save(path, np.full(len(np.load(path)), -1, np.int16))
    with pytest.raises(InputError, match=r"segment\.npy labels no point in any of its 1 scenes"):
        train(tiny_config("oneformer3d_small", data), tmp_path / "run")


def test_a_value_outside_names_file_and_classes(tmp_path):
    data = make_own_data(tmp_path / "data", train=1, val=1)
    path = next(data.glob("train/*/segment.npy"))
    segment = np.load(path)
    segment[5] = 7
    np.save(path, segment)
    with pytest.raises(
        InputError, match=r"segment\.npy: labels go .* 6 \(machine\), positions in rooms7"
    ):
        train(tiny_config("oneformer3d_small", data), tmp_path / "run")


def test_built_in_classes_need_their_own_file(tmp_path):
    data = make_tiny_data(tmp_path / "data", train=1, val=1)
    (data / "labels.json").write_text(labels_text(ROOMS7))
    with pytest.raises(InputError, match=r"no scene has segment\.npy, the labels of rooms7"):
        train(tiny_config("oneformer3d_small", data), tmp_path / "run")
