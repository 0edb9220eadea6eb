"""The alarms that a run's own rules raised, by rule."""

from __future__ import annotations

from bifusion.studies.figures.metrics import series, spikes
from bifusion.studies.figures.run import Record, Run

SPIKE_RULES = ("loss_spike", "gradient_spike")
UNSTEADY_RULES = (
    "vanishing_gradient", "exploding_gradient", "update_ratio", "gradient_ratio", "feature_range",
    "loss_scale",
)  # fmt: skip
"""Alarms over the numbers of training itself, not over what it learns or is fed."""


def alarms_of(run: Run) -> list[str]:
    """Rule of every alarm, each as often as it was raised.

    Runs of a version that raised none: spikes found in the curves.
    """
    if not any("alarms" in step for step in run.steps):
        curves = {"loss_spike": ("total",), "gradient_spike": ("grad_norm", "total")}
        return [
            rule for rule, keys in curves.items() for _ in range(spikes(series(run.steps, *keys)).sum())
        ]
    return [rule for step in run.steps for rule in _rules_of(step)]


def _rules_of(step: Record) -> list[str]:
    """Rules that fired in a step, whether they warned or kept it from the weights; what is not finite
    is counted apart."""
    event = step.get("event") or {}
    fault = [event["kind"]] if event.get("kind", "nonfinite") != "nonfinite" else []
    return fault + [alarm["rule"] for alarm in step.get("alarms") or []]
