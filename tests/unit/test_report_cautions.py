"""Runs that were not made all alike: every study's page says so."""

import io
import json

import pytest
from rich.console import Console

from bifusion.studies.comparison.run import write_report
from bifusion.studies.comparison.terminal import print_table
from bifusion.studies.dose.judge import Level
from bifusion.studies.dose.report import Knob
from bifusion.studies.dose.run import write_dose
from bifusion.studies.dose.terminal import print_dose
from bifusion.studies.sweep.plan import Condition, SweepArm, SweepPlan
from bifusion.studies.sweep.run import write_sweep
from bifusion.studies.sweep.terminal import print_sweep
from run_factory import FakeRun

VERSIONS = "Not all runs were trained by the same versions: torch 2.14.1 and 2.9.0."
CHANGED = "1 run went on after scenes or software had changed, which was accepted: staged-seed0."


def comparison(folders, out):
    return "report", write_report(folders, out, room_views=False), print_table


def dose(folders, out):
    level = Level(0.0, out / "knob-0", tuple(folders), out / "audit.json")
    return "dose", write_dose(Knob("knob", "Knob", "", "."), [level], out, title="dose"), print_dose


def sweep(folders, out):
    arms = tuple(SweepArm(f.name, role, f.name, 1.0, {}) for f, role in zip(folders, "ab", strict=True))
    plan = SweepPlan(
        base="base",
        arms=arms,
        factors=(1.0,),
        conditions=(Condition("plain", "plain", "."),),
        seeds=(0,),
        folders={(folder.name, "plain", 1.0, 0): folder for folder in folders},
    )
    return "sweep", write_sweep(plan, out, title="sweep"), print_sweep


@pytest.mark.parametrize("study", [comparison, dose, sweep])
def test_versions_and_accepted_changes_are_told(study, tmp_path):
    folders = [FakeRun(arm=arm, epochs=3).write(tmp_path) for arm in ("staged", "without_views")]

    def told():
        name, report, show = study(folders, tmp_path / "out")
        console = Console(width=300, record=True, file=io.StringIO())
        show(report, console)
        page = (tmp_path / "out" / f"{name}.html").read_text()
        return report.cautions, page.split("<main")[0], console.export_text()

    assert told()[0] == []
    config = json.loads((folders[1] / "config.json").read_text())
    config["versions"]["torch"] = "2.9.0"
    (folders[1] / "config.json").write_text(json.dumps(config))
    data = {"root": ".", "scenes": {}, "threads": 1, "versions": {}, "accepted": [["val/a: is gone"]]}
    (folders[0] / "data.json").write_text(json.dumps(data))
    cautions, page, terminal = told()
    assert cautions == [VERSIONS, CHANGED]
    for sentence in cautions:
        assert sentence in page and sentence in terminal


def test_runs_that_say_one_class_for_all_are_named(tmp_path):
    folders = [FakeRun(arm, seed=0).write(tmp_path) for arm in ("staged", "naive")]
    path = folders[1] / "evaluation.json"
    evaluation = json.loads(path.read_text())
    iou = evaluation["full"]["iou"]
    evaluation["full"]["iou"] = dict.fromkeys(iou, 0.0) | {"wall": 0.6}
    path.write_text(json.dumps(evaluation))
    report = write_report(folders, tmp_path / "out", room_views=False)
    assert report.cautions == [f"In 1 run no class but wall is ever right, of {len(iou)}: naive-seed0."]


def with_settings(folder, **settings):
    """A run's folder whose configuration has these, as "data.voxel_size_m"."""
    config = json.loads((folder / "config.json").read_text())
    for path, value in settings.items():
        *groups, name = path.split("__")
        part = config["config"]
        for group in groups:
            part = part[group]
        part[name] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"data__voxel_size_m": 0.04},
            "Arms differ in voxel size: 0.06 m (OneFormer3D, BiFusion without views); "
            "0.04 m (Staged BiFusion).",
        ),
        (
            {"model__unet__planes": [16, 32]},
            "Arms differ in 3D network, planes: [32, 64, 96, 128] (OneFormer3D, BiFusion "
            "without views); [16, 32] (Staged BiFusion).",
        ),
        (
            {"model__unet__kind": "outside"},
            "Arms differ in 3D network, kind: 'residual' (OneFormer3D, BiFusion without views); "
            "'outside' (Staged BiFusion).",
        ),
    ],
)
def test_arms_of_other_voxels_or_networks_are_named(tmp_path, settings, sentence):
    folders = [FakeRun(arm, epochs=2).write(tmp_path) for arm in ("baseline", "without_views")]
    folders.append(with_settings(FakeRun("staged", epochs=2).write(tmp_path), **settings))
    report = write_report(folders, tmp_path / "out", room_views=False)
    assert report.cautions == [sentence]


def test_mask3d_and_the_control_at_finer_voxels_are_meant_to_differ(tmp_path):
    folders = [
        FakeRun("staged", epochs=2).write(tmp_path),
        with_settings(FakeRun("fine_voxels", epochs=2).write(tmp_path), data__voxel_size_m=0.03),
        with_settings(FakeRun("mask3d", epochs=2).write(tmp_path), model__unet__kind="res16"),
    ]
    assert write_report(folders, tmp_path / "out", room_views=False).cautions == []


def test_networks_of_ones_own_are_compared_by_their_function(tmp_path):
    """Two of them have no sizes that a configuration tells."""
    own = {"model__unet__kind": "outside", "model__unet__planes": []}
    folders = [
        with_settings(FakeRun(arm, epochs=2).write(tmp_path), **own, model__unet__function=f"{arm}:net")
        for arm in ("baseline", "staged")
    ]
    report = write_report(folders, tmp_path / "out", room_views=False)
    assert len(report.cautions) == 1 and "3D network, function" in report.cautions[0]
    assert report.scenes_refused is not None
    assert "model.unet.function (staged:net, baseline:net)" in report.scenes_refused
