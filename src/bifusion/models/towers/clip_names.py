"""Names under which CLIP's two towers are stored, brought to open_clip's.

OpenAI and open_clip write `visual.conv1.weight`, … and, beside `visual`, `token_embedding.weight`, …
(some of open_clip's models `text.token_embedding.weight`, …); the transformers library
`vision_model.embeddings.patch_embedding.weight`, … and `text_model.…`, with queries, keys and values
apart and both projections beside them, transposed (its `CLIPModel`). Either may stand behind the
attributes of a larger model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bifusion.torch_files.state_dicts import is_averaged

OPEN_CLIP, TRANSFORMERS, TEXT_MODEL = "visual.", "vision_model.", "text_model."
MARKS = {OPEN_CLIP: "conv1.weight", TRANSFORMERS: "embeddings.patch_embedding.weight"}
"""What the tower's attribute is called, and a tensor that every one has."""
PROJECTIONS = {"proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
"""Into the space that images and words share: open_clip's name, in its tower, and that of the
transformers library, beside the towers; a linear layer's weight, the transpose of what open_clip has."""
_BLOCK = r"encoder\.layers\.(\d+)\."
_RULES = (
    (r"embeddings\.class_embedding", r"class_embedding"),
    (r"embeddings\.patch_embedding\.weight", r"conv1.weight"),
    (r"embeddings\.position_embedding\.weight", r"positional_embedding"),
    (r"embeddings\.token_embedding\.weight", r"token_embedding.weight"),
    (r"final_layer_norm\.(\w+)", r"ln_final.\1"),
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
    """One tower among the names of a file."""

    kind: str
    """OPEN_CLIP or TRANSFORMERS."""
    sources: dict[str, tuple[str, ...]]
    """open_clip's name without "visual." → names in the file, several to be joined along axis 0."""

    @property
    def transposed(self) -> set[str]:
        """open_clip's names of what the file has transposed."""
        return set(PROJECTIONS) & set(self.sources) if self.kind == TRANSFORMERS else set()


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
    """The names of the image tower behind `leading` by open_clip's."""
    names = list(names)
    inner = {name.removeprefix(leading): name for name in names if name.startswith(leading)}
    if kind == OPEN_CLIP:
        return TowerNames(kind, {short: (name,) for short, name in inner.items()})
    return _of_transformers(inner, names, "proj", leading.removesuffix(kind))


def text_names(names: Iterable[str], leading: str, kind: str) -> TowerNames:
    """The same of the text side that belongs to the image tower behind `leading`; empty without one."""
    names, beside = list(names), leading.removesuffix(kind)
    if kind == TRANSFORMERS:
        text = f"{beside}{TEXT_MODEL}"
        inner = {name.removeprefix(text): name for name in names if name.startswith(text)}
        return _of_transformers(inner, names, "text_projection", beside)
    inside = f"{beside}text." if f"{beside}text.token_embedding.weight" in names else beside
    others = {name.removeprefix(inside): name for name in names if name.startswith(inside)}
    return TowerNames(kind, {short: (name,) for short, name in others.items()})


def _of_transformers(
    inner: dict[str, str], names: list[str], projection: str, beside: str
) -> TowerNames:
    """A tower's names without what leads → in the file, and the projection that stands beside it."""
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
    stored = beside + PROJECTIONS[projection]
    return TowerNames(TRANSFORMERS, whole | ({projection: (stored,)} if stored in names else {}))


def _open_clip_name(name: str) -> str | None:
    for pattern, template in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(template)
    return None  # position_ids, which count
