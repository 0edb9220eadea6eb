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
from rule_series import EPOCHS, STEPS_PER_EPOCH, replay, steps_of

RECIPES = ("oneformer3d_small", "mask3d_small", "bifusion_small", "bifusion_small_without_views")
LATE = 280
"""A step of the last stage, in which all paths train."""


def at(step: int, *changes):
    """A change of single steps from `step` on; each is called with the outcome."""

    def change(now: int, outcome: StepOutcome) -> None:
        if now >= step:
            for each in changes:
                each(outcome)

    return change


def once(step: int, change):
    return lambda now, outcome: change(outcome) if now == step else None


def alarms_of(recipe="bifusion_small", change=None, *, steps=320, config=None):
    rules = Rules(config or RulesConfig())
    return [
        (step, alarm.rule, alarm.where)
        for step, alarm in replay(rules, steps_of(recipe, 0, steps), change)
    ]


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


# -------------------------------------------------------------------------------------- trends


@pytest.mark.parametrize("gradient", [0.0, 1e-9, None])
@pytest.mark.parametrize("path", BY_NAME)
def test_a_path_whose_gradient_dies(path, gradient):
    def die(outcome):
        outcome.grad_norm[path] = gradient

    alarms = alarms_of(change=at(LATE, die))
    died = [(rule, where) for _, rule, where in alarms if rule != "gradient_ratio"]
    assert died == [("vanishing_gradient", [f"gradient.{path}"])] and alarms[0][0] <= LATE + 10


def test_a_path_that_is_dead_from_the_start():
    def dead(outcome):
        outcome.grad_norm["backbone"] = 1e-9

    alarms = alarms_of("oneformer3d_small", change=at(0, dead), steps=60)
    assert [(rule, where) for _, rule, where in alarms] == [
        ("vanishing_gradient", ["gradient.backbone"])
    ]


def test_a_path_that_explodes_is_named_and_so_is_the_imbalance():
    def explode(outcome):
        for path in ("head_2d", "tower", "conv1"):
            if outcome.grad_norm[path]:
                outcome.grad_norm[path] *= 1e3

    found = {(rule, *where) for _, rule, where in alarms_of(change=at(LATE, explode))}
    assert ("exploding_gradient", "gradient.head_2d") in found
    assert ("gradient_ratio", "gradient.2d", "gradient.3d") in found


@pytest.mark.parametrize("place", ["f2d_in", "f3d_in", "decoder_in"])
@pytest.mark.parametrize("factor", [1000, 1 / 1000])
def test_features_out_of_range(place, factor):
    def scale(outcome):
        ranges = outcome.fusion["ranges"]
        if place == "decoder_in":
            outcome.fusion[place]["rms"] *= factor
        elif ranges:
            ranges[place]["rms"] *= factor
            ranges["ratio_in"] = ranges["f2d_in"]["rms"] / ranges["f3d_in"]["rms"]

    alarms = alarms_of(change=at(LATE, scale))
    assert {rule for _, rule, _ in alarms} == {"feature_range"}
    assert alarms[0][2] == [f"activation.{place}"] and alarms[0][0] <= LATE + 3


def test_one_class_for_all():
    def collapse(outcome):
        outcome.fusion["class_spread"] = 5e-4

    ((step, rule, where),) = alarms_of(change=at(LATE, collapse))
    assert (rule, where) == ("class_collapse", ["activation.semantic_logits"]) and step <= LATE + 5
    early = alarms_of(change=at(0, collapse))
    assert [(rule, step) for step, rule, _ in early] == [("class_collapse", 7)]


@pytest.mark.parametrize(
    ("figure", "value"), [("alpha_mean", 0.02), ("alpha_mean", 0.95), ("alpha_std", 1e-4)]
)
def test_gate_collapse(figure, value):
    def collapse(outcome):
        if outcome.fusion["gate"]:
            outcome.fusion["gate"][figure] = value

    alarms = alarms_of(change=at(LATE, collapse))
    where = "gate.mean" if figure == "alpha_mean" else "gate.spread"
    assert [(rule, place) for _, rule, place in alarms] == [("gate_collapse", [where])]


def test_a_gate_that_never_spreads_is_found_late_and_a_fixed_one_never():
    def flat(learned):
        def change(_, outcome):
            if outcome.fusion["gate"]:
                outcome.fusion["gate"] |= {"alpha_std": 0.0, "alpha_mean": 0.5, "learned": learned}

        return change

    (alarm,) = alarms_of(change=flat(True))
    assert alarm[1:] == ("gate_collapse", ["gate.spread"])
    assert alarms_of(change=flat(False)) == []


def test_a_falling_share_of_seen_points():
    def fall(outcome):
        if outcome.fusion["seen_share"]:
            outcome.fusion["seen_share"] *= 0.3

    alarms = alarms_of(change=at(250, fall))
    assert [(rule, where) for _, rule, where in alarms] == [("seen_share", ["fusion.seen"])]


def test_views_that_see_next_to_nothing_from_the_start():
    def blind(outcome):
        if outcome.fusion["seen_share"]:
            outcome.fusion["seen_share"] = 0.004

    assert {rule for _, rule, _ in alarms_of(change=at(0, blind), steps=200)} == {"seen_share"}


@pytest.mark.parametrize("ratio", [0.5, 1e-12])
def test_update_ratio_out_of_range(ratio):
    def change(outcome):
        if outcome.update_ratio:
            outcome.update_ratio["decoder"] = ratio

    alarms = alarms_of(change=at(200, change))
    assert [(rule, where) for _, rule, where in alarms] == [("update_ratio", ["optimizer.decoder"])]


def test_terms_in_conflict():
    def oppose(outcome):
        if outcome.conflicts:
            outcome.conflicts["semantic|mask_bce"] = -0.9

    alarms = alarms_of("oneformer3d_small", change=at(0, oppose))
    assert {(rule, *where) for _, rule, where in alarms} == {
        ("conflict", "loss.semantic", "loss.mask_bce")
    }


def test_terms_of_one_mask_may_be_in_conflict():
    def oppose(outcome):
        if outcome.conflicts:
            outcome.conflicts["mask_bce|mask_dice"] = -0.95

    assert not alarms_of("oneformer3d_small", change=at(0, oppose))
    expected = RulesConfig(conflict_expected=())
    assert alarms_of("oneformer3d_small", change=at(0, oppose), config=expected)


def test_loss_scale_underflow():
    def shrink(step, outcome):
        outcome.loss_scale = 65536.0 if step < LATE else 8.0

    alarms = alarms_of(change=shrink)
    assert alarms == [(LATE, "loss_scale", ["optimizer.scaler"])]


def test_a_disagreeing_view_is_told_once_with_its_scene():
    views = [
        DisagreeingView("room3", name, "color", 0.1, 0.25, f"view {name}: mirrored") for name in "ab"
    ]

    def change(step, outcome):
        outcome.disagreeing_views = views if step % STEPS_PER_EPOCH == 3 else []

    alarms = replay(Rules(RulesConfig()), steps_of("bifusion_small", 0), change)
    ((step, alarm),) = alarms
    assert step == 3 and alarm.rule == "view_agreement" and alarm.scenes == ["room3"]
    assert alarm.where == ["input.views.a", "input.views.b"]
    assert alarm.message == "room3: view a: mirrored; view b: mirrored"


def test_an_alarm_clears_and_can_be_raised_again():
    def shrink(step, outcome):
        outcome.loss_scale = 8.0 if step in (100, 110, 200) else 65536.0

    assert [step for step, _, _ in alarms_of(change=shrink)] == [100, 200]


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
