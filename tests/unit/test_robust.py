"""Windows, medians and latches: what a single bad value must not be able to do."""

import json
import math

import pytest

from bifusion.step.robust import Latches, Windows, centre_and_spread, finite

BAD = (math.nan, math.inf, -math.inf, None, "1", True)


def test_finite_takes_numbers_only():
    assert finite(3) == 3.0 and finite(-0.5) == -0.5
    assert [finite(value) for value in BAD] == [None] * len(BAD)


def test_spread_is_a_standard_deviation_that_outliers_do_not_move():
    clean = [float(value) for value in range(101)]
    centre, spread = centre_and_spread(clean)
    assert centre == 50 and spread == pytest.approx(1.4826 * 25)
    spoilt = clean[:60] + [1e30] * 41
    assert centre_and_spread(spoilt)[0] <= 100 and centre_and_spread(spoilt)[1] <= 150


def test_equal_values_have_no_spread():
    assert centre_and_spread([2.0] * 5) == (2.0, 0.0)


def test_windows_never_hold_what_is_not_finite():
    windows = Windows(3)
    for value in (1.0, *BAD, 2.0, *BAD, 3.0, 4.0):
        windows.push("loss", value)
    assert windows.last("loss", 10) == [2.0, 3.0, 4.0]
    assert windows.last("loss", 2) == [3.0, 4.0] and windows.before("loss", 2) == [2.0]
    assert windows.last("never", 2) == [] == windows.before("never", 2)


def test_windows_forget_by_prefix_and_come_back_from_json():
    windows, other = Windows(4), Windows(4)
    for name in ("gate.mean", "gate.spread", "seen"):
        windows.push(name, 0.1 + 0.2)
    windows.forget("gate.")
    other.load_state_dict(json.loads(json.dumps(windows.state_dict())))
    assert other.series == {"seen": [0.1 + 0.2]}
    other.push("seen", 1.0)
    assert windows.last("seen", 2) == [0.1 + 0.2], "a state shares nothing with what it came from"


def test_a_latch_raises_once_until_it_was_calm():
    latch = Latches()
    looks = [True, True, False, True, False, False, True]
    raised = [latch.look("a", bad, calm=2) for bad in looks]
    assert raised == [True, False, False, False, False, False, True]
    assert not latch.fresh("a") and latch.fresh("b")


def test_a_latch_raises_again_for_what_is_far_worse():
    latch, resumed = Latches(), Latches()
    looks = [3.0, 5.0, 7.0, 13.0, 15.0]
    raised = [latch.look("a", True, calm=9, badness=badness) for badness in looks]
    assert raised == [True, False, True, False, True]
    resumed.load_state_dict(json.loads(json.dumps(latch.state_dict())))
    assert resumed.fresh("a", 31.0) and not resumed.fresh("a", 29.0)


def test_a_latch_that_was_never_raised_stays_open():
    latch = Latches()
    assert not latch.look("a", False, calm=2) and latch.state_dict() == {}
