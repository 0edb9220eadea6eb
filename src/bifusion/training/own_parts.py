"""Whether parts of a model from outside the package keep what ours promise, before a run starts.

What is wrong would show in a later stage or never. A part is looked at as a copy, on noise, and draws
nothing of the run's random numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from bifusion import plugins
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
from bifusion.wording import plural

UNLIKE = 0.02
"""Largest difference of two results that are to be one, as a share of the largest number; rounding is
below."""
SIDE = 6
"""Voxels a side of the cubes that a network is tried on."""
NORM_OF_FEW = "(of BatchNorm: bifusion.sparse.modules.BatchNorm takes fewer than two rows)"
Module = TypeVar("Module", bound=nn.Module)


def check_own_parts(model: Model, config: Config, device: torch.device) -> None:
    """InputError for a part from outside that `check_backbone`, `check_tower` or `check_gate` finds
    fault with, and for a network or gate that its function gives a second time."""
    unet, tower = config.model.unet, config.model.image_tower
    if unet.kind == "outside":
        network = model.get_submodule("unet")
        assert isinstance(network, Backbone)
        again = partial(backbones.outside_backbone, unet.function, unet.in_channels)
        _check_new(network, again, f"{backbones.FUNCTION}: {unet.function}")
        with plugins.noted(unet.function, backbones.FUNCTION):
            check_backbone(network, unet.in_channels, device)
    if isinstance(tower, OutsideTowerConfig):
        images = model.get_submodule("tower")
        assert isinstance(images, ImageTower)
        with plugins.noted(tower.function, FIELD):
            check_tower(images, config.data.image_size, config.data.patch_size, device)
    for module in model.modules():
        if isinstance(module, Fusion) and module.gate is not None and module.config.gate_function:
            name, dim = module.config.gate_function, module.config.dim
            again = partial(gates.outside_gate, name, dim)
            _check_new(module.gate, again, f"{gates.FUNCTION}: {name}")
            with plugins.noted(name, gates.FUNCTION):
                check_gate(module.gate, dim, device)


def check_backbone(network: Backbone, in_channels: int, device: torch.device) -> None:
    """InputError for features of another shape or type or that are not finite, for those of a scene that
    in evaluation depend on another one or on the call, for a network that changes what it is given, and
    for one that makes parameters as it is called."""
    where, copied = f"{backbones.FUNCTION}: a {type(network).__name__}", _copied(network, device)
    cube = torch.cartesian_prod(*3 * [torch.arange(SIDE)])
    coords = torch.cat([nn.functional.pad(cube, (1, 0), value=scene) for scene in range(2)])
    coords, half = coords.to(device, torch.int32), len(cube)
    feats = _noise(0, len(coords), in_channels).to(device)
    feats[half:] *= -3  # scenes that are alike would hide that one of them touches the other

    def features(rows: int) -> Tensor:
        given = {"x.feats": feats[:rows].clone(), "x.coords": coords[:rows].clone()}
        with _left_alone(given, where):
            made = copied(SparseTensor(given["x.feats"], given["x.coords"]))
        _check_features(made, given["x.feats"], network, where)
        return made

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        copied.train()
        features(len(coords))
        _check_all_there(network, copied, where)
        copied.eval()
        alone, again, together = features(half), features(half), features(len(coords))
    _check_repeats(alone, again, f"{where} makes other features of the same scene")
    if _differ(together[:half], alone):
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
    """InputError for α of another shape or type or beyond [0, 1], of seven voxels, one and none, as
    where no view sees anything; for α that in evaluation depends on the call, for a gate that changes
    what it is given, for one whose buffers do not stay finite, and for one that makes parameters as it
    is called."""
    where, copied = f"{gates.FUNCTION}: a {type(gate).__name__}", _copied(gate, device)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for rows in (7, 1, 0):
            _share(copied.train(), rows, dim, device, where)
        _check_all_there(gate, copied, where)
        broken = [name for name, buffer in copied.named_buffers() if not buffer.isfinite().all()]
        if broken:
            raise InputError(
                f"{where} leaves NaN or infinity in {', '.join(broken)} in training where no view sees "
                f"anything; expected finite numbers {NORM_OF_FEW}"
            )
        copied.eval()
        alone, again = (_share(copied, 7, dim, device, where) for _ in range(2))
        for rows in (1, 0):
            _share(copied, rows, dim, device, where)
    _check_repeats(alone, again, f"{where} makes another α of the same voxels")


def _share(gate: Gate, rows: int, dim: int, device: torch.device, where: str) -> Tensor:
    """α of so many voxels of noise; InputError where it is none."""
    names = {"f2d": dim, "f3d": dim, "code": CODE_CHANNELS}
    given = {
        name: _noise(seed, rows, channels).to(device)
        for seed, (name, channels) in enumerate(names.items())
    }
    with _left_alone(given, where):
        try:
            alpha = gate(*given.values())
        except (ValueError, RuntimeError, IndexError) as error:
            if rows > 1:
                raise  # of what Python tells of it, the lines of the gate say most
            raise InputError(
                f"{where} cannot be asked for the α of {plural(rows, 'voxel')} in {_mode(gate)}, as "
                f"where views see so few ({type(error).__name__}: {error}); expected shape ({rows},) "
                f"{NORM_OF_FEW}"
            ) from error
    found = _unlike(alpha, (rows,))
    if not found and not ((alpha >= 0) & (alpha <= 1)).all():
        found = f"{alpha.min().item():.3g} to {alpha.max().item():.3g}"
    if found:
        raise InputError(
            f"{gates.FUNCTION}: the α that a {type(gate).__name__} makes of {rows} voxels: found "
            f"{found}, expected shape ({rows},) with values in [0, 1], floating point"
        )
    return alpha


def _check_features(features: Tensor, given: Tensor, network: Backbone, where: str) -> None:
    shape = len(given), network.out_channels
    found = _unlike(features, shape)
    if not found and features.dtype != given.dtype:
        found = f"type {features.dtype}"
    if found:
        raise InputError(
            f"{where} made features of {found} of {len(given)} voxels; expected {shape}, {given.dtype} "
            "as x.feats is where no autocast acts"
        )
    if not features.isfinite().all():
        raise InputError(f"{where} made features with NaN or infinity of noise; expected finite numbers")


def _unlike(made: object, shape: tuple[int, ...]) -> str:
    """What is wrong with its type or shape; empty where nothing is."""
    if not isinstance(made, Tensor):
        return f"a {type(made).__name__}"
    if made.shape != shape:
        return f"shape {tuple(made.shape)}"
    return "" if made.is_floating_point() else f"type {made.dtype}"


def _check_new(part: nn.Module, again: Callable[[], nn.Module], where: str) -> None:
    with torch.random.fork_rng(devices=[]):
        if again() is part:
            raise InputError(
                f"{where} returned what it had returned before; expected a new one at each call, as "
                "runs of one process would train the same"
            )


@contextmanager
def _left_alone(given: dict[str, Tensor], where: str) -> Iterator[None]:
    """InputError where one of the tensors is another one after the block."""
    before = {name: tensor.clone() for name, tensor in given.items()}
    yield
    changed = [name for name, tensor in given.items() if not torch.equal(before[name], tensor)]
    if changed:
        raise InputError(
            f"{where} changes {', '.join(changed)} in place, which others read after it; expected it to "
            "be left as it is (`x = x * 2` for `x *= 2`)"
        )


def _check_all_there(part: nn.Module, called: nn.Module, where: str) -> None:
    """InputError for tensors that a copy of the part has after it was `called`, and the part has not."""
    known = _tensors(part)
    late = [name for name in _tensors(called) if name not in known]
    if late:
        raise InputError(
            f"{where} makes {', '.join(late)} as it is called; expected all parameters and buffers from "
            "its function, as they are trained and loaded from then on"
        )


def _tensors(part: nn.Module) -> list[str]:
    return [name for name, _ in (*part.named_parameters(), *part.named_buffers())]


def _check_repeats(first: Tensor, second: Tensor, where: str) -> None:
    if len(first) and _differ(first, second):
        raise InputError(
            f"{where} when it is computed again, in evaluation; expected the same: no dropout, and "
            "nothing kept from call to call"
        )


def _mode(part: nn.Module) -> str:
    return "training" if part.training else "evaluation"


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
