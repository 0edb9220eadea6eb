"""Where the weights lie in what was saved, and under which names."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bifusion.errors import listing
from bifusion.torch_files.objects import Inert, StoredTensor, told

WEIGHTS_KEYS = ("state_dict", "model", "model_state_dict", "net")
"""Under which projects put their weights; mmengine and Lightning use the first."""
DEEPEST = 3
MOST_LOOKED_AT = 100
"""Items, for a few words on what a file holds."""
MOST_ITEMS = 2_000_000
"""That are looked at: a small file may hold the same dict in very many places."""
FEW = 0.1
"""Dicts with less than this share of the largest one's tensors are no networks (a learning rate)."""
_OPTIMISER = re.compile(r"optim|sched|scaler", re.IGNORECASE)
_AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|averaged?|shadow)([._]|$)", re.IGNORECASE)
_WITHIN = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")


@dataclass(frozen=True)
class StateDict:
    """A state dict found in a file."""

    place: str
    """Keys that lead to it, points between them; "" for the file's object itself."""
    tensors: dict[str, StoredTensor]
    """By name, without what wrappers put before names (`unwrapped`)."""
    others: tuple[str, ...] = ()
    """Places of the state dicts that were not taken."""


def find_state_dict(content: Any, place: str | None = None) -> StateDict | None:
    """The state dict at `place` of `content`, or, without it, the most likely one; None without any.

    Weights as they were trained come before averages of them (EMA), known keys before others.
    """
    found = _tensors_by_place(content)
    ordered = sorted(found, key=lambda at: _rank(at, len(found[at])))
    chosen = next((at for at in ordered if place in (None, at)), None)
    if chosen is None:
        return None
    tensors = {short: found[chosen][name] for name, short in unwrapped(found[chosen]).items()}
    most = max(len(tensors) for tensors in found.values())
    others = [at for at in ordered if at != chosen and len(found[at]) >= FEW * most]
    return StateDict(chosen, tensors, tuple(others))


def found_instead(content: Any) -> str:
    """A few words on what a file holds that has no state dict."""
    for place, container in _containers(content):
        items = container.values() if isinstance(container, dict) else container
        some, at = list(islice(items, MOST_LOOKED_AT)), f" at {told(place)}" if place else ""
        if isinstance(container, dict) and any(map(_is_numpy, some)):
            return f"arrays of numpy{at}, which are no tensors (torch.from_numpy makes them such)"
        if not isinstance(container, dict) and any(isinstance(item, StoredTensor) for item in some):
            return f"{len(container)} tensors without names{at}"
    if isinstance(content, dict):
        keys = listing(map(told, islice(content, MOST_LOOKED_AT)))
        return f"the keys {keys}" if content else "an empty dict"
    if isinstance(content, Inert):
        return f"an object, {told(content.of)}"
    return "one tensor" if isinstance(content, StoredTensor) else told(content)


def _containers(content: Any) -> Iterator[tuple[str, dict | list | tuple]]:
    """Some of the containers in `content`, those on top first, with the keys that lead to them."""
    waiting = deque([("", content, 0)])
    for _ in range(MOST_LOOKED_AT):
        if not waiting:
            return
        place, value, depth = waiting.popleft()
        if isinstance(value, dict | list | tuple):
            yield place, value
        if isinstance(value, dict) and depth < DEEPEST:
            for key, child in islice(value.items(), MOST_LOOKED_AT):
                if isinstance(key, str) and not _OPTIMISER.search(key):
                    waiting.append((f"{place}.{key}" if place else key, child, depth + 1))


def _is_numpy(value: Any) -> bool:
    return isinstance(value, Inert) and value.of.startswith("numpy.")


def is_averaged(place: str) -> bool:
    """Whether a key or the beginning of a name says that weights are an average over steps."""
    return _AVERAGED.search(place) is not None


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Name → the same without what torch.compile, data parallelism, FSDP and checkpointing put into it,
    in any order and number; as they are if two would become one."""
    short = {name: _without_wrappers(name) for name in names}
    return short if len(set(short.values())) == len(short) else {name: name for name in short}


def _without_wrappers(name: str) -> str:
    shorter = _WITHIN.sub(r"\1", name).replace("..", ".").removeprefix(".")
    while shorter.startswith("module."):
        shorter = shorter.removeprefix("module.")
    return shorter


def _tensors_by_place(content: Any) -> dict[str, dict[str, StoredTensor]]:
    """Every dict in `content` that holds tensors by name, not those of optimisers, nor dicts of few."""
    found: dict[str, dict[str, StoredTensor]] = {}
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    left = MOST_ITEMS
    while waiting and left > 0:
        place, value, depth = waiting.pop()
        if not isinstance(value, dict):
            continue
        left -= 1 + len(value)
        named = {key: child for key, child in value.items() if isinstance(key, str)}
        tensors = {key: child for key, child in named.items() if isinstance(child, StoredTensor)}
        if tensors:
            found[place] = tensors
        for key, child in named.items() if depth < DEEPEST else ():
            if not _OPTIMISER.search(key):
                waiting.append((f"{place}.{key}" if place else key, child, depth + 1))
    most = max(map(len, found.values()), default=0)
    return {place: tensors for place, tensors in found.items() if len(tensors) >= FEW * most}


def _rank(place: str, tensors: int) -> tuple[bool, int, int]:
    keys = place.split(".")
    known = [WEIGHTS_KEYS.index(key) for key in (keys[0], keys[-1]) if key in WEIGHTS_KEYS]
    unknown = len(WEIGHTS_KEYS) + (place != "")
    return is_averaged(place), min(known, default=unknown), -tensors
