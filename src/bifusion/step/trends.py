"""What the steps taken so far say about a training's health: findings, in order or not.

Each function takes a step's figures into the windows and judges them. Zeros and gaps that the stage
explains are neither: a path that is frozen, isolated or shut by the gate has no gradient to judge, nor
has the 2D branch in a step whose scenes no view sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import hypot, inf
from statistics import median

from bifusion.config.rules import RulesConfig
from bifusion.config.stages import StageState
from bifusion.losses.terms import acts_on_fusion
from bifusion.models.parts import BY_NAME, Part, is_of_tower, part_of_group
from bifusion.step.outcome import StepOutcome
from bifusion.step.robust import Windows, finite

PARTS_2D = [part for part in BY_NAME.values() if part.path == "2d"]
OPEN_GATE = 0.5
"""Gate scale from which the 2D branch's gradient has its full size, or nearly."""


@dataclass(frozen=True)
class Finding:
    """A figure that a rule has looked at."""

    rule: str
    where: list[str]
    bad: bool
    value: float
    threshold: float
    message: str
    scenes: list[str] = field(default_factory=list)
    """Where they are others than the step's."""


Trend = Callable[[Windows, RulesConfig, StepOutcome, StageState], Iterator[Finding]]


def weight_sum(state: StageState) -> float:
    """Σ |weight| of the loss terms; gradients grow with it where a stage ramps its losses."""
    return sum(abs(weight) for weight in state.weights.values())


def gradient_drive(part: Part, state: StageState) -> float:
    """How far the stage lets gradient through to `part`, relative to when all is open; 0: not at all."""
    if part.path != "2d":
        return 1.0
    control = state.control
    if not control.run_2d:
        return 0.0
    through_gate = 0.0 if control.fixed_alpha == 0 else control.scale
    past_gate = sum(abs(weight) for term, weight in state.weights.items() if acts_on_fusion(term))
    drive = through_gate + past_gate / max(weight_sum(state), 1e-12)
    return drive * control.tower_gradient_scale if is_of_tower(part.groups[0]) else drive


def gradient_paths(
    windows: Windows, config: RulesConfig, outcome: StepOutcome, state: StageState
) -> Iterator[Finding]:
    """Gradient norms of single paths: dying, and growing for steps in a row."""
    total, weights = finite(outcome.grad_norm.get("total")), weight_sum(state)
    if not total or not weights:
        return
    for path, part in BY_NAME.items():
        drive, series = gradient_drive(part, state), f"path.{path}"
        norm = finite(outcome.grad_norm.get(path))
        if norm is None or drive == 0:
            continue
        if norm == 0 and _needs_no_gradient(part, outcome, first=series not in windows.series):
            continue
        windows.push(series, norm / drive / weights)
        windows.push(f"share.{path}", norm / drive / total)
        yield from _path_findings(path, windows, config)


def _needs_no_gradient(part: Part, outcome: StepOutcome, *, first: bool) -> bool:
    """Whether a path that trains may have none in this step: no view sees a point, or nothing of the
    fusion is learned yet while α is fixed; `first`: the path has had none in this stage."""
    if part.path not in ("2d", "fusion"):
        return False
    if not finite(outcome.fusion.get("seen_share")):
        return True
    return part.path == "fusion" and first and not (outcome.fusion.get("gate") or {}).get("learned")


def _path_findings(path: str, windows: Windows, config: RulesConfig) -> Iterator[Finding]:
    series = f"path.{path}"
    recent = windows.last(series, config.recent)
    if len(recent) < config.recent:
        return
    now, where = median(recent), [f"gradient.{path}"]
    share = median(windows.last(f"share.{path}", config.recent))
    starved = Finding(
        "vanishing_gradient", where, share < config.vanishing_share, share, config.vanishing_share,
        f"{path} has next to nothing of the whole gradient, so that clipping by the common norm leaves "
        "it none; look at the path that has grown, or lower its learning rate",
    )  # fmt: skip
    message = (
        f"no gradient reaches {path}; look for a detached, saturated or constant part on its way to the "
        "loss"
    )
    before = windows.before(series, config.recent)[-config.window :]
    if len(before) < config.min_history:
        yield starved if now else replace(starved, message=message)
        return
    usual = median(before)
    least = usual * config.vanishing_ratio
    # A path that died stays dead when the usual has become zero too.
    dead = Finding("vanishing_gradient", where, now <= least, now, least, message)
    yield dead if dead.bad else starved
    most = usual * config.exploding_ratio
    if most > 0:
        message = f"the gradient of {path} has grown for steps in a row; lower its learning rate"
        yield Finding("exploding_gradient", where, now > most, now, most, message)


def gradient_balance(
    windows: Windows, config: RulesConfig, outcome: StepOutcome, state: StageState
) -> Iterator[Finding]:
    """Gradient norm of the 2D branch relative to the 3D network's."""
    norms = [finite(outcome.grad_norm.get(part.name)) for part in PARTS_2D]
    of_3d = finite(outcome.grad_norm.get("backbone"))
    of_2d = hypot(*(norm or 0.0 for norm in norms))
    if (
        state.control.scale < OPEN_GATE
        or gradient_drive(BY_NAME["head_2d"], state) == 0
        or not of_2d
        or not of_3d
    ):
        return
    windows.push("balance", of_2d / of_3d)
    yield from _outside(
        "gradient_ratio", ["gradient.2d", "gradient.3d"], windows.last("balance", 2 * config.recent),
        config.recent, config.balance,
        "2D and 3D gradients differ by orders of magnitude; scale the CLIP gradient or the rates",
    )  # fmt: skip


def updates(
    windows: Windows, config: RulesConfig, outcome: StepOutcome, state: StageState
) -> Iterator[Finding]:
    """‖Δw‖/‖w‖ of each path, where it was measured, a gradient came and some group has a rate."""
    for path, ratio in (outcome.update_ratio or {}).items():
        has_rate = any(state.lr_factor(group) for group in _groups_of(path, state))
        if not has_rate or not finite(outcome.grad_norm.get(path)):
            continue
        windows.push(f"update.{path}", ratio)
        yield from _outside(
            "update_ratio", [f"optimizer.{path}"], windows.last(f"update.{path}", 3), 2,
            config.update_range,
            f"a step moves {path} too far or not at all; check its learning rate and weight decay",
        )  # fmt: skip


def _groups_of(path: str, state: StageState) -> list[str]:
    """Names that stand for the path's parameter groups when the stage is asked about them."""
    part = BY_NAME[path]
    return [*part.groups, *(name for name in state.stage.trains if part_of_group(name) is part)]


def features(
    windows: Windows, config: RulesConfig, outcome: StepOutcome, state: StageState
) -> Iterator[Finding]:
    """Ranges before the heads and before the decoder, each against its usual, and 2D against 3D."""
    ranges = outcome.fusion.get("ranges") or {}
    places = {name: ranges.get(name) for name in ("f2d_in", "f3d_in")}
    places["decoder_in"] = outcome.fusion.get("decoder_in")
    message = "features have left their usual range; a layer before them diverges or its input is wrong"
    for place, figures in places.items():
        rms, series = finite((figures or {}).get("rms")), f"range.{place}"
        if rms is None:
            continue
        before = windows.last(series, config.window)
        if rms:  # features that are all 0 are to be told, never to become the usual
            windows.push(series, rms)
        if len(before) < config.recent:
            continue
        usual = median(before)
        low, high = usual / config.feature_change, usual * config.feature_change
        threshold = high if rms >= usual else low
        bad = not low <= rms <= high
        yield Finding("feature_range", [f"activation.{place}"], bad, rms, threshold, message)
    ratio = finite(ranges.get("ratio_in"))
    if ratio is not None:
        yield from _outside(
            "feature_range", ["activation.f2d_in", "activation.f3d_in"], [ratio], 1,
            config.feature_ratio,
            "2D and 3D features before the heads differ by orders of magnitude; normalise one of them",
        )  # fmt: skip


def conflicts(
    windows: Windows, config: RulesConfig, outcome: StepOutcome, state: StageState
) -> Iterator[Finding]:
    """Cosines between the gradients of loss terms, where measured."""
    for pair, cosine in (outcome.conflicts or {}).items():
        if pair in config.conflict_expected:
            continue
        windows.push(f"conflict.{pair}", cosine)
        measured = windows.last(f"conflict.{pair}", config.recent)
        if len(measured) < config.recent // 2:
            continue
        now = median(measured)
        where = [f"loss.{term}" for term in pair.split("|")]
        terms = " and ".join(pair.split("|"))
        message = f"{terms} pull shared weights apart; lower the weight of one, or let it come later"
        bad = now < config.conflict_cosine
        yield Finding("conflict", where, bad, now, config.conflict_cosine, message)


def classes(
    windows: Windows, config: RulesConfig, outcome: StepOutcome, state: StageState
) -> Iterator[Finding]:
    """Whether the semantic head, where there is one, tells superpoints apart."""
    spread = finite(outcome.fusion.get("class_spread"))
    if spread is None:
        return
    windows.push("class.spread", spread)
    yield from _outside(
        "class_collapse", ["activation.semantic_logits"], windows.last("class.spread", config.recent),
        config.recent, (config.class_spread, inf),
        "every superpoint is given the same class; lower the learning rate, which may have undone the "
        "decoder for good",
    )  # fmt: skip


def gate(
    windows: Windows, config: RulesConfig, outcome: StepOutcome, state: StageState
) -> Iterator[Finding]:
    """Mean and spread of α on the seen points, while the gate is learned and acts."""
    figures = outcome.fusion.get("gate") or {}
    if not figures.get("learned"):
        return
    mean, spread = finite(figures.get("alpha_mean")), finite(figures.get("alpha_std"))
    if mean is None or spread is None:
        return
    windows.push("gate.mean", mean)
    windows.push("gate.spread", spread)
    message = (
        "the gate has settled on one branch; keep α fixed for longer, or balance the branches' ranges"
    )
    means = windows.last("gate.mean", config.recent)
    yield from _outside("gate_collapse", ["gate.mean"], means, config.recent, config.gate_mean, message)
    spreads = windows.last("gate.spread", config.reach)
    had_spread = max(spreads) >= 5 * config.gate_spread
    if len(spreads) >= (config.recent if had_spread else config.gate_patience):
        now = median(spreads[-config.recent :])
        message = (
            "the gate gives every point the same weight; its inputs may be constant or its layers dead"
        )
        bad = now < config.gate_spread
        yield Finding("gate_collapse", ["gate.spread"], bad, now, config.gate_spread, message)


def seen_points(
    windows: Windows, config: RulesConfig, outcome: StepOutcome, state: StageState
) -> Iterator[Finding]:
    """Share of the points that a view sees: fallen, or next to nothing."""
    windows.push("seen", outcome.fusion.get("seen_share"))
    count = 4 * config.recent
    recent, before = windows.last("seen", count), windows.before("seen", count)
    if len(recent) < count:
        return
    least = config.seen_least
    if len(before) >= config.min_history:
        least = max(least, config.seen_drop * median(before))
    message = (
        "views see fewer and fewer points; check the poses, intrinsics and depth of the scenes at hand"
    )
    yield Finding("seen_share", ["fusion.seen"], median(recent) < least, median(recent), least, message)


def loss_scale(
    windows: Windows, config: RulesConfig, outcome: StepOutcome, state: StageState
) -> Iterator[Finding]:
    """The gradient scaler's factor, which overflows have driven down."""
    scale, least = finite(outcome.loss_scale), config.min_loss_scale
    if scale is not None:
        message = "float16 gradients overflow again and again; train in bf16-mixed or 32-true"
        yield Finding("loss_scale", ["optimizer.scaler"], scale < least, scale, least, message)


TRENDS: tuple[Trend, ...] = (
    gradient_paths, gradient_balance, updates, features, conflicts, classes, gate, seen_points,
    loss_scale,
)  # fmt: skip


def _outside(
    rule: str,
    where: list[str],
    values: list[float],
    count: int,
    bounds: tuple[float, float],
    message: str,
) -> Iterator[Finding]:
    """Whether the median of `values`, at least `count` of them, lies outside `bounds`."""
    if len(values) < count:
        return
    low, high = bounds
    now = median(values)
    threshold = low if now < (low + high) / 2 else high
    yield Finding(rule, where, not low <= now <= high, now, threshold, message)
