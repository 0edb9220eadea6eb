"""Whether all processes of a run have the same configuration, data, software and weights.

One that has another would train another model without a word: gradients of two configurations have a
mean too.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bifusion.config.run import Config, config_to_dict
from bifusion.errors import InputError, listing_lines
from bifusion.runs.run_data import RunData
from bifusion.storage.json_files import to_json
from bifusion.training.processes import group

MAY_DIFFER = (
    "data.root", "data.cache_mb", "trainer.workers", "trainer.tower_cache", "trainer.tower_cache_gb",
    "trainer.tower_cache_dir",
)  # fmt: skip
"""Where data lie on a machine and how they are read there."""
DIGITS = 16
NAMED, SHOWN = 5, 80
"""Fields named in a message, and characters of a value."""
ABSENT = "nothing"
Facts = Mapping[str, Any]
"""Field → its value, or the JSON of it."""


def require_agreement(facts: Callable[[], Facts], what: str) -> None:
    """InputError on all processes where one has other facts than the first: who, field, both values.

    All must call it; a single process has nothing to compare. Sums are compared first: only where they
    differ the facts themselves are sent.
    """
    if group.count() == 1:
        return
    plain = {name: json.dumps(to_json(value), sort_keys=True) for name, value in facts().items()}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    if len(set(group.gather(digest))) == 1:
        return
    all_facts = group.gather((socket.gethostname(), plain))
    first_host, first = all_facts[0]
    for number, (host, own) in enumerate(all_facts):
        found = list(_differences(first, own, number))
        if found:
            raise InputError(
                f"rank {number} ({host}) has another {what} than rank 0 ({first_host}):"
                f"{listing_lines(found, NAMED)}\n"
                "Start all processes with the same options, software and data"
            )


def starting_facts(config: Config, data: RunData) -> dict[str, Any]:
    """What all processes must have in common as a run starts: configuration, data, software."""
    facts = {name: value for name, value in _leaves(config_to_dict(config)) if name not in MAY_DIFFER}
    for scene, files in data.scenes.items():
        facts[f"data {scene}"] = "there"
        for file, state in files.items():
            sum_ = state.sha256 if state.sha256 is not None else "without a sum"
            facts[f"data {scene}/{file}"] = f"{state.bytes} bytes, {sum_[:DIGITS]}"
    facts |= {f"version of {package}": version for package, version in data.versions.items()}
    return facts | {f"code {name}": digest for name, digest in _code()}


def model_facts(model: nn.Module, progress: Any) -> dict[str, Any]:
    """Where a run goes on, and sums of the weights that it goes on with."""
    sums = {f"weights {name}": _sum(parameter) for name, parameter in model.named_parameters()}
    return {**{f"progress {name}": value for name, value in _leaves(to_json(progress))}, **sums}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of what is in nested dicts."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _code() -> Iterator[tuple[str, str]]:
    """Name and sum of every file of Python of this package."""
    root = Path(__file__).parents[2]
    for path in sorted(root.rglob("*.py")):
        yield str(path.relative_to(root)), hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]


def _sum(parameter: torch.Tensor) -> str:
    content = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(content.numpy().data).hexdigest()[:DIGITS]


def _differences(first: Facts, own: Facts, number: int) -> Iterator[str]:
    for name in dict.fromkeys((*first, *own)):
        one, other = first.get(name, ABSENT), own.get(name, ABSENT)
        if one != other:
            yield f"{name}: rank 0 has {one[:SHOWN]}, rank {number} {other[:SHOWN]}"
