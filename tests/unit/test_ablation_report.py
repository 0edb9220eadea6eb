"""The ablation: the rule on known figures, the page shown whole."""

import dataclasses
import json
import math
import re

import jsonschema
import pytest
from rich.console import Console

from bifusion.storage.json_files import to_json
from bifusion.studies.ablation import rules
from bifusion.studies.ablation.figures import NO_RUN, measure_run
from bifusion.studies.ablation.plan import AblationArm, AblationPlan, GridPoint
from bifusion.studies.ablation.report import Finding
from bifusion.studies.ablation.run import (
    write_ablation,
)
from bifusion.studies.ablation.terminal import print_ablation
from generated_scenes import BESIDE, GENERATED, check_told
from run_factory import FakeRun
from stored_reports import assert_as_stored

POINTS = (
    GridPoint.at(1, 1, "32-true"),
    GridPoint.at(5, 1, "32-true"),
    GridPoint.at(5, 30, "bf16-mixed"),
)
SEEDS = (0, 1, 2)
ARMS = (
    AblationArm("staged_small", "staged_small", "Staged BiFusion", "staged", "all measures", True),
    AblationArm("no_norm", "no_norm", "LayerNorm of the heads", "removed", "raw <ranges> meet", True),
    AblationArm("no_film", "no_film", "FiLM", "removed", "features know no place", True),
    AblationArm("adaptive", "adaptive", "Adaptive clipping", "added", "the limit follows", True),
    AblationArm("baseline_small", "baseline_small", "OneFormer3D", "rival", "3D alone", False),
)


def fake_plan(root, write):
    """A plan over ARMS × POINTS × SEEDS; `write(recipe, index of the point, seed)` gives the FakeRun of
    each, or None."""
    folders = {}
    for arm in ARMS:
        for index, point in enumerate(POINTS):
            if not arm.has_range and point.range_2d != 1:
                same = next(p for p in POINTS if (p.lr, p.precision) == (point.lr, "32-true"))
                for seed in SEEDS:
                    folders[arm.recipe, point.key, seed] = folders[arm.recipe, same.key, seed]
                continue
            for seed in SEEDS:
                inside = root / f"{arm.recipe}-{point.key}"
                fake = write(arm.recipe, index, seed)
                folder = fake.write(inside) if fake else inside / f"seed{seed}"
                folders[arm.recipe, point.key, seed] = folder
    return AblationPlan(
        base="staged_small",
        arms=ARMS,
        points=POINTS,
        seeds=SEEDS,
        folders=folders,
        points_left_out=(GridPoint.at(1, 30, "32-true"),),
    )


def fake(recipe, point, seed):
    """Without LayerNorm runs break, without FiLM they are less accurate, nothing else shows."""
    usual = {"seed": seed, "epochs": 3, "steps_per_epoch": 12, "miou": 0.5 + 0.01 * seed}
    if recipe == "no_norm":
        return FakeRun(**usual, nonfinite={1: 2 + point}, state="guard_stopped", evaluated=True)
    if recipe == "no_film":
        return FakeRun(**usual | {"miou": 0.4 + 0.01 * seed})
    return FakeRun(**usual, arm="baseline" if recipe.startswith("baseline") else "staged")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    root = tmp_path_factory.mktemp("ablation")
    plan = fake_plan(root, fake)
    report = write_ablation(plan, root, title="A <b>title</b>")
    return root, plan, report, (root / "ablation.html").read_text()


# ------------------------------------------------------------------------------------ the rule


def figures(**changes):
    state = changes.pop("state", "completed")
    usual = {
        "raw_nonfinite": 0.0,
        "spikes": 0.0,
        "unsteady": 0.0,
        "gradient_spread": 0.1,
        "miou": 0.5,
        "ap": 0.3,
    }
    return dataclasses.replace(NO_RUN, state=state, figures=NO_RUN.figures | usual | changes)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, 0),
        ({"state": "guard_stopped"}, 1),
        ({"raw_nonfinite": 1.0}, 1),
        ({"spikes": 1.0}, 1),
        ({"unsteady": 1.0}, 1),
        ({"unsteady": 1.0, "spikes": math.nan}, 1),
        ({"gradient_spread": 0.16}, 1),
        ({"gradient_spread": 0.14}, 0),
        ({"gradient_spread": math.nan}, 0),
        ({"state": "running"}, None),
        ({"state": "crashed"}, None),
    ],
)
def test_which_of_two_runs_is_steadier(other, expected):
    assert rules.steadier(figures(), figures(**other)) == expected
    opposite = None if expected is None else -expected
    assert rules.steadier(figures(**other), figures()) == opposite


def test_worse_things_count_first():
    assert rules.steadier(figures(spikes=9.0), figures(raw_nonfinite=1.0)) == 1
    assert rules.steadier(figures(raw_nonfinite=9.0), figures(state="guard_stopped")) == 1


def test_of_two_runs_that_were_stopped_neither_is_steadier():
    early, late = (figures(state="guard_stopped", raw_nonfinite=n, spikes=n) for n in (3.0, 9.0))
    assert rules.steadier(early, late) == rules.steadier(late, early) == 0
    assert any("Of two that were stopped neither is" in line for line in rules.RULE)


def test_a_crash_is_no_result():
    crashed = {("p0", seed): (figures(), figures(state="crashed")) for seed in range(9)}
    finding = rules.judge_aspect("stability", crashed)
    assert (finding.outcome, finding.pairs) == ("too few pairs", 0)
    told = rules.sentence(crashed, finding, finding, without="Without it", points={"p0": "p0"})
    assert "0 of 0 pairs" in told and "stopped" not in told


def test_accuracy_of_runs_that_were_stopped_says_nothing():
    assert rules.more_accurate(figures(), figures(state="guard_stopped")) is None
    assert rules.more_accurate(figures(), figures(miou=0.4)) == 1
    assert rules.more_accurate(figures(), figures(miou=0.5005)) == 0
    assert rules.more_accurate(figures(), figures(miou=math.nan, ap=0.4)) == -1, "then AP decides"


@pytest.mark.parametrize(("better", "worse", "p"), [(8, 0, 2 / 256), (7, 1, 18 / 256), (3, 3, 1.0)])
def test_sign_test(better, worse, p):
    assert rules.sign_test(better, worse) == rules.sign_test(worse, better) == pytest.approx(p)


def pairs(signs):
    """Pairs at points of the grid × 3 seeds: 1 steadier with the measure, -1 without, 0 neither."""
    made = {
        1: (figures(), figures(spikes=1.0)),
        -1: (figures(spikes=1.0), figures()),
        0: (figures(),) * 2,
    }
    return {(f"p{i // 3}", i % 3): made[sign] for i, sign in enumerate(signs)}


@pytest.mark.parametrize(
    ("signs", "outcome"),
    [
        ([1] * 24, "matters"),
        ([-1] * 24, "harms"),
        ([1, -1] * 12, "does not show"),
        ([1] * 4 + [0] * 20, "does not show"),
        ([1] * 7, "too few pairs"),
        ([1] * 8, "matters"),
        # Two seeds say one thing, strongly enough for all three; the third says the opposite.
        ([1, 1, -1] * 30, "does not show"),
    ],
)
def test_the_rule_on_known_pairs(signs, outcome):
    assert rules.judge_aspect("stability", pairs(signs)).outcome == outcome


@pytest.mark.parametrize(
    ("outcomes", "headline"),
    [
        (("matters", "does not show"), "Staged is steadier; no difference in accuracy shows"),
        (("does not show", "matters"), "No difference in stability shows; staged is more accurate"),
        (("harms", "harms"), "Staged is less steady; staged is less accurate"),
        (
            ("too few pairs", "matters"),
            "Too few pairs to say anything on stability; staged is more accurate",
        ),
        (("too few pairs", "too few pairs"), "Too few pairs to say"),
        (("matters", "refused"), "Staged is steadier; accuracies are not compared"),
    ],
)
def test_a_rivals_headline_says_who(outcomes, headline):
    stability, accuracy = (
        Finding(aspect, outcome, 0, 0, 0, 1.0, [], 0)
        for aspect, outcome in zip(("stability", "accuracy"), outcomes, strict=True)
    )
    assert rules.rival_headline(stability, accuracy) == headline


def test_points_at_which_every_seed_agrees_are_named():
    finding = rules.judge_aspect("stability", pairs([1, 1, 1, 1, 0, 1, 1, 1, 1]))
    assert finding.points == ["p0", "p2"] and finding.ties == 1


# ---------------------------------------------------------------------------------- the report


def found(report, arm):
    return next(finding for finding in report.findings if finding.arm == arm)


def test_findings_follow_from_the_figures(told):
    report = told[2]
    norm, film, adaptive = (found(report, name) for name in ("no_norm", "no_film", "adaptive"))
    assert norm.stability.outcome == "matters" and norm.stability.better == 9
    assert norm.accuracy.outcome == "too few pairs", "no pair came to its end"
    assert "27 raw non-finite steps against 0" in norm.sentence
    assert "9 runs stopped against 0" in norm.sentence and "at every point" in norm.sentence
    assert film.stability.outcome == "does not show" and film.accuracy.outcome == "matters"
    assert film.headline == "It matters for accuracy; for stability it does not show"
    assert "Accuracy changes by −0.100 ± 0.000 over 9 pairs: lower in 9" in film.sentence
    assert film.difference.mean == pytest.approx(-0.1)
    assert adaptive.headline == "It does not show"
    assert "the staged recipe as it is" in adaptive.sentence
    assert found(report, "baseline_small").sentence.startswith("With OneFormer3D in its place, 0 of")
    assert found(report, "baseline_small").headline.endswith("no difference in accuracy shows")


def test_a_run_that_stands_at_every_range_is_summed_once(tmp_path):
    def noisy_baseline(recipe, point, seed):
        run = fake(recipe, point, seed)
        if recipe == "baseline_small":
            run.nonfinite, run.state, run.evaluated = {1: 2}, "guard_stopped", True
        return run

    report = write_ablation(fake_plan(tmp_path, noisy_baseline), tmp_path, title="")
    baseline = found(report, "baseline_small")
    assert baseline.stability.better == 9, "its pairs at both ranges are judged"
    assert "12 raw non-finite steps against 0" in baseline.sentence, "6 runs with 2 each"
    assert "6 runs stopped against 0, in 6 runs against 9." in baseline.sentence
    assert ", in 9 runs" not in found(report, "no_film").sentence
    assert "stands in a pair at every range" in report.rule[-1]


def test_a_measure_that_harms_is_said_to_harm(tmp_path):
    def better_without(recipe, point, seed):
        run = fake("adaptive", point, seed)
        run.miou = 0.5 + (0.2 if recipe == "no_norm" else 0.0)
        run.nonfinite = {1: 1} if recipe != "no_norm" else {}
        return run

    report = write_ablation(fake_plan(tmp_path, better_without), tmp_path, title="")
    norm = found(report, "no_norm")
    assert norm.headline == "It harms, both stability and accuracy"
    assert "0 raw non-finite steps against 9" in norm.sentence


def test_a_run_stopped_by_its_guard_is_shown(told):
    _, _, report, page = told
    cell = next(c for c in report.cells if c.arm == "no_norm")
    assert set(cell.states.values()) == {"guard_stopped"} and report.complete
    assert "3 stopped" in page and "3 non-finite steps in a row" in page


def test_every_arm_stands_at_every_point(told):
    _, _, report, page = told
    assert {(c.arm, c.point) for c in report.cells} == {
        (arm.recipe, point.key) for arm in ARMS for point in POINTS
    }
    shared = [c for c in report.cells if c.arm == "baseline_small"]
    assert all(c.shared for c in shared)
    assert shared[1].figures == shared[2].figures, "trained once, shown at both ranges"
    assert page.count("one run for every range") == len(POINTS)
    for point in POINTS:
        assert f"<h3>{point.label}</h3>" in page


def test_the_page_says_what_was_not_run_and_by_which_rule(told):
    _, _, report, page = told
    assert report.not_run.points == ["lr ×1, range ×30, 32-true"]
    assert "Points of the default grid: lr ×1, range ×30, 32-true." in page
    assert "two-sided sign test" in page and "no seed alone says the opposite" in page
    assert "about 0.1 would come out of chance" in page


def test_the_page_stands_alone_and_escapes(told):
    page = told[3]
    assert not re.search(r"<(link|script|img)[^>]+(src|href)=", page)
    assert "A <b>title" not in page and "raw <ranges> meet" not in page
    assert "raw &lt;ranges&gt; meet" in page and "ablation.schema.json" in page
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', page, re.S)[1])
    assert len(charts) == page.count('class="plot"') >= 3


def test_the_file_is_what_was_returned_and_the_schema_is_strict(told):
    root, _, report, _ = told
    assert json.loads((root / "ablation.json").read_text()) == to_json(report)
    schema = json.loads((root / "ablation.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    broken = to_json(report)
    del broken["cells"][0]["figures"]["gate"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_content_and_keys_are_as_they_were(told):
    assert_as_stored("ablation", told[2])


def test_the_terminal_tells_the_findings(told):
    console = Console(record=True, width=80)
    print_ablation(told[2], console)
    text = console.export_text()
    assert "LayerNorm" in text and "too few" in text and "(with)" in text
    assert "−staged" in text and "−0.100" in text, "every column has its place on 80 columns"
    assert "Not run, points: lr ×1, range ×30, 32-true." in text


def test_what_has_not_ended_is_left_open(tmp_path):
    def few(recipe, point, seed):
        run = fake(recipe, point, seed) if point == 0 else None
        if run and recipe == "no_film":
            run.state, run.epochs_done = "running", 1
        return run

    plan = dataclasses.replace(fake_plan(tmp_path, few), crashed=("staged_small-seed0",))
    report = write_ablation(plan, tmp_path, title="")
    assert not report.complete and report.runs["not started"] == 6 * 4 + 3
    assert found(report, "no_film").headline == "Too few pairs to say"
    assert "partial" in (tmp_path / "ablation.html").read_text()
    print_ablation(report, Console(quiet=True))


def test_runs_that_crashed_are_told_and_judge_nothing(tmp_path):
    def breaking(recipe, point, seed):
        run = fake(recipe, point, seed)
        if recipe == "no_norm":
            run.arm, run.state, run.evaluated = "no_norm", "running", False
        return run

    plan = fake_plan(tmp_path, breaking)
    crashed = tuple(f"no_norm-seed{seed}" for seed in SEEDS)
    report = write_ablation(dataclasses.replace(plan, crashed=crashed), tmp_path, title="")
    norm, page = found(report, "no_norm"), (tmp_path / "ablation.html").read_text()
    assert norm.stability.pairs == 0 and norm.headline == "Too few pairs to say"
    assert report.not_run.crashed and report.runs["crashed"] == 9
    assert "Crashed, and therefore without a result: no_norm-seed0" in page and "3 crashed" in page


def test_scenes_used_twice_refuse_accuracy_but_not_stability(tmp_path):
    def leaking(recipe, point, seed):
        run = fake(recipe, point, seed)
        run.val_scenes = ["train00"]
        return run

    report = write_ablation(fake_plan(tmp_path, leaking), tmp_path, title="")
    assert "used both in training and in validation" in report.refused
    assert found(report, "no_norm").stability.outcome == "matters"
    norm, film, rival = (found(report, arm) for arm in ("no_norm", "no_film", "baseline_small"))
    assert norm.headline == "It matters for stability; accuracies are not compared"
    assert film.headline == "For stability it does not show; accuracies are not compared"
    assert rival.headline == "No difference in stability shows; accuracies are not compared"
    assert film.accuracy.outcome == "refused" and film.accuracy.pairs == 0
    for finding in report.findings:
        assert finding.sentence.endswith("Accuracies are not compared.")
        assert "Accuracy changes" not in finding.sentence
    console = Console(record=True, width=80)
    print_ablation(report, console)
    assert "refused" in console.export_text()
    assert "too few pairs" not in (tmp_path / "ablation.html").read_text()
    assert all(not cell.difference.by_seed for cell in report.cells)


def test_alarms_are_counted_as_raised(tmp_path):
    folder = FakeRun(epochs=2).write(tmp_path)
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    for line in lines:
        line["alarms"] = []
    lines[3]["alarms"] = [
        {"rule": rule} for rule in ("gradient_spike", "gate_collapse", "feature_range")
    ]
    lines[5]["event"] = {"kind": "loss_spike", "action": "skip"}
    (folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = measure_run(folder)
    assert run.figures["spikes"] == 2 and run.figures["warnings"] == 4
    assert run.figures["unsteady"] == 1, "a gate that collapses is no matter of stability"
    assert run.figures["raw_nonfinite"] == 0


@BESIDE
def test_generated_rooms_beside_others_are_not_said_to_be_all(tmp_path, others, badge, line, scenes):
    def mixed(recipe, point, seed):
        run = fake(recipe, point, seed)
        run.sources = [GENERATED, others]
        return run

    report = write_ablation(fake_plan(tmp_path, mixed), tmp_path, title="")
    check_told(report, tmp_path / "ablation.html", print_ablation, badge, line, scenes)
