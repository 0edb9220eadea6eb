"""Which published network a state dict is, whatever stands before its names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bifusion.errors import InputError
from bifusion.models.build import shapes_alone
from bifusion.official.models import OfficialModel, official_models
from bifusion.torch_files.state_dicts import is_averaged

LEADING = ("model", "module", "net", "network", "ema", "ema_model", "model_ema", "averaged_model")
"""Attributes under which training code keeps the network; Lightning's is the first. Official names are
compared without them."""
COUNTERS = ("n_averaged", "num_updates", "steps", "step", "decay", "initted")
"""What classes that average weights keep among them."""
A_COPY = 0.5
"""Least share of the best match that makes another group of names a copy of the network."""


@dataclass
class Recognised:
    """A published network found among names."""

    kind: str
    places: dict[str, str]
    """Name for `convert` → name in the file: official where it is the network's, else the file's own."""
    notes: list[str]
    """Copies of the network that were left out."""


def recognise(names: Sequence[str], path: Path) -> Recognised:
    """The published model that has most of these names, apart from what stands before them.

    Raises InputError if no name is known.
    """
    groups = {kind: _grouped(names, official) for kind, official in _official_cores().items()}
    matches = [
        (len(official.keys() & groups[kind][leading].keys()), not is_averaged(leading), kind, leading)
        for kind, official in _official_cores().items()
        for leading in groups[kind]
    ]
    hits, _, kind, chosen = max(matches, default=(0, False, "", ""), key=lambda match: match[:2])
    if hits == 0:
        raise InputError(
            f"{path}: holds no network known here; its {len(names)} tensors begin with "
            f"{', '.join(names[:3]) or 'none'}; known are {', '.join(official_models())} and "
            "checkpoints of bifusion"
        )
    copies = [
        leading for number, _, of, leading in matches
        if of == kind and leading != chosen and number > A_COPY * hits
    ]  # fmt: skip
    official = _official_cores()[kind]
    places = {}
    for leading in groups[kind].keys() - set(copies):
        for core, name in groups[kind][leading].items():
            known = leading == chosen and core in official
            if known or core.rpartition(".")[2] not in COUNTERS:
                places[official[core] if known else name] = name
    notes = [f"weights under {chosen!r} taken, not those under {copy!r}" for copy in copies]
    return Recognised(kind, places, notes)


@cache
def _official_cores() -> dict[str, dict[str, str]]:
    """Published model → official name without what stands before it → official name. All of them are
    built for it, without memory, which takes a moment."""
    return {kind: _cores_of(model) for kind, model in official_models().items()}


def _cores_of(model: OfficialModel) -> dict[str, str]:
    with shapes_alone():
        names = [model.official_name(ours)[0] for ours in model.build().state_dict()]
    return {_split(name)[1]: name for name in names}


def _grouped(names: Sequence[str], official: dict[str, str]) -> dict[str, dict[str, str]]:
    """What stands before names → the rest of the name → name. Whatever attributes a network lay behind,
    the rest is an official name where it can be one, the longest."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        words = name.split(".")
        ends = (".".join(words[first:]) for first in range(len(words)))
        core = next((end for end in ends if end in official), None)
        leading, core = _split(name) if core is None else (name.removesuffix(core), core)
        groups[leading][core] = name
    return groups


def _split(name: str) -> tuple[str, str]:
    """What stands before a name, "model.module.", and the rest."""
    words = name.split(".")
    count = next((i for i, word in enumerate(words[:-1]) if word not in LEADING), len(words) - 1)
    return "".join(f"{word}." for word in words[:count]), ".".join(words[count:])
