"""How far an optimiser step moves the weights, relative to their size, by gradient path.

Gradient norms alone do not tell: Adam's steps do not depend on a gradient's scale, weight decay moves
weights without any gradient, and clipping comes in between. ‖Δw‖/‖w‖ is what is left of all that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bifusion.step.observe import norms_by_path


class WeightsBefore:
    """A copy of the weights that are about to be updated; made only in the steps that are measured.

    A path's frozen weights are not copied but count in its size: the depth channel of CLIP's first layer
    starts at zero, and what it moves matters beside the weights that it works with. Costs one copy of
    the trained weights in memory and two passes over them.
    """

    @torch.no_grad()
    def __init__(self, groups: dict[str, list[nn.Parameter]]):
        self._weights = {
            name: trained
            for name, parameters in groups.items()
            if (trained := [p for p in parameters if p.requires_grad])
        }
        self._before = {name: [p.clone() for p in ps] for name, ps in self._weights.items()}
        self._sizes = {name: _norm(parameters) for name, parameters in groups.items() if parameters}

    @torch.no_grad()
    def ratios(self) -> dict[str, float]:
        """‖Δw‖ / ‖w before‖ of every gradient path with trained weights, since this was made.

        As the optimiser left them: NaN or infinite where the weights are. A path whose weights were
        all zero is left out.
        """
        if not self._weights:
            return {}
        moves = {
            name: _norm([now - then for now, then in zip(self._weights[name], before, strict=True)])
            for name, before in self._before.items()
        }
        figures = torch.stack([*self._sizes.values(), *moves.values()]).tolist()
        size = norms_by_path(dict(zip(self._sizes, figures, strict=False)))
        move = norms_by_path(dict(zip(moves, figures[len(self._sizes) :], strict=True)))
        ratios = {}
        for path, moved in move.items():
            weights = size[path]
            if moved is not None and weights:
                ratios[path] = moved / weights
        return ratios


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """Norm of all tensors together; 0-dim float32."""
    return nn.utils.get_total_norm(tensors).float()
