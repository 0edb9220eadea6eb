"""Reading pretrained CLIP image towers: open_clip tags and local files, nothing unpickled freely.

Understood are the state dicts of OpenAI and open_clip (`visual.conv1.weight`, …) as .safetensors,
as .pt / .pth / .bin, alone or under the key "state_dict", and OpenAI's original files: TorchScript
archives, whose tensors are read without running the program in them.
"""

from __future__ import annotations

import math
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bifusion.models.towers.position_grid import resize_positions
from bifusion.torch_files.files import open_torch_file
from bifusion.torch_files.state_dicts import find_tensors
from bifusion.types import InputError

FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
"""Entries that only OpenAI's own files carry beside their tensors."""


def locate_weights(architecture: str, pretrained: str, quick_gelu: bool) -> Path:
    """The file meant by `pretrained`: itself, or the (downloaded) file of an open_clip tag.

    Raises:
        InputError: no such file or tag; a tag trained with the other activation; no network.
    """
    path = Path(pretrained)
    if path.suffix in FILE_SUFFIXES:
        if not path.is_file():
            raise InputError(
                f"tower.pretrained: there is no file {path}; expected a {', '.join(FILE_SUFFIXES)} "
                "file, an open_clip tag such as 'openai', or None to start from scratch"
            )
        return path
    return _download_tag(architecture, pretrained, quick_gelu)


def _download_tag(architecture: str, tag: str, quick_gelu: bool) -> Path:
    from open_clip import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model

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
        return Path(download_pretrained(source))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"tower.pretrained: the weights of tag {tag!r} are not in the cache and cannot be "
            f"downloaded ({_first_line(error)}). On a machine with network fetch "
            f"{_address(source)} and pass it with "
            "--model.tower.pretrained PATH, or start from scratch with --model.tower.pretrained None"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _address(source: dict) -> str:
    if not source["hf_hub"]:
        return source["url"]
    return (
        f"https://huggingface.co/{source['hf_hub'].rstrip('/')}/resolve/main/open_clip_model.safetensors"
    )


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

    The note is the "description" in the metadata of a safetensors file, else empty.

    Raises:
        InputError: unreadable, without an image tower, or of the other activation (OpenAI's own
            files are recognised by their extra entries).
    """
    tensors, note = _read_tensors(path)
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if not quick_gelu and all(mark in tensors for mark in OPENAI_MARKS):
        raise wrong_activation(f"{path} (OpenAI's)", architecture, needs_quick_gelu=True)
    visual = {
        name.removeprefix("visual."): t for name, t in tensors.items() if name.startswith("visual.")
    }
    tower = visual or tensors
    if "conv1.weight" not in tower:
        raise InputError(
            f"tower.pretrained: {path} holds no CLIP image tower: 'visual.conv1.weight' is missing, "
            f"found are {', '.join(list(tensors)[:3]) or 'no tensors'}; "
            "expected OpenAI's or open_clip's state dict"
        )
    return tower, note


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                note = (file.metadata() or {}).get("description", "")
                return {name: file.get_tensor(name) for name in file.keys()}, note  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(
                f"tower.pretrained: {path} is no readable safetensors file: {error}"
            ) from error
    try:
        with open_torch_file(path) as file:
            stored = file.module_tensors() if file.is_torchscript else find_tensors(file.content)
            needed = {n: t for n, t in stored.items() if "visual." in n or n in OPENAI_MARKS} or stored
            return {name: file.tensor(tensor) for name, tensor in needed.items()}, ""
    except InputError as error:
        raise InputError(f"tower.pretrained: {error}") from error


def open_clip_name(name: str) -> str:
    """Name in open_clip's VisionTransformer of a tensor of our tower."""
    return name.replace("conv1_rgb.", "conv1.").replace("blocks.", "transformer.resblocks.")


def fit_tensors(
    own: dict[str, Tensor], tower: dict[str, Tensor], path: Path, architecture: str
) -> dict[str, Tensor]:
    """The tensors of a read tower by our names, float32; positions resized to our square grid.

    Raises:
        InputError: one of `own` is missing or has another shape.
    """
    return {name: _fit(name, tensor, tower, path, architecture) for name, tensor in own.items()}


def _fit(name: str, own: Tensor, tower: dict[str, Tensor], path: Path, architecture: str) -> Tensor:
    theirs = open_clip_name(name)
    if theirs not in tower:
        raise InputError(
            f"tower.pretrained: {path} has no tensor 'visual.{theirs}', which the used blocks of "
            f"{architecture} need; choose the file's architecture, or fewer blocks"
        )
    found = tower[theirs].float()
    if name == "positional_embedding" and found.ndim == 2 and found.shape[1:] == own.shape[1:]:
        side = math.isqrt(len(own) - 1)
        found = resize_positions(found, (side, side))
    if found.shape != own.shape:
        raise InputError(
            f"tower.pretrained: 'visual.{theirs}' in {path} has shape {tuple(found.shape)}, "
            f"{architecture} expects {tuple(own.shape)}; choose the file's architecture"
        )
    return found
