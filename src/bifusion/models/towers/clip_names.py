"""Names under which CLIP's image tower is stored, brought to open_clip's.

OpenAI and open_clip write `visual.conv1.weight`, …; the transformers library
`vision_model.embeddings.patch_embedding.weight`, …, with queries, keys and values apart (its
`CLIPVisionTransformer`). Either may stand behind the attributes of a larger model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bifusion.torch_files.state_dicts import is_averaged

OPEN_CLIP, TRANSFORMERS = "visual.", "vision_model."
MARKS = {OPEN_CLIP: "conv1.weight", TRANSFORMERS: "embeddings.patch_embedding.weight"}
"""What the tower's attribute is called, and a tensor that every one has."""
_BLOCK = r"encoder\.layers\.(\d+)\."
_RULES = (
    (r"embeddings\.class_embedding", r"class_embedding"),
    (r"embeddings\.patch_embedding\.weight", r"conv1.weight"),
    (r"embeddings\.position_embedding\.weight", r"positional_embedding"),
    (r"pre_laye?rnorm\.(\w+)", r"ln_pre.\1"),  # transformers spells it without the e
    (r"post_layernorm\.(\w+)", r"ln_post.\1"),
    (_BLOCK + r"layer_norm([12])\.(\w+)", r"transformer.resblocks.\1.ln_\2.\3"),
    (_BLOCK + r"self_attn\.[qkv]_proj\.(\w+)", r"transformer.resblocks.\1.attn.in_proj_\2"),
    (_BLOCK + r"self_attn\.out_proj\.(\w+)", r"transformer.resblocks.\1.attn.out_proj.\2"),
    (_BLOCK + r"mlp\.fc1\.(\w+)", r"transformer.resblocks.\1.mlp.c_fc.\2"),
    (_BLOCK + r"mlp\.fc2\.(\w+)", r"transformer.resblocks.\1.mlp.c_proj.\2"),
)
_ORDER = {"q": 0, "k": 1, "v": 2}


@dataclass(frozen=True)
class TowerNames:
    """One image tower among the names of a file."""

    kind: str
    """OPEN_CLIP or TRANSFORMERS."""
    sources: dict[str, tuple[str, ...]]
    """open_clip's name without "visual." → names in the file, several to be joined along axis 0."""


def tower_places(names: Iterable[str]) -> dict[str, str]:
    """What stands before the names of each image tower → its kind; averages come last.

    A tower without anything before its names counts where there is no other: `conv1.weight` may be
    anyone's.
    """
    found = {}
    for name in names:
        for kind, mark in MARKS.items():
            leading = name.removesuffix(mark)
            if leading != name and (not leading or leading.endswith(f".{kind}") or leading == kind):
                found[leading] = kind
    named = {leading: kind for leading, kind in found.items() if leading}
    return dict(sorted((named or found).items(), key=lambda item: is_averaged(item[0])))


def tower_names(names: Iterable[str], leading: str, kind: str) -> TowerNames:
    """The names of the tower behind `leading` by open_clip's."""
    inner = {name.removeprefix(leading): name for name in names if name.startswith(leading)}
    if kind == OPEN_CLIP:
        return TowerNames(kind, {short: (name,) for short, name in inner.items()})
    sources: dict[str, list[tuple[int, str]]] = {}
    for short, name in inner.items():
        theirs = _open_clip_name(short)
        if theirs is not None:
            part = re.search(r"\.([qkv])_proj\.", short)
            sources.setdefault(theirs, []).append((_ORDER[part[1]] if part else 0, name))
    whole = {
        theirs: tuple(name for _, name in sorted(parts))
        for theirs, parts in sources.items()
        if len(parts) == (3 if ".in_proj_" in theirs else 1)
    }
    return TowerNames(kind, whole)


def _open_clip_name(name: str) -> str | None:
    for pattern, template in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(template)
    return None  # position_ids, which count
