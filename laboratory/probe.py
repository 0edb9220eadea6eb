"""What a fault does to a step that nobody guards: the measure by which drawn faults are labelled.

The same step is computed with and without the fault, with plain torch, no guard and no rule. A number
that is not finite afterwards is one a user must hear of; so is a figure that is thirty times what it is
without the fault, and thirty times its usual.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from bifusion.config.optim import freeze_outside_stage
from bifusion.losses.matcher import NonFiniteCostError
from bifusion.rng import derive_seed
from bifusion.step.observe import gradient_norms, norms_by_path, observe
from bifusion.step.step import weighted_total
from laboratory.bench import Workshop
from laboratory.faults import Injection, Site
from laboratory.tiny import STEPS_PER_EPOCH

MATERIAL = 30.0
"""Growth of a figure that must be seen: far outside of what one batch does to the next (3 at most)."""
HARMLESS = 2.0
"""Growth that nobody needs to hear of."""
WINDOW = 64
"""Steps whose median is the usual, beside the very step without the fault."""
SMALL_LOSS = 0.05
"""Losses below this count as this: a growth from nothing is none."""


@dataclass
class Effect:
    """A step with a fault against the same step without."""

    nonfinite: bool
    """A loss, gradient, moved statistic or what enters the fusion is not finite."""
    growth: dict[str, float] = field(default_factory=dict)
    """"loss.mask_bce", "gradient.backbone", "activation.f2d_in" … -> factor by which it grew."""

    @property
    def material(self) -> list[str]:
        """What grew thirtyfold or more."""
        return [name for name, factor in self.growth.items() if factor >= MATERIAL]

    @property
    def harmless(self) -> bool:
        """Finite, and nothing grew by more than a good step's share."""
        return not self.nonfinite and all(factor <= HARMLESS for factor in self.growth.values())


@dataclass
class ModuleUse:
    """How a module of the model takes part in the step."""

    rows_known: bool
    """Each of its output's rows is known to be of one scene."""
    has_gradient: bool
    """A gradient reaches its output."""


class Probe:
    """Computes step `site.step` of `recipe` from the healthy state, again and again."""

    def __init__(self, workshop: Workshop, recipe: str, site: Site):
        self.bench = workshop.bench(recipe, site, Injection(), workshop.folder / "probe" / recipe)
        trainer = self.bench.trainer
        trainer.progress = trainer.saving.take_up()
        trainer.progress.step = site.step
        trainer.progress.epoch, trainer.progress.batch = divmod(site.step, STEPS_PER_EPOCH)
        self.state = trainer.timeline.at(site.step / STEPS_PER_EPOCH)
        freeze_outside_stage(trainer.take_step.may_train, self.state)
        self.batch = trainer.batches.of_step(trainer.progress.epoch, trainer.progress.batch)[0]
        self.healthy = copy.deepcopy(trainer.model.state_dict())
        trainer.model.train()
        self.reference = self._figures()
        for name, usual in _usual(trainer.folder.steps).items():
            if name in self.reference:
                self.reference[name] = max(self.reference[name], usual)

    def modules(self) -> dict[str, ModuleUse]:
        """The leaf modules that the step calls and whose output is theirs alone, by name."""
        model, rows = self.bench.trainer.model, self.bench.rows
        used: dict[str, ModuleUse] = {}
        handles = []
        for name, module in model.named_modules():
            if any(module.children()) and not isinstance(module, nn.MultiheadAttention):
                continue
            if isinstance(module, nn.Identity | nn.Dropout):
                continue  # they hand on what they get: a fault in them is one of the module before

            def note(module: nn.Module, args: tuple, output: object, name: str = name) -> None:
                tensor = _tensor(output)
                known = rows.of(name, tensor) is not None
                earlier = used.get(name, ModuleUse(True, False))
                used[name] = ModuleUse(
                    rows_known=known and earlier.rows_known,
                    has_gradient=tensor.requires_grad or earlier.has_gradient,
                )

            handles.append(module.register_forward_hook(note))
        self._figures()
        for handle in handles:
            handle.remove()
        return used

    def effect(self, injection: Injection) -> Effect:
        """What the fault does to the step."""
        hooks = _count_hooks(self.bench.trainer.model)
        injection.attach(self.bench)
        figures = self._figures()
        _drop_hooks(self.bench.trainer.model, hooks)
        if not all(math.isfinite(value) for value in figures.values()):
            return Effect(nonfinite=True)
        growth = {}
        for name, now in figures.items():
            before = self.reference[name]
            if name.endswith(".running_mean") or self._unweighted(name):
                continue  # a mean's size depends on where zero is
            if name.startswith("loss."):
                now, before = max(now, SMALL_LOSS), max(before, SMALL_LOSS)
            ratio = now / before if before > 0 else (math.inf if now > 0 else 1.0)
            growth[name.removesuffix(".running_var")] = ratio
        return Effect(nonfinite=False, growth=growth)

    def _unweighted(self, figure: str) -> bool:
        """A loss term without weight in the stage must be finite, but may be of any size."""
        return figure.startswith("loss.") and not self.state.weights.get(figure.removeprefix("loss."))

    def _figures(self) -> dict[str, float]:
        """Losses, gradient norms by path and ranges at the fusion of one unguarded step."""
        trainer = self.bench.trainer
        model, criterion = trainer.model, trainer.take_step.criterion
        torch.manual_seed(derive_seed(trainer.config.seed, "step", trainer.progress.step))
        prediction = model(self.batch, self.state.control)
        try:
            terms = criterion(prediction, self.batch)
        except NonFiniteCostError:
            return self._healed({"matching.cost": math.nan})
        figures = {f"loss.{name}": term.item() for name, term in terms.items()}
        if all(math.isfinite(value) for value in figures.values()):
            weighted_total(terms, self.state.weights).backward()
        norms = {name: norm.item() for name, norm in gradient_norms(trainer.groups).items()}
        paths = norms_by_path(norms)
        figures |= {f"gradient.{path}": n for path, n in paths.items() if n is not None}
        observed = observe(prediction)
        for name in ("f2d_in", "f3d_in"):
            if f"{name}.rms" in observed:
                figures[f"activation.{name}"] = observed[f"{name}.rms"].item()
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                figures[f"buffers.{name}"] = buffer.norm().item()
        return self._healed(figures)

    def _healed(self, figures: dict[str, float]) -> dict[str, float]:
        """The figures, after the model was made what it was before the step."""
        model = self.bench.trainer.model
        model.zero_grad(set_to_none=True)
        model.load_state_dict(self.healthy)
        return figures


def _usual(steps: Path) -> dict[str, float]:
    """Medians of losses and gradient norms over the healthy run's last steps, named as the figures."""
    records = [json.loads(line) for line in steps.read_text().splitlines()][-WINDOW:]
    values: dict[str, list[float]] = {}
    for record in records:
        for prefix, figures in (("loss", record["losses"]), ("gradient", record["grad_norm"])):
            for name, value in figures.items():
                if value is not None:
                    values.setdefault(f"{prefix}.{name}", []).append(value)
    return {name: statistics.median(known) for name, known in values.items()}


def _tensor(output: object) -> Tensor:
    """The tensor in a module's output."""
    if isinstance(output, tuple):
        return _tensor(output[0])
    return output if isinstance(output, Tensor) else output.feats  # type: ignore[union-attr]


def _count_hooks(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(module._forward_hooks) for name, module in model.named_modules()}


def _drop_hooks(model: nn.Module, kept: dict[str, list[int]]) -> None:
    """Takes off the forward hooks that were not there before."""
    for name, module in model.named_modules():
        for key in [key for key in module._forward_hooks if key not in kept[name]]:
            del module._forward_hooks[key]
