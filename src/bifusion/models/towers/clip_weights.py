"""Reading pretrained CLIP towers: open_clip tags and local files, nothing unpickled freely.

Understood are the state dicts of OpenAI and open_clip, and of the transformers library (`clip_names`),
as .safetensors, as .pt / .pth / .bin, alone or under a key, and OpenAI's original files: TorchScript
archives, whose tensors are read without running the program in them.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bifusion.errors import InputError, first_line
from bifusion.models.towers.clip_names import (
    TRANSFORMERS,
    TowerNames,
    text_names,
    tower_names,
    tower_places,
)
from bifusion.models.towers.clip_parts import resize_positions
from bifusion.models.towers.libraries import library
from bifusion.models.towers.weight_files import (
    FILE_SUFFIXES,
    OpenWeights,
    check_finite,
    is_file,
    open_weights,
    weights_file,
)
from bifusion.storage.hub import cached_file, require_hub
from bifusion.torch_files.state_dicts import is_averaged, unwrapped
from bifusion.untrusted.json_text import read_json

OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
"""Entries that only OpenAI's own files carry beside their tensors."""
SAFE_NAME = "open_clip_model.safetensors"
"""What open_clip's weights are called on the hub where its table has no name for them."""
BESIDE = "open_clip_config.json"
"""What open_clip calls the file beside published weights that says how they were trained."""
SPACE_OF_WORDS = ("ln_post.weight", "ln_post.bias", "proj")
"""Of the image tower, behind its last block."""


def locate_weights(architecture: str, pretrained: str, quick_gelu: bool) -> Path:
    """The file meant by `pretrained`: itself, or the (downloaded) file of an open_clip tag.

    Raises:
        InputError: no such file or tag; a tag trained with the other activation; no network.
    """
    if is_file(pretrained):
        return weights_file(pretrained)
    return _download_tag(architecture, pretrained, quick_gelu)


def _download_tag(architecture: str, tag: str, quick_gelu: bool) -> Path:
    from open_clip import get_pretrained_cfg, list_pretrained_tags_by_model

    source = get_pretrained_cfg(architecture, tag)
    plain = architecture.removesuffix("-quickgelu")
    known_elsewhere = get_pretrained_cfg(plain, tag)
    if not source and not known_elsewhere:
        tags = list_pretrained_tags_by_model(architecture)
        raise InputError(
            f"tower.pretrained: {tag!r} is neither a weights file ({', '.join(FILE_SUFFIXES)}) nor an "
            f"open_clip tag of {architecture}; its tags are {', '.join(tags) or 'none: give a file'}"
        )
    if not source or bool(source.get("quick_gelu", False)) != quick_gelu:
        raise wrong_activation(f"tag {tag!r}", architecture, not quick_gelu)
    try:
        return _fetch(source)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"tower.pretrained: the weights of tag {tag!r} are not in the cache and cannot be "
            f"downloaded ({first_line(error)}). On a machine with network fetch "
            f"{_address(source)} and pass it with "
            "--model.tower.pretrained PATH, or start from scratch with --model.tower.pretrained None"
        ) from error


def _fetch(source: dict[str, Any]) -> Path:
    """The file of an entry of open_clip's table, from the hub's cache where it is there."""
    from open_clip import download_pretrained

    if source["hf_hub"]:
        found = cached_file(*_on_hub(source))
        if found is not None:
            return found
        require_hub()
    return Path(download_pretrained(source))


def _on_hub(source: dict[str, Any]) -> tuple[str, tuple[str, str]]:
    """Repository, and the names that open_clip tries in it."""
    repository, _, name = source["hf_hub"].rpartition("/")
    if not name:
        return repository, (SAFE_NAME, "open_clip_pytorch_model.bin")
    return repository, (f"{name.rpartition('.')[0]}.safetensors", name)


def _address(source: dict[str, Any]) -> str:
    if not source["hf_hub"]:
        return source["url"]
    repository, _, name = source["hf_hub"].rpartition("/")
    return f"https://huggingface.co/{repository}/resolve/main/{name or SAFE_NAME}"


Rgb = tuple[float, float, float]


def trained_pixels(architecture: str, pretrained: str) -> tuple[Rgb, Rgb] | None:
    """Mean and standard deviation of RGB by which images were normalised as weights were trained: of a
    tag as open_clip's table has them, of a file as the open_clip_config.json beside it; None where
    neither says. InputError for such a file that is damaged."""
    if is_file(pretrained):
        return _pixels_beside(Path(pretrained).with_name(BESIDE))
    source = library("open_clip").get_pretrained_cfg(architecture, pretrained)
    return (tuple(source["mean"]), tuple(source["std"])) if source else None


def _pixels_beside(path: Path) -> tuple[Rgb, Rgb] | None:
    if not path.is_file():
        return None
    content = read_json(path, advice="fetch it again, or take it away")
    preprocess = content.get("preprocess_cfg") if isinstance(content, dict) else None
    if not isinstance(preprocess, dict) or not {"mean", "std"} & set(preprocess):
        return None
    mean, std = _rgb(preprocess.get("mean")), _rgb(preprocess.get("std"))
    if mean is None or std is None or min(std) <= 0:
        raise InputError(
            f"tower.pretrained: {path} says of the images that the weights beside it were trained on "
            f"mean {preprocess.get('mean')!r}, std {preprocess.get('std')!r}; expected three numbers "
            "each, std above 0: fetch it again, or take it away"
        )
    return mean, std


def _rgb(value: Any) -> Rgb | None:
    """Three finite numbers; None for anything else."""
    if not isinstance(value, list) or not {type(number) for number in value} <= {int, float}:
        return None
    if len(value) != 3 or not all(map(math.isfinite, value)):
        return None
    return float(value[0]), float(value[1]), float(value[2])


def wrong_activation(what: str, architecture: str, needs_quick_gelu: bool) -> InputError:
    """The refusal of weights trained with the other activation, naming the right architecture."""
    plain = architecture.removesuffix("-quickgelu")
    right = f"{plain}-quickgelu" if needs_quick_gelu else plain
    found, needed = ("GELU", "QuickGELU") if needs_quick_gelu else ("QuickGELU", "GELU")
    return InputError(
        f"tower.pretrained: the weights of {what} were trained with {needed}, but architecture "
        f"{architecture!r} computes {found}; use --model.tower.architecture {right}"
    )


def read_image_tower(path: Path, architecture: str, quick_gelu: bool) -> tuple[dict[str, Tensor], str]:
    """Tensors of the image tower in `path` by open_clip's names without "visual.", and a note.

    The note is the "description" in the metadata of a safetensors file, else empty. Of several sets of
    weights those as trained are taken, and it is said.

    Raises:
        InputError: unreadable, without an image tower or with several, or of the other activation
            (OpenAI's own files are recognised by their extra entries, the transformers library's by
            the config.json beside them).
    """
    with open_weights(path) as weights:
        names = unwrapped(weights.names)
        if not quick_gelu and set(OPENAI_MARKS) <= set(names.values()):
            raise wrong_activation(f"{path} (OpenAI's)", architecture, needs_quick_gelu=True)
        tower = _choose_tower({short: name for name, short in names.items()}, path)
        if tower.kind == TRANSFORMERS:
            _check_activation(path, architecture, quick_gelu)
        return _read(tower, weights), weights.note


def read_text_tower(path: Path, architecture: str) -> dict[str, Tensor]:
    """Tensors of the text side that belongs to the image tower in `path`, by open_clip's names.

    Raises:
        InputError: unreadable, without the image tower or with several, or without a text side.
    """
    with open_weights(path) as weights:
        stored = {short: name for name, short in unwrapped(weights.names).items()}
        leading, kind = _choose_place(stored, path)
        tower = _as_stored(text_names(stored, leading, kind), stored)
        if "token_embedding.weight" not in tower.sources:
            raise InputError(
                f"tower.pretrained: {path} holds an image tower alone, its text side's "
                f"'token_embedding.weight' is missing; give the weights of a whole CLIP {architecture}"
            )
        return _read(tower, weights)


def _read(tower: TowerNames, weights: OpenWeights) -> dict[str, Tensor]:
    """The tower's tensors by open_clip's names."""
    parts = {name: [weights.tensor(at) for at in places] for name, places in tower.sources.items()}
    tensors = {name: torch.cat(some) if len(some) > 1 else some[0] for name, some in parts.items()}
    return tensors | {name: tensors[name].T for name in tower.transposed}


def _choose_tower(stored: dict[str, str], path: Path) -> TowerNames:
    """The image tower among names without wrappers → names in the file."""
    tower = tower_names(stored, *_choose_place(stored, path))
    if tower.kind == TRANSFORMERS and "class_embedding" not in tower.sources:
        raise InputError(
            f"tower.pretrained: {path} holds an image tower of the transformers library without a class "
            "embedding, which is no CLIP (SigLIP has none); give CLIP's weights"
        )
    return _as_stored(tower, stored)


def _as_stored(tower: TowerNames, stored: dict[str, str]) -> TowerNames:
    """The same with the names in the file."""
    sources = {name: tuple(stored[part] for part in parts) for name, parts in tower.sources.items()}
    return TowerNames(tower.kind, sources)


def _choose_place(stored: dict[str, str], path: Path) -> tuple[str, str]:
    """What stands before the image tower's names, and its kind."""
    places = tower_places(stored)
    plain = [leading for leading in places if not is_averaged(leading)]
    if not places:
        raise InputError(
            f"tower.pretrained: {path} holds no CLIP image tower: 'visual.conv1.weight' is missing, "
            f"found are {', '.join(list(stored)[:3]) or 'no tensors'}; "
            "expected a state dict of OpenAI, open_clip or the transformers library's CLIP"
        )
    if len(plain) > 1:
        raise InputError(
            f"tower.pretrained: {path} holds several image towers, under {', '.join(map(repr, plain))}; "
            "save the one that is meant alone"
        )
    leading, *others = places
    if others:
        warnings.warn(
            f"{path}: the image tower under {leading!r} is taken, not the averages under "
            f"{', '.join(map(repr, others))}",
            stacklevel=2,
        )
    return leading, places[leading]


def _check_activation(path: Path, architecture: str, quick_gelu: bool) -> None:
    """Compares with the config.json that the transformers library writes beside its weights."""
    beside = path.with_name("config.json")
    vision = _vision_config(beside)
    if vision is None:
        warnings.warn(
            f"{path}: no config.json of the transformers library beside it says whether it was trained "
            f"with QuickGELU (OpenAI's) or GELU; {architecture} computes "
            f"{'QuickGELU' if quick_gelu else 'GELU'}",
            stacklevel=2,
        )
        return
    needs_quick_gelu = vision.get("hidden_act", "quick_gelu") == "quick_gelu"  # the library's default
    if needs_quick_gelu != quick_gelu:
        raise wrong_activation(f"{path} ({beside.name} beside it)", architecture, needs_quick_gelu)


def _vision_config(path: Path) -> dict[str, Any] | None:
    """What a CLIP's config.json says of its image tower; None where there is no such file."""
    try:
        config = read_json(path)
    except InputError:
        return None
    if not isinstance(config, dict) or not str(config.get("model_type", "")).startswith("clip"):
        return None
    vision = config.get("vision_config", config)
    return vision if isinstance(vision, dict) else None


def open_clip_name(name: str) -> str:
    """Name in open_clip's VisionTransformer of a tensor of our tower."""
    return name.replace("conv1_rgb.", "conv1.").replace("blocks.", "transformer.resblocks.")


def fit_tensors(
    own: dict[str, Tensor], tower: dict[str, Tensor], path: Path, architecture: str
) -> dict[str, Tensor]:
    """The tensors of a read tower by our names, float32; positions resized to our square grid.

    Raises:
        InputError: one of `own` is missing, has another shape or is not finite.
    """
    return {name: _fit(name, tensor, tower, path, architecture) for name, tensor in own.items()}


def _fit(name: str, own: Tensor, tower: dict[str, Tensor], path: Path, architecture: str) -> Tensor:
    theirs = open_clip_name(name)
    if theirs not in tower:
        needs = (
            f"the used blocks of {architecture} need; choose the file's architecture, or fewer blocks"
        )
        if theirs in SPACE_OF_WORDS:
            needs = "leads into the space of words; give the weights of a whole CLIP, or dense 'tokens'"
        raise InputError(f"tower.pretrained: {path} has no tensor 'visual.{theirs}', which {needs}")
    found = tower[theirs].float()
    if name == "positional_embedding" and found.ndim == 2 and found.shape[1:] == own.shape[1:]:
        side = math.isqrt(len(own) - 1)
        found = resize_positions(found, (side, side))
    if found.shape != own.shape:
        raise InputError(
            f"tower.pretrained: 'visual.{theirs}' in {path} has shape {tuple(found.shape)}, "
            f"{architecture} expects {tuple(own.shape)}; choose the file's architecture"
        )
    check_finite(found, f"visual.{theirs}", path)
    return found
