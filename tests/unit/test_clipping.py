"""Clipping limits: fixed, off, and adaptive, which neither spikes nor NaN can poison."""

import copy
import math

import pytest

from bifusion.config.optim import OptimConfig
from bifusion.step.clipping import Clipping


def adaptive(**settings) -> Clipping:
    return Clipping(OptimConfig(clip_mode="adaptive", clip_norm=7.0, **settings))


def fed(clipping: Clipping, norms) -> Clipping:
    for norm in norms:
        clipping.took(norm)
    return clipping


USUAL = [1.0 + 0.01 * (i % 7) for i in range(60)]


def test_fixed_and_off_do_not_look_at_the_norms():
    fixed, off = (
        fed(Clipping(OptimConfig(clip_norm=2.5, clip_mode=m)), USUAL) for m in ("fixed", "off")
    )
    assert fixed.limit() == 2.5 and off.limit() == math.inf
    assert fixed.state_dict() == off.state_dict() == {}


def test_the_fixed_norm_holds_until_enough_is_known():
    clipping = fed(adaptive(clip_history=10), USUAL[:9])
    assert clipping.limit() == 7.0
    assert fed(clipping, USUAL[9:10]).limit() < 1.2


def test_the_limit_is_so_many_robust_deviations_above_the_median():
    clipping = fed(adaptive(clip_deviations=2.0), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    assert clipping.limit() == pytest.approx(6 + 2 * 1.4826 * 3)


def test_non_finite_norms_and_steps_without_gradients_are_never_taken_in():
    clipping = fed(adaptive(), USUAL)
    before = clipping.limit(), copy.deepcopy(clipping.state_dict())
    fed(clipping, [math.nan, math.inf, -math.inf, math.nan, 0.0] * 50)
    assert (clipping.limit(), clipping.state_dict()) == before


def test_spikes_hardly_move_the_limit():
    clipping = fed(adaptive(clip_window=40), USUAL)
    usual = clipping.limit()
    fed(clipping, [1e6, 1e30] * 5)
    assert clipping.limit() == pytest.approx(usual, rel=0.1), "a quarter of the window are spikes"


def test_lasting_growth_is_followed_within_a_window():
    clipping = fed(adaptive(clip_window=20), USUAL)
    fed(clipping, [50.0 + x for x in USUAL[:20]])
    assert 50 < clipping.limit() < 52


def test_a_restored_state_gives_the_same_limits_to_the_bit():
    norms = [math.exp(math.sin(3 * i)) for i in range(150)]
    straight = fed(adaptive(), norms[:70])
    resumed = adaptive()
    resumed.load_state_dict(straight.state_dict())
    for norm in norms[70:]:
        straight.took(norm)
        resumed.took(norm)
        assert straight.limit() == resumed.limit()


def test_a_saved_state_does_not_change_with_the_run():
    clipping = fed(adaptive(), USUAL)
    saved = clipping.state_dict()
    clipping.took(99.0)
    assert 99.0 not in saved["norms"]
