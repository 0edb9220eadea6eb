"""Where the weights lie in what was saved."""

from __future__ import annotations

from typing import Any

from bifusion.torch_files.objects import StoredTensor

WEIGHTS_KEYS = ("state_dict", "model", "model_state_dict", "net")
"""Under which projects put their weights; mmengine and Lightning use the first."""


def find_tensors(content: Any) -> dict[str, StoredTensor]:
    """Tensors of the state dict in `content`, itself or under a usual key, by name; {} if none is there.

    "module.", which data parallelism puts before names, is removed.
    """
    candidates = [content]
    if isinstance(content, dict):
        candidates = [content[key] for key in WEIGHTS_KEYS if isinstance(content.get(key), dict)] + [
            content
        ]
    for candidate in candidates:
        tensors = _tensors_of(candidate)
        if tensors:
            return tensors
    return {}


def _tensors_of(value: Any) -> dict[str, StoredTensor]:
    if not isinstance(value, dict):
        return {}
    tensors = {k: t for k, t in value.items() if isinstance(k, str) and isinstance(t, StoredTensor)}
    if tensors and all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors
