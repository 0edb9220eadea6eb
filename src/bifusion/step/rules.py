"""Rules that see an unhealthy training step or trend: spikes before the optimiser acts, trends after.

Their thresholds, with reasons, are in `config/rules.py`; trends are judged in `trends.py`. Rules
remember windows of finite figures of steps that were taken, nothing else, so that neither a NaN nor a
skipped step can blind them, and a resumed run raises the same alarms.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log
from statistics import median
from typing import Any

from bifusion.config.rules import RulesConfig
from bifusion.config.stages import StageState
from bifusion.models.parts import BY_NAME
from bifusion.step.events import Alarm
from bifusion.step.outcome import StepOutcome
from bifusion.step.robust import Latches, Windows, centre_and_spread, finite
from bifusion.step.trends import TRENDS, Finding, weight_sum

OF_A_STAGE = ("path.", "share.", "balance", "gate.", "update.", "conflict.")
"""Series that begin anew with a stage, which trains other parts with other losses."""


class Rules:
    """Judges steps. `judge` changes nothing; `accept` takes a step's figures in, once it was taken."""

    def __init__(self, config: RulesConfig):
        self.config = config
        self._windows = Windows(config.reach)
        self._losses: list[dict[str, float]] = []
        """Unweighted terms of the last steps: weighted as a later stage does, they are its usual."""
        self._weights: dict[str, float] = {}
        self._totals: list[float] = []
        """Each of them with these weights, which most steps have in common."""
        self._latches = Latches()
        self._views_told: list[str] = []
        self._stage: str | None = None
        self._in_stage = 0
        """Steps taken in it."""

    def judge(self, outcome: StepOutcome, state: StageState) -> list[Alarm]:
        """Spikes of the total loss, the gradient norms and the statistics, before the optimiser acts.

        With action "skip" every spike is told; with "warn" those that repeat no earlier one.
        Figures that are not finite are the guard's business and no spike.
        """
        return [
            _alarm(finding, outcome)
            for finding in self._spikes(outcome, state)
            if finding.bad
            and (
                self.config.action(finding.rule) == "skip"
                or self._latches.fresh(finding.rule, _excess(finding))
            )
        ]

    def accept(self, outcome: StepOutcome, state: StageState) -> list[Alarm]:
        """Takes in the figures of a step that was taken; alarms for trends that are newly unhealthy."""
        for finding in self._spikes(outcome, state):
            self._latches.look(
                finding.rule, finding.bad, calm=self.config.spike_calm, badness=_excess(finding)
            )
        if state.stage.name != self._stage:
            self._stage, self._in_stage = state.stage.name, 0
            for prefix in OF_A_STAGE:
                self._windows.forget(prefix)
        self._in_stage += 1
        self._take_in(outcome, state)
        findings = [
            finding
            for trend in TRENDS
            for finding in trend(self._windows, self.config, outcome, state)
            if self.config.action(finding.rule) != "off"
        ]
        fresh = [
            finding
            for finding in findings
            if self._latches.look(_name(finding), finding.bad, calm=self.config.calm)
        ]
        return [_alarm(finding, outcome) for finding in fresh] + self._views(outcome)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later alarms depend on, in numbers, text and lists; for a checkpoint."""
        return {
            "windows": self._windows.state_dict(),
            "losses": [dict(row) for row in self._losses],
            "latches": self._latches.state_dict(),
            "views_told": list(self._views_told),
            "stage": self._stage,
            "in_stage": self._in_stage,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self._windows.load_state_dict(state["windows"])
        self._losses = [dict(row) for row in state["losses"]]
        self._weights, self._totals = {}, [0.0] * len(self._losses)
        self._latches.load_state_dict(state["latches"])
        self._views_told = list(state["views_told"])
        self._stage, self._in_stage = state["stage"], int(state["in_stage"])

    # ---------------------------------------------------------------------------------- spikes

    def _spikes(self, outcome: StepOutcome, state: StageState) -> Iterator[Finding]:
        """Loss, gradient norm and statistics, in order or not; nothing for what is off or not finite."""
        if self.config.action("loss_spike") != "off":
            yield from self._loss_spike(outcome, state)
        if self.config.action("gradient_spike") != "off":
            yield from self._gradient_spike(outcome, state)
        if self.config.action("statistics_spike") != "off":
            yield from self._statistics_spike(outcome)

    def _loss_spike(self, outcome: StepOutcome, state: StageState) -> Iterator[Finding]:
        config, total = self.config, finite(outcome.total)
        if total is None:
            return
        totals = self._totals_with(state.weights)
        if len(totals) < config.min_history:
            threshold = config.loss_cap
        else:
            centre, spread = centre_and_spread(totals[-config.window :])
            threshold = max(
                centre + config.loss_deviations * spread,
                centre + (config.loss_ratio - 1) * abs(centre),
                config.worst_ratio * max(totals),
            )
        bad = total > threshold
        where = self._terms_above(outcome, state) if bad else []
        message = (
            "the loss has jumped; if it comes back with the same scenes look at their data, else lower "
            "the learning rate"
        )
        yield Finding("loss_spike", where, bad, total, threshold, message)

    def _totals_with(self, weights: dict[str, float]) -> list[float]:
        """Totals of the last steps, weighted as now."""
        if weights != self._weights:
            self._weights = dict(weights)
            self._totals = [_weighted(row, weights) for row in self._losses]
        return self._totals

    def _terms_above(self, outcome: StepOutcome, state: StageState) -> list[str]:
        """The terms that make up the larger part of the loss's rise over the usual, largest first."""
        rise = {}
        for term, weight in state.weights.items():
            value = finite(outcome.losses.get(term))
            if value is not None and weight != 0:
                past = [row.get(term, 0.0) for row in self._losses[-self.config.window :]]
                rise[term] = weight * (value - (median(past) if past else 0.0))
        return [f"loss.{term}" for term in _larger_part(rise)]

    def _gradient_spike(self, outcome: StepOutcome, state: StageState) -> Iterator[Finding]:
        config, norm = self.config, finite(outcome.grad_norm.get("total"))
        weights = weight_sum(state)
        if not norm or not weights:
            return
        threshold = config.gradient_cap
        if (most := self._most("total", config.gradient_ratio, state)) is not None:
            threshold = most * weights
        jumped = {}
        for path in BY_NAME:
            of_path = finite(outcome.grad_norm.get(path))
            most = self._most(path, config.path_ratio, state)
            if of_path is not None and most is not None and of_path > most * weights:
                jumped[f"gradient.{path}"] = of_path, most * weights
        above = norm > threshold
        where = list(dict.fromkeys((self._paths_above(outcome, weights) if above else []) + [*jumped]))
        bad = bool(where)
        if jumped and not above:
            norm, threshold = max(jumped.values(), key=lambda jump: jump[0] / jump[1])
        message = (
            "the gradient has jumped; clipping bounds the step, if it comes back look at the scenes or "
            "lower the learning rate"
        )
        yield Finding("gradient_spike", where, bad, norm, threshold, message)

    def _statistics_spike(self, outcome: StepOutcome) -> Iterator[Finding]:
        """BatchNorm's running variances, once the first steps have brought them near their values."""
        if len(self._losses) < self.config.min_history:
            return
        most = self.config.variance_growth
        above = [module for module, factor in outcome.statistics.items() if factor > most]
        message = (
            "a running variance has jumped: evaluations go wrong for a hundred steps; the first module "
            "named is next to the cause, look at the scenes and at what is before it"
        )
        largest = max(outcome.statistics.values(), default=1.0)
        where = [f"buffers.{module}" for module in above]
        yield Finding("statistics_spike", where, bool(above), largest, most, message)

    def _most(self, path: str, ratio: float, state: StageState) -> float | None:
        """Norm of a path, per unit of loss weight, above which it has jumped; None where its usual is
        not known yet. A stage that has just begun may train other parts, so more is allowed."""
        config = self.config
        history = self._windows.last(f"gradient.{path}", config.reach)
        if len(history) < config.min_history:
            return None
        steps = self._in_stage if state.stage.name == self._stage else 0
        if steps < config.min_history:
            ratio *= config.stage_slack
        centre, spread = centre_and_spread(history[-config.window :])
        return exp(
            max(
                centre + config.gradient_deviations * spread,
                centre + log(ratio),
                max(history) + log(config.worst_ratio),
            )
        )

    def _paths_above(self, outcome: StepOutcome, weights: float) -> list[str]:
        """The paths that carry the larger part of the norm's rise, largest first."""
        rise = {}
        for path in BY_NAME:
            norm = finite(outcome.grad_norm.get(path))
            if norm is not None:
                past = self._windows.last(f"gradient.{path}", self.config.window)
                rise[path] = norm - (exp(median(past)) * weights if past else 0.0)
        return [f"gradient.{path}" for path in _larger_part(rise)]

    def _take_in(self, outcome: StepOutcome, state: StageState) -> None:
        """The figures that spikes are judged by."""
        terms = {name: finite(value) for name, value in outcome.losses.items()}
        if finite(outcome.total) is not None and None not in terms.values():
            self._losses.append({name: value for name, value in terms.items() if value is not None})
            self._totals.append(_weighted(self._losses[-1], self._weights))
            del self._losses[: -self.config.reach], self._totals[: -self.config.reach]
        weights = weight_sum(state)
        for path, value in outcome.grad_norm.items():
            norm = finite(value)
            if norm and weights:
                self._windows.push(f"gradient.{path}", log(norm / weights))

    # ------------------------------------------------------------------------------------ views

    def _views(self, outcome: StepOutcome) -> list[Alarm]:
        """One alarm a scene for its views that contradict the scan; each view is told once a run."""
        if self.config.action("view_agreement") == "off":
            return []
        fresh: dict[str, list] = {}
        for view in outcome.disagreeing_views:
            name = f"{view.scene}/{view.view}"
            if name not in self._views_told:
                self._views_told.append(name)
                fresh.setdefault(view.scene, []).append(view)
        return [
            Alarm(
                rule="view_agreement",
                where=[f"input.views.{view.view}" for view in views],
                scenes=[scene],
                value=views[0].value,
                threshold=views[0].threshold,
                message=f"{scene}: " + "; ".join(view.message for view in views),
            )
            for scene, views in fresh.items()
        ]


def _larger_part(rise: dict[str, float]) -> list[str]:
    """Those that rose by more than half of the largest rise, largest first; "total" where none did."""
    enough = 0.5 * max(rise.values(), default=0.0)
    above = sorted((name for name in rise if rise[name] > enough), key=lambda name: -rise[name])
    return above or ["total"]


def _weighted(terms: dict[str, float], weights: dict[str, float]) -> float:
    """Σ weight · term, as the step's total; a term that was not there counts 0."""
    return sum(weight * terms.get(term, 0.0) for term, weight in weights.items())


def _name(finding: Finding) -> str:
    """Of the alarm that it would raise."""
    return f"{finding.rule} {' '.join(finding.where)}"


def _excess(finding: Finding) -> float:
    """How many times its bound a figure is, by which spikes of other paths are compared: the tower's
    gradient may be a hundredth of the whole."""
    return finding.value / finding.threshold if finding.threshold > 0 else finding.value


def _alarm(finding: Finding, outcome: StepOutcome) -> Alarm:
    return Alarm(
        rule=finding.rule,
        where=finding.where,
        scenes=finding.scenes or list(outcome.scenes),
        value=finding.value,
        threshold=finding.threshold,
        message=finding.message,
    )
