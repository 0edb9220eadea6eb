"""What watches one step: takes figures where they arise, and tells when they have reached the host.

A step is computed to its gradients whatever it meets, and judged then; only what code could not bear, a
position that is not finite or a matching cost, ends it at once. The first phase in which something is
bad names the fault: what comes after only suffers from it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bifusion.data.view_agreement import disagreeing_views
from bifusion.step.checks import Statistics, bad_inputs, bad_moments, border_activations, watch_moments
from bifusion.step.conflicts import conflicts_of
from bifusion.step.events import Fault, Phase
from bifusion.step.figures import Figures
from bifusion.step.observe import Fused, gradient_norms, norms_by_path, observe, record_of
from bifusion.step.outcome import StepInputs, StepOutcome
from bifusion.step.processes import Processes, mean_of
from bifusion.types import Batch, FusionControl, Prediction

MIN_LOSS_SCALE = 1.0
"""A gradient that overflows even without magnification is not the scaler's fault."""


class NonFiniteInputError(ArithmeticError):
    """A batch has a NaN or infinity, in the tensors `bad` of `scenes`."""

    def __init__(self, bad: list[str], scenes: list[str]):
        super().__init__(f"{', '.join(bad)} of {', '.join(scenes)}")
        self.bad, self.scenes = bad, scenes


class StepWatch:
    """Watches the step of `inputs`: `batch`, `prediction`, `losses` of each; `gradients`; `tell`."""

    def __init__(self, inputs: StepInputs, statistics: Statistics, loss_scale: float | None):
        self.inputs, self.statistics, self.loss_scale = inputs, statistics, loss_scale
        self.fault: Fault | None = None
        """What ended the computation; None: nothing did."""
        self._figures = Figures()
        self._batches: list[list[str]] = []
        """Scenes of every batch begun."""
        self._fused: list[Fused | None] = []

    def batch(self, batch: Batch) -> None:
        """Raises NonFiniteInputError for a batch, still on the host, that is not finite.

        What was watched of the batch before is looked at first, so as not to be held for longer.
        """
        self._figures.fetch()
        self._batches.append(batch.names)
        bad, scenes = bad_inputs(batch)
        if bad:
            raise NonFiniteInputError(bad, scenes)

    def prediction(self, prediction: Prediction) -> None:
        """What the forward pass made, and what it did to the model's statistics."""
        self._fused.append(Fused.of(prediction.fusion))
        activations = border_activations(prediction).items()
        self._figures.put(self._at("observed"), observe(prediction))
        self._figures.watch(
            self._at("activation"), ((n, part) for n, parts in activations for part in parts)
        )
        self.statistics.watch(self._figures, self._at("buffers"))

    def losses(
        self, terms: dict[str, Tensor], total: Tensor, conflicts: dict[str, Tensor] | None
    ) -> None:
        """Unweighted terms, the weighted total, and `conflict_figures` in steps that measure them."""
        self._figures.put(self._at("loss"), terms)
        self._figures.put(self._at("total"), {"total": total})
        if conflicts is not None:
            self._figures.put(self._at("conflicts"), conflicts)

    def met(self, phase: Phase, bad: list[str], scenes: list[str] | None = None) -> None:
        """The computation ended here; of all scenes of the batch at hand, unless some are named."""
        self.fault = _fault(phase, bad, scenes or self._batches[-1])

    def gradients(self, groups: dict[str, list[nn.Parameter]], optimizer: torch.optim.Optimizer) -> None:
        """Norms before clipping, the growth of statistics, and the moments the optimiser would use."""
        self._figures.put("gradient", gradient_norms(groups))
        self.statistics.watch_growth(self._figures)
        watch_moments(self._figures, optimizer)

    def tell(self, control: FusionControl, processes: Processes) -> StepOutcome:
        """Waits for the device and says what was measured and which fault was met, if any; the
        same on all processes."""
        self._figures.fetch()
        batches = [batch for batch in self.inputs.batches if batch.counts]
        outcome = StepOutcome(scenes=[name for batch in batches for name in batch.names])
        outcome.disagreeing_views = [v for batch in batches for v in disagreeing_views(batch)]
        outcome.loss_scale = self.loss_scale
        outcome.event = processes.agree(self._tell_forward(outcome, control))
        if outcome.event is not None:
            outcome.total = None
            if len(self.inputs.batches) > 1:  # some of them alone were looked at
                outcome.losses = {}
        else:
            outcome.event = processes.agree(self._tell_gradients(outcome))
        if not self.inputs.batches[-1].counts:  # what others have measured on these scenes
            outcome.fusion = {}
        processes.average(outcome)
        return outcome

    def _tell_forward(self, outcome: StepOutcome, control: FusionControl) -> Fault | None:
        figures, parts = self._figures, len(self.inputs.batches)
        conflicts: list[dict[str, float]] = []
        for index, (names, fused) in enumerate(zip(self._batches, self._fused, strict=False)):
            observed = figures.at(self._at("observed", index))
            outcome.fusion = record_of(observed, fused, control)
            if bad := figures.nonfinite(self._at("activation", index)):
                return _fault("activation", bad, names)
            if bad := self.statistics.bad(figures, self._at("buffers", index)):
                return _fault("buffers", bad, names)
            terms = figures.at(self._at("loss", index))
            for name, value in terms.items():
                outcome.losses[name] = outcome.losses.get(name, 0.0) + value / parts
            if bad := [name for name, value in terms.items() if not math.isfinite(value)]:
                return _fault("loss", bad, names)
            if self._at("conflicts", index) in figures and self.inputs.batches[index].counts:
                conflicts.append(conflicts_of(figures.at(self._at("conflicts", index))))
                outcome.conflicts = mean_of(conflicts)
            for total in figures.at(self._at("total", index)).values():
                outcome.total = (outcome.total or 0.0) + total
        return self.fault

    def _tell_gradients(self, outcome: StepOutcome) -> Fault | None:
        """A gradient that is not finite under a float16 scaler's factor is taken for an overflow: no
        fault, unless `Stepper.measure` finds it so at the least factor too."""
        norms = self._figures.at("gradient")
        outcome.statistics = self.statistics.growth(self._figures)
        outcome.grad_norm = norms_by_path(norms)
        bad = [name for name, norm in norms.items() if not math.isfinite(norm)]
        bad = [name for name in bad if name != "total"] or bad
        if bad and outcome.loss_scale is not None and outcome.loss_scale > MIN_LOSS_SCALE:
            outcome.scaler_overflow = True
            return None
        if bad:
            return _fault("gradient", bad, outcome.scenes)
        bad = bad_moments(self._figures)
        return _fault("optimizer", bad, outcome.scenes) if bad else None

    def _at(self, what: str, index: int | None = None) -> str:
        """Place of what belongs to a batch; of the one at hand where no other is named."""
        return f"{what} {len(self._batches) - 1 if index is None else index}"


def _fault(phase: Phase, bad: list[str], scenes: list[str]) -> Fault:
    return Fault(phase, [f"{phase}.{name}" for name in bad], list(scenes))
