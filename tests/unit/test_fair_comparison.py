"""What makes a comparison unfair, which is refused by name: scenes, classes, settings, rivals."""

import json
import re

import pytest

from bifusion.errors import InputError
from bifusion.labels.files import label_set_to_json
from bifusion.labels.sets import LABEL_SETS
from bifusion.studies.comparison.judge import judge_all, judge_comparison
from bifusion.studies.comparison.performance import judge_performance
from bifusion.studies.comparison.run import write_report
from bifusion.studies.figures.arms import find_role, group_runs
from bifusion.studies.figures.fairness import why_refused
from bifusion.studies.figures.run import load_run
from run_factory import FakeRun
from verdict_arms import arms_of, performance, rivals, seeds, set_in_config


@pytest.mark.parametrize(
    ("train", "val"), [("room", "room"), ("scene0010_00", "scene0010_01")], ids=["scan", "room"]
)
def test_overlapping_scenes_are_refused(tmp_path, train, val):
    scenes = {"train_scenes": [train], "val_scenes": [val]}
    fakes = [FakeRun(arm=arm, **scenes) for arm in ("staged", "baseline", "without_views")]
    verdict = performance(tmp_path, *fakes)
    assert verdict.outcome == "refused"
    assert f"1 scene used both in training and in validation ({val})" in verdict.evidence


def test_nothing_is_judged_by_scenes_that_were_trained_on(tmp_path):
    """Neither what views are worth nor how 2D and 3D agree; stability looks at no validation."""
    leaking, fair = (
        {v.criterion: v for v in judge_all(arms_of(tmp_path / name, FakeRun(train_scenes=[name])))}
        for name in ("val00", "train00")
    )
    refused = {criterion for criterion, verdict in leaking.items() if verdict.outcome == "refused"}
    assert refused == {"performance", "fusion", "stage 2", "stage 3"}
    assert "(val00)" in leaking["fusion"].evidence and "(val00)" in leaking["stage 2"].evidence
    assert {fair[criterion].outcome for criterion in ("fusion", "stage 2")} == {"indicative pass"}


@pytest.mark.parametrize(("trained", "refused"), [("a", True), ("b", False), (None, False)])
def test_a_scene_of_both_splits_is_known_under_another_name(tmp_path, trained, refused):
    folders = [FakeRun(arm=arm).write(tmp_path) for arm in ("staged", "baseline", "without_views")]
    scenes = {"train/train00": trained, "val/val00": None, "val/val01": "a"}
    of = {
        scene: {"coord.npy": {"bytes": 8, "sha256": sha256, "modified_ns": 1}}
        for scene, sha256 in scenes.items()
    }
    data = json.dumps({"root": "rooms", "scenes": of, "threads": 1, "versions": {}})
    for folder in folders:
        (folder / "data.json").write_text(data)
    arms = group_runs([load_run(folder) for folder in folders])
    verdict = judge_performance(find_role(arms, "staged"), arms)
    assert (verdict.outcome == "refused") == refused
    assert ("under another name (val/val01 is train/train00)" in verdict.evidence) == refused


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"epochs": 30}, "length"),
        ({"train_scenes": ["other"]}, "training scenes"),
        ({"sources": ["generated room, config texture-off"]}, "where their scenes come from"),
    ],
)
def test_unequal_data_or_length_is_refused(tmp_path, settings, named):
    verdict = performance(tmp_path, FakeRun(), FakeRun(arm="baseline", **settings))
    assert verdict.outcome == "refused"
    assert named in verdict.evidence


@pytest.mark.parametrize(("one", "other"), [(4, 4), (4, 1), (4, None)])
def test_as_many_epochs_of_other_batches_are_another_length(tmp_path, one, other):
    """So they are where processes or accumulated batches make the difference."""
    folders = [FakeRun(arm=arm).write(tmp_path) for arm in ("staged", "baseline")]
    for folder, scenes in zip(folders, (one, other), strict=True):
        described = json.loads((folder / "config.json").read_text())
        if scenes is not None:  # as in runs of earlier versions
            described["processes"] = {"processes": 1, "scenes_a_step": scenes}
        (folder / "config.json").write_text(json.dumps(described))
    told = why_refused(group_runs([load_run(folder) for folder in folders]))
    assert told is None if other != 1 else "differ in scenes a step (1 and 4): no fair" in (told or "")


def test_who_starts_from_a_checkpoint_is_compared_with_those_who_do(tmp_path):
    def told(root, *starts):
        folders = [FakeRun(arm=arm).write(root) for arm in ("staged", "baseline", "without_views")]
        for folder, start in zip(folders, starts, strict=True):
            set_in_config(folder, start, "trainer", "init")
        arms = group_runs([load_run(folder) for folder in folders])
        return judge_performance(find_role(arms, "staged"), arms)

    assert told(tmp_path / "all", "a/net.pth", "b/net.pth", "net.pth").outcome == "indicative pass"
    refused = told(tmp_path / "one", "a/net.pth", None, None)
    assert refused.outcome == "refused"
    assert "what their 3D networks start from (net.pth and random weights)" in refused.evidence


def test_unfairness_is_told_where_no_verdict_asks_for_it(tmp_path):
    """Two arms without a baseline: none is judged by the other, yet both stand in one table."""
    arms = arms_of(tmp_path, FakeRun(arm="staged"), FakeRun(arm="naive", epochs=30))
    told = judge_comparison(arms, audit=None, title="two").scenes_refused
    assert told is not None and "naive-seed0 and staged-seed0 differ in length" in told
    fair = arms_of(tmp_path / "fair", FakeRun(arm="staged"), FakeRun(arm="naive"))
    assert judge_comparison(fair, audit=None, title="two").scenes_refused is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda classes: classes[0].update(name="gate"), "0 is 'wall' and 'gate'"),
        (lambda classes: classes.reverse(), "0 is 'wall' and "),
        (lambda classes: classes[0].update(kind="thing"), "'wall' is a stuff class and a thing class"),
    ],
    ids=["name", "order", "kind"],
)
def test_runs_of_other_classes_are_not_compared(tmp_path, change, named):
    """Neither of the two arms would be judged by the other: the tables alone would mix them."""
    folders = [FakeRun(arm=arm, epochs=4).write(tmp_path) for arm in ("naive", "staged")]
    stored = label_set_to_json(LABEL_SETS["scannet20"])
    change(stored["classes"])
    path = folders[1] / "config.json"
    config = json.loads(path.read_text())
    config["config"]["data"]["labels"] = stored
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=re.escape(named)):
        write_report(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_each_seed_may_have_rooms_of_its_own_but_pairs_share_them(tmp_path):
    def judged(folder, other):
        runs = [
            FakeRun(arm=arm, seed=seed, miou=miou, train_scenes=[f"{rooms}_train"], val_scenes=[rooms])
            for arm, miou in (("staged", 0.6), ("baseline", 0.5), ("without_views", 0.5))
            for seed in range(3)
            for rooms in [other if (arm, seed) == ("baseline", 2) else f"rooms{seed}"]
        ]
        return performance(folder, *runs)

    assert judged(tmp_path / "own", "rooms2").outcome == "pass"
    refused = judged(tmp_path / "mixed", "rooms0")
    assert refused.outcome == "refused" and "training scenes" in refused.evidence


def test_scenes_of_the_same_names_and_other_bytes_are_refused(tmp_path):
    def reason(sums: list[str | None]) -> str | None:
        root = tmp_path / "-".join(map(str, sums))
        folders = [FakeRun(arm=arm).write(root) for arm in ("staged", "baseline")]
        for folder, sha256 in zip(folders, sums, strict=True):
            files = {"coord.npy": {"bytes": 8, "sha256": sha256, "modified_ns": 1}}
            data = {"root": "rooms", "scenes": {"val/val00": files}, "threads": 1, "versions": {}}
            (folder / "data.json").write_text(json.dumps(data))
        return why_refused(group_runs([load_run(folder) for folder in folders]))

    assert reason(["a", "a"]) is None
    assert reason(["a", None]) is None, "nobody has summed up what is there"
    assert "differ in the content of 1 scene (val/val00)" in (reason(["a", "b"]) or "")


def test_unequal_augmentation_is_refused_but_view_dropout_may_differ(tmp_path):
    folders = [FakeRun(arm=arm).write(tmp_path) for arm in ("staged", "baseline")]
    path = folders[1] / "config.json"
    config = json.loads(path.read_text())
    augment = config["config"]["data"]["augment"]

    def outcome():
        path.write_text(json.dumps(config))
        arms = group_runs([load_run(folder) for folder in folders])
        return judge_performance(arms[1], arms).outcome

    augment["no_views_probability"] = 0.9
    assert outcome() == "indicative pass"
    augment["flip_probability"] = 0.0
    assert outcome() == "refused"


def test_only_the_settings_that_differ_are_named(tmp_path):
    kept = {"staged": {"window": 64, "reach": 200}, "baseline": {"window": 32, "reach": 200, "calm": 9}}
    for arm, rules in kept.items():
        path = FakeRun(arm=arm).write(tmp_path) / "config.json"
        config = json.loads(path.read_text())
        config["config"].setdefault("trainer", {})["guard"] = {"rules": rules}
        path.write_text(json.dumps(config))
    arms = group_runs([load_run(tmp_path / f"{arm}-seed0") for arm in kept])
    told = judge_performance(next(arm for arm in arms if arm.role == "staged"), arms).evidence
    assert "trainer.guard.rules.window (64, 32), trainer.guard.rules.calm (absent, 9): no" in told
    assert "reach" not in told


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (("model", "decoder"), {"dim": 64}, "model.decoder.dim (128, 64)"),
        (("model", "fusion"), {"dim": 48}, "model.fusion.dim (96, 48)"),
        (("optim",), {"lr": 2.0, "rates": {}}, "optim.lr (1.0, 2.0)"),
        (
            ("stages", "stages"),
            [{"share": 1.0, "trains": {"decoder": 1.0}, "weights": {"semantic": 0.5}}],
            "stages.stages.1.weights.semantic (1.0, 0.5)",
        ),
        (("trainer", "precision"), "bf16-mixed", "trainer.precision (32-true, bf16-mixed)"),
        (("model", "tower"), {"architecture": "ViT-B-16"}, None),  # nothing is seen of it
    ],
)
def test_the_decisive_rival_differs_in_images_alone(tmp_path, keys, value, named):
    folders = [FakeRun(arm=arm).write(tmp_path) for arm in ("staged", "baseline", "without_views")]
    trains = {"decoder": 1.0}
    for folder, tower in zip(folders, ({"tower.block3": 1.0}, {}, {"tower.block1": 1.0}), strict=True):
        stage = {"share": 1.0, "trains": trains | tower, "weights": {"semantic": 1.0}}
        set_in_config(folder, [stage | {"run_2d": bool(tower)}], "stages", "stages")
        set_in_config(folder, {"dim": 128}, "model", "decoder")
        set_in_config(folder, {"lr": 1.0, "rates": tower}, "optim")
        set_in_config(folder, "32-true", "trainer", "precision")
    set_in_config(folders[2], value, *keys)
    arms = group_runs([load_run(folder) for folder in folders])
    verdict = judge_performance(find_role(arms, "staged"), arms)
    assert verdict.outcome == ("indicative pass" if named is None else "refused")
    assert named is None or f"differ in more than images, in {named}" in verdict.evidence
    assert judge_performance(find_role(arms, "baseline"), arms).outcome == "not judged"


def test_of_several_rivals_without_views_an_arm_is_judged_by_its_own(tmp_path):
    folders = [FakeRun(arm=arm).write(tmp_path) for arm in ("staged", "baseline", "without_views")]
    folders.append(FakeRun(arm="without_views", miou=0.9).write(tmp_path / "other"))
    set_in_config(folders[3], {"dim": 48}, "model", "fusion")
    description = json.loads((folders[3] / "config.json").read_text())
    (folders[3] / "config.json").write_text(json.dumps(description | {"name": "another_size"}))
    arms = group_runs([load_run(folder) for folder in folders])
    verdict = judge_performance(find_role(arms, "staged"), arms)
    assert verdict.outcome == "indicative pass"
    assert "vs without_views:without_views_small" in verdict.figures


def test_of_two_sizes_each_is_held_against_the_baseline_of_its_own(tmp_path):
    folders = []
    for size, planes in (("mini", [32, 64]), ("small", [8, 16])):
        for arm in ("staged", "baseline", "without_views"):
            folder = FakeRun(arm=arm).write(tmp_path / size)
            set_in_config(folder, planes, "model", "unet", "planes")
            description = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(description | {"name": f"{arm}_{size}"}))
            folders.append(folder)
    report = judge_comparison(group_runs([load_run(f) for f in folders]), audit=None, title="sizes")
    for size in ("mini", "small"):
        found = {v.criterion: v for v in report.verdicts if v.arm == f"staged:staged_{size}"}
        assert f"vs baseline:baseline_{size}" in found["performance"].figures
        assert found["stage 1"].outcome != "refused"


def test_stage_1_is_not_judged_by_a_training_that_is_none_like_it(tmp_path):
    fakes = [FakeRun(), FakeRun(arm="baseline", epochs=20), FakeRun(arm="without_views")]
    report = judge_comparison(
        group_runs([load_run(fake.write(tmp_path)) for fake in fakes]), audit=None, title="unlike"
    )
    found = {v.criterion: v.outcome for v in report.verdicts if v.arm == "staged"}
    assert found["performance"] == found["stage 1"] == "refused"


def test_mask3d_competes_on_ap_although_its_network_is_another(tmp_path):
    one = FakeRun("baseline").write(tmp_path)
    other = FakeRun("mask3d").write(tmp_path)
    for folder, planes in ((one, [16, 32]), (other, [32, 56])):
        config = json.loads((folder / "config.json").read_text())
        config["config"]["model"] = {"unet": {"kind": "residual", "planes": planes}}
        (folder / "config.json").write_text(json.dumps(config))
    arms = group_runs([load_run(one), load_run(other)])
    verdict = judge_performance(find_role(arms, "mask3d"), arms)
    assert verdict.outcome != "refused" and "AP" in verdict.evidence


@pytest.mark.parametrize(
    ("keys", "values", "named"),
    [
        (("optim", "lr"), (0.001, 0.01), "optim.lr (0.001, 0.01)"),
        (("stages", "stages"), ([{"share": 1.0}], [{"share": 2.0}]), "stages.stages.1.share (1.0, 2.0)"),
        (("model", "fusion", "dim"), (96, 48), "model.fusion.dim (96, 48)"),
        (("trainer", "precision"), ("32-true", "16-mixed"), "trainer.precision ('32-true', '16-mixed')"),
        (
            ("model", "tower", "pretrained"),
            ("a/clip.pt", None),
            "model.tower.pretrained ('a/clip.pt', None)",
        ),
        (("model", "tower", "pretrained"), ("a/clip.pt", "b/clip.pt"), None),
        (("data", "root"), ("rooms0", "rooms1"), None),
        (("trainer", "workers"), (0, 4), None),
        (("seed",), (0, 1), None),
        (("optim", "new"), (1.0, None), None),
    ],
)
def test_runs_of_one_name_are_seeds_of_one_configuration(tmp_path, keys, values, named):
    """Else a mean ± spread "over 3 seeds" would be over three learning rates."""
    folders = [fake.write(tmp_path) for fake in [*seeds(), *rivals()]]
    for folder, value in zip(folders, (values[0], values[0], values[1]), strict=False):
        if keys[-1] != "new" or value is not None:  # a version that knew less
            set_in_config(folder, value, *keys)
    report = judge_comparison(group_runs([load_run(f) for f in folders]), audit=None, title="mixed")
    found = {v.criterion: v for v in report.verdicts if v.arm == "staged"}
    assert found.pop("stability").outcome == "pass"
    assert {v.outcome for v in found.values()} == ({"pass"} if named is None else {"refused"})
    if named is not None:
        pair = "staged-seed0 and staged-seed2 differ in more than their seed"
        assert {f"{pair}, in {named}: no seeds of one arm."} == {v.evidence for v in found.values()}
        assert named in (report.scenes_refused or "")
