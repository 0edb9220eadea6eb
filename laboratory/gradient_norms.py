"""What each loss term pulls with: `python -m laboratory.gradient_norms RUN [RUN …]`.

The norm of the gradient that each unweighted term of a run's losses sends into the superpoint features,
which the semantic head and the decoder share, at its last checkpoint on its training scenes; and the
term's share of the whole with the weights of the end of its plan. A weight of a loss acts on them
through this gradient, so that weights are in balance where the shares are.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from bifusion.config.stages import StageState, Timeline
from bifusion.data.batching import collate
from bifusion.data.dataset import SceneDataset
from bifusion.losses.criterion import Criterion
from bifusion.runs.trained_model import load_model
from bifusion.types import Batch


@dataclass
class Arguments:
    """Measures the gradient of each loss term at the features that heads share."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Finished run folders whose data set is still there."""
    scenes: int = 20
    """Training scenes, augmented as in the epoch after the last."""


def main() -> int:
    wanted, console = tyro.cli(Arguments), Console()
    for run in wanted.runs:
        model, config = load_model(run)
        model.train()
        end = config.trainer.epochs
        state = Timeline(config.stages, end).at_end(end)
        dataset = SceneDataset(config.data, "train", config.seed, training=True)
        criterion = Criterion(config.criterion, config.labels)
        batches = [collate([dataset.sample(i % len(dataset), end)]) for i in range(wanted.scenes)]
        norms: dict[str, list[float]] = {}
        for batch in batches:
            for term, norm in gradient_norms(model, criterion, batch, state).items():
                norms.setdefault(term, []).append(norm)
        _show(run.name, norms, state, console)
    return 0


def gradient_norms(
    model: nn.Module, criterion: Criterion, batch: Batch, state: StageState
) -> dict[str, float]:
    """Term → L2 norm of its gradient in the superpoint features (S, D); terms that do not reach these
    are left out."""
    prediction = model(batch, state.control)
    found = {}
    for term, value in criterion(prediction, batch).items():
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(
                value, [prediction.superpoint_features], retain_graph=True, allow_unused=True
            )
            if gradient is not None:
                found[term] = float(gradient.norm())
    return found


def _show(name: str, norms: dict[str, list[float]], state: StageState, console: Console) -> None:
    means = {term: statistics.mean(of_term) for term, of_term in norms.items()}
    pulls = {term: mean * state.weights.get(term, 0.0) for term, mean in means.items()}
    table = Table("term", "gradient", "weight", "share", title=name)
    for term, mean in means.items():
        share = pulls[term] / sum(pulls.values())
        table.add_row(term, f"{mean:.4f}", f"{state.weights.get(term, 0.0):.3f}", f"{share:.2f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
