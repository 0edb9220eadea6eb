"""Rules over whole series: silent on healthy runs and explained zeros, awake to faults."""

import dataclasses
import json
import math

import pytest

from bifusion.config.rules import RULES, RulesConfig
from bifusion.config.stages import Stage, StagePlan, Timeline, at_once
from bifusion.errors import InputError
from bifusion.models.parts import BY_NAME
from bifusion.recipes import get_recipe
from bifusion.step.outcome import StepOutcome
from bifusion.step.rules import Rules
from bifusion.types import DisagreeingView
from rule_series import EPOCHS, LATE, STEPS_PER_EPOCH, alarms_of, once, replay, steps_of

RECIPES = ("oneformer3d_small", "mask3d_small", "bifusion_small", "bifusion_small_without_views")


@pytest.mark.parametrize("recipe", RECIPES)
def test_healthy_runs_raise_no_alarm(recipe):
    for seed in range(5):
        assert replay(Rules(RulesConfig()), steps_of(recipe, seed)) == []


# -------------------------------------------------------------------------------------- spikes


@pytest.mark.parametrize("term", ["mask_bce", "instance_class"])
def test_loss_spike_names_its_term(term):
    state = Timeline(get_recipe("bifusion_small").stages, EPOCHS).at(LATE / STEPS_PER_EPOCH)

    def spike(outcome):
        outcome.losses[term] += 9 * outcome.total / state.weights[term]
        outcome.total *= 10

    assert alarms_of(change=once(LATE, spike)) == [(LATE, "loss_spike", [f"loss.{term}"])]


@pytest.mark.parametrize("path", ["backbone", "decoder"])
def test_gradient_spike_names_its_path(path):
    def spike(outcome):
        outcome.grad_norm["total"] *= 12
        outcome.grad_norm[path] = outcome.grad_norm["total"]

    assert alarms_of(change=once(LATE, spike)) == [(LATE, "gradient_spike", [f"gradient.{path}"])]


@pytest.mark.parametrize("path", ["conv1", "head_2d"])
def test_a_jump_of_one_path_is_seen_though_the_total_hides_it(path):
    def spike(outcome):
        outcome.grad_norm[path] *= 200

    assert alarms_of(change=once(LATE, spike)) == [(LATE, "gradient_spike", [f"gradient.{path}"])]


def test_a_jump_of_running_variances_names_their_modules_in_order():
    def spike(outcome):
        outcome.statistics = {"unet.down.0.norm": 1e5, "unet.down.1.norm": 3.0, "unet.up.0.norm": 40.0}

    where = ["buffers.unet.down.0.norm", "buffers.unet.up.0.norm"]
    assert alarms_of(change=once(LATE, spike)) == [(LATE, "statistics_spike", where)]
    assert alarms_of(change=once(3, spike), steps=20) == [], "the first steps fill them"


def test_while_the_window_is_short_the_caps_judge():
    def tenfold(outcome):
        outcome.total *= 10
        outcome.grad_norm["total"] *= 10

    def beyond(outcome):
        outcome.total, outcome.grad_norm["total"] = 2e3, 2e4

    assert alarms_of(change=once(3, tenfold), steps=20) == []
    assert [rule for _, rule, _ in alarms_of(change=once(3, beyond), steps=20)] == [
        "loss_spike",
        "gradient_spike",
    ]


def test_repeated_spikes_are_told_once_but_skipped_every_time():
    def spike(outcome):
        outcome.total *= 10

    def change(step, outcome):
        if step in (LATE, LATE + 5, LATE + 10):
            spike(outcome)

    assert [step for step, rule, _ in alarms_of(change=change) if rule == "loss_spike"] == [LATE]
    config = RulesConfig(actions={"loss_spike": "skip"})
    rules = Rules(config)  # what is skipped is not accepted
    skipped = []
    for step, outcome, state in steps_of("bifusion_small", 0):
        change(step, outcome)
        if rules.judge(outcome, state):
            skipped.append(step)
        else:
            rules.accept(outcome, state)
    assert skipped == [LATE, LATE + 5, LATE + 10]


def test_a_spike_far_larger_than_the_last_is_told_too():
    def change(step, outcome):
        if step in (LATE, LATE + 5):
            outcome.total *= 10 if step == LATE else 100

    alarms = [(step, rule) for step, rule, _ in alarms_of(change=change)]
    assert alarms == [(LATE, "loss_spike"), (LATE + 5, "loss_spike")]


def test_judging_changes_nothing():
    rules = Rules(RulesConfig())
    replay(rules, steps_of("bifusion_small", 0, 200))
    _, outcome, state = list(steps_of("bifusion_small", 0, 201))[-1]
    outcome.total *= 100
    before = json.dumps(rules.state_dict())
    assert rules.judge(outcome, state) and rules.judge(outcome, state)
    assert json.dumps(rules.state_dict()) == before


def test_a_stage_that_weighs_losses_anew_is_no_spike():
    def stage(name, weight):
        weights = {"semantic": at_once(weight), "mask_bce": at_once(weight)}
        return Stage(name, 1.0, {"*": at_once(1.0)}, weights)

    timeline = Timeline(StagePlan((stage("low", 0.1), stage("high", 10.0))), 2)
    rules = Rules(RulesConfig())
    for step in range(200):
        state = timeline.at(step / 100)
        outcome = StepOutcome(["room"], losses={"semantic": 2.0, "mask_bce": 1.0 + 0.01 * (step % 7)})
        outcome.total = sum(state.weights[t] * value for t, value in outcome.losses.items())
        outcome.grad_norm = {"backbone": outcome.total, "total": outcome.total}
        assert rules.judge(outcome, state) + rules.accept(outcome, state) == []


# ------------------------------------------------------------------------------ immunity, state


def spoil(outcome: StepOutcome, bad: float) -> None:
    """Every figure that a step can have becomes `bad`."""
    outcome.losses = dict.fromkeys(outcome.losses, bad)
    outcome.total, outcome.loss_scale = bad, bad
    outcome.grad_norm = dict.fromkeys(outcome.grad_norm, bad)
    outcome.update_ratio = dict.fromkeys(BY_NAME, bad)
    outcome.conflicts = {"semantic|mask_bce": bad}
    figures = {"rms": bad, "max": bad}
    outcome.fusion = {
        "ranges": {"f2d_in": figures, "f3d_in": figures, "ratio_in": bad},
        "gate": {"alpha_mean": bad, "alpha_std": bad, "learned": True, "scale": 1.0},
        "seen_share": bad,
        "decoder_in": figures,
        "class_spread": bad,
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_neither_alarms_nor_blinds(bad):
    def change(step, outcome):
        if step % 3 == 0 and step < LATE:
            spoil(outcome, bad)
        if step == LATE:
            outcome.total *= 10
            outcome.grad_norm["backbone"] *= 20
            outcome.grad_norm["total"] *= 20
        if step >= LATE + 1:
            outcome.fusion["decoder_in"]["rms"] *= 1000

    rules = Rules(RulesConfig())
    alarms = [(step, alarm.rule) for step, alarm in replay(rules, steps_of("bifusion_small", 0), change)]
    assert alarms == [(LATE, "loss_spike"), (LATE, "gradient_spike"), (LATE + 1, "feature_range")]
    json.dumps(rules.state_dict(), allow_nan=False)


@pytest.mark.parametrize("cut", [0, 5, 111, 283, 310])
def test_a_resumed_run_raises_the_same_alarms(cut):
    def change(step, outcome):
        if step >= LATE:
            outcome.grad_norm["decoder"] = 0.0
        outcome.loss_scale = 8.0 if step in (50, 112, 285) else None
        outcome.total *= 10 if step in (105, 282, 290) else 1

    whole, first, second = (Rules(RulesConfig()) for _ in range(3))
    expected = replay(whole, steps_of("bifusion_small", 1), change)
    steps = list(steps_of("bifusion_small", 1))
    found = replay(first, iter(steps[:cut]), change)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += replay(second, iter(steps[cut:]), change)
    assert found == expected and len(expected) == 3
    assert second.state_dict() == whole.state_dict()


# --------------------------------------------------------------------------------------- actions


def test_rules_can_be_switched_off():
    config = RulesConfig(actions=dict.fromkeys(RULES, "off"))

    def everything(_, outcome):
        outcome.total, outcome.loss_scale = 1e9, 1.0
        outcome.grad_norm = dict.fromkeys(outcome.grad_norm, 1e9)
        outcome.disagreeing_views = [DisagreeingView("room", "a", "color", 0.1, 0.25, "view a")]

    assert alarms_of(change=everything, config=config) == []


@pytest.mark.parametrize(
    ("actions", "words"),
    [({"loss_spikes": "off"}, "unknown rule 'loss_spikes'"), ({"conflict": "skip"}, "cannot skip")],
)
def test_actions_that_make_no_sense(actions, words):
    with pytest.raises(InputError, match=words):
        RulesConfig(actions=actions)


def test_every_rule_has_an_action_and_thresholds_are_one_set():
    config = RulesConfig()
    assert {config.action(rule) for rule in RULES} == {"warn"}
    assert dataclasses.replace(config, loss_ratio=9.0).loss_ratio == 9.0
