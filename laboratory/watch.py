"""Watches a trainer's state between its steps: what of it is what it was, to the bit, and finite."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bifusion.training.trainer import Trainer


@dataclass
class Snapshot:
    """State at one moment, by section: weights, statistics, optimizer, rules."""

    digest: dict[str, str]
    """SHA-256 of all its bytes; NaN equals the same NaN."""
    finite: dict[str, bool]


class Watch:
    """Snapshots around every step of a run. `begin` and `end` are called between steps.

    Between two steps nothing changes but right before step `strike`, where a fault may.
    """

    def __init__(self, trainer: Trainer, strike: int):
        self.trainer, self.strike = trainer, strike
        self.before: dict[int, Snapshot] = {}
        """As a step found the state, with whatever a fault had put into it."""
        self.after: dict[int, Snapshot] = {}

    def begin(self, step: int) -> None:
        """Step `step` is next."""
        known = self.after.get(step - 1) if step != self.strike else None
        self.before[step] = known or self.take()

    def end(self, step: int) -> None:
        """Step `step` is over, if it was one that began under this watch."""
        if step in self.before:
            self.after[step] = self.take()

    def take(self) -> Snapshot:
        """The state now."""
        trainer = self.trainer
        parts = {
            "weights": _flat(trainer.model.parameters()),
            "statistics": _flat(trainer.model.buffers()),
            "optimizer": _flat(_moments(trainer.optimizer)),
        }
        digest = {
            name: hashlib.sha256(flat.numpy().tobytes()).hexdigest() for name, flat in parts.items()
        }
        rules = str(trainer.guard.rules.state_dict())
        digest["rules"] = hashlib.sha256(rules.encode()).hexdigest()
        finite = {name: bool(torch.isfinite(flat).all()) for name, flat in parts.items()}
        return Snapshot(digest, {**finite, "rules": "nan" not in rules and "inf" not in rules})

    def changed_by(self, step: int) -> list[str]:
        """Sections that are not what they were before `step`."""
        before, after = self.before[step].digest, self.after[step].digest
        return [name for name in before if before[name] != after[name]]

    def poisoned_by(self, step: int) -> list[str]:
        """Sections that were finite before `step` and are not after it."""
        before, after = self.before[step].finite, self.after[step].finite
        return [name for name in before if before[name] and not after[name]]


def _moments(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    state = optimizer.state_dict()["state"]
    for number in sorted(state):
        yield from (value for _, value in sorted(state[number].items()) if isinstance(value, Tensor))


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    flat = [tensor.detach().cpu().reshape(-1).double() for tensor in tensors]
    return torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)
