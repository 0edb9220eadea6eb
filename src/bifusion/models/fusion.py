"""Mixing lifted image features with those of the 3D network: heads, FiLM, gate, excitation.

Two heads of the same form bring both spaces to one dimension and one numeric range; FiLM adapts
each to the voxel's place and viewpoint; the gate weighs them per voxel: g·f2d + (1 - g)·f3d.
Letters in shapes: M voxels, K of them seen by a view, D the common dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifusion.bounds import PositiveFloat, Width
from bifusion.errors import InputError
from bifusion.models.gate import FUNCTION, Gate, outside_gate
from bifusion.models.geometric_code import CODE_CHANNELS
from bifusion.models.rows import RowsGELU, by_blocks, goes_by_blocks
from bifusion.rng import torch_rng
from bifusion.types import FusionControl, FusionTrace

OUTLIER_EVERY = 64
"""One of so many 2D channels that `outliers_2d` acts on."""


@dataclass
class FusionConfig:
    dim: Width = 256
    """Channels of both heads and of what the decoder gets."""
    hidden: Width = 512
    """Width of the heads' inner layer."""
    fusion_type: Literal["simple", "gate"] = "gate"
    """simple: α = 0.5 on seen voxels; gate: α learned."""
    head_norm: bool = True
    """LayerNorm at the end of both heads (off: raw ranges meet, as in the naive formula)."""
    range_2d: PositiveFloat = 1.0
    """Factor on the lifted features that enter the 2D head: how the fusion bears another range."""
    outliers_2d: PositiveFloat = 1.0
    """Factor besides on one channel in 64 of them: of large pretrained ViTs few channels stand out."""
    silent_start: bool = True
    """FiLM, gate and excitation start by saying nothing, their last layers at zero; off: at random."""
    film: bool = True
    """Modulate both paths by geometry."""
    film_hidden: Width = 128
    """Width of FiLM's inner layer."""
    gate_hidden: Width = 64
    """Width of LiteFusionGate's inner layer."""
    gate_function: str = ""
    """A gate of your own in the place of LiteFusionGate: "module:function", of a package that you have
    named as trusted (`plugins.py`), which takes `dim` and returns a `Gate` (models/gate.py)."""
    squeeze_excitation: bool = True
    """Weigh the fused channels."""
    alignment: bool = True
    """Make pairs for the alignment loss; without them it has nothing to measure."""
    alignment_hidden: Width = 64
    """Width of the alignment predictor's inner layer."""
    alignment_predictor: bool = True
    """Off: no predictor stands between, 2D itself is to equal 3D."""
    alignment_stop_gradient: bool = True
    """Off: 3D is pulled towards 2D as well."""
    l2_normalize: bool = False
    """One L2 normalisation after fusion. Off: the heads' LayerNorms already fix the scale, and unit
    length would shrink the decoder's input by √dim."""

    def __post_init__(self) -> None:
        if self.gate_function and self.fusion_type != "gate":
            raise InputError(
                f"{FUNCTION}: found {self.gate_function!r}, but with model.fusion.fusion_type "
                f"{self.fusion_type!r} nothing asks a gate; leave it out, or set 'gate'"
            )


def feature_head(in_channels: int, config: FusionConfig) -> nn.Sequential:
    """Linear, activation, Linear, LayerNorm: (rows, in_channels) to (rows, D)."""
    layers = [nn.Linear(in_channels, config.hidden), RowsGELU(), nn.Linear(config.hidden, config.dim)]
    return nn.Sequential(*layers, *([nn.LayerNorm(config.dim)] if config.head_norm else []))


def _last_linear(in_channels: int, out_channels: int, *, silent: bool) -> nn.Linear:
    """A linear layer; `silent`: at zero, it starts by saying nothing."""
    linear = nn.Linear(in_channels, out_channels)
    if silent:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return linear


def _small_mlp(
    in_channels: int, hidden: int, out_channels: int, activation: nn.Module, *, silent: bool
) -> nn.Sequential:
    """Two linear layers, the last one at zero where `silent`."""
    last = _last_linear(hidden, out_channels, silent=silent)
    return nn.Sequential(nn.Linear(in_channels, hidden), activation, last)


class FiLM(nn.Module):
    """Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018.

    The geometric code gives each branch its own (γ, β): f becomes (1 + γ) ⊙ f + β. Starts as the
    identity.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(CODE_CHANNELS, config.film_hidden), RowsGELU())
        # Apart, so that the 2D half is computed only where a view sees something: mostly few voxels.
        channels = config.film_hidden, 2 * config.dim
        self.for_2d = _last_linear(*channels, silent=config.silent_start)
        self.for_3d = _last_linear(*channels, silent=config.silent_start)

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Modulates f2d (K, D), the rows `seen` (K,), and f3d (M, D) by the code (M, 64)."""
        hidden = self.hidden(code)
        of_2d = _modulated(f2d, hidden.index_select(0, seen), self.for_2d)
        return of_2d, _modulated(f3d, hidden, self.for_3d)


def _modulated(features: Tensor, hidden: Tensor, last: nn.Linear) -> Tensor:
    """(R, D): (1 + γ) ⊙ features + β, both of them from `last` of the rows' hidden units."""
    gamma, beta = last(hidden).chunk(2, dim=1)
    return (1 + gamma) * features + beta


class LiteFusionGate(Gate):
    """α = σ(MLP([f2d ‖ f3d])), one number a voxel, 0.5 at the start."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        channels = 2 * config.dim, config.gate_hidden, 1
        self.mlp = _small_mlp(*channels, RowsGELU(), silent=config.silent_start)

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor) -> Tensor:
        """By features alone."""
        return self.mlp(torch.cat([f2d, f3d], dim=1)).sigmoid()[:, 0]


class SqueezeExcitation(nn.Module):
    """Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, over the seen voxels of each scene.

    The factor is 2σ(·) with its last layer at zero: 1 at the start, in (0, 2) later.
    """

    def __init__(self, dim: int, reduction: int = 16, *, silent: bool = True) -> None:
        super().__init__()
        self.mlp = _small_mlp(dim, max(1, dim // reduction), dim, nn.ReLU(), silent=silent)

    def forward(self, features: Tensor, scene: Tensor, num_scenes: int) -> Tensor:
        """Channel factors (K, D) of seen voxels' features (K, D) in scenes (K,)."""
        features = features.float()  # a sum over a scene in half precision would be off by percents
        sums = features.new_zeros(num_scenes, features.shape[1]).index_add(0, scene, features)
        counts = scene.new_zeros(num_scenes).index_add(0, scene, torch.ones_like(scene))
        counts = counts.clamp(min=1)[:, None]
        return (2 * self.mlp(sums / counts).sigmoid()).index_select(0, scene)


class Fusion(nn.Module):
    """From lifted 2D features and 3D features to the features that the decoder sees.

    Without a 2D branch (`channels_2d` None, Plan A) only the 3D head remains.
    """

    def __init__(self, config: FusionConfig, channels_3d: int, channels_2d: int | None) -> None:
        super().__init__()
        self.config = config
        self.head_3d = feature_head(channels_3d, config)
        self.head_2d = self.film = self.gate = self.excitation = self.predictor = None
        if channels_2d is None:
            return
        self.head_2d = feature_head(channels_2d, config)
        if config.film:
            self.film = FiLM(config)
        if config.fusion_type == "gate":
            own = config.gate_function
            self.gate = outside_gate(own, config.dim) if own else LiteFusionGate(config)
        if config.squeeze_excitation:
            self.excitation = SqueezeExcitation(config.dim, silent=config.silent_start)
        if config.alignment and config.alignment_predictor:
            self.predictor = nn.Sequential(
                nn.Linear(config.dim, config.alignment_hidden),
                RowsGELU(),
                nn.Linear(config.alignment_hidden, config.dim),
            )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """ "head_2d", "head_3d", "film", "gate" (with the excitation), "align"; built parts only, also
        those that have no parameters, as a gate from outside may."""
        parts = {
            "head_2d": [self.head_2d],
            "head_3d": [self.head_3d],
            "film": [self.film],
            "gate": [self.gate, self.excitation],
            "align": [self.predictor],
        }
        built = {
            name: [module for module in modules if module is not None] for name, modules in parts.items()
        }
        return {
            name: [p for module in modules for p in module.parameters()]
            for name, modules in built.items()
            if modules
        }

    def without_2d(self, f3d_in: Tensor, code: Tensor | None) -> Tensor:
        """(M, D) from U-Net features (M, D3) alone; `code` (M, 64) where FiLM is built."""
        f3d = self.head_3d(f3d_in) if code is None else by_blocks(self._features_3d, f3d_in, code)
        return self._normalized(f3d)

    def forward(
        self,
        f3d_in: Tensor,
        f2d_in: Tensor,
        seen: Tensor,
        scene: Tensor,
        code: Tensor,
        control: FusionControl,
        *,
        rows: Tensor | None = None,
        num_scenes: int | None = None,
    ) -> tuple[Tensor, FusionTrace]:
        """Fuses both branches; where no view sees a voxel, or s is 0, the result is its f3d.

        Args:
            f3d_in: (M, D3) U-Net output.
            f2d_in: (K, D2) lifted tower features of the voxels that a view sees.
            seen: (M,) bool, a view sees the voxel; may be False everywhere.
            scene: (M,) int64 scene index of each voxel.
            code: (M, 64) geometric code.
            rows: (K,) int64, where `seen`, ascending; None: they are found, for which the host waits.
            num_scenes: B; None: found likewise.

        Returns:
            fused (M, D), and the trace; its alpha and f2d are 0 where unseen, its f2d_in is what
            entered the head, after `range_2d` and `outliers_2d`.
        """
        assert self.head_2d is not None
        if self.config.range_2d != 1.0:
            f2d_in = f2d_in * self.config.range_2d
        if self.config.outliers_2d != 1.0:
            factors = f2d_in.new_ones(f2d_in.shape[1])
            factors[::OUTLIER_EVERY] = self.config.outliers_2d
            f2d_in = f2d_in * factors
        rows = torch.nonzero(seen)[:, 0] if rows is None else rows
        if goes_by_blocks(f3d_in):
            f2d = by_blocks(self._features_2d, f2d_in, code.index_select(0, rows))
            f3d = by_blocks(self._features_3d, f3d_in, code)
        else:
            f2d, f3d = self.head_2d(f2d_in), self.head_3d(f3d_in)
            if self.film is not None:
                f2d, f3d = self.film(f2d, f3d, code, rows)
        f3d_seen = f3d.index_select(0, rows)
        alpha = self._alpha(f2d, f3d_seen, code, rows, control)
        gate = (control.scale * alpha)[:, None]
        # In use 0 · f2d would let through what is not finite; in training it gives gradients of 0.
        if control.scale == 0 and not torch.is_grad_enabled():
            mixed = f3d_seen
        else:
            mixed = gate * f2d + (1 - gate) * f3d_seen
        if self.excitation is not None and control.scale > 0:
            num_scenes = int(scene.max()) + 1 if num_scenes is None else num_scenes
            factor = self.excitation(mixed, scene.index_select(0, rows), num_scenes)
            mixed = mixed * (1 + control.scale * (factor - 1))
        fused = self._normalized(f3d.index_copy(0, rows, mixed.to(f3d.dtype)))
        trace = FusionTrace(
            seen=seen,
            alpha=_scatter(alpha, rows, len(seen)),
            gate=_scatter(control.scale * alpha, rows, len(seen)),
            seen_f2d_in=f2d_in,
            f3d_in=f3d_in,
            seen_f2d=f2d,
            f3d=f3d,
            alignment_pairs=self._alignment_pairs(f2d, f3d_seen),
            learned=self.gate is not None and control.fixed_alpha is None and control.scale > 0,
            rows=rows,
        )
        return fused, trace

    def _features_2d(self, f2d_in: Tensor, code: Tensor) -> Tensor:
        """(K, D) of the seen voxels' features (K, D2) and codes (K, 64), after FiLM."""
        assert self.head_2d is not None
        f2d = self.head_2d(f2d_in)
        return f2d if self.film is None else _modulated(f2d, self.film.hidden(code), self.film.for_2d)

    def _features_3d(self, f3d_in: Tensor, code: Tensor) -> Tensor:
        """(M, D) of features (M, D3) and codes (M, 64), after FiLM."""
        f3d = self.head_3d(f3d_in)
        return f3d if self.film is None else _modulated(f3d, self.film.hidden(code), self.film.for_3d)

    def _alpha(
        self, f2d: Tensor, f3d: Tensor, code: Tensor, rows: Tensor, control: FusionControl
    ) -> Tensor:
        """(K,) in [0, 1]: fixed by the stage, learned, or 0.5."""
        if control.fixed_alpha is not None:
            return f2d.new_full((len(f2d),), control.fixed_alpha)
        if self.gate is None:
            return f2d.new_full((len(f2d),), 0.5)
        return self.gate(f2d, f3d, code.index_select(0, rows))

    def _alignment_pairs(self, f2d: Tensor, f3d: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What 2D says about 3D, against 3D as it is.

        The predictor stands between (Chen & He, "Exploring Simple Siamese Representation Learning",
        CVPR 2021): 2D must be able to tell the 3D feature, not to equal it, and 3D is not pulled.
        """
        if not self.config.alignment or len(f2d) == 0:
            return []
        predicted = f2d if self.predictor is None else self.predictor(f2d)
        return [(predicted, f3d.detach() if self.config.alignment_stop_gradient else f3d)]

    def _normalized(self, fused: Tensor) -> Tensor:
        return F.normalize(fused, dim=1) if self.config.l2_normalize else fused


def _scatter(values: Tensor, rows: Tensor, length: int) -> Tensor:
    """`values` (K, …) at `rows` of a (length, …) tensor of zeros."""
    return values.new_zeros(length, *values.shape[1:]).index_copy(0, rows, values)


def shuffle_seen(features: Tensor, scene: Tensor, seed: int) -> Tensor:
    """`features` (K, D) of seen voxels, permuted in each `scene` (K,): a sanity check of fusion.

    A model that uses which image feature belongs to which voxel gets worse by it.
    """
    source = torch.arange(len(features), device=features.device)
    for number in torch.unique(scene).tolist():
        rows = torch.nonzero(scene == number)[:, 0]
        order = torch.randperm(len(rows), generator=torch_rng(seed, "shuffle-2d", number))
        source.index_copy_(0, rows, rows.index_select(0, order.to(rows.device)))
    return features.index_select(0, source)


def scale_gradient(tensors: Sequence[Tensor], factor: float) -> Sequence[Tensor]:
    """The same tensors; gradients that flow back through them are multiplied by `factor`."""
    for tensor in tensors:
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: gradient * factor)
    return tensors
