"""A step's figures on their way to the host: named, left on the device, fetched in one copy.

A host that asks a GPU for a number waits until all that was asked of it is done, and the GPU then waits
for the host. So whatever watches a step puts its figures here, and looks when the step is over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor


class Figures:
    """Named numbers under named places: `put` or `watch`, then `fetch`, then look."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._tensors: dict[str, Tensor] = {}
        self._watched: dict[str, list[Tensor]] = {}
        self._values: dict[str, list[float]] = {}
        self._bad: dict[str, list[str]] = {}

    @torch.no_grad()
    def put(self, place: str, figures: Mapping[str, Tensor]) -> None:
        """Figures by name, () each; kept as float32."""
        self._names[place] = list(figures)
        if figures:
            self._tensors[place] = torch.stack([figure.detach().float() for figure in figures.values()])

    @torch.no_grad()
    def watch(self, place: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Tensors to be asked for NaN and infinities; several may share a name."""
        named = [(name, tensor.detach()) for name, tensor in tensors if tensor.numel()]
        self._names[place] = [name for name, _ in named]
        self._watched[place] = [tensor for _, tensor in named]
        if named:
            self._tensors[place] = _norms(self._watched[place])

    def fetch(self) -> None:
        """Brings all figures put since the last time to the host: the only wait for the device. What was
        watched is let go of."""
        if self._tensors:
            numbers = iter(torch.cat(list(self._tensors.values())).tolist())
            for place, tensor in self._tensors.items():
                self._values[place] = [next(numbers) for _ in range(len(tensor))]
        for place, tensors in self._watched.items():
            self._bad[place] = list(dict.fromkeys(self._looked_at(place, tensors)))
        self._tensors, self._watched = {}, {}

    def __contains__(self, place: str) -> bool:
        return place in self._names

    def at(self, place: str) -> dict[str, float]:
        """What was put there, by name; {} where nothing was."""
        return dict(zip(self._names.get(place, []), self._values.get(place, []), strict=True))

    def nonfinite(self, place: str) -> list[str]:
        """Names of the tensors watched there that have a NaN or infinity in them, each once."""
        return self._bad.get(place, [])

    def _looked_at(self, place: str, tensors: list[Tensor]) -> Iterator[str]:
        """Norms are cheap and carry both along; only where one is not finite, which that of huge finite
        numbers may be too, every element is looked at."""
        norms = self._values.get(place, [])
        for name, tensor, norm in zip(self._names[place], tensors, norms, strict=True):
            if not math.isfinite(norm) and not bool(torch.isfinite(tensor).all()):
                yield name


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Norm of every tensor; one launch on a GPU."""
    norms = torch._foreach_norm(list(tensors), 2)  # pyright: ignore[reportPrivateImportUsage]
    return torch.stack([norm.float() for norm in norms])
