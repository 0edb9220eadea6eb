"""The sweep of learning rates: what its records say, its estimate, its report."""

import dataclasses
import json
import math
import re

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from bifusion.recipes import get_recipe
from bifusion.storage.json_files import to_json
from bifusion.studies.figures.run import load_run
from bifusion.studies.sweep.findings import where_it_breaks
from bifusion.studies.sweep.grid import CONDITIONS
from bifusion.studies.sweep.plan import SweepArm, SweepPlan
from bifusion.studies.sweep.report import Breaking
from bifusion.studies.sweep.run import write_sweep
from bifusion.studies.sweep.signals import signals_of, weighted_loss
from bifusion.studies.sweep.terminal import print_sweep
from bifusion.studies.training_runs import timing
from bifusion.studies.training_runs.timing import side_by_side
from generated_scenes import BESIDE, GENERATED, check_told
from run_factory import FakeRun

# ------------------------------------------------------------------------------------- the records


def test_the_loss_has_fixed_weights():
    weights = {"semantic": 0.5, "score": 1.0}
    assert weighted_loss({"losses": {"semantic": 4.0, "mask_bce": 9.0}}, weights) == 2.0
    assert math.isnan(weighted_loss({"losses": {"semantic": None}}, weights))
    assert math.isnan(weighted_loss({"losses": {}}, weights))


def rewrite(folder, name, change):
    """Changes each record of a file of a run folder."""
    records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    for record in records:
        change(record)
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))


def test_signals_are_read_from_what_a_run_recorded(tmp_path):
    folder = FakeRun(epochs=6, nonfinite={4: 1}, state="guard_stopped", evaluated=True).write(tmp_path)

    def blame(record):
        if record["event"]:
            record["event"]["diagnosis"] = {"module": "fusion.gate.mlp.0"}
        if record["step"] == 3:
            record["alarms"] = [{"rule": "gate_collapse", "where": ["gate.mean"]}]

    def one_class(record):
        if record["val"] and record["epoch"] == 5:
            record["val"]["iou"] = dict.fromkeys(record["val"]["iou"], 0.0) | {"wall": 0.2}

    rewrite(folder, "steps.jsonl", blame)
    rewrite(folder, "epochs.jsonl", one_class)
    told = signals_of(load_run(folder), {"semantic": 1.0})
    assert told.fault == (32, "gradient.fusion: fusion.gate.mlp.0") and told.stopped
    assert told.alarms == {"gate_collapse": 1} and told.raw_nonfinite == 1
    assert told.one_class[0] == (16, None) and told.one_class[-1] == (48, "wall")
    assert np.isnan(told.alpha[0]) and np.isfinite(told.alpha[-1]), "held before it is learned"


def test_an_estimate_shares_out_no_run():
    assert side_by_side([60.0], 2) == 60, "one run left takes its time, however many could run"
    assert side_by_side([3.0, 1.0, 1.0, 2.0], 2) == 4 and side_by_side([1.0] * 6, 3) == 2
    assert side_by_side([], 2) == 0


def test_of_recipes_that_take_alike_one_is_measured(monkeypatch):
    measured = []
    monkeypatch.setattr(
        timing, "seconds_of_run", lambda c: measured.append(c.recipe) or 60.0 * len(measured)
    )
    names = ("bifusion_tiny_no_film", "bifusion_tiny", "bifusion_tiny_plan_a")
    alike = {"bifusion_tiny_no_film": "bifusion_tiny"}
    assert timing.seconds_of_runs([get_recipe(name) for name in names], 2, alike) == [60, 60, 120]
    assert measured == ["bifusion_tiny_no_film", "bifusion_tiny_plan_a"]


# -------------------------------------------------------------------------------------- the report

ARMS = (
    SweepArm("naive_small", "naive", "Naive <BiFusion>", 1e-3, {"semantic": 1.0}),
    SweepArm("staged_small", "staged", "Staged BiFusion", 1e-3, {"semantic": 1.0}),
)
RATES, SEEDS = (0.1, 1.0, 10.0, 100.0), (0, 1)
PLAIN, BF16 = (CONDITIONS[key][0] for key in ("plain", "bf16"))


def fake(arm, factor, seed):
    """Naive learns at × 1 alone and ends with a NaN at × 10 and above; staged learns up to × 10, and at
    × 100 its loss stays."""
    usual = {"arm": arm, "seed": seed, "epochs": 6, "miou": 0.4 + 0.001 * seed, "gradient_noise": 0.01}
    if arm == "naive" and factor > 1:
        return FakeRun(**usual, nonfinite={3: 1}, epochs_done=3, state="guard_stopped", evaluated=True)
    slow = factor < (1 if arm == "naive" else 0.1)
    return FakeRun(**usual | ({"miou": 0.1} if slow or factor == 100 else {}))


def fake_plan(root, write=fake, conditions=(PLAIN,)):
    folders = {}
    for condition in conditions:
        for arm in ARMS:
            for factor in RATES:
                for seed in SEEDS:
                    inside = root / f"{arm.key}-{condition.key}-{factor:g}"
                    run = write(arm.role, factor, seed)
                    folder = run.write(inside) if run else inside / f"seed{seed}"
                    if run and run.miou == 0.1 and factor == 100:
                        rewrite(folder, "steps.jsonl", lambda r: r["losses"].update(semantic=3.0))
                    folders[arm.key, condition.key, factor, seed] = folder
    return SweepPlan(
        base="staged_small",
        arms=ARMS,
        factors=RATES,
        conditions=conditions,
        seeds=SEEDS,
        folders=folders,
        factors_left_out=(0.5,),
        conditions_left_out=("2D × 10",),
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    plan = fake_plan(root, conditions=(PLAIN, BF16))
    report = write_sweep(plan, root, title="A <b>title</b>")
    return root, report, (root / "sweep.html").read_text()


def curve_of(report, arm, condition="plain"):
    return next(c for c in report.curves if (c.arm, c.condition) == (arm, condition))


def test_where_each_arm_breaks_and_how(told):
    naive, staged = (curve_of(told[1], arm.key) for arm in ARMS)
    assert naive.breaking.factor == 10 and naive.breaking.kinds == {"non-finite": 2}
    assert naive.breaking.steps == [24, 24] and "gradient.fusion" in naive.breaking.where
    assert staged.breaking.factor == 100 and staged.breaking.kinds == {"loss stuck": 2}
    assert [run.verdict for run in staged.rates[0].runs] == ["learns", "learns"]


def test_an_arm_that_does_best_with_its_gate_dead_has_broken_there(tmp_path):
    def best_without_images(arm, factor, seed):
        run = fake(arm, factor, seed)
        return dataclasses.replace(run, miou=0.6, gate=-0.3) if factor == 1 else run

    report = write_sweep(fake_plan(tmp_path, best_without_images), tmp_path, title="")
    staged = curve_of(report, "staged_small")
    assert staged.good.best == 1 and staged.breaking.factor == 1
    assert staged.breaking.kinds == {"gate dead": 2}


def test_the_earliest_break_is_told_with_its_own_place(tmp_path):
    def earlier(arm, factor, seed):
        run = fake(arm, factor, seed)
        stopped = run.state == "guard_stopped" and seed == 1
        return dataclasses.replace(run, nonfinite={2: 1}, epochs_done=2) if stopped else run

    plan = fake_plan(tmp_path, earlier)
    for (arm, _, factor, seed), folder in plan.folders.items():
        if (arm, seed) == ("naive_small", 1) and factor > 1:
            rewrite(
                folder,
                "steps.jsonl",
                lambda r: r["event"] and r["event"].update(where=["gradient.gate"]),
            )
    naive = curve_of(write_sweep(plan, tmp_path, title=""), "naive_small")
    assert naive.breaking.steps == [24, 16] and "gradient.gate" in naive.breaking.where


def test_good_rates_and_sensitivities_follow_from_the_runs(told):
    naive, staged = (curve_of(told[1], arm.key) for arm in ARMS)
    assert (naive.good.low, naive.good.high) == (1, 1) and staged.good.span == pytest.approx(100)
    assert staged.good.low_is_edge and not staged.good.high_is_edge
    stopped = naive.rates[2].figures
    assert stopped.miou.mean == 0 and stopped.raw_nonfinite.mean == 1
    assert stopped.final_loss.mean == pytest.approx(naive.initial_loss.mean), (
        "as if it had learnt nothing"
    )
    assert naive.relative_sensitivity.mean == pytest.approx(0.5, abs=0.05)
    assert naive.relative_sensitivity.mean > staged.relative_sensitivity.mean
    compared = next(finding for finding in told[1].findings if "100 times as wide" in finding)
    assert "100 times as wide in the rates tried; " in compared  # the lowest rate is a good one
    for good in (staged.good, naive.good):
        assert f", {good.best_miou:.3f}, " in compared
    assert compared.endswith("; it breaks at × 100, naive fusion at × 10 (10 times lower).")


@pytest.mark.parametrize(
    ("staged", "naive", "baseline", "told"),
    [
        (14, 1.9, 14, "at × 14, naive fusion at × 1.9 (7.4 times lower), OneFormer3D at the same rate"),
        (
            14,
            None,
            28,
            "at × 14, naive fusion nowhere in the rates tried, OneFormer3D at × 28 (2 times higher)",
        ),
        (None, 1.9, None, "nowhere in the rates tried, naive fusion at × 1.9, OneFormer3D nowhere"),
    ],
)
def test_where_staged_fusion_breaks_beside_its_rivals(staged, naive, baseline, told):
    at = {
        f: Breaking(factor=f, kinds={}, steps=[1], where="") if f else None for f in (14, 1.9, 28, None)
    }
    rivals = {"naive fusion": at[naive], "OneFormer3D": at[baseline]}
    assert where_it_breaks(at[staged], rivals) == f"it breaks {told}"


def test_content_is_valid_and_the_page_tells_it_as_text(told):
    root, report, page = told
    stored, schema = (
        json.loads((root / f"sweep.{kind}").read_text()) for kind in ("json", "schema.json")
    )
    assert stored == to_json(report)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(stored, schema)
    assert "A <b>title" not in page and "Naive <BiFusion>" not in page
    assert "Naive &lt;BiFusion&gt;" in page and "arXiv 2309.14322" in page
    assert "breaks at × 10: non-finite (2), first at step 24" in page
    assert "Rates: × 0.5." in page and "Conditions: 2D × 10." in page
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', page, re.S)[1])
    assert len(charts) == page.count('class="plot"') >= 8
    crosses = [t["marker"]["symbol"] for t in charts[0]["data"] if "Naive" in t["name"]]
    assert crosses[0] == ["circle", "circle", "x", "x"]


def test_the_terminal_tells_the_curves(told):
    console = Console(record=True, width=80)
    print_sweep(told[1], console)
    text = console.export_text()
    assert "Staged BiFusion, bfloat16" in text and "arXiv" not in text
    assert "100 times as wide" in text.replace("\n", " ")


def test_what_has_not_ended_is_left_open(tmp_path):
    def few(arm, factor, seed):
        run = fake(arm, factor, seed) if seed == 0 else None
        if run and factor == 1:
            run.state, run.epochs_done = "running", 1
        return run

    report = write_sweep(fake_plan(tmp_path, few), tmp_path, title="")
    assert not report.complete and report.runs["not started"] == 8
    staged = curve_of(report, "staged_small")
    assert staged.rates[1].runs[0].verdict is None and not staged.sensitivity.by_seed
    assert math.isnan(staged.sensitivity.mean) and staged.breaking.factor == 100
    assert "partial" in (tmp_path / "sweep.html").read_text()
    print_sweep(report, Console(quiet=True))


def test_other_scenes_in_one_seed_refuse_comparisons(tmp_path):
    """Of one arm alone, and not the first seed, as after data that changed in the middle of a grid."""

    def changed(arm, factor, seed):
        run = fake(arm, factor, seed)
        if arm == "naive" and seed == SEEDS[-1]:
            run.train_scenes = ["others"]
        return run

    report = write_sweep(fake_plan(tmp_path, changed), tmp_path, title="")
    assert "no fair comparison" in report.refused and not report.findings


def test_the_order_of_conditions_refuses_nothing(tmp_path):
    """Guard or batch are what a condition changes: arms are compared within it."""
    guard = dataclasses.replace(PLAIN, key="guard")

    def plan(conditions, root):
        made = fake_plan(root, conditions=conditions)
        for (_, condition, _, _), folder in made.folders.items():
            if condition == "guard":
                config = json.loads((folder / "config.json").read_text())
                config["config"].setdefault("trainer", {})["guard"] = {"rollback_after": 1}
                (folder / "config.json").write_text(json.dumps(config))
        return made

    for place, conditions in enumerate([(PLAIN, guard), (guard, PLAIN)]):
        root = tmp_path / str(place)
        report = write_sweep(plan(conditions, root), root, title="")
        assert report.refused is None and report.findings


def test_scenes_used_twice_refuse_comparisons(tmp_path):
    def leaking(arm, factor, seed):
        run = fake(arm, factor, seed) if factor == 1 else None
        if run:
            run.val_scenes = ["train00"]
        return run

    report = write_sweep(fake_plan(tmp_path, leaking), tmp_path, title="")
    assert "used both in training and in validation" in report.refused and not report.findings


@BESIDE
def test_generated_rooms_beside_others_are_not_said_to_be_all(tmp_path, others, badge, line, scenes):
    def mixed(arm, factor, seed):
        run = fake(arm, factor, seed)
        run.sources = [GENERATED, others]
        return run

    report = write_sweep(fake_plan(tmp_path, mixed), tmp_path, title="")
    check_told(report, tmp_path / "sweep.html", print_sweep, badge, line, scenes)
