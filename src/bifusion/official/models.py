"""Weights of the published models in our names and layouts.

Official names are those of `ckpt["state_dict"]`. Which tensor of ours comes from which official one
is said in `names.py`, how it is stored there in `layouts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from bifusion.errors import InputError, listing
from bifusion.labels.label_set import LabelSet
from bifusion.labels.sets import SCANNET20, SCANNET200
from bifusion.models.build import shapes_alone
from bifusion.models.mask3d import Mask3DConfig
from bifusion.models.model import ModelConfig
from bifusion.models.oneformer3d import OneFormer3DConfig
from bifusion.models.unet import UNetConfig
from bifusion.official import names as official_names
from bifusion.official.layouts import Layout, ShapeError, same

_SWAPPED_SCANNET200 = (1, 2)
"""OneFormer3D's ScanNet200 models list wall, floor, chair, …; the benchmark wall, chair, floor, …
(`scannet_dataset.py`). Only the semantic head feels it: without wall and floor both orders are the
same."""
_SEMANTIC_HEAD = ("decoder.out_sem.weight", "decoder.out_sem.bias")
_LISTED = 10


@dataclass(frozen=True)
class OfficialModel:
    """A published model: our configuration of it, its classes, its names, classes that change places."""

    config: ModelConfig
    labels: LabelSet
    official_name: Callable[[str], tuple[str, Layout]]
    swapped_classes: tuple[int, int] | None = None
    ignored: tuple[str, ...] = ()
    """Official tensors that belong to no network."""

    def build(self) -> nn.Module:
        """Our network of this configuration."""
        return self.config.build(self.labels)


@dataclass
class Conversion:
    """What became of the tensors of an official file. Official names, but for `state`."""

    state: dict[str, Tensor]
    """Our name → converted tensor, of its own memory."""
    matched: dict[str, str] = field(default_factory=dict)
    """Official → our name of tensors taken as they are."""
    converted: dict[str, str] = field(default_factory=dict)
    """Official → our name of tensors whose layout or order changed."""
    missing: dict[str, str] = field(default_factory=dict)
    """Official → our name of tensors that the file lacks."""
    misshapen: dict[str, str] = field(default_factory=dict)
    """Official name → shapes found and expected."""
    unexpected: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """The file holds exactly the model's tensors."""
        return not (self.missing or self.misshapen or self.unexpected)

    def problems(self) -> list[str]:
        """One line a kind of problem, and one for each tensor of a wrong shape."""
        lines = []
        for word, names in (("missing", list(self.missing)), ("unexpected", self.unexpected)):
            if names:
                lines.append(f"{len(names)} {word}: {listing(sorted(names), _LISTED)}")
        return lines + [f"{name} {shapes}" for name, shapes in self.misshapen.items()]


def official_models() -> dict[str, OfficialModel]:
    """The published models known here, by name."""
    residual = UNetConfig(kind="residual", in_channels=6, spconv_min_grid=128)
    res16 = UNetConfig(kind="res16", in_channels=3)
    return {
        "oneformer3d_scannet20": OfficialModel(
            OneFormer3DConfig(unet=residual),
            SCANNET20,
            official_names.oneformer3d_scannet20,
        ),
        "oneformer3d_scannet200": OfficialModel(
            OneFormer3DConfig(unet=res16),
            SCANNET200,
            official_names.oneformer3d_scannet200,
            _SWAPPED_SCANNET200,
        ),
        "mask3d_scannet20": OfficialModel(
            Mask3DConfig(), SCANNET20, official_names.mask3d, ignored=("criterion.empty_weight",)
        ),
    }


def convert(name: str, tensors: Mapping[str, np.ndarray | Tensor]) -> Conversion:
    """Our tensors from those of an official state dict, as far as they are there and fit.

    Args:
        name: of a published model.
        tensors: official name → array. spconv kernels as (out, k, k, k, in) or a cyclic rotation.
            Semantic classes come out in the benchmark's order.

    Raises:
        InputError: name unknown.
    """
    models = official_models()
    if name not in models:
        raise InputError(f"official model {name!r} is unknown; known are {', '.join(sorted(models))}")
    model = models[name]
    with shapes_alone():
        wanted = model.build().state_dict()
    result = Conversion(state={})
    left = set(tensors) - set(model.ignored)
    for ours, like in wanted.items():
        official, layout = model.official_name(ours)
        if official not in tensors:
            result.missing[official] = ours
            continue
        left.discard(official)
        tensor = torch.as_tensor(tensors[official])
        try:
            result.state[ours] = layout(tensor, like.shape).to(like.dtype)
        except ShapeError as error:
            result.misshapen[official] = f"has shape {tuple(tensor.shape)}, expected {error.expected}"
            continue
        rearranged = layout is not same or (model.swapped_classes and ours in _SEMANTIC_HEAD)
        (result.converted if rearranged else result.matched)[official] = ours
    result.unexpected = sorted(left)
    if model.swapped_classes is not None:
        _swap_rows(result.state, model.swapped_classes)
    return result


def _swap_rows(state: dict[str, Tensor], classes: tuple[int, int]) -> None:
    first, second = classes
    for key in _SEMANTIC_HEAD:
        if key in state:
            order = torch.arange(len(state[key]))
            order[first], order[second] = second, first
            state[key] = state[key].index_select(0, order)
