"""Rules on trends: each sees its figure leave its range, and nothing that the stage explains."""

import pytest

from bifusion.config.rules import RulesConfig
from bifusion.models.parts import BY_NAME
from bifusion.step.rules import Rules
from bifusion.types import DisagreeingView
from rule_series import GATE_LEARNS, LATE, STEPS_PER_EPOCH, alarms_of, at, replay, steps_of


@pytest.mark.parametrize("gradient", [0.0, 1e-9])
@pytest.mark.parametrize("path", BY_NAME)
def test_a_path_whose_gradient_dies(path, gradient):
    def die(outcome):
        outcome.grad_norm[path] = gradient

    alarms = alarms_of(change=at(LATE, die))
    died = [(rule, where) for _, rule, where in alarms if rule != "gradient_ratio"]
    assert died == [("vanishing_gradient", [f"gradient.{path}"])] and alarms[0][0] <= LATE + 10


@pytest.mark.parametrize("gradient", [0.0, 1e-9])
@pytest.mark.parametrize("path", BY_NAME)
def test_a_path_that_is_dead_from_the_start(path, gradient):
    """None: frozen, as the 2D branch is in the first stage."""

    def dead(outcome):
        if outcome.grad_norm[path] is not None:
            outcome.grad_norm[path] = gradient

    alarms = alarms_of(change=at(0, dead))
    died = [where for _, rule, where in alarms if rule == "vanishing_gradient"]
    assert died[0] == [f"gradient.{path}"] and len(set(map(tuple, died))) == 1


def test_a_fusion_of_which_nothing_is_learned_needs_no_gradient():
    """Without FiLM and alignment only the gate has weights, which no gradient reaches while α is fixed;
    from then on it is missed."""

    def dead(outcome):
        if outcome.grad_norm["fusion"] is not None:
            outcome.grad_norm["fusion"] = 0.0

    died = [step for step, rule, where in alarms_of(change=at(0, dead)) if where == ["gradient.fusion"]]
    assert died[0] > GATE_LEARNS


def test_a_path_that_explodes_is_named_and_so_is_the_imbalance():
    def explode(outcome):
        for path in ("head_2d", "tower", "conv1"):
            if outcome.grad_norm[path]:
                outcome.grad_norm[path] *= 1e3

    found = {(rule, *where) for _, rule, where in alarms_of(change=at(LATE, explode))}
    assert ("exploding_gradient", "gradient.head_2d") in found
    assert ("gradient_ratio", "gradient.2d", "gradient.3d") in found


def test_a_path_that_another_one_starves_is_told_as_that():
    """Its own gradient is as always; what is told is below what it is held against."""

    def explode(outcome):
        outcome.grad_norm["decoder"] *= 1e7
        outcome.grad_norm["total"] = outcome.grad_norm["decoder"]

    rules, found = Rules(RulesConfig()), {}
    for _, alarm in replay(rules, steps_of("oneformer3d_small", 0), at(LATE, explode)):
        found.setdefault(alarm.rule, alarm)
    starved = found["vanishing_gradient"]
    assert starved.where == ["gradient.backbone"] and starved.value < starved.threshold
    assert "look at the path that has grown" in starved.message


@pytest.mark.parametrize("place", ["f2d_in", "f3d_in", "decoder_in"])
@pytest.mark.parametrize("factor", [1000, 1 / 1000, 0])
def test_features_out_of_range(place, factor):
    def scale(outcome):
        ranges = outcome.fusion["ranges"]
        if place == "decoder_in":
            outcome.fusion[place]["rms"] *= factor
        elif ranges:
            ranges[place]["rms"] *= factor
            both = ranges["f2d_in"]["rms"], ranges["f3d_in"]["rms"]
            ranges["ratio_in"] = both[0] / both[1] if all(both) else None

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
