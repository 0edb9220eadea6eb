"""Whose fault it is, from what the step does under other conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bifusion.diagnosis.experiments import Attempt, Experiments
from bifusion.runs.healthy import HealthyState
from bifusion.step.checks import nonfinite_names
from bifusion.types import Batch

Verdict = Literal["data", "state", "numerics", "unclear"]


@dataclass
class Judgement:
    """A verdict, the scenes it is about, and one or two sentences of why."""

    verdict: Verdict
    scenes: list[str]
    reason: str


def judge(
    experiments: Experiments,
    attempt: Attempt,
    healthy: HealthyState | None,
    reference: list[Batch] | None,
) -> Judgement:
    """Judges the fault that `attempt`, the step as it was, has met again."""
    everyone = [name for batch in experiments.inputs.batches for name in batch.names]
    if not attempt.fails:
        together = experiments.stepper.fabric.world_size > 1
        return Judgement("unclear", everyone, _not_again(attempt, together=together))
    bad_weights = nonfinite_names(dict(experiments.stepper.model.module.named_parameters()))
    if bad_weights:
        reason = (
            f"Weights are not finite before the step begins ({bad_weights[0]}), so every scene fails. "
            "Go back to a checkpoint from before."
        )
        return Judgement("state", everyone, reason)
    low_precision = experiments.stepper.fabric.strategy.precision.precision
    if not low_precision.startswith(("32", "64")):
        plain = experiments.in_float32()
        if plain.fails is False:
            guilty = experiments.alone(attempt.place).guilty or everyone
            reason = (
                f"In float32 the same step is sound, in {low_precision} it is not: the numbers leave "
                "the range or accuracy of the narrow type. Train with --trainer.precision 32-true, or "
                "bring the ranges before it down."
            )
            return Judgement("numerics", guilty, reason)
    return _data_or_state(experiments, attempt, healthy, reference, everyone)


def _data_or_state(
    experiments: Experiments,
    attempt: Attempt,
    healthy: HealthyState | None,
    reference: list[Batch] | None,
    everyone: list[str],
) -> Judgement:
    alone = experiments.alone(attempt.place)
    guilty = alone.guilty
    some = 0 < len(guilty) < len(everyone) and not alone.untold
    others_fail = experiments.on(reference).fails if reference is not None else None
    if others_fail is None and some:
        others_fail = False  # the other scenes of the step went well with these weights
    from_healthy = None
    if healthy is not None:
        from_healthy = _from_healthy(experiments, attempt, healthy, together=not guilty)
    scenes = guilty or everyone
    if others_fail:
        own = _who_fails(guilty, everyone)
        return _weights(experiments, reference, healthy, from_healthy, everyone, own)
    if from_healthy:
        names = [name for name in from_healthy if name in scenes] or from_healthy
        if others_fail is None and len(names) == len(everyone):
            return Judgement("unclear", everyone, _nothing_to_compare(guilty, everyone))
        return Judgement("data", names, _DATA.format(scenes=", ".join(names)))
    if from_healthy is None:
        if some:
            return Judgement("data", scenes, _DATA_BY_OTHERS.format(scenes=", ".join(scenes)))
        return Judgement("unclear", scenes, _nothing_to_compare(guilty, everyone))
    if others_fail is None:
        return Judgement("state", everyone, _STATE_BY_HEALTHY)
    return Judgement("unclear", scenes, _ONLY_BOTH.format(scenes=", ".join(scenes)))


def _from_healthy(
    experiments: Experiments, attempt: Attempt, healthy: HealthyState, *, together: bool
) -> list[str] | None:
    """Scenes that fail with healthy weights too, all of them where that takes the step as a whole
    (`together`: to be tried); None where that cannot be told, as the code raised."""
    alone = experiments.alone(attempt.place, healthy)
    if alone.guilty:
        return alone.guilty
    whole = experiments.on(experiments.inputs.batches, healthy).fails if together else False
    if whole:
        return [name for batch in experiments.inputs.batches for name in batch.names]
    return None if whole is None or alone.untold else []


def _weights(
    experiments: Experiments,
    reference: list[Batch] | None,
    healthy: HealthyState | None,
    from_healthy: list[str] | None,
    everyone: list[str],
    own: str,
) -> Judgement:
    """Batches that went well before fail too; `own`: what of the step itself does."""
    if not from_healthy or reference is None or healthy is None:
        return Judgement("state", everyone, _STATE.format(own=own))
    if experiments.on(reference, healthy).fails:
        return Judgement("unclear", everyone, _NEITHER)
    return Judgement("unclear", everyone, _BOTH.format(scenes=", ".join(from_healthy)))


def _who_fails(guilty: list[str], everyone: list[str]) -> str:
    """What of the step fails: which of its scenes alone, or all of them together only."""
    if not guilty:
        return "the step as a whole, though none of its scenes was seen to fail alone"
    return "every scene of the step" if len(guilty) == len(everyone) else ", ".join(guilty)


def _nothing_to_compare(guilty: list[str], everyone: list[str]) -> str:
    return _NOTHING_TO_COMPARE.format(own=_who_fails(guilty, everyone))


def _not_again(attempt: Attempt, *, together: bool) -> str:
    """`together`: several processes took the step, and each ran its own part of it again."""
    if attempt.error is not None:
        return f"Running the step again raised an error ({attempt.error})."
    part = (
        "no process met it again with its own scenes alone, so that it takes all of them (the sum of "
        "their gradients, BatchNorm over all of their voxels), or came"
    )
    return (
        f"The fault did not come back when the step ran again: {part if together else 'it came'} from "
        "hardware or code that does not repeat itself. If it recurs, look at memory and drivers, and, "
        "with images, delete .tower-cache beside the run: it is not used when a step runs again."
    )


_DATA = (
    "{scenes} fails with healthy weights as well, while batches that went well still do: the fault is "
    "in the data. Look at the scene's points, images and poses, or take it out of the data set."
)
_DATA_BY_OTHERS = (
    "{scenes} fails alone, the other scenes of the step go well with the same weights: the fault is "
    "most likely in the data. No healthy state could make sure. Look at its points and images."
)
_STATE = (
    "The present weights fail on a batch that went well before, and on {own}: the weights have left "
    "the range they can work in. Go back to a healthy state and lower the learning rate."
)
_STATE_BY_HEALTHY = (
    "With weights of a healthy state the same scenes go well: the weights have left the range they can "
    "work in. Go back to that state and lower the learning rate."
)
_BOTH = (
    "The present weights fail on a batch that went well before, and {scenes} fails with healthy weights "
    "too: both weights and data are at fault. Go back to a healthy state without that scene."
)
_NEITHER = (
    "It fails with whatever weights and whatever scenes: neither is at fault, but the module itself, "
    "its code, a hook on it, or the machine."
)
_ONLY_BOTH = (
    "{scenes} fails with the present weights only, and the weights on it only: the weights are drifting "
    "to where unusual scenes break them. Lower the learning rate, or clip gradients to a smaller norm."
)
_NOTHING_TO_COMPARE = (
    "What fails is {own}, and there is no batch or state that is known to be sound to compare with: "
    "weights, data and the module itself are all possible."
)
