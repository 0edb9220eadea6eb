"""What a fault is, what is expected of the product when it strikes, and how one enters a module.

A fault is always outside the product's own code: hooks on modules, edited samples, edited copies of
scene folders, state changed between two steps. It is there again when its step is run again, as a
real defect would be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bifusion.config.run import Config
from bifusion.data.batching import Sample
from bifusion.rng import derive_seed
from bifusion.sparse.tensor import SparseTensor
from bifusion.training.trainer import Trainer
from laboratory.rows import SceneRows
from laboratory.watch import Watch

Label = Literal["must-alarm", "must-reject", "must-work"]
Kind = Literal["nan", "inf", "spike", "range"]
Direction = Literal["forward", "backward"]

SPIKE = 1e4
"""A spike is one number this many times larger than the largest of its tensor."""
RANGE = 1e3
"""A wrong range multiplies a whole tensor by this."""


@dataclass(frozen=True)
class Expected:
    """What a user would need to be told, whatever the product happens to say."""

    label: Label
    by: Literal["event", "alarm"] = "event"
    """must-alarm: a step that is not taken (an event), or at least a warning (an alarm)."""
    module: str | None = None
    """The first module that the diagnosis has to name; None where the fault is in no module."""
    places: tuple[str, ...] = ()
    """Patterns (fnmatch) one of which the event's or alarm's `where` has to match; (): any place."""
    rules: tuple[str, ...] = ()
    """Patterns of the rules that count as having seen it; (): any. must-work: of those that may warn."""
    scenes: Literal["victim", "batch", "among", "any"] = "batch"
    """Whom it has to name: exactly the scene that was struck; exactly those of the step; some of the
    step, the struck one among them (of sums over a step no rule can say more); nobody in particular."""
    verdict: str | None = None
    """What the diagnosis has to put it down to; None: not judged."""
    within: int = 0
    """Steps after the fault's in which it may still be found."""
    at_once: bool = False
    """It is in the data from the run's resumption on, an epoch before the site's step."""
    completes: bool = True
    """The run goes on to its end; False where the defect stays, so that a guard may well stop it."""
    lasting: bool = False
    """The run is given the steps that a trend takes."""


@dataclass
class Site:
    """Where and when a fault strikes."""

    step: int
    """The first optimiser step that it is in."""
    epoch: int
    """The epoch that it is in; every scene is read once in it."""
    victim: str
    """The scene of that step's batch that is struck, where one alone is."""
    seed: int
    """Of all that is drawn in it."""


@dataclass
class Bench:
    """A trainer, ready to run, into which a fault is put."""

    trainer: Trainer
    site: Site
    rows: SceneRows
    watch: Watch
    before_step: list[Callable[[int], None]] = field(default_factory=list)
    """Called with the number of the next step, between two steps."""
    edit_sample: list[Callable[[Sample, int], None]] = field(default_factory=list)
    """Called with every sample that is read for training, and the epoch it is for."""

    @property
    def victims_sample(self) -> tuple[str, int]:
        """The one sample that a fault of one scene is in: the same scene is sound in other epochs."""
        seed = self.trainer.config.seed
        return self.site.victim, derive_seed(seed, self.site.epoch, self.site.victim)

    def active(self, lasting: bool) -> bool:
        """Whether the step in progress is the fault's own, or, `lasting`, one after it."""
        if not self.trainer.model.training:
            return False
        step = self.trainer.progress.step
        return step >= self.site.step if lasting else step == self.site.step


class Injection:
    """How a fault gets in; three moments, of which most faults use one."""

    def edit_config(self, config: Config) -> None:
        """Changes the configuration of the run that goes on."""

    def edit_scenes(self, root: Path, site: Site) -> None:
        """Changes the run's own copy of the data set in `root`."""

    def attach(self, bench: Bench) -> None:
        """Hooks into a trainer that is about to run."""


@dataclass(frozen=True)
class Fault:
    """One entry of the corpus."""

    name: str
    recipe: str
    expected: Expected
    injection: Injection
    why: str
    """Why it is labelled as it is."""


@dataclass(frozen=True)
class ModuleFault(Injection):
    """Strikes what a module puts out, or the gradient that reaches it there.

    NaN, infinity and spike hit one number of every scene struck, a wrong range all of them. The
    gradient is struck behind every other hook's back: seen from outside, what goes into the module's
    backward is sound and what comes out of it is not, as with a defect of its own.
    """

    module: str
    kind: Kind
    direction: Direction
    one_scene: bool
    """Only the victim's rows; else every scene's, as with a defect of the module's code."""
    lasting: bool = False

    def attach(self, bench: Bench) -> None:
        def strike(module: nn.Module, args: tuple, output: Any) -> Any:
            if not bench.active(self.lasting):
                return None
            return replace_tensor(output, lambda tensor: self.struck(tensor, bench))

        bench.trainer.model.get_submodule(self.module).register_forward_hook(strike)

    def struck(self, tensor: Tensor, bench: Bench) -> Tensor:
        """`tensor` (rows, …) as it leaves the module, struck in the rows of the scenes concerned."""
        targets, seed = self.target_rows(tensor, bench), bench.site.seed
        if self.direction == "forward":
            return hurt(tensor, self.kind, targets, seed)
        return change_gradient(tensor, lambda gradient: hurt(gradient, self.kind, targets, seed))

    def target_rows(self, tensor: Tensor, bench: Bench) -> list[Tensor]:
        """Rows of every scene that is struck; all rows as one where scenes cannot be told apart."""
        scene_of_row = bench.rows.of(self.module, tensor)
        if scene_of_row is None:
            return [] if self.one_scene else [torch.arange(len(tensor))]
        samples = bench.rows.samples
        struck = [b for b, s in enumerate(samples) if not self.one_scene or s == bench.victims_sample]
        found = [torch.nonzero(scene_of_row == b)[:, 0] for b in struck]
        return [of_scene for of_scene in found if len(of_scene)]


def hurt(tensor: Tensor, kind: Kind, targets: list[Tensor], seed: int) -> Tensor:
    """A copy of `tensor` (rows, …) with a fault in each of the sets of rows in `targets`.

    Which number of them it is follows from the seed and how many they are, so that a scene is struck
    in the same place alone and among others.
    """
    with torch.no_grad():
        where = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
        for rows in targets:
            if kind == "range":
                where.index_fill_(0, rows.to(where.device), True)
                continue
            row_size = tensor[0].numel()
            place = derive_seed(seed, "place", len(rows), row_size) % (len(rows) * row_size)
            row, column = divmod(place, row_size)
            where[int(rows[row])].view(-1)[column] = True
        largest = tensor.abs().amax() if tensor.numel() else tensor.new_zeros(())
        bad = {"nan": torch.nan, "inf": torch.inf}.get(kind)
        replacement = largest * SPIKE if bad is None else torch.full_like(largest, bad)
    if kind == "range":
        return torch.where(where, tensor * RANGE, tensor)
    return torch.where(where, replacement, tensor)


class _Gradient(torch.autograd.Function):
    """Identity whose backward passes the gradient through a function."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.change = change
        return tensor.clone()  # of its own: what follows may write into it

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.change(gradient), None


def change_gradient(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The same tensor; the gradient that flows back through it is passed through `change`."""
    return _Gradient.apply(tensor, change)


def replace_tensor(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A module's output with its (first) tensor changed: a tensor, a sparse one, or a tuple of them."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, SparseTensor):
        return output.replace(change(output.feats))
    return (replace_tensor(output[0], change), *output[1:])
