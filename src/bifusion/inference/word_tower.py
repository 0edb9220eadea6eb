"""A whole CLIP, pixels and words in one space, as searching takes it: frozen, its weights in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from bifusion.errors import InputError
from bifusion.inference.device import usable_device
from bifusion.models.towers.clip import ClipConfig, ClipEncoder
from bifusion.models.towers.clip_architecture import image_tower_size
from bifusion.models.towers.clip_registers import Neuron, find_register_neurons
from bifusion.models.towers.clip_text import TextTower
from bifusion.models.towers.clip_weights import locate_weights
from bifusion.torch_defaults import as_torch_starts
from bifusion.types import BatchView, move_tensors

Form = Literal["self_attention", "values"]
TOWER = "ViT-B-16"
_OURS = (
    (", or start from scratch with --model.tower.pretrained None", ""),
    (", or None to start from scratch", ""),
    (", or 'small', from scratch", ""),
    (", or dense 'tokens'", ""),
    ("or fewer blocks", "or weights of the whole tower"),
    ("--model.tower.architecture", "--tower"),
    ("--model.tower.pretrained", "--weights"),
    ("tower.architecture", "tower"),
    ("tower.pretrained", "weights"),
)
"""What errors of a tower that is trained say, and what that is called where one searches."""


@dataclass(frozen=True)
class WordTower:
    """Both sides of a CLIP on one device."""

    image: ClipEncoder
    """Views to dense features (h, w, embed_dim) in the space of words."""
    text: TextTower
    """Words to unit vectors of that space."""

    @property
    def device(self) -> torch.device:
        return self.image.class_embedding.device


@as_torch_starts()
def load_word_tower(
    architecture: str = TOWER,
    weights: str | Path | None = None,
    *,
    form: Form = "self_attention",
    register_neurons: Sequence[Neuron] = (),
    device: torch.device | str | None = None,
) -> WordTower:
    """Both sides of a CLIP from one file of weights.

    Args:
        architecture: a plain CLIP of open_clip's table, or a .json file in its format.
        weights: a file of a whole CLIP, or an open_clip tag, which is downloaded once into its cache;
            None: OpenAI's for an architecture with QuickGELU, LAION-2B's for another.
        form: what becomes of the last block (clip_parts.py).
        register_neurons: test-time registers (clip_registers.py).
        device: None: a GPU if there is one.
    Raises:
        InputError: an unknown architecture or form, no such file or tag, no network, weights that do not
            fit or are of one side alone.
    """
    if form not in get_args(Form):
        raise InputError(f"form: found {form!r}; expected one of {', '.join(get_args(Form))}")
    device = usable_device(device)
    with _named_as_here():
        asked = _weights(architecture, weights)
        file = locate_weights(architecture, asked, image_tower_size(architecture).quick_gelu)
        text = TextTower(architecture, file)
        image = _image_tower(architecture, asked, dense=form, register_neurons=tuple(register_neurons))
    return WordTower(image.to(device), text.eval().to(device))


def tower_patch_size(architecture: str) -> int:
    """Side in pixels of what the tower sees as one. InputError for an unknown architecture."""
    with _named_as_here():
        return image_tower_size(architecture).patch_size


@torch.no_grad()
def scene_register_neurons(
    views: Sequence[BatchView], count: int, architecture: str, weights: str | Path | None
) -> list[Neuron]:
    """The `count` neurons of a tower that make the outliers of these views (clip_registers.py), for
    `load_word_tower`. InputError as there, and where no view has an outlier."""
    device = usable_device(None)
    with _named_as_here():
        tower = _image_tower(architecture, _weights(architecture, weights)).to(device)
        seen = (move_tensors(view, device) for view in views)
        tokens = (tower.tokens(view.image[None], view.image_depth_m[None]) for view in seen)
        return find_register_neurons(tower.blocks, tokens, count=count)


def _weights(architecture: str, weights: str | Path | None) -> str:
    """The file or tag that is asked for."""
    size = image_tower_size(architecture)
    return default_tag(architecture, size.quick_gelu) if weights is None else str(weights)


def _image_tower(architecture: str, weights: str, **dense: Any) -> ClipEncoder:
    """All blocks, without a depth channel, frozen; images are normalised as the weights were trained."""
    blocks = image_tower_size(architecture).layers
    config = ClipConfig(architecture, blocks=blocks, depth_channel=False, **dense)
    return ClipEncoder(config.with_weights(weights)).eval().requires_grad_(False)


def default_tag(architecture: str, quick_gelu: bool) -> str:
    """The open_clip tag of the weights that one means who names an architecture alone.

    Raises InputError where there is no such tag.
    """
    from open_clip import list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(architecture)
    begins = "openai" if quick_gelu else "laion2b"
    found = next((tag for tag in reversed(tags) if tag.startswith(begins)), None)
    if found is None:
        raise InputError(
            f"weights: none are known for the tower {architecture!r}; name a file, or one of "
            f"open_clip's tags: {', '.join(tags) or 'there is none'}"
        )
    return found


@contextmanager
def _named_as_here() -> Iterator[None]:
    """Errors of towers speak of a training's fields; these of what is asked for here."""
    try:
        yield
    except InputError as error:
        words = str(error)
        for theirs, ours in _OURS:
            words = words.replace(theirs, ours)
        raise InputError(words) from error
