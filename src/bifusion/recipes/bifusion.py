"""BiFusion: three stages (S9), and the arms of its comparison, each a few fields away."""

from __future__ import annotations

import dataclasses

from bifusion.config.optim import OptimConfig
from bifusion.config.run import Config, TrainerConfig
from bifusion.config.stages import Ramp, Stage, StagePlan, at_once
from bifusion.errors import InputError
from bifusion.losses.terms import acts_on_fusion
from bifusion.models.bifusion import BiFusionConfig
from bifusion.models.fusion import FusionConfig
from bifusion.models.oneformer3d import OneFormer3DConfig
from bifusion.models.parts import without_tower
from bifusion.models.towers.clip import ClipConfig
from bifusion.recipes.oneformer3d import (
    VIEWS_FULL,
    VIEWS_SMALL,
    baseline_plan,
    scannet200_data,
    small_data,
    small_decoder,
    small_optim,
    small_trainer,
    small_unet,
)

S4_WEIGHTS = {
    "semantic": 0.4,
    "instance_class": 1.0,
    "mask_bce": 0.8,
    "mask_dice": 0.6,
    "score": 0.3,
}


GRADIENT_NORMS = {
    "semantic": 1.0,
    "instance_class": 5.8,
    "mask_bce": 1.125,
    "mask_dice": 3.5,
    "score": 0.3,
}
"""Gradient that a term of weight 1 sends into the features which semantic head and decoder share, in
terms of the semantic one: `laboratory.gradient_norms` at the end of a staged run at small size."""


def shares_of_gradient(shares: dict[str, float]) -> dict[str, float]:
    """Weights with which the terms' gradients in the shared features are as `shares` are; semantic 1.0.

    S4 gives five numbers and not what they multiply. Taken as factors of the losses they leave the
    semantic one a twentieth of the gradient, as instance terms are summed over the decoder's outputs.
    What other meanings give: RECIPES.md.
    """
    pull = {term: share / GRADIENT_NORMS[term] for term, share in shares.items()}
    return {term: round(value / pull["semantic"], 2) for term, value in pull.items()}


LOSS_WEIGHTS = shares_of_gradient(S4_WEIGHTS)
STAGE_SHARES = (21.0, 40.0, 67.0)
"""Epochs of 128 (S9)."""
ALIGNMENT_WEIGHT = 0.3
TRAINED_TOWER_BLOCKS = 2

BRANCH_2D = ("head_2d", "film", "gate", "align")
BRANCH_3D = {"backbone": at_once(1.0), "head_3d": at_once(1.0), "decoder": at_once(1.0)}


def three_stages(tower_blocks: int) -> StagePlan:
    """Stability, alignment, enhancement (S6, S9). `tower_blocks`: transformer blocks of the tower."""
    return StagePlan((_stability(), _alignment(), _enhancement(tower_blocks)))


def _stability() -> Stage:
    """3D alone, on all losses of S4: with instances coming in later (S5) masks do not catch up. Only
    scores, which no mask deserves at first, come last: as they begin, gradients jump."""
    return Stage(
        name="stability",
        share=STAGE_SHARES[0],
        trains=BRANCH_3D,
        weights={**_held(LOSS_WEIGHTS), "score": Ramp(LOSS_WEIGHTS["score"], begin=0.5, end=1.0)},
        gate_scale=at_once(0.0),
        run_2d=False,
    )


def _alignment() -> Stage:
    """2D comes in at a fixed half share while s ramps, then the gate learns; CLIP stays frozen."""
    parts_2d = {name: Ramp(1.0, end=0.1) for name in BRANCH_2D}
    return Stage(
        name="alignment",
        share=STAGE_SHARES[1],
        trains={**BRANCH_3D, **parts_2d},
        weights={**_held(LOSS_WEIGHTS), "alignment": Ramp(ALIGNMENT_WEIGHT, end=0.25)},
        gate_scale=Ramp(1.0, begin=0.05, end=0.5),
        fixed_alpha=0.5,
        fixed_alpha_until=0.5,
    )


def _enhancement(tower_blocks: int) -> Stage:
    """The tower's last blocks and its depth channel adapt, slowly."""
    adapted = [f"tower.block{i}" for i in range(tower_blocks)][-TRAINED_TOWER_BLOCKS:]
    parts_2d = {name: at_once(1.0) for name in BRANCH_2D}
    tower = {name: Ramp(1.0, end=0.25) for name in (*adapted, "tower.conv1_depth")}
    return Stage(
        name="enhancement",
        share=STAGE_SHARES[2],
        trains={**BRANCH_3D, **parts_2d, **tower},
        weights={**_held(LOSS_WEIGHTS), "alignment": Ramp(0.0, end=0.5)},
        gate_scale=at_once(1.0),
        tower_gradient_scale=Ramp(0.1, end=0.25),
    )


def _reached(plan: StagePlan) -> dict[str, float]:
    """The last weight of each term that is not 0; none of terms that act on the fusion."""
    ramps = [ramp for stage in plan.stages for ramp in stage.weights.items()]
    return {name: ramp.value for name, ramp in ramps if ramp.value and not acts_on_fusion(name)}


def _held(weights: dict[str, float]) -> dict[str, Ramp]:
    return {term: at_once(weight) for term, weight in weights.items()}


# ------------------------------------------------------------------------------------------- sizes


def bifusion_scannet20() -> Config:
    """BiFusion: half a CLIP ViT-B/16, Res16UNet34C; 89 M weights."""
    return _full_size("scannet20")


def bifusion_scannet200() -> Config:
    """The same on the 200 classes of ScanNet200."""
    return _full_size("scannet200")


def _full_size(label_set: str) -> Config:
    tower = ClipConfig(architecture="ViT-B-16-quickgelu", pretrained="openai", blocks=6)
    name = f"bifusion_{label_set}"
    return Config(
        name=name,
        recipe=name,
        arm="staged",
        model=BiFusionConfig(tower=tower),
        stages=three_stages(tower.blocks),
        data=scannet200_data(label_set, max_views=VIEWS_FULL),
        optim=OptimConfig(lr=1e-4, weight_decay=0.05, clip_norm=1.0, warmup_steps=500, **_tower_rates()),
        trainer=TrainerConfig(epochs=128, batch_size=4, eval_every=8, evaluation_views=VIEWS_FULL),
    )


def bifusion_small() -> Config:
    """BiFusion, small, for quick trials."""
    tower = ClipConfig(architecture="small", blocks=4)
    return Config(
        name="bifusion_small",
        recipe="bifusion_small",
        arm="staged",
        model=BiFusionConfig(
            unet=small_unet(),
            decoder=small_decoder(score_head=True),
            tower=tower,
            fusion=FusionConfig(dim=96, hidden=192),
        ),
        stages=three_stages(tower.blocks),
        data=small_data(max_views=VIEWS_SMALL),
        optim=dataclasses.replace(small_optim(), **_tower_rates()),
        trainer=small_trainer(),
    )


def _tower_rates() -> dict:
    return {"rates": {"tower.*": 0.1}, "tower_layer_decay": 0.7}


# -------------------------------------------------------------------------------------------- arms


def baseline(base: Config) -> Config:
    """OneFormer3D on the same 3D network, data, length and optimiser: the fair 3D rival.

    The published recipe of OneFormer3D differs in length and augmentation, and for ScanNet20 in its
    network. Here only what makes it OneFormer3D remains: its decoder without scores, its losses.
    """
    bifusion = bifusion_model(base)
    decoder = dataclasses.replace(bifusion.decoder, score_head=False)
    model = OneFormer3DConfig(unet=bifusion.unet, decoder=decoder)
    semantic_weight = 0.2 if base.data.label_set == "scannet20" else 0.5
    return variant(
        base,
        "baseline",
        model=model,
        stages=baseline_plan(semantic_weight),
        data=dataclasses.replace(base.data, max_views=0),
        optim=_optim_without_tower(base),
    )


def without_views(base: Config) -> Config:
    """The same network, losses and stages with alpha = 0: only what images add is missing.

    The 2D branch is not run, as its output would be multiplied by 0, and no image is read.
    """
    stages = tuple(
        dataclasses.replace(
            stage,
            fixed_alpha=0.0,
            fixed_alpha_until=1.0,
            run_2d=False,
            tower_gradient_scale=at_once(0.0),
        )
        for stage in base.stages.stages
    )
    data = dataclasses.replace(base.data, max_views=0)
    return variant(base, "without_views", stages=StagePlan(stages), data=data)


def naive(base: Config) -> Config:
    """S3's formula as it stands: projections without normalisation, everything trained at one rate
    and all losses of `base` but the alignment on from the first step, no isolation, no ramp."""
    model = bifusion_model(base)
    model = dataclasses.replace(model, fusion=dataclasses.replace(model.fusion, head_norm=False))
    stage = Stage(
        name="naive",
        share=1.0,
        trains={"*": at_once(1.0)},
        weights=_held(_reached(base.stages)),
        gate_scale=at_once(1.0),
        tower_gradient_scale=at_once(1.0),
    )
    optim = dataclasses.replace(base.optim, rates={}, tower_layer_decay=1.0)
    return variant(base, "naive", model=model, stages=StagePlan((stage,)), optim=optim)


def plan_a(base: Config) -> Config:
    """S7: no CLIP, simple fusion, semantic loss only, "as simple as the baseline"."""
    model = bifusion_model(base)
    fusion = dataclasses.replace(model.fusion, fusion_type="simple", gate_function="")
    model = dataclasses.replace(model, tower=None, fusion=fusion)
    stage = Stage(
        name="plan_a", share=1.0, trains={"*": at_once(1.0)}, weights={"semantic": at_once(1.0)}
    )
    data = dataclasses.replace(base.data, max_views=0)
    optim = _optim_without_tower(base)
    return variant(base, "plan_a", model=model, stages=StagePlan((stage,)), data=data, optim=optim)


def _optim_without_tower(base: Config) -> OptimConfig:
    """The same rates of all that is left, so that a pretrained 3D network is tuned as slowly."""
    rates = without_tower(base.optim.rates)
    return dataclasses.replace(base.optim, rates=rates, tower_layer_decay=1.0)


def plan_b(base: Config) -> Config:
    """S8: gradient clipping 1.0, learning rate 1e-5, weight decay 1e-6, "numerical stability first"."""
    stable = {"clip_mode": "fixed", "clip_norm": 1.0, "lr": 1e-5, "weight_decay": 1e-6}
    optim = dataclasses.replace(base.optim, **stable)
    return variant(base, "plan_b", optim=optim)


def bifusion_model(base: Config) -> BiFusionConfig:
    """The model of a BiFusion recipe; InputError for another's, which has no such arms."""
    if not isinstance(base.model, BiFusionConfig):
        raise InputError(f"{base.name} is a {base.model_kind} recipe, expected one of BiFusion's")
    return base.model


def variant(base: Config, arm: str, **changes) -> Config:
    """`base` with other fields, named after it and its role in a comparison."""
    name = f"{base.recipe}_{arm}"
    return dataclasses.replace(base, name=name, recipe=name, arm=arm, **changes)
