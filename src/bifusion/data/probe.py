"""A small classifier that tries to tell classes apart by what one sensor alone reveals of an instance.

It is the control of the benchmark: on voxel colours and geometry it must stay near chance for classes
that only texture tells apart, and on image crops it must not, unless the texture is off.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bifusion.rng import torch_rng

HIDDEN = 32
STEPS = 150
ENSEMBLE = 5
LEARNING_RATE = 0.02
WEIGHT_DECAY = 0.02
LAGS = (1, 2, 3, 4, 6)
"""Distances in pixels, over which image features compare brightness."""
GREY_STEPS = np.array([-24.0, -12.0, -6.0, -3.0, 0.0, 3.0, 6.0, 12.0, 24.0])
"""Inner borders of the histogram of voxel brightness around its mean, in grey levels."""


def voxel_features(coord: np.ndarray, color: np.ndarray, voxel_size_m: float) -> np.ndarray:
    """(32,) what voxels reveal of one instance: extents, height and all that their colours hold.

    Mean and spread of voxel colours, histogram of their brightness, and its mean difference between
    neighbouring voxels in 7 directions, by which stripes, dots and checks would differ.

    Args:
        coord, color: (n, 3) points of the instance, metres and 0 … 255.
    """
    cell = np.floor(coord / voxel_size_m).astype(np.int64)
    cell -= cell.min(axis=0)
    shape = tuple(cell.max(axis=0) + 2)
    flat = np.ravel_multi_index(tuple(cell.T), shape)
    count = np.bincount(flat, minlength=np.prod(shape))
    total = np.stack(
        [np.bincount(flat, color[:, channel], minlength=np.prod(shape)) for channel in range(3)], axis=1
    )
    filled = count > 0
    mean = total[filled] / count[filled, None]
    grey = np.full(len(count), np.nan)
    grey[filled] = mean.mean(axis=1)
    centred = grey[filled] - grey[filled].mean()
    histogram = np.bincount(np.digitize(centred, GREY_STEPS), minlength=len(GREY_STEPS) + 1) / len(centred)
    extent = coord.max(axis=0) - coord.min(axis=0)
    geometry = [*np.sort(extent[:2]), extent[2], coord[:, 2].min(), coord[:, 2].max(), np.log(filled.sum())]
    steps = _neighbour_differences(grey.reshape(shape))
    return np.concatenate([geometry, mean.mean(axis=0), mean.std(axis=0), histogram, steps, steps[:3] > 4])


def _neighbour_differences(grey: np.ndarray) -> np.ndarray:
    """(7,) mean |difference| of a grid (NaN: empty) along its axes, diagonals and two steps up."""
    padded = np.pad(grey, 2, constant_values=np.nan)
    middle = padded[2:-2, 2:-2, 2:-2]
    steps = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 0, -1), (0, 0, 2)]
    found = []
    for step in steps:
        moved = padded[tuple(slice(2 + d, d - 2 or None) for d in step)]
        difference = np.abs(middle - moved)
        known = ~np.isnan(difference)
        found.append(difference[known].mean() if known.any() else 0.0)
    return np.array(found)


def image_features(crops: list[np.ndarray]) -> np.ndarray:
    """(22,) texture of one instance in its image crops, (h, w, 3) uint8: contrast, and brightness
    differences at `LAGS` in 4 directions, relative to the contrast; averaged over crops by area."""
    rows, weights = [], []
    for crop in crops:
        grey = crop.astype(np.float32).mean(axis=2)
        variance = grey.var() + 1e-3
        row = [np.log(variance), grey.std() / (grey.mean() + 1)]
        for lag in LAGS:
            height, width = grey.shape[0] - lag, grey.shape[1] - lag
            corner, across = grey[:height, :width], grey[:height, lag : lag + width]
            down, diagonal = grey[lag : lag + height, :width], grey[lag : lag + height, lag : lag + width]
            pairs = [(corner, across), (corner, down), (corner, diagonal), (across, down)]
            row += [float(((a - b) ** 2).mean() / (2 * variance)) for a, b in pairs]
        rows.append(row)
        weights.append(grey.size)
    return np.average(rows, axis=0, weights=weights)


def probe_predictions(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, num_classes: int, seed: int = 0
) -> np.ndarray:
    """(m,) class of each row of `test`, by an ensemble of two-layer perceptrons fitted to `train`.

    Args:
        train: (n, F) features; labels: (n,) int, 0 … num_classes-1; test: (m, F).
    """
    mean, spread = train.mean(axis=0), train.std(axis=0)
    scale = np.where(spread > 1e-6, spread, np.inf)  # a constant feature tells nothing
    inputs = torch.tensor((train - mean) / scale, dtype=torch.float32)
    asked = torch.tensor((test - mean) / scale, dtype=torch.float32).clamp(-5, 5)
    target = torch.tensor(labels, dtype=torch.int64)
    votes = torch.zeros(len(asked), num_classes)
    for member in range(ENSEMBLE):
        votes += _fit(inputs.clamp(-5, 5), target, asked, num_classes, torch_rng(seed, "probe", member))
    return votes.argmax(dim=1).numpy()


def _fit(
    inputs: Tensor, target: Tensor, asked: Tensor, num_classes: int, rng: torch.Generator
) -> Tensor:
    """Class probabilities (m, num_classes) of `asked` by one perceptron."""
    sizes = [(inputs.shape[1], HIDDEN), (HIDDEN, num_classes)]
    weights = [torch.randn(a, b, generator=rng).div_(a**0.5).requires_grad_() for a, b in sizes]
    biases = [torch.zeros(b, requires_grad=True) for _, b in sizes]

    def logits(rows: Tensor) -> Tensor:
        return torch.relu(rows @ weights[0] + biases[0]) @ weights[1] + biases[1]

    optimizer = torch.optim.AdamW([*weights, *biases], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits(inputs), target).backward()
        optimizer.step()
    with torch.no_grad():
        return logits(asked).softmax(dim=1)
