"""Made-up series of training steps in the proportions of real small runs, and their replay by rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from math import hypot

import numpy as np

from bifusion.config.rules import RulesConfig
from bifusion.config.stages import StageState, Timeline
from bifusion.models.parts import BY_NAME
from bifusion.recipes import get_recipe
from bifusion.step.events import Alarm
from bifusion.step.outcome import StepOutcome
from bifusion.step.rules import Rules

STEPS_PER_EPOCH = 20
EPOCHS = 16
NORMS = {
    "tower": 0.8, "conv1": 1.2, "head_2d": 1.2, "head_3d": 3.0, "backbone": 7.0, "fusion": 4.0,
    "decoder": 9.0,
}  # fmt: skip
"""Usual gradient norms, all losses on and the gate open."""
LOSSES = {
    "semantic": 2.0, "instance_class": 6.0, "mask_bce": 2.0, "mask_dice": 3.0, "score": 0.1,
    "alignment": -0.3,
}  # fmt: skip

GATE_LEARNS = 109
"""About the step from which the gate of bifusion_small is learned."""

Change = Callable[[int, StepOutcome], None]


def steps_of(recipe: str, seed: int, steps: int = EPOCHS * STEPS_PER_EPOCH) -> Iterator[Step]:
    """(step, outcome, state) of a healthy run: losses that fall to a third, norms that spread by half,
    a tenth of the steps without views, and the zeros and gaps that the recipe's stages explain."""
    rng = np.random.default_rng(seed)
    timeline = Timeline(get_recipe(recipe).stages, EPOCHS)
    for step in range(steps):
        state = timeline.at(step / STEPS_PER_EPOCH)
        yield step, _outcome(recipe, step, state, rng), state


Step = tuple[int, StepOutcome, StageState]


def _outcome(recipe: str, step: int, state: StageState, rng: np.random.Generator) -> StepOutcome:
    def noisy(value: float, spread: float) -> float:
        return float(value * math.exp(spread * rng.standard_normal()))

    fused = recipe.startswith("bifusion")
    run_2d = fused and state.control.run_2d
    seen = run_2d and rng.random() > 0.1
    fall = 1 / 3 + 2 / 3 * math.exp(-step / 100)
    outcome = StepOutcome(scenes=[f"room{step % STEPS_PER_EPOCH}"])
    terms = [t for t in LOSSES if t in state.weights and (t != "alignment" or seen)]
    outcome.losses = {t: fall * noisy(LOSSES[t], 0.2) for t in terms}
    outcome.total = sum(state.weights[t] * outcome.losses[t] for t in terms)
    outcome.grad_norm = _norms(fused, run_2d, seen, state, noisy)
    outcome.fusion = _fusion(run_2d, seen, step, state, noisy)
    outcome.fusion["decoder_in"] = {"rms": noisy(0.9, 0.1), "max": 4.0}
    outcome.fusion["class_spread"] = None if recipe.startswith("mask3d") else noisy(0.06, 0.2)
    if step % 25 == 0:
        outcome.update_ratio = {p: noisy(2e-3, 0.5) for p, n in outcome.grad_norm.items() if n}
        del outcome.update_ratio["total"]
    if step % 50 == 0:
        outcome.conflicts = {"semantic|mask_bce": float(rng.uniform(-0.3, 0.3))}
    return outcome


def _norms(fused, run_2d, seen, state, noisy) -> dict[str, float | None]:
    weights = sum(map(abs, state.weights.values())) / 3.1
    opened = state.control.scale + state.weights.get("alignment", 0.0)
    norms: dict[str, float | None] = dict.fromkeys(BY_NAME)
    for path in ("backbone", "decoder", *(["head_3d", "fusion"] if fused else [])):
        if path != "fusion" or state.trains("film"):
            norms[path] = noisy(NORMS[path], 0.35) * weights
    if run_2d and state.trains("head_2d"):
        norms["head_2d"] = noisy(NORMS["head_2d"], 0.5) * weights * opened if seen else 0.0
    scale = state.control.tower_gradient_scale
    for path in ("tower", "conv1"):
        if run_2d and scale > 0:
            norms[path] = noisy(NORMS[path], 0.7) * weights * scale if seen else 0.0
    norms["total"] = hypot(*(norm or 0.0 for norm in norms.values()))
    return norms


def _fusion(run_2d, seen, step, state, noisy) -> dict:
    nothing = {"ranges": None, "cosine": None, "gate": None, "seen_share": None}
    if not run_2d or not seen:
        return nothing | {"seen_share": 0.0 if run_2d else None}
    learned = state.control.fixed_alpha is None
    rms = {"f2d_in": noisy(2.0, 0.05), "f3d_in": noisy(0.75, 0.02)}
    gate = {
        "scale": state.control.scale,
        "alpha_mean": noisy(0.5, 0.04) if learned else 0.5,
        # 0.5 everywhere when it begins to learn
        "alpha_std": min(0.1, 0.001 * max(step - GATE_LEARNS, 0)) if learned else 0.0,
        "learned": learned,
    }
    ranges = {name: {"rms": value, "max": 8 * value} for name, value in rms.items()}
    ranges |= {"ratio_in": rms["f2d_in"] / rms["f3d_in"]}
    return nothing | {"ranges": ranges, "gate": gate, "seen_share": min(noisy(0.48, 0.1), 1.0)}


def replay(rules: Rules, steps: Iterator[Step], change: Change | None = None) -> list[tuple[int, Alarm]]:
    """Every alarm of the steps, all of which are taken; `change` may alter an outcome beforehand."""
    alarms = []
    for step, outcome, state in steps:
        if change is not None:
            change(step, outcome)
        for alarm in rules.judge(outcome, state) + rules.accept(outcome, state):
            alarms.append((step, alarm))
    return alarms


LATE = 280
"""A step of the last stage, in which all paths train."""


def at(step: int, *changes):
    """A change of single steps from `step` on; each is called with the outcome."""

    def change(now: int, outcome: StepOutcome) -> None:
        if now >= step:
            for each in changes:
                each(outcome)

    return change


def once(step: int, change):
    return lambda now, outcome: change(outcome) if now == step else None


def alarms_of(recipe="bifusion_small", change=None, *, steps=320, config=None):
    rules = Rules(config or RulesConfig())
    return [
        (step, alarm.rule, alarm.where)
        for step, alarm in replay(rules, steps_of(recipe, 0, steps), change)
    ]
