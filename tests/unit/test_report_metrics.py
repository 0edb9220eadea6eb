"""Derived figures: what a guard skipped still counts, spikes are found and survive thinning."""

import tracemalloc

import numpy as np
import pytest

from bifusion.studies.comparison.curves import downsample, smooth
from bifusion.studies.figures import metrics
from bifusion.studies.figures.metrics import (
    epoch_axis,
    finite_epochs,
    log_scatter,
    longest_row,
    over_seeds,
    running_median,
    series,
    spikes,
    update_counts,
    value_at,
)
from bifusion.studies.figures.run import load_run
from run_factory import FakeRun


def test_longest_row():
    assert longest_row([True, True, False, True, True, True, False]) == (3, 3)
    assert longest_row([]) == (0, 0)
    assert longest_row([False]) == (0, 0)


def test_epochs_are_judged_on_the_steps_before_the_guard(tmp_path):
    run = load_run(FakeRun(epochs=6, nonfinite={2: 1}).write(tmp_path))
    assert finite_epochs(run) == [True, True, False, True, True, True]
    counts = update_counts(run)
    assert (counts.raw_nonfinite, counts.skipped, len(run.steps)) == (1, 1, 48)


def test_a_step_counts_as_non_finite_even_where_no_event_was_written(tmp_path):
    run = load_run(FakeRun(epochs=3).write(tmp_path))
    run.steps[10]["losses"]["semantic"] = None
    assert finite_epochs(run) == [True, False, True]


def test_scaler_overflows_are_counted_apart(tmp_path):
    run = load_run(FakeRun(epochs=3).write(tmp_path))
    run.steps[10].update(scaler_overflow=True, total=None)
    assert finite_epochs(run) == [True, True, True]
    assert update_counts(run).scaler_overflows == 1
    assert update_counts(run).raw_nonfinite == 0


def test_rollbacks_and_warnings_stand_beside_the_raw_steps(tmp_path):
    """Of the steps where the status was never written, as in a run that was killed."""
    told = update_counts(load_run(FakeRun(rollbacks=2, warnings=3).write(tmp_path)))
    assert (told.raw_nonfinite, told.rollbacks, told.warnings) == (0, 2, 3)
    run = load_run(FakeRun(arm="naive", epochs=3, nonfinite={1: 2}).write(tmp_path))
    run.status.clear()
    bad = [step for step in run.steps if step["event"]]
    bad[1]["event"]["action"] = "rollback"
    run.steps[0]["event"] = bad[0]["event"] | {"kind": "loss_spike"}
    run.steps[0]["alarms"] = [{"rule": "update_ratio"}]
    counts = update_counts(run)
    assert (counts.raw_nonfinite, counts.skipped, counts.rollbacks, counts.warnings) == (2, 3, 1, 1)
    assert update_counts(run, run).skipped == 6


def test_a_spike_is_found_and_noise_is_none():
    values = np.exp(np.random.default_rng(0).normal(0, 0.1, 2000))
    assert not spikes(values).any()
    values[700] = 9.0
    values[701] = np.nan
    values[1500] = 30.0
    assert np.flatnonzero(spikes(values)).tolist() == [700, 1500]


def test_a_flat_curve_has_no_spikes_and_a_nan_poisons_nothing():
    values = np.ones(200)
    values[50:60] = np.nan
    values[100] = 1.5
    assert not spikes(values).any()
    values[150] = 3.0
    assert np.flatnonzero(spikes(values)).tolist() == [150]


@pytest.mark.parametrize("length", [0, 1, 9])
def test_short_curves_have_no_spikes(length):
    assert spikes(np.full(length, 5.0)).shape == (length,)
    assert not spikes(np.full(length, 5.0)).any()


def test_running_median_leaves_nan_out():
    values = np.array([1.0, np.nan, 3.0, 100.0, 5.0])
    assert running_median(values, 3).tolist() == [1.0, 2.0, 51.5, 5.0, 52.5]


def test_scatter_measures_noise_and_not_trend():
    rng = np.random.default_rng(0)
    trend = np.exp(np.linspace(0, 5, 1000))
    noisy = trend * 10 ** rng.normal(0, 0.1, 1000)
    assert log_scatter(trend) < 0.01
    assert log_scatter(noisy) == pytest.approx(0.1, rel=0.15)
    assert np.isnan(log_scatter(np.full(5, np.nan)))


def test_spikes_dips_gaps_and_ends_survive_down_sampling():
    y = np.sin(np.arange(50_000) / 500)
    y[31_234], y[12_345], y[40_000] = 1e6, -1e6, np.nan
    x, thin = downsample(np.arange(50_000.0), y, buckets=100)
    assert len(thin) < 400
    assert np.nanmax(thin) == 1e6
    assert x[np.nanargmax(thin)] == 31_234
    assert np.nanmin(thin) == -1e6
    assert np.isnan(thin).sum() == 1
    assert (x[0], x[-1]) == (0.0, 49_999.0)
    assert (np.diff(x) > 0).all()


def test_short_curves_are_not_thinned():
    x = np.arange(100.0)
    assert downsample(x, x)[1] is x


def test_the_axis_counts_epochs(tmp_path):
    run = load_run(FakeRun(epochs=4, epochs_done=3, steps_per_epoch=4, state="running").write(tmp_path))
    run.steps.append(run.steps[-1] | {"epoch": 3})  # one step into the fourth epoch
    axis = epoch_axis(run)
    assert axis[:5].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert axis[-1] == 3.0


def test_missing_and_null_figures_are_nan():
    assert np.isnan(value_at({"a": {"b": None}}, "a", "b"))
    assert np.isnan(value_at({"a": None}, "a", "b"))
    assert np.isnan(value_at(None, "a"))
    records = [{"a": {"b": 1}}, {"a": None}, {}, {"a": {"b": None}}]
    assert np.isnan(series(records, "a", "b")).tolist() == [False, True, True, True]


def test_spread_over_seeds_needs_two():
    assert np.isnan(over_seeds({0: 1.0, 1: np.nan}).spread)
    assert over_seeds({0: 1.0, 1: 3.0}).spread == pytest.approx(2**0.5)


def test_curves_of_very_long_runs_take_little_memory():
    """Windows of a thirtieth of 100,000 steps, all at once, would be 2.7 GB a curve."""
    values = np.exp(0.1 * np.random.default_rng(0).normal(size=100_000))
    values[[7, 50_000]] = np.nan, 1e6
    tracemalloc.start()
    x, median = smooth(np.arange(100_000.0), values)
    found = np.flatnonzero(spikes(values))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6
    assert len(x) == len(median) == 160 and np.abs(median - 1).max() < 0.2
    assert found.tolist() == [50_000]


def test_medians_of_some_rows_at_a_time_are_those_of_all(monkeypatch):
    values = np.random.default_rng(0).normal(size=83)
    whole, found = running_median(values, 9), spikes(np.exp(5 * values), window=13)
    monkeypatch.setattr(metrics, "MOST_AT_ONCE", 40)
    assert np.array_equal(running_median(values, 9), whole)
    assert np.array_equal(running_median(values, 9, 4), whole[::4])
    assert found.any() and np.array_equal(spikes(np.exp(5 * values), window=13), found)
