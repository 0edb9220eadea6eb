"""The stabilising measures of staged BiFusion, each a switch: recipes with one of them removed.

A recipe differs from the staged one in its measure only, so that a comparison of the two, paired by
seed, says what that measure does. Some recipes add one instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bifusion.config.run import Config
from bifusion.config.stages import Ramp, Stage, StagePlan, at_once
from bifusion.models.fusion import FusionConfig
from bifusion.models.parts import is_of_tower, without_tower
from bifusion.recipes.bifusion import S4_WEIGHTS, bifusion_model


@dataclass(frozen=True)
class Measure:
    """One stabilising measure, and the staged recipe without it (or, where it `adds`, with it)."""

    name: str
    label: str
    instead: str
    """What its recipe does instead; a phrase."""
    change: Callable[[Config], dict[str, Any]]
    """Fields of the staged configuration that differ."""
    adds: bool = False

    def recipe_name(self, base: str) -> str:
        return f"{base}_{self.name}" if self.adds else f"{base}_no_{self.name}"

    def apply(self, base: Config) -> Config:
        """`base`, a staged recipe, with this measure changed and nothing else."""
        name = self.recipe_name(base.recipe)
        return dataclasses.replace(base, name=name, recipe=name, arm="ablation", **self.change(base))


# -------------------------------------------------------------------------------------- the model


def _fusion(**changes: Any) -> Callable[[Config], dict[str, Any]]:
    """Changes in the fusion; parts that are then not built are trained by no stage."""

    def change(base: Config) -> dict[str, Any]:
        model = bifusion_model(base)
        fusion = dataclasses.replace(model.fusion, **changes)
        plan = _each_stage(base, lambda stage: _without(stage, _not_built(fusion)))
        return {"model": dataclasses.replace(model, fusion=fusion), "stages": plan}

    return change


LAYER_SCALE = 0.1
"""As in "Going deeper with Image Transformers" for networks of few layers."""


def _layer_scale(base: Config) -> dict[str, Any]:
    model = bifusion_model(base)
    decoder = dataclasses.replace(model.decoder, layer_scale=LAYER_SCALE)
    return {"model": dataclasses.replace(model, decoder=decoder)}


def _not_built(fusion: FusionConfig) -> set[str]:
    """Parameter groups that the fusion has none of."""
    has_predictor = fusion.alignment and fusion.alignment_predictor
    return ({"align"} if not has_predictor else set()) | ({"film"} if not fusion.film else set())


def _without(stage: Stage, groups: set[str]) -> Stage:
    return dataclasses.replace(
        stage, trains={name: ramp for name, ramp in stage.trains.items() if name not in groups}
    )


def _no_alignment(base: Config) -> dict[str, Any]:
    def quiet(stage: Stage) -> Stage:
        weights = {term: ramp for term, ramp in stage.weights.items() if term != "alignment"}
        return dataclasses.replace(stage, weights=weights)

    changes = _fusion(alignment=False)(base)
    return changes | {"stages": StagePlan(tuple(map(quiet, changes["stages"].stages)))}


# ------------------------------------------------------------------------------------- the stages


def _each_stage(base: Config, change: Callable[[Stage], Stage]) -> StagePlan:
    return StagePlan(tuple(change(stage) for stage in base.stages.stages))


def _stages(change: Callable[[Stage], Stage]) -> Callable[[Config], dict[str, Any]]:
    return lambda base: {"stages": _each_stage(base, change)}


def _at_once(ramps: dict[str, Ramp]) -> dict[str, Ramp]:
    return {name: at_once(ramp.value) for name, ramp in ramps.items()}


def _full_gate(stage: Stage) -> Stage:
    return dataclasses.replace(stage, gate_scale=at_once(1.0)) if stage.run_2d else stage


def _learned_gate(stage: Stage) -> Stage:
    return dataclasses.replace(stage, fixed_alpha=None)


def _full_gradient(stage: Stage) -> Stage:
    scale = stage.tower_gradient_scale
    return dataclasses.replace(
        stage, tower_gradient_scale=dataclasses.replace(scale, value=1.0) if scale.value > 0 else scale
    )


def _sudden_losses(stage: Stage) -> Stage:
    return dataclasses.replace(stage, weights=_at_once(stage.weights))


def _late_instances(stage: Stage) -> Stage:
    """In a stage without images the instance terms ramp in behind the semantic one (S5), none sooner
    than it did."""
    ramps = {
        term: dataclasses.replace(ramp, begin=max(ramp.begin, 0.1), end=max(ramp.end, 0.5))
        for term, ramp in stage.weights.items()
        if term in S4_WEIGHTS and term != "semantic"
    }
    return stage if stage.run_2d else dataclasses.replace(stage, weights=stage.weights | ramps)


def _early_score(stage: Stage) -> Stage:
    score = {term: ramp for term, ramp in stage.weights.items() if term == "score"}
    return dataclasses.replace(stage, weights=stage.weights | _at_once(score))


def _raw_sums(stage: Stage) -> Stage:
    """S4's numbers as they stand, wherever the stage has a term of theirs."""
    raw = {
        term: dataclasses.replace(ramp, value=S4_WEIGHTS[term])
        for term, ramp in stage.weights.items()
        if term in S4_WEIGHTS
    }
    return dataclasses.replace(stage, weights=stage.weights | raw)


def _no_isolation(base: Config) -> dict[str, Any]:
    """The tower trains, as in the last stage, wherever the 2D branch runs."""
    last = base.stages.stages[-1]
    tower = {name: at_once(ramp.value) for name, ramp in last.trains.items() if is_of_tower(name)}

    def open_up(stage: Stage) -> Stage:
        scale = at_once(last.tower_gradient_scale.value)
        return dataclasses.replace(stage, trains=stage.trains | tower, tower_gradient_scale=scale)

    return {"stages": _each_stage(base, lambda stage: open_up(stage) if stage.run_2d else stage)}


def _no_rate_ramps(base: Config) -> dict[str, Any]:
    def sudden(stage: Stage) -> Stage:
        return dataclasses.replace(stage, trains=_at_once(stage.trains))

    optim = dataclasses.replace(base.optim, warmup_steps=0)
    return {"stages": _each_stage(base, sudden), "optim": optim}


def _one_stage(base: Config) -> dict[str, Any]:
    """The last stage from the first step on, with the losses of all; what ramps has nothing to ramp
    from and is there at once."""
    last = base.stages.stages[-1]
    largest: dict[str, float] = {}
    for stage in base.stages.stages:
        for term, ramp in stage.weights.items():
            largest[term] = max(largest.get(term, 0.0), ramp.value)
    stage = dataclasses.replace(
        last,
        name="all_at_once",
        trains=_at_once(last.trains),
        weights={term: at_once(weight) for term, weight in largest.items()},
        tower_gradient_scale=at_once(last.tower_gradient_scale.value),
    )
    return {"stages": StagePlan((stage,))}


# ---------------------------------------------------------------------------------- the optimiser


def _optim(**changes: Any) -> Callable[[Config], dict[str, Any]]:
    return lambda base: {"optim": dataclasses.replace(base.optim, **changes)}


def _one_rate(base: Config) -> dict[str, Any]:
    return {"optim": dataclasses.replace(base.optim, rates=without_tower(base.optim.rates))}


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            "head_norm", "LayerNorm of the heads", "raw ranges meet", _fusion(head_norm=False)
        ),
        Measure(
            "layer_scale",
            "LayerScale of the decoder",
            "blocks of the decoder begin near the identity",
            _layer_scale,
            adds=True,
        ),
        Measure(
            "isolation",
            "Isolation of CLIP",
            "the tower trains, with its gradient scaled, as soon as the 2D branch runs",
            _no_isolation,
        ),
        Measure(
            "gradient_scale",
            "Scale of CLIP’s gradient",
            "the tower’s gradient is taken whole",
            _stages(_full_gradient),
        ),
        Measure(
            "gate_ramp",
            "Ramp of the gate",
            "s is 1 as soon as the 2D branch runs",
            _stages(_full_gate),
        ),
        Measure(
            "simple_gate",
            "Gate that starts simple",
            "α is learned as soon as the 2D branch runs",
            _stages(_learned_gate),
        ),
        Measure(
            "gradual_losses",
            "Gradual losses",
            "every loss of a stage has its full weight from the stage’s first step",
            _stages(_sudden_losses),
        ),
        Measure(
            "late_instances",
            "Semantics first",
            "instance losses ramp in, in the first stage, behind the semantic one",
            _stages(_late_instances),
            adds=True,
        ),
        Measure(
            "late_score",
            "Scores last",
            "the score loss has its full weight from the first step, when no mask deserves a score",
            _stages(_early_score),
        ),
        Measure(
            "loss_balance",
            "Balance of losses",
            "S4’s numbers multiply the losses as they are, summed over the decoder’s outputs",
            _stages(_raw_sums),
        ),
        Measure(
            "rate_ramps",
            "Ramps of learning rates",
            "no warm-up, and parts that a stage adds start at their full rate",
            _no_rate_ramps,
        ),
        Measure(
            "stages",
            "Stages",
            "everything trains on all losses from the first step, so nothing ramps either",
            _one_stage,
        ),
        Measure(
            "silent_start",
            "Silent start",
            "last layers of FiLM, gate and excitation start at random",
            _fusion(silent_start=False),
        ),
        Measure(
            "clipping",
            "Gradient clipping",
            "gradients are taken as they are",
            _optim(clip_mode="off"),
        ),
        Measure("tower_rates", "Slower rates of CLIP", "the tower learns at the full rate", _one_rate),
        Measure(
            "layer_decay",
            "Layer-wise rate decay",
            "all blocks of the tower learn at one rate",
            _optim(tower_layer_decay=1.0),
        ),
        Measure(
            "stop_gradient",
            "Stop-gradient of the alignment",
            "3D is pulled towards 2D as well",
            _fusion(alignment_stop_gradient=False),
        ),
        Measure(
            "predictor",
            "Predictor of the alignment",
            "2D itself is to equal 3D",
            _fusion(alignment_predictor=False),
        ),
        Measure("alignment", "Alignment loss", "2D and 3D are not aligned", _no_alignment),
        Measure(
            "excitation",
            "Squeeze-excitation",
            "channels are not weighed",
            _fusion(squeeze_excitation=False),
        ),
        Measure("film", "FiLM", "features know nothing of place and viewpoint", _fusion(film=False)),
        Measure(
            "adaptive_clipping",
            "Adaptive clipping",
            "the clipping limit follows the median of recent gradient norms",
            _optim(clip_mode="adaptive"),
            adds=True,
        ),
    )
}  # fmt: skip
"""By name, in the order of tables: the model’s and the stages’, the optimiser’s, those of parts."""
