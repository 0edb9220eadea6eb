"""Thresholds of the rules that watch a training run, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from bifusion.bounds import (
    AtMost,
    Cosine,
    Count,
    Interval,
    NotNegative,
    PositiveFloat,
    PositiveInt,
    Share,
)
from bifusion.errors import InputError
from bifusion.spelling import did_you_mean

RuleAction = Literal["warn", "skip", "off"]

SPIKE_RULES = ("loss_spike", "gradient_spike", "statistics_spike")
RULES = (
    *SPIKE_RULES, "vanishing_gradient", "exploding_gradient", "update_ratio", "gradient_ratio",
    "feature_range", "conflict", "class_collapse", "gate_collapse", "seen_share", "view_agreement",
    "loss_scale",
)  # fmt: skip


@dataclass
class RulesConfig:
    """When a figure of a training step counts as unhealthy.

    "Usual" is the median over a window of steps that were taken. What healthy small runs on generated
    rooms show stands beside each threshold as "healthy": OneFormer3D, Mask3D, BiFusion and BiFusion
    without views, three seeds of 800 steps each, and five of 400 (`make healthy`). Nothing here can be
    moved by a value that is not finite.
    """

    actions: dict[str, RuleAction] = field(default_factory=dict)
    """Rule -> "warn" (the default of all), "off", or, for loss_spike, gradient_spike and
    statistics_spike, which are judged before the optimiser acts, "skip": nothing of the step is kept."""

    # ------------------------------------------------------------------------------- how to look
    window: Annotated[PositiveInt, AtMost("reach")] = 64
    """Steps whose median is the usual: some epochs of a small set, short beside any schedule."""
    reach: PositiveInt = 200
    """Steps over which the worst value so far is known; Mask3D's gradient norm has a heavy tail (a
    hundred times the usual, once in some hundred steps) that a median and MAD do not tell. Nothing
    that was longer ago is remembered."""
    min_history: Annotated[PositiveInt, AtMost("window")] = 20
    """Steps before a usual is trusted; until then the caps alone judge."""
    recent: Annotated[PositiveInt, AtMost("reach", times=4)] = 8
    """Trends are judged by the median of so many steps: five odd ones are needed to raise an alarm."""
    calm: PositiveInt = 20
    """Looks in order until a trend's alarm has cleared and can be raised again."""
    spike_calm: PositiveInt = 400
    """Steps without a spike until another of the same rule is told, unless it is twice as far above its
    bound; where spikes skip the step, all are. Some networks have one now and then, as Mask3D does."""

    # ------------------------------------------------------------------------------------ spikes
    loss_ratio: PositiveFloat = 4.0
    """A loss spike is so many times the usual total loss (healthy: up to 3.4, where a view-less scene
    meets a model that relies on views) …"""
    loss_deviations: NotNegative = 6.0
    """… and so many standard deviations (from the MAD) above it (healthy: up to 7.4, but none of them
    above both)."""
    gradient_ratio: PositiveFloat = 6.0
    """A spike of the total gradient norm, per unit of loss weight: so many times the usual (healthy: up
    to 5, apart from Mask3D) …"""
    gradient_deviations: NotNegative = 4.0
    """… and so many standard deviations of the logarithm: norms spread by factors, not by sums."""
    path_ratio: PositiveFloat = 50.0
    """A single path's norm has jumped to so many times its usual, though the total hides it (healthy: up
    to 40): the second moments of its parameters would carry it for a thousand steps."""
    stage_slack: PositiveFloat = 5.0
    """In the first `min_history` steps of a stage, which may train parts that were frozen, both ratios
    of gradients are so many times as large (healthy: no change where stages ramp, as ours do)."""
    worst_ratio: PositiveFloat = 1.5
    """A spike of the loss, or of a gradient norm, is besides so many times the worst value within
    `reach`."""
    variance_growth: PositiveFloat = 10.0
    """A step may multiply a BatchNorm's running variance so many times: at a momentum of 0.1 the batch's
    own is then ninety times the usual (healthy: below 2, in the first steps too)."""
    loss_cap: PositiveFloat = 1000.0
    """While the window is short: ten times the first total loss of any recipe (Mask3D: 91)."""
    gradient_cap: PositiveFloat = 1e4
    """While the window is short: ten times the largest first gradient norm (Mask3D: 930)."""

    # --------------------------------------------------------------------------- gradient paths
    vanishing_ratio: NotNegative = 1e-3
    """A path's gradient norm has died below this part of its usual (healthy: from 0.1 up) …"""
    vanishing_share: Share = 1e-6
    """… or below this part of the total (healthy: from 1e-4 up), near float32's resolution of 1e-7."""
    exploding_ratio: PositiveFloat = 20.0
    """A path's gradient norm has grown to so many times its usual, for steps in a row (healthy: up to
    6.8)."""
    balance: Interval = (1e-3, 30.0)
    """Range of the 2D branch's gradient norm relative to the 3D network's, once the gate is open
    (healthy: about 0.2, single steps from 6e-3 to 11): outside it, clipping by the common norm lets only
    one of them learn."""

    # ---------------------------------------------------------------------------------- updates
    updates_every: Count = 50
    """Steps between measurements of ‖Δw‖/‖w‖ by path, 0: never. Each costs a copy of the trained weights
    (some tenths of a second for 90 M on a CPU)."""
    update_range: Interval = (1e-9, 0.1)
    """A tenth of the weights in one step leaves nothing of them in ten; below 1e-9 float32 weights do
    not move at all: its resolution is 6e-8, and single weights move more than the mean. Healthy: 8e-6 to
    1e-2 (2e-7 in the image tower at the rate of Plan B)."""

    # --------------------------------------------------------------------------------- features
    feature_change: PositiveFloat = 10.0
    """Factor by which the root mean square of features at the input of the heads or of the decoder may
    differ from its usual, either way (healthy: up to 1.7)."""
    feature_ratio: Interval = (0.01, 100.0)
    """Range of 2D over 3D features before the heads (healthy: 2.5 to 6.5). Beyond a hundred, one of them
    is lost in the other's rounding in bfloat16 (8 bits) where they are added without normalisation."""

    # -------------------------------------------------------------------------------- conflicts
    conflicts_every: Count = 50
    """Steps between measurements of the cosines between loss terms, 0: never."""
    conflict_cosine: Cosine = -0.8
    """Two terms undo each other where the median cosine of their gradients is below this: of two equally
    large gradients less than a third is left then. Healthy: -0.2 and above."""
    conflict_expected: tuple[str, ...] = ("mask_bce|mask_dice",)
    """Pairs that are recorded but raise no alarm. Before masks are found BCE asks for the background,
    which is most of a scene, and Dice for the foreground: single cosines lie anywhere between -1 and 1,
    their median down to -0.95 where a rate is so low that masks stay as they began (Plan B)."""

    # -------------------------------------------------------------------------------- prediction
    class_spread: NotNegative = 3e-3
    """Standard deviation of the semantic logits among a scene's superpoints below which the model says
    one class for all (healthy: from 0.03 up, naive fusion from 0.01, in the first steps too). Where a
    rate is ten times too high it falls below within twenty steps, while losses fall on as the classes'
    shares are learned."""

    # ------------------------------------------------------------------------------- fusion, data
    gate_mean: Interval = (0.3, 0.7)
    """Mean α of the seen points, while it is learned; the range of SPEC's fusion criterion."""
    gate_spread: NotNegative = 2e-3
    """Standard deviation of α among the seen points below which the gate tells no point from another
    (healthy: 0.01 after 15 steps, 0.1 later) …"""
    gate_patience: Annotated[Count, AtMost("reach")] = 100
    """… after so many steps of learning: it starts at 0.5 everywhere. Less, once it had a spread."""
    seen_drop: Share = 0.5
    """The share of seen points has fallen below this part of its usual. View dropout hides single
    scenes, so the median over four times `recent` steps is judged (healthy: from 0.69 up)."""
    seen_least: Share = 0.01
    """A smaller share means that poses, intrinsics or depth are wrong from the start."""
    min_loss_scale: NotNegative = 16.0
    """The scaler of float16 starts at 65,536 and halves with every overflow; below 16, gradients under
    about 4e-9, common in large networks, are rounded to 0."""

    def __post_init__(self) -> None:
        for rule, action in self.actions.items():
            if rule not in RULES:
                raise InputError(
                    f"trainer.guard.rules.actions: unknown rule {rule!r}{did_you_mean(rule, RULES)}; "
                    f"known are {', '.join(RULES)}"
                )
            if action == "skip" and rule not in SPIKE_RULES:
                raise InputError(
                    f"trainer.guard.rules.actions: {rule} cannot skip a step, it is judged once the "
                    f"step was taken; 'skip' is for {' and '.join(SPIKE_RULES)}, use 'warn' or 'off'"
                )

    def action(self, rule: str) -> RuleAction:
        """What follows where `rule` fires."""
        return self.actions.get(rule, "warn")
