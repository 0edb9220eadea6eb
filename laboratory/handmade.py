"""Hand-made faults: what recordings, exports, configurations and long runs are known to do.

Labels say what a user needs. must-reject: the input is wrong by itself, and whoever reads it can tell.
must-alarm: it only shows in training. must-work: poor or odd, and nothing is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bifusion.config.run import Config
from bifusion.rng import numpy_rng
from laboratory import scenes as edits
from laboratory import states
from laboratory.faults import Expected, Fault, Injection
from laboratory.scenes import EditedScene

EPOCH = 4
"""Steps in which a fault of one scene, which not every step shows, has to come to light."""
TREND = 26
"""Steps in which a trend has to come to light: five of eight, seventeen of thirty-two."""

REJECTED = Expected("must-reject", scenes="victim")
WORKS = Expected("must-work")


def handmade(seed: int) -> list[Fault]:
    """All of them; the seed chooses among equals (groups, weights, statistics)."""
    return [
        *_rejected_scenes(),
        *_rejected_configurations(),
        *_misleading_views(),
        *_broken_samples(),
        *_poisoned_states(seed),
        *_numerics(seed),
        *_unhealthy_trends(),
        *_poor_scenes(),
    ]


def _bifusion(name: str, expected: Expected, injection: Injection, why: str) -> Fault:
    return Fault(name, "bifusion_small", expected, injection, why)


def _choose(seed: int, purpose: str, names: Sequence[str]) -> str:
    return names[int(numpy_rng(seed, "choice", purpose).integers(len(names)))]


def _rejected_scenes() -> list[Fault]:
    table = {
        "image file cut short": edits.cut_short("views/*.jpg"),
        "image file overwritten": edits.overwritten("views/*.jpg"),
        "depth image cut short": edits.cut_short("views/*.png"),
        "depth image missing": edits.removed("views/*.png"),
        "cameras file cut short": edits.cut_short("views/cameras.npz"),
        "intrinsics of another image size": edits.cameras(edits.of_another_size),
        "mirrored poses": edits.cameras(edits.mirrored_poses),
        "poses of lost tracking": edits.cameras(edits.lost_poses),
        "NaN coordinates": edits.array("coord", edits.nan_in),
        "NaN colour": edits.array("color", edits.nan_in),
        "class out of range": edits.array("segment20", lambda x: np.where(x == x.max(), 57, x)),
        "no points": edits.array("coord", lambda x: x[:0]),
        "fewer labels than points": edits.array("segment20", lambda x: x[:-7]),
        "coordinates in another unit": edits.array("coord", lambda x: x * np.float32(1e6)),
    }
    why = "wrong by itself: reading it must say so, naming the file"
    return [_bifusion(name, REJECTED, EditedScene(edit), why) for name, edit in table.items()]


def _rejected_configurations() -> list[Fault]:
    def nan_rate(config: Config) -> None:
        config.optim.lr = math.nan

    def infinite_clipping(config: Config) -> None:
        config.optim.clip_norm = math.inf

    def beta_of_one(config: Config) -> None:
        config.optim.betas = (0.9, 1.0)

    expected = Expected("must-reject", scenes="any")
    table = {
        "learning rate NaN": nan_rate,
        "clipping at infinity": infinite_clipping,
        "second beta of 1": beta_of_one,
    }
    why = "no training can work with it: the configuration must be refused, naming the field"
    return [_bifusion(n, expected, states.EditedConfig(edit), why) for n, edit in table.items()]


def _misleading_views() -> list[Fault]:
    """Sound by themselves, wrong for their scene."""
    table = {
        "wrong intrinsics": edits.cameras(edits.twice_the_focal_length),
        "inverted poses": edits.cameras(edits.inverted_poses),
        "poses of another frame": edits.cameras(edits.poses_elsewhere),
        "mirrored images": edits.images("jpg", edits.mirrored),
        "images of another scene": edits.images_of_another_scene,
        "depth in another unit": edits.images("png", edits.tenfold),
    }
    expected = Expected("must-alarm", by="alarm", scenes="victim", within=EPOCH, at_once=True)
    why = "every file is sound, but colour or depth contradict the scene's points"
    return [_bifusion(name, expected, EditedScene(edit), why) for name, edit in table.items()]


def _broken_samples() -> list[Fault]:
    table = {
        "infinite features in one scene of two": (states.infinite_features, "input.voxel_feats"),
        "NaN positions": (states.nan_positions, "input.voxel_position_m"),
        "NaN in a decoded image": (states.nan_image, "input.views.*.image"),
        "NaN in a depth map": (states.nan_depth, "input.views.*.image_depth_m"),
    }
    why = "a number of the input itself is not finite"
    faults = []
    for name, (edit, place) in table.items():
        expected = Expected("must-alarm", places=(place,), scenes="victim", verdict="data")
        faults.append(_bifusion(name, expected, states.EditedSample(edit), why))
    return faults


GROUPS = ("backbone", "decoder", "head_2d", "head_3d", "film", "gate", "tower.block3")
WEIGHTS = (
    "unet.input_conv.weight",
    "unet.up.0.conv.weight",
    "fusion.head_3d.0.weight",
    "fusion.head_2d.0.weight",
    "tower.blocks.1.mlp.c_fc.weight",
    "decoder.x_mask.0.weight",
    "decoder.ffn_layers.0.net.0.weight",
)
NORMS = ("unet.output_norm", "unet.encoder.0.0.conv1.norm", "unet.decoder.0.0.conv2.norm")


def _poisoned_states(seed: int) -> list[Fault]:
    group = _choose(seed, "group", GROUPS)
    weight = _choose(seed, "weight", WEIGHTS)
    norm = _choose(seed, "norm", NORMS)

    def of_optimizer(name: str, moment: str, value: float) -> Fault:
        expected = Expected("must-alarm", places=(f"optimizer.{group}",), verdict="state")
        injection = states.PoisonedMoment(group, moment, value)
        why = "the next update would carry it into the weights"
        return _bifusion(f"{name} ({group})", expected, injection, why)

    def of_statistics(name: str, statistic: str, value: float) -> Fault:
        expected = Expected("must-alarm", places=("buffers.backbone",), verdict="state")
        injection = states.PoisonedTensor(f"{norm}.{statistic}", value)
        why = "training does not read it, every evaluation does"
        return _bifusion(f"{name} ({norm})", expected, injection, why)

    owner = weight.rsplit(".", 1)[0]
    of_weight = Expected("must-alarm", module=owner, verdict="state")
    return [
        of_optimizer("NaN in the first moment", "exp_avg", math.nan),
        of_optimizer("infinite second moment", "exp_avg_sq", math.inf),
        of_optimizer("negative second moment", "exp_avg_sq", -1.0),
        _bifusion(
            f"NaN in a weight ({weight})",
            of_weight,
            states.PoisonedTensor(weight, math.nan),
            "every step fails until the weights are put back",
        ),
        of_statistics("NaN in a running mean", "running_mean", math.nan),
        of_statistics("infinite running variance", "running_var", math.inf),
        of_statistics("negative running variance", "running_var", -1e3),
    ]


HALVES = (
    "unet.input_conv",
    "unet.encoder.1.0.conv1.conv",
    "fusion.head_3d.0",
    "tower.blocks.0.mlp.c_fc",
)


def _numerics(seed: int) -> list[Fault]:
    module = _choose(seed, "half", HALVES)
    return [
        _bifusion(
            f"float16 overflow ({module})",
            Expected("must-alarm", module=module, verdict="numerics"),
            states.OverflowInHalf(module),
            "infinite in float16, finite in float32",
        ),
        _bifusion(
            "loss scale underflow",
            Expected("must-alarm", by="alarm", rules=("loss_scale",), scenes="any", within=2),
            states.LossScale(2.0**-14),
            "small gradients vanish in float16 when the scaler divides instead of magnifying",
        ),
        _bifusion(
            "full mask row",
            WORKS,
            states.FullMaskRow("decoder.cross_attn_layers.0.attn"),
            "a query that may look at nothing must not turn into NaN",
        ),
        _bifusion(
            "invalid matching cost in one scene",
            Expected("must-alarm", places=("matching.cost",), scenes="victim"),
            states.HugeMasks(one_scene=True),
            "logits are finite, the cost summed over superpoints is not",
        ),
        _bifusion(
            "invalid matching cost",
            Expected("must-alarm", places=("matching.cost",)),
            states.HugeMasks(one_scene=False),
            "logits are finite, the cost summed over superpoints is not",
        ),
        _bifusion(
            "learning rate × 1000",
            Expected("must-alarm", by="alarm", scenes="any", within=EPOCH, completes=False),
            states.LearningRate(1000.0),
            "weights move by more than their own size",
        ),
    ]


def _unhealthy_trends() -> list[Fault]:
    def trend(
        name: str, rule: str, injection: Injection, why: str, places: tuple[str, ...] = ()
    ) -> Fault:
        expected = Expected(
            "must-alarm",
            by="alarm",
            rules=(rule,),
            places=places,
            scenes="any",
            within=TREND,
            lasting=True,
        )
        return _bifusion(name, expected, injection, why)

    bias = "fusion.gate.mlp.2.bias"
    return [
        trend("gate at 0", "gate_collapse", states.PoisonedTensor(bias, -30.0), "no image gets through"),
        trend(
            "gate at 1", "gate_collapse", states.PoisonedTensor(bias, 30.0), "no geometry gets through"
        ),
        trend(
            "still gate",
            "gate_collapse",
            states.StillGate(),
            "it says the same of every voxel and never learns",
        ),
        trend(
            "one class for all",
            "class_collapse",
            states.PoisonedTensor("decoder.out_norm.weight", 0.0, everywhere=True),
            "queries that are all alike get one class",
            ("activation.semantic_logits",),
        ),
        trend(
            "dying gradient of the 3D path",
            "vanishing_gradient",
            states.ScaledGradient("unet.output_norm", 1e-9),
            "the 3D network has stopped learning",
            ("gradient.backbone",),
        ),
        trend(
            "exploding gradient of the decoder",
            "*",
            states.ScaledGradient("decoder.input_proj.2", 1e4),
            "every step is clipped to what one path wants",
        ),
        trend(
            "opposed losses",
            "conflict",
            states.OpposedLosses(("decoder.out_sem", "decoder.out_cls")),
            "two terms undo each other's work on the weights they share",
        ),
        trend(
            "views that see nothing",
            "*",
            EditedScene(edits.cameras(edits.poses_elsewhere), everywhere=True),
            "images are read and reach no point of any scene",
        ),
    ]


def _poor_scenes() -> list[Fault]:
    table = {
        "no views": edits.removed("views"),
        "no annotation": edits.removed("segment20.npy", "instance.npy"),
        "all points unlabelled": edits.array("segment20", lambda x: np.full_like(x, -1)),
        "one instance": edits.one_instance,
        "no instances": edits.array("instance", lambda x: np.full_like(x, -1)),
        "one superpoint": edits.array("superpoint", np.zeros_like),
        "every point a superpoint": edits.array(
            "superpoint", lambda x: np.arange(len(x), dtype=x.dtype)
        ),
        "one colour": edits.array("color", lambda x: np.full_like(x, 128)),
        "seen by no view": edits.seen_by_no_view,
        "no measured depth, so no superpoint seen": edits.images("png", edits.unmeasured),
        "map coordinates": edits.moved_far,
    }
    fragments = {
        "single voxel": edits.fragment(edits.within_a_centimetre),
        "single point": edits.fragment(lambda coord: np.arange(1)),
    }
    why, spike = "poor, but nothing is wrong with it", Expected("must-work", rules=("gradient_spike",))
    after = f"{why}; the steps after it may have seven times the usual gradient, which may be told"
    return [
        *(_bifusion(name, WORKS, EditedScene(edit), why) for name, edit in table.items()),
        *(_bifusion(name, spike, EditedScene(edit), after) for name, edit in fragments.items()),
    ]
