"""Test-time registers: high-norm outliers moved from patch tokens into a token of their own.

Jiang et al., "Vision Transformers Don't Need Trained Registers", arXiv 2506.08010: a few hidden units of
the feed-forward layers ("register neurons") make the outliers in which a ViT keeps what is of the whole
image. Their activation is taken off the patches and given, at its largest over all tokens, to an extra
token that starts as the mean of the patches; the class token keeps its own. As `activate_on_registers`
and `find_register_neurons` of the authors' shared/hook_fn.py and shared/algorithms.py.

Letters in shapes: V views, L tokens (the class token first, the register last), K neurons of a block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bifusion.errors import InputError
from bifusion.models.towers.clip_architecture import TowerSize
from bifusion.models.towers.clip_parts import Block

Neuron = tuple[int, int]
"""Block, and hidden unit of its feed-forward layer, both from 0."""
COUNT = 10
"""Neurons that are moved; of the authors' settings for OpenCLIP ViT-B/16, like the next two."""
TOP_BLOCK = 5
"""Last block in which they are looked for."""
OUTLIER_NORM = 30.0
"""Norm beyond which a patch token after the last block is an outlier."""


class RegisterActivation(nn.Module):
    """An activation function that moves its neurons' activation from the patches to the last token."""

    neurons: Tensor

    def __init__(self, activation: nn.Module, neurons: Sequence[int]) -> None:
        super().__init__()
        self.activation, self.units = activation, sorted(neurons)
        self.register_buffer("neurons", torch.tensor(self.units, device="cpu"), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(V, L, hidden units) before the activation to the same after it."""
        active = self.activation(hidden)
        picked = active.index_select(2, self.neurons)
        patches = torch.zeros_like(picked[:, 1:-1])
        moved = torch.cat([picked[:, :1], patches, picked.amax(dim=1, keepdim=True)], dim=1)
        return active.index_copy(2, self.neurons, moved)

    def extra_repr(self) -> str:
        return f"units={self.units}"


def with_register(tokens: Tensor) -> Tensor:
    """(V, 1 + h·w, D) tokens that enter ln_pre to the same with a register behind them."""
    return torch.cat([tokens, tokens[:, 1:].mean(dim=1, keepdim=True)], dim=1)


def use_registers(blocks: Sequence[Block], neurons: Sequence[Neuron]) -> None:
    """Makes the blocks move the activation of `neurons`."""
    of_block: dict[int, list[int]] = {}
    for block, unit in neurons:
        of_block.setdefault(block, []).append(unit)
    for number, units in of_block.items():
        mlp: Any = blocks[number].mlp
        mlp.gelu = RegisterActivation(mlp.gelu, units)


def check_neurons(neurons: Sequence[Neuron], last: int, size: TowerSize) -> None:
    """InputError for a neuron that there is not, or twice; `last`: block, from 0, that may have some."""
    twice = [neuron for neuron, times in Counter(neurons).items() if times > 1]
    if twice:
        raise InputError(f"tower.register_neurons: {twice[0]} is named twice; name each neuron once")
    hidden = 4 * size.width
    for block, unit in neurons:
        if not (0 <= block <= last and 0 <= unit < hidden):
            raise InputError(
                f"tower.register_neurons: found {(block, unit)}; expected a block 0 … {last} whose "
                f"feed-forward layer is used, and a hidden unit 0 … {hidden - 1}"
            )


@torch.no_grad()
def find_register_neurons(
    blocks: nn.ModuleList,
    tokens_of: Iterable[Tensor],
    *,
    count: int = COUNT,
    top_block: int = TOP_BLOCK,
    outlier_norm: float = OUTLIER_NORM,
) -> list[Neuron]:
    """The neurons most active where patch tokens are outliers.

    Args:
        blocks: all blocks of a tower.
        tokens_of: gives (V, 1 + h·w, D) after the last block, of some images at a time, by running
            `blocks`, which is watched meanwhile.
        count: how many; mean absolute activation at the outliers, averaged over images, ranks them.
        top_block: the last block in which they are looked for.
        outlier_norm: an outlier is a patch token with a larger norm.
    Raises:
        InputError: no image has an outlier.
    """
    watched = blocks[: top_block + 1]
    total: Tensor | None = None
    images, largest = 0, 0.0
    with _activations(watched) as seen:
        for tokens in tokens_of:
            norms = tokens[:, 1:].norm(dim=2)
            largest = max(largest, float(norms.max()))
            hidden = torch.stack([active[:, 1:].abs() for active in seen])  # (blocks, V, h·w, hidden)
            seen.clear()
            for image, outlier in enumerate(norms > outlier_norm):
                if outlier.any():
                    score = hidden[:, image, outlier].mean(dim=1)
                    total, images = score if total is None else total + score, images + 1
    if total is None:
        raise InputError(
            f"registers: no patch token has a norm above {outlier_norm:g} (largest: {largest:.1f}); "
            "there are no outliers to move, leave registers out"
        )
    best = total.flatten().topk(min(count, total.numel())).indices.tolist()
    return sorted(divmod(at, total.shape[1]) for at in best)


@contextmanager
def _activations(blocks: nn.ModuleList) -> Iterator[list[Tensor]]:
    """What the blocks' activation functions gave, in order, to be cleared after each run."""
    seen: list[Tensor] = []
    functions = [block.get_submodule("mlp.gelu") for block in blocks]

    def keep(_function: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen.append(output)

    hooks = [function.register_forward_hook(keep) for function in functions]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
