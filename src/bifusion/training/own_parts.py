"""Whether parts of a model from outside the package keep what ours promise, before a run starts.

What is wrong would show in a later stage or never. A part is looked at as a copy, on noise, and draws
nothing of the run's random numbers.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from bifusion.config.run import Config
from bifusion.data.images import encoder_size
from bifusion.errors import InputError
from bifusion.models import backbone as backbones
from bifusion.models import gate as gates
from bifusion.models.backbone import Backbone
from bifusion.models.fusion import Fusion
from bifusion.models.gate import Gate
from bifusion.models.geometric_code import CODE_CHANNELS
from bifusion.models.model import Model
from bifusion.models.towers.outside import OutsideTowerConfig
from bifusion.models.towers.tower import FIELD, ImageTower, check_maps
from bifusion.sparse.tensor import SparseTensor
from bifusion.types import BatchView

UNLIKE = 0.02
"""Largest difference of two results that are to be one, as a share of the largest number; rounding is
below."""
SIDE = 6
"""Voxels a side of the cubes that a network is tried on."""
Module = TypeVar("Module", bound=nn.Module)


def check_own_parts(model: Model, config: Config, device: torch.device) -> None:
    """InputError for a part from outside that `check_backbone`, `check_tower` or `check_gate` finds
    fault with."""
    unet, tower = config.model.unet, config.model.image_tower
    if unet.kind == "outside":
        network = model.get_submodule("unet")
        assert isinstance(network, Backbone)
        check_backbone(network, unet.in_channels, device)
    if isinstance(tower, OutsideTowerConfig):
        images = model.get_submodule("tower")
        assert isinstance(images, ImageTower)
        check_tower(images, config.data.image_size, config.data.patch_size, device)
    for module in model.modules():
        if isinstance(module, Fusion) and module.gate is not None and module.config.gate_function:
            check_gate(module.gate, module.config.dim, device)


def check_backbone(network: Backbone, in_channels: int, device: torch.device) -> None:
    """InputError for features of another shape or that are not finite, and for those of a scene that
    depend on another one in evaluation."""
    where, copied = f"{backbones.FUNCTION}: a {type(network).__name__}", _copied(network, device)
    cube = torch.cartesian_prod(*3 * [torch.arange(SIDE)])
    coords = torch.cat([nn.functional.pad(cube, (1, 0), value=scene) for scene in range(2)])
    coords, half = coords.to(device, torch.int32), len(cube)
    feats = _noise(0, len(coords), in_channels).to(device)
    feats[half:] *= -3  # scenes that are alike would hide that one of them touches the other
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        _check_features(copied.train()(SparseTensor(feats, coords)), coords, network, where)
        copied.eval()
        together = copied(SparseTensor(feats, coords))
        alone = copied(SparseTensor(feats[:half], coords[:half]))
    _check_features(together, coords, network, where)
    if alone.shape != together[:half].shape or _differ(together[:half], alone):
        raise InputError(
            f"{where} makes other features of a scene where another one is beside it in the batch, in "
            "evaluation; expected the same"
        )


def check_tower(tower: ImageTower, image_size: int, patch: int, device: torch.device) -> None:
    """InputError for maps of another shape, and for those that depend on more than their view while
    nothing of the tower is trained, as BatchNorm's do in training.

    image_size, patch: of `DataConfig`.
    """
    copied = _copied(tower, device).requires_grad_(False)
    first, second = (_noise_view(seed, image_size, patch, device) for seed in range(2))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        copied.train()
        together = copied.encode_views([first, second])
        check_maps(together, [first, second], copied)
        alone = copied.encode_views([first])[0]
        copied.eval()
        still = copied.encode_views([first])[0]
    for other, where in (
        (alone, "when another view is beside it, or when it is computed again"),
        (still, "in training than in evaluation"),
    ):
        if _differ(together[0], other):
            raise InputError(
                f"{FIELD}: {tower.describe()!r} makes another map of the same view {where}, though "
                "nothing of it is trained; leave BatchNorm and dropout in evaluation, by "
                "`def train(self, mode=True): return super().train(False)`"
            )


def check_gate(gate: Gate, dim: int, device: torch.device) -> None:
    """InputError for α of another shape or beyond [0, 1], of seven voxels and of none, as where no view
    sees anything."""
    copied = _copied(gate, device)
    for rows in (7, 0):
        f2d, f3d, code = (
            _noise(seed, rows, channels).to(device)
            for seed, channels in enumerate((dim, dim, CODE_CHANNELS))
        )
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            alpha = copied(f2d, f3d, code)
        if alpha.shape != (rows,) or not ((alpha >= 0) & (alpha <= 1)).all():
            found = f"shape {tuple(alpha.shape)}"
            if alpha.shape == (rows,):
                found = f"{alpha.min().item():.3g} to {alpha.max().item():.3g}"
            raise InputError(
                f"{gates.FUNCTION}: the α that a {type(gate).__name__} makes of {rows} voxels: found "
                f"{found}, expected shape ({rows},) with values in [0, 1]"
            )


def _check_features(features: Tensor, coords: Tensor, network: Backbone, where: str) -> None:
    shape = len(coords), network.out_channels
    if features.shape != shape:
        raise InputError(
            f"{where} made features of shape {tuple(features.shape)} of {len(coords)} voxels; expected "
            f"{shape}"
        )
    if not features.isfinite().all():
        raise InputError(f"{where} made features with NaN or infinity of noise; expected finite numbers")


def _copied(module: Module, device: torch.device) -> Module:
    return copy.deepcopy(module).to(device)


def _differ(a: Tensor, b: Tensor) -> bool:
    return not (a - b).abs().max() <= UNLIKE * b.abs().max()  # NaN differs


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _noise_view(seed: int, image_size: int, patch: int, device: torch.device) -> BatchView:
    """A view of noise, broader than high."""
    width, height = encoder_size((4, 3), image_size, patch)
    numbers = _noise(seed, 4, height, width).to(device)
    eye = torch.eye(4, device=device)
    K, depth_m = eye[:3, :3], numbers[3]
    return BatchView(0, str(seed), numbers[:3], depth_m[None], K, eye, depth_m, K, eye)
