"""Where a run of a sweep breaks, and how, by hand-made signals; sensitivity and good rates by hand."""

import math

import numpy as np
import pytest

from bifusion.studies.sweep.breaking import breaks_of, final_loss
from bifusion.studies.sweep.sensitivity import (
    capped,
    good_rates,
    relative_sensitivity,
    sensitivity,
    shortfall,
)
from bifusion.studies.sweep.signals import Signals

NAN = math.nan
INITIAL, BEST, STEPS = 10.0, 2.0, 200


def test_sensitivity_is_the_mean_excess_over_the_best_with_losses_capped_at_the_start():
    finals = [4.0, 2.0, 30.0, math.inf]
    assert sensitivity(finals, INITIAL) == pytest.approx((2 + 0 + 8 + 8) / 4)
    assert relative_sensitivity(finals, INITIAL) == pytest.approx((2 + 0 + 8 + 8) / 4 / 8)
    assert sensitivity([3.0] * 5, INITIAL) == relative_sensitivity([3.0] * 5, INITIAL) == 0
    assert relative_sensitivity([2.0, *[math.inf] * 99], INITIAL) == pytest.approx(0.99)


def test_sensitivity_without_a_gain_or_a_start_is_not_a_number():
    assert math.isnan(relative_sensitivity([math.inf, 12.0], INITIAL))
    assert math.isnan(sensitivity([], INITIAL)) and math.isnan(sensitivity([1.0], NAN))
    assert capped(NAN, INITIAL) == INITIAL


def test_shortfall_counts_a_run_without_a_figure_as_nothing():
    assert shortfall([0.4, 0.2, NAN, 0.0]) == pytest.approx(1 - 0.15 / 0.4)
    assert math.isnan(shortfall([0.0, NAN]))


@pytest.mark.parametrize(
    ("miou", "low", "high", "edges"),
    [
        ({0.1: 0.2, 1: 0.39, 10: 0.4, 100: 0.37}, 1, 100, (False, True)),
        ({0.1: 0.38, 1: 0.2, 10: 0.4, 100: 0.1}, 10, 10, (False, False)),  # a gap ends the range
        ({0.1: 0.4, 1: NAN, 10: 0.4}, 0.1, 0.1, (True, False)),
    ],
)
def test_good_rates_are_those_next_to_the_best(miou, low, high, edges):
    good = good_rates(miou)
    assert (good.low, good.high, good.span) == (low, high, high / low)
    assert (good.low_is_edge, good.high_is_edge) == edges


def test_no_good_rates_where_nothing_is_learnt():
    for miou in ({}, {1: 0.0, 10: NAN}):
        assert math.isnan(good_rates(miou).best) and math.isnan(good_rates(miou).span)


def falling(steps=STEPS, to=BEST, start=INITIAL):
    return start + (to - start) * (1 - np.exp(-5 * np.arange(steps) / steps))


def learned_gate(steps=STEPS, since=50, value=0.5):
    alpha = np.full(steps, NAN)
    alpha[since:] = value
    return alpha


def signals(**changes):
    usual = {"loss": falling(), "alpha": learned_gate(), "one_class": ((100, "wall"), (200, None))}
    return Signals(**usual | changes)


def found(**changes):
    return [(b.kind, b.step) for b in breaks_of(signals(**changes), INITIAL, BEST)]


def test_a_run_that_learns_breaks_nowhere():
    assert found() == []
    assert final_loss(signals()) == pytest.approx(BEST, abs=0.2)


def test_a_number_that_is_not_finite_breaks_only_a_run_that_it_ends():
    fault = (120, "gradient.backbone: unet.up1")
    told = breaks_of(signals(stopped=True, fault=fault, loss=falling()[:121]), INITIAL, BEST)
    assert [(b.kind, b.step, b.where) for b in told] == [("non-finite", *fault)]
    assert found(fault=fault) == [], "a guard kept it from the weights"
    assert final_loss(signals(stopped=True)) == math.inf


@pytest.mark.parametrize(("value", "kind"), [(0.01, "gate dead"), (0.99, "gate saturated")])
def test_a_gate_that_stays_beyond_its_bounds(value, kind):
    alpha = learned_gate()
    alpha[80:90], alpha[150:] = value, value
    ((told, step),) = found(alpha=alpha)
    assert told == kind and abs(step - 150) <= 6, "the first time it came back"
    alpha[190:] = 0.5
    assert found(alpha=alpha) == []


def test_a_gate_that_is_held_or_out_of_its_range_alone_is_not_broken():
    assert found(alpha=np.full(STEPS, NAN)) == [] == found(alpha=learned_gate(value=0.2))


def test_a_loss_that_no_longer_falls():
    stays = np.concatenate([falling(60, to=8.0), np.full(140, 8.0)])
    ((kind, step),) = found(loss=stays)
    assert kind == "loss stuck" and 40 <= step <= 65
    rises = np.concatenate([falling(60, to=5.0), np.full(140, 30.0)])
    assert found(loss=rises)[0][0] == "loss stuck"
    assert found(loss=falling(to=5.5)) == [], "more than half of the gain"
    assert found(loss=np.linspace(INITIAL, 7.0, STEPS)) == [], "slow, but it falls"


def test_one_class_for_all_and_what_comes_first():
    told = ((50, None), (100, "wall"), (150, "none"), (200, "floor"))
    assert found(one_class=told) == [("one class", 100)]
    alpha = learned_gate()
    alpha[60:] = 0.0
    assert [kind for kind, _ in found(one_class=told, alpha=alpha)] == ["gate dead", "one class"]


def test_a_window_of_steps_is_never_longer_than_a_run():
    for steps in (1, 2, 4):
        assert breaks_of(signals(loss=falling(steps), alpha=learned_gate(steps, 0)), INITIAL, BEST) == []
