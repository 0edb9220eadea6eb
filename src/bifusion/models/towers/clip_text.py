"""CLIP's text side: words to unit vectors of the space that its image tower's projection leads into.

The module is open_clip's own `TextTransformer`, the vocabulary CLIP's byte pairs, which come with it:
nothing is fetched but weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifusion.arguments import require
from bifusion.errors import InputError
from bifusion.models.towers.clip_architecture import TextSize, text_tower_size
from bifusion.models.towers.clip_weights import read_text_tower

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

BATCH = 64
"""Words that are encoded together."""


class TextTower(nn.Module):
    """Words to (W, embed_dim) unit vectors."""

    def __init__(self, architecture: str, weights: Path) -> None:
        """`weights`: a file of a whole CLIP, as OpenAI, open_clip or the transformers library store it.

        Raises InputError: no plain CLIP of that name, weights without a text side, or of another size.
        """
        super().__init__()
        from open_clip.transformer import QuickGELU, TextTransformer

        self.size = size = text_tower_size(architecture)
        self.tokenizer = clip_tokenizer(size.context_length)
        _check_vocabulary(architecture, size, self.tokenizer.vocab_size)
        self.transformer = TextTransformer(
            context_length=size.context_length,
            vocab_size=size.vocab_size,
            width=size.width,
            heads=size.heads,
            layers=size.layers,
            output_dim=size.embed_dim,
            act_layer=QuickGELU if size.quick_gelu else nn.GELU,
        )
        stored = read_text_tower(weights, architecture)
        own = self.transformer.state_dict()
        self.transformer.load_state_dict(_fit(own, stored, weights, architecture))

    @torch.no_grad()
    def forward(self, words: Sequence[str]) -> Tensor:
        """(W, embed_dim) float32 of length 1, each of its words alone.

        Raises InputError: no words, an empty one, one that is too long.
        """
        checked = check_words(words)
        most = self.size.context_length - 2
        for word in checked:
            tokens = len(self.tokenizer.encode(word))
            if tokens > most:
                raise InputError(f"words: {word[:60]!r} has {tokens} tokens; expected at most {most}")
        device = self.transformer.positional_embedding.device
        parts = [checked[at : at + BATCH] for at in range(0, len(checked), BATCH)]
        encoded = [self.transformer(self.tokenizer(part).to(device)) for part in parts]
        return F.normalize(torch.cat(encoded).float(), dim=1)


@cache
def clip_tokenizer(context_length: int) -> SimpleTokenizer:
    """CLIP's own, which takes half a second to make."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=context_length)


def check_words(words: Sequence[str]) -> list[str]:
    """Words as they are searched for: spaces around them taken off, each once, in order.

    Raises InputError: none, an empty one, or what is no text.
    """
    require(isinstance(words, Iterable), words, "words", "text, or a list of it")
    words = [words] if isinstance(words, str) else list(words)
    for word in words:
        require(isinstance(word, str), word, "words", "text")
    checked = [" ".join(word.split()) for word in words]
    if not checked or not all(checked):
        found = "none" if not checked else f"{checked.count('')} without a letter"
        raise InputError(f'words: found {found}; expected one or more, such as "a red chair"')
    return list(dict.fromkeys(checked))


def _check_vocabulary(architecture: str, size: TextSize, known: int) -> None:
    if size.vocab_size != known:
        raise InputError(
            f"tower.architecture {architecture!r} has a vocabulary of {size.vocab_size} tokens; "
            f"expected CLIP's own of {known}, by which words are read"
        )


def _fit(
    own: dict[str, Tensor], stored: dict[str, Tensor], path: Path, architecture: str
) -> dict[str, Tensor]:
    for name, tensor in own.items():
        found = tuple(stored[name].shape) if name in stored else "no such tensor"
        if found != tuple(tensor.shape):
            raise InputError(
                f"tower.pretrained: {name!r} of the text side in {path}: found {found}, {architecture} "
                f"expects shape {tuple(tensor.shape)}; choose the file's architecture"
            )
    return {name: stored[name].float() for name in own}
