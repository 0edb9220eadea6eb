"""Figures derived from the records of one run: finite epochs, spikes, spreads, ranges, updates.

Everything is counted from the steps themselves, so that a guard that skipped a bad step cannot hide it.
A figure that was not measured is NaN.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from bifusion.storage.json_schema import Finite
from bifusion.studies.figures.run import Record, Run

MEAN_GATE = "fusion_2d_ratio"
"""Of a validation or an evaluation; a gate that is shut has none."""
SPIKE_WINDOW = 101
"""Finite values before a step that say what is usual."""
SPIKE_MADS = 10.0
"""A spike lies above the window's median by more than this many (scaled) median deviations, …"""
SPIKE_RATIO = 2.0
"""… and above this multiple of the median, so that a flat curve's tiny wiggles are none."""
SPIKE_HISTORY = 10
"""Fewer finite values than this before a step: nothing is called a spike."""
MOST_AT_ONCE = 1 << 21
"""Numbers of windows that are sorted at a time: those of 100,000 steps would not fit into memory."""
SCATTER_WINDOW = 25
"""Steps of the running median that a scatter is around."""
MAD_TO_SIGMA = 1.4826
"""Median absolute deviation → standard deviation of a normal distribution."""


def value_at(record: Record | None, *keys: str) -> float:
    """The number at record[key][key]…, NaN where it is null or was not recorded."""
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def series(records: list[Record], *keys: str) -> np.ndarray:
    """(len(records),) float64 of `value_at`."""
    values = np.full(len(records), np.nan)
    for index, record in enumerate(records):
        value: Any = record
        for key in keys:
            value = value.get(key)
            if value is None:
                break
        else:
            values[index] = value
    return values


def epoch_axis(run: Run) -> np.ndarray:
    """(steps,) float64: the time of each step in epochs, so that runs of other lengths lie together."""
    epochs = np.array([step["epoch"] for step in run.steps], dtype=np.int64)
    if not len(epochs):
        return np.zeros(0)
    _, first, epoch, counts = np.unique(
        epochs, return_index=True, return_inverse=True, return_counts=True
    )
    ended = np.isin(epochs, [record["epoch"] for record in run.epoch_records])
    steps = np.where(ended, counts[epoch], counts.max())  # an epoch in progress: as long as the longest
    return epochs + (np.arange(len(epochs)) - first[epoch]) / steps


# --------------------------------------------------------------------------------- non-finite steps


def nonfinite_steps(run: Run) -> np.ndarray:
    """(steps,) bool: a loss, activation or gradient was non-finite, before any guard acted.

    Overflows of a low-precision gradient scaler are its normal work and are counted apart.
    """
    return np.array([_is_nonfinite(step) for step in run.steps], dtype=bool)


def _is_nonfinite(step: Record) -> bool:
    if step.get("scaler_overflow"):
        return False
    event = step.get("event")
    if event is not None and event.get("kind") == "nonfinite":
        return True
    null_total = "total" in step and step["total"] is None
    return null_total or any(value is None for value in step["losses"].values())


@dataclass(frozen=True)
class UpdateCounts:
    """What became of the optimiser steps attempted, by the names of a report's fields."""

    raw_nonfinite: int
    skipped: int
    """Not taken because of any fault."""
    rollbacks: int
    warnings: int
    scaler_overflows: int


def update_counts(*runs: Run) -> UpdateCounts:
    """Counts over all of these runs, each whole."""
    counts = [_counts(run) for run in runs]
    names = [field.name for field in fields(UpdateCounts)]
    return UpdateCounts(*(sum(getattr(one, name) for one in counts) for name in names))


def _counts(run: Run) -> UpdateCounts:
    raw = int(nonfinite_steps(run).sum())
    events = [step["event"] for step in run.steps if step.get("event")]
    rollbacks = sum(event.get("action") == "rollback" for event in events)
    warnings = sum(len(step.get("alarms") or []) for step in run.steps)
    told = run.status
    return UpdateCounts(
        raw_nonfinite=max(raw, int(told.get("raw_nonfinite") or 0)),
        skipped=max(len(events), int(told.get("skipped") or 0)),
        rollbacks=max(rollbacks, int(told.get("rollbacks") or 0)),
        warnings=max(warnings, int(told.get("warnings") or 0)),
        scaler_overflows=sum(bool(step.get("scaler_overflow")) for step in run.steps),
    )


def finite_epochs(run: Run) -> list[bool]:
    """For each epoch that ended, in order: not one non-finite step in it."""
    bad = Counter(step["epoch"] for step in run.steps if _is_nonfinite(step))
    for record in run.epoch_records:
        bad[record["epoch"]] += int(record.get("raw_nonfinite") or 0)
    ended = sorted({record["epoch"] for record in run.epoch_records})[: run.epochs_done]
    return [bad[epoch] == 0 for epoch in ended]


def longest_row(flags: list[bool]) -> tuple[int, int]:
    """(length, first index) of the longest row of True; (0, 0) where there is none."""
    best = (0, 0)
    length = 0
    for index, flag in enumerate(flags):
        length = length + 1 if flag else 0
        if length > best[0]:
            best = (length, index - length + 1)
    return best


# --------------------------------------------------------------------------------- spikes, spreads


def spikes(values: np.ndarray, window: int = SPIKE_WINDOW) -> np.ndarray:
    """(n,) bool: finite values far above the median of the `window` finite values before them.

    Median and median absolute deviation are used because a mean would be moved, or made NaN, by the
    very values that it should find.
    """
    found = np.zeros(len(values), dtype=bool)
    index = np.flatnonzero(np.isfinite(values))
    finite = values[index]
    if len(finite) <= SPIKE_HISTORY:
        return found
    padded = np.concatenate([np.full(window, np.nan), finite[:-1]])
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)  # row i: the values before i
    for rows in _some_rows(windows):
        past, told = windows[rows], finite[rows]
        median = _row_medians(past)
        mad = MAD_TO_SIGMA * _row_medians(np.abs(past - median[:, None]))
        found[index[rows]] = (told > median + SPIKE_MADS * mad) & (told > SPIKE_RATIO * np.abs(median))
    found[index[:SPIKE_HISTORY]] = False
    return found


def running_median(values: np.ndarray, window: int, every: int = 1) -> np.ndarray:
    """(n,) centred median over `window` values (odd), NaN left out, shorter at the ends; of each
    `every`-th value alone, (⌈n / every⌉,)."""
    half = window // 2
    padded = np.pad(np.asarray(values, dtype=np.float64), half, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)[::every]
    medians = np.full(len(windows), np.nan)
    for rows in _some_rows(windows):
        medians[rows] = _row_medians(windows[rows])
    return medians


def _some_rows(windows: np.ndarray) -> Iterator[slice]:
    """All rows of windows, `MOST_AT_ONCE` of their numbers at a time."""
    step = max(1, MOST_AT_ONCE // windows.shape[1])
    return (slice(start, start + step) for start in range(0, len(windows), step))


def _row_medians(rows: np.ndarray) -> np.ndarray:
    """(n,) median of the finite values of each row, NaN where there is none."""
    ordered = np.sort(rows, axis=1)  # NaN sorts last
    count = np.isfinite(ordered).sum(axis=1)
    index = np.arange(len(rows))
    low = ordered[index, np.maximum(count - 1, 0) // 2]
    high = ordered[index, np.minimum(count // 2, rows.shape[1] - 1)]
    return np.where(count > 0, (low + high) / 2, np.nan)


def log_scatter(values: np.ndarray) -> float:
    """Scatter of log10(values) around its running median, as a standard deviation; NaN under 10 values.

    The spread of gradient norms from step to step: 0.1 means ±26 %. A slow trend, such as losses that
    ramp in, does not count.
    """
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive) < SPIKE_HISTORY:
        return math.nan
    logs = np.log10(positive)
    rest = logs - running_median(logs, SCATTER_WINDOW)
    return MAD_TO_SIGMA * float(np.median(np.abs(rest)))


def steps_in_epochs(run: Run, first_epoch: int, end_epoch: int) -> list[Record]:
    """The steps of epochs [first_epoch, end_epoch)."""
    return [step for step in run.steps if first_epoch <= step["epoch"] < end_epoch]


def median_of(values: np.ndarray) -> float:
    """Median of the finite values, NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else math.nan


def largest_of(values: np.ndarray) -> float:
    """Largest finite value, NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else math.nan


# --------------------------------------------------------------------------------- end figures


def final_value(run: Run, *keys: str) -> float:
    """A figure of evaluation.json (the last checkpoint on validation), NaN where it is not there."""
    return value_at(run.evaluation, *keys)


def latest_value(run: Run, key: str) -> float:
    """`key` of the final evaluation, or of the last validation so far."""
    if run.evaluation is not None:
        return final_value(run, "full", key)
    validated = (record for record in reversed(run.epoch_records) if record.get("val"))
    return next((value_at(record, "val", key) for record in validated), math.nan)


def training_seconds(run: Run) -> float:
    """Wall-clock seconds of training so far."""
    told = value_at(run.status, "seconds")
    return told if math.isfinite(told) else float(np.nansum(series(run.epoch_records, "seconds")))


@dataclass(frozen=True)
class Sample:
    """One figure over the seeds of an arm."""

    mean: float
    """Mean over seeds."""
    spread: float
    """Sample standard deviation over seeds; null under two seeds."""
    by_seed: dict[int, Finite]
    """Seed (as text) → value; measured ones only."""


def over_seeds(values: dict[int, float]) -> Sample:
    """A sample of the finite ones among `values` (seed → value); NaN where there are too few."""
    by_seed = {seed: value for seed, value in sorted(values.items()) if math.isfinite(value)}
    finite = list(by_seed.values())
    mean = float(np.mean(finite)) if finite else math.nan
    return Sample(mean, float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan, by_seed)
