"""Faults of the training state and of single steps, put in from outside: moments, weights, statistics,
samples, precision, gate, gradients."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins.precision.amp import MixedPrecision
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from bifusion.config.run import Config
from bifusion.data.batching import Sample
from bifusion.rng import derive_seed, torch_rng
from laboratory.faults import Bench, Injection, change_gradient, replace_tensor


def _once(bench: Bench, change: Callable[[], None]) -> None:
    """Has `change` done between two steps, right before the fault's."""
    bench.before_step.append(lambda step: change() if step == bench.site.step else None)


@dataclass(frozen=True)
class PoisonedMoment(Injection):
    """One number of an Adam moment of a parameter group."""

    group: str
    moment: str
    """"exp_avg" or "exp_avg_sq"."""
    value: float

    def attach(self, bench: Bench) -> None:
        def poison() -> None:
            state, parameters = bench.trainer.optimizer.state, bench.trainer.groups[self.group]
            parameter = next(p for p in parameters if p in state)
            tensor = state[parameter][self.moment]
            tensor.view(-1)[derive_seed(bench.site.seed, "moment") % tensor.numel()] = self.value

        _once(bench, poison)


@dataclass(frozen=True)
class PoisonedTensor(Injection):
    """One number, or all, of a weight or of a BatchNorm's statistics."""

    tensor: str
    """Name in the model's state dict."""
    value: float
    everywhere: bool = False

    def attach(self, bench: Bench) -> None:
        @torch.no_grad()
        def poison() -> None:
            tensor = bench.trainer.model.state_dict()[self.tensor].view(-1)
            if self.everywhere:
                tensor.fill_(self.value)
            else:
                tensor[derive_seed(bench.site.seed, "weight") % tensor.numel()] = self.value

        _once(bench, poison)


@dataclass(frozen=True)
class EditedSample(Injection):
    """The victim's sample in the fault's epoch, changed after it was read."""

    edit: Callable[[Sample], None]

    def attach(self, bench: Bench) -> None:
        def edit(sample: Sample, epoch: int) -> None:
            if epoch == bench.site.epoch and sample.name == bench.site.victim:
                self.edit(sample)

        bench.edit_sample.append(edit)


def infinite_features(sample: Sample) -> None:
    sample.voxel_feats[len(sample.voxel_feats) // 2, 0] = np.inf


def nan_positions(sample: Sample) -> None:
    sample.voxel_position_m[len(sample.voxel_position_m) // 2, 1] = np.nan


def nan_image(sample: Sample) -> None:
    """As a decoder of floating-point images may give; the views themselves are cached, so copies."""
    for number, view in enumerate(sample.views):
        image = view.image.astype(np.float32)
        image[3, 5] = np.nan
        sample.views[number] = dataclasses.replace(view, image=image)


def nan_depth(sample: Sample) -> None:
    for number, view in enumerate(sample.views):
        depth_m = view.image_depth_m.copy()
        depth_m[3, 5] = np.nan
        sample.views[number] = dataclasses.replace(view, image_depth_m=depth_m)


@dataclass(frozen=True)
class EditedConfig(Injection):
    """The configuration that the run goes on with."""

    edit: Callable[[Config], None]

    def edit_config(self, config: Config) -> None:
        self.edit(config)


@dataclass(frozen=True)
class LearningRate(Injection):
    """All learning rates, times `factor`, from the fault on."""

    factor: float

    def attach(self, bench: Bench) -> None:
        def raise_rate() -> None:
            bench.trainer.config.optim.lr *= self.factor

        _once(bench, raise_rate)


@dataclass(frozen=True)
class OverflowInHalf(Injection):
    """A module whose numbers reach 10⁶: float16, emulated where autocast is on, overflows at 65,504,
    float32 does not."""

    module: str

    def edit_config(self, config: Config) -> None:
        config.trainer.precision = "bf16-mixed"

    def attach(self, bench: Bench) -> None:
        def large(module: nn.Module, args: tuple, output: Any) -> Any:
            if not bench.active(lasting=False):
                return None
            return replace_tensor(output, _in_half)

        bench.trainer.model.get_submodule(self.module).register_forward_hook(large)


def _in_half(tensor: Tensor) -> Tensor:
    large = tensor * (1e6 / tensor.detach().abs().amax().clamp(min=1e-6))
    return large.half().to(tensor.dtype) if torch.is_autocast_enabled("cpu") else large


class _Scaled(MixedPrecision):
    """The scaler of float16 training with arithmetic in float32: what a CPU can do of it."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", GradScaler("cpu", init_scale=2.0**10))

    def forward_context(self) -> AbstractContextManager:
        return contextlib.nullcontext()

    def convert_input(self, data: Any) -> Any:
        return data

    def convert_output(self, data: Any) -> Any:
        return data

    def unscale_gradients(self, optimizer: Any) -> None:
        assert self.scaler is not None
        self.scaler.unscale_(optimizer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:  # the healthy run had no scaler
            super().load_state_dict(state_dict)


@dataclass(frozen=True)
class LossScale(Injection):
    """A gradient scaler (a stand-in for that of float16) whose factor falls to `scale`."""

    scale: float

    def attach(self, bench: Bench) -> None:
        precision = _Scaled()
        bench.trainer.fabric.strategy.precision = precision
        assert precision.scaler is not None
        scaler = precision.scaler
        bench.before_step.append(
            lambda step: scaler.update(self.scale) if step >= bench.site.step else None
        )


@dataclass(frozen=True)
class FullMaskRow(Injection):
    """An attention mask one of whose queries may look at nothing."""

    module: str

    def attach(self, bench: Bench) -> None:
        def block(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            if not bench.active(lasting=False):
                return None
            mask = kwargs["attn_mask"].clone()
            mask[0] = True
            return args, {**kwargs, "attn_mask": mask}

        module = bench.trainer.model.get_submodule(self.module)
        module.register_forward_pre_hook(block, with_kwargs=True)


@dataclass(frozen=True)
class HugeMasks(Injection):
    """Mask features so large that logits are finite and sums over them, the matching cost, are not."""

    one_scene: bool

    def attach(self, bench: Bench) -> None:
        def enlarge(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            scene = bench.rows.of("decoder.x_mask", output)
            if not bench.active(lasting=False) or scene is None:
                return None
            if self.one_scene and bench.rows.samples[int(scene[0])] != bench.victims_sample:
                return None
            return output * (6e37 / output.detach().norm(dim=1).amax())

        bench.trainer.model.get_submodule("decoder.x_mask").register_forward_hook(enlarge)


@dataclass(frozen=True)
class StillGate(Injection):
    """A gate that says 0.5 everywhere and never learns: its last layer zero, its gradients too."""

    def attach(self, bench: Bench) -> None:
        model = bench.trainer.model
        gate = model.get_submodule("fusion.gate")

        @torch.no_grad()
        def still() -> None:
            for parameter in gate.get_submodule("mlp.2").parameters():
                parameter.zero_()

        _once(bench, still)
        for parameter in gate.parameters():
            parameter.register_hook(lambda g: torch.zeros_like(g) if bench.active(lasting=True) else g)


@dataclass(frozen=True)
class ScaledGradient(Injection):
    """The gradient that a module passes on, times `factor`, from the fault on."""

    module: str
    factor: float

    def attach(self, bench: Bench) -> None:
        def scale(module: nn.Module, args: tuple, output: Any) -> Any:
            if not bench.active(lasting=True):
                return None
            return replace_tensor(output, lambda t: change_gradient(t, lambda g: g * self.factor))

        bench.trainer.model.get_submodule(self.module).register_forward_hook(scale)


@dataclass(frozen=True)
class OpposedLosses(Injection):
    """Two heads on the same features that pull them, with the force they have, in opposite ways."""

    heads: tuple[str, str]

    def attach(self, bench: Bench) -> None:
        for sign, head in zip((1.0, -1.0), self.heads, strict=True):
            module = bench.trainer.model.get_submodule(head)
            module.register_forward_pre_hook(self._pulling(bench, sign))

    def _pulling(self, bench: Bench, sign: float) -> Callable[[nn.Module, tuple], Any]:
        def pull(gradient: Tensor) -> Tensor:
            way = torch.randn(gradient.shape[-1], generator=torch_rng(bench.site.seed, "way"))
            return sign * gradient.norm(dim=-1, keepdim=True) * (way / way.norm()).to(gradient)

        def hook(module: nn.Module, args: tuple) -> Any:
            return (change_gradient(args[0], pull),) if bench.active(lasting=True) else None

        return hook
