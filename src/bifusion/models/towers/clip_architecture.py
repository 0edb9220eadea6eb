"""The numbers of a CLIP: open_clip's table of architectures, or a file in its format.

Plain ViTs with CLIP's own text transformer are understood (Radford et al. 2021); of an architecture with
another text side (RoBERTa, T5) the image tower can be had, but nothing that takes words.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bifusion.errors import InputError
from bifusion.spelling import did_you_mean
from bifusion.untrusted.json_text import read_json

_VISION = {"image_size", "layers", "width", "patch_size"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers"}

_HEAD_WIDTH = 64
"""Channels of a head where `head_width` does not say."""
_LARGEST = 2**20
"""Of any number of a file; open_clip's largest is a vocabulary of 250,000."""


@dataclass(frozen=True)
class TowerSize:
    """The numbers of a ViT image tower; `image_size` is that of its learned positions."""

    width: int
    layers: int
    heads: int
    patch_size: int
    image_size: int
    quick_gelu: bool
    embed_dim: int
    """Channels of the space that it shares with the words."""


@dataclass(frozen=True)
class TextSize:
    """The numbers of CLIP's text transformer; `context_length` tokens, with the first and the last."""

    width: int
    layers: int
    heads: int
    context_length: int
    vocab_size: int
    quick_gelu: bool
    embed_dim: int


def image_tower_size(architecture: str) -> TowerSize:
    """The image tower of an architecture.

    Raises:
        InputError: not in the table, no readable file, no plain ViT.
    """
    table = _table(architecture)
    vision = table["vision_cfg"]
    head_width = vision.get("head_width", _HEAD_WIDTH)
    plain = set(vision) - {"head_width"} == _VISION and _are_sizes([*vision.values(), head_width])
    if not plain or vision["width"] % head_width:
        raise InputError(
            f"tower.architecture {architecture!r} is no plain ViT (open_clip's entry: {vision}); "
            "use 'ViT-B-16-quickgelu' or 'ViT-B-16'"
        )
    return TowerSize(
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // head_width,
        patch_size=vision["patch_size"],
        image_size=vision["image_size"],
        quick_gelu=table.get("quick_gelu", False),
        embed_dim=table["embed_dim"],
    )


def text_tower_size(architecture: str) -> TextSize:
    """The text side of an architecture.

    Raises:
        InputError: as `image_tower_size`; or it is no plain CLIP text transformer.
    """
    table = _table(architecture)
    text = table["text_cfg"]
    if set(text) != _TEXT or not _are_sizes(text.values()) or text["width"] % text["heads"]:
        raise InputError(
            f"tower.architecture {architecture!r} has no plain CLIP text transformer (open_clip's "
            f"entry: {text}); use 'ViT-B-16', 'ViT-B-16-quickgelu', 'ViT-L-14' or another plain CLIP"
        )
    return TextSize(**text, quick_gelu=table.get("quick_gelu", False), embed_dim=table["embed_dim"])


def _table(architecture: str) -> dict[str, Any]:
    """open_clip's entry of a name, or the content of a .json file in its format."""
    if architecture.endswith(".json"):
        return _read_table(Path(architecture))
    entries = {path.stem: path for path in sorted(_entries())}
    if architecture not in entries:
        raise InputError(
            f"tower.architecture {architecture!r} is not in open_clip's table"
            f"{did_you_mean(architecture, entries)}; use 'ViT-B-16-quickgelu' (OpenAI's weights), "
            "'ViT-B-16' (LAION's), another plain ViT of it, a .json file in its format, or 'small', "
            "from scratch"
        )
    return _read_table(entries[architecture])


def _entries() -> Iterable[Path]:
    """The files of open_clip's table, found without importing it, which takes seconds."""
    found = importlib.util.find_spec("open_clip")
    assert found is not None and found.submodule_search_locations is not None  # a dependency
    return (Path(found.submodule_search_locations[0]) / "model_configs").glob("*.json")


def _read_table(path: Path) -> dict[str, Any]:
    try:
        table = read_json(path)
    except InputError as error:
        raise InputError(f"tower.architecture: {error}") from None
    if isinstance(table, dict):
        table = table.get("model_cfg", table)  # as open_clip_config.json beside published weights has it
    sides = ("vision_cfg", "text_cfg")
    sound = isinstance(table, dict) and _are_sizes([table.get("embed_dim")])
    if not sound or not all(isinstance(table.get(side), dict) for side in sides):
        raise InputError(
            f"tower.architecture: {path} is no architecture in open_clip's format; expected embed_dim, "
            "vision_cfg and text_cfg, as in open_clip_config.json beside published weights"
        )
    return table


def _are_sizes(values: Iterable[Any]) -> bool:
    """Whether all are whole numbers that a network can be made of."""
    return all(type(value) is int and 1 <= value <= _LARGEST for value in values)
