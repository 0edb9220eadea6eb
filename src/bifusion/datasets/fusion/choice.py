"""Which frames of a recording become views: few that together see much, and none that is blurred."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import laplace, median_filter
from torch import Tensor

from bifusion.datasets.fusion.fuse import evenly
from bifusion.datasets.recordings.frame import Frame, Recording
from bifusion.errors import InputError
from bifusion.geometry import LiftingConfig, agrees_with_depth, inside_image, project
from bifusion.occupied_cells import occupied_cells

SMALL_WIDTH = 320
"""Pixels to which a picture is reduced before its sharpness is measured, so that noise counts little."""
BLURRED = 0.5
"""A frame with less than this share of its neighbours' sharpness is blurred."""
NEIGHBORS = 15
TIE = 0.95
"""Frames that show this share of what the best one shows are as good; the sharpest of them is taken."""
SPACING_M = 0.1
MOST_CANDIDATES = 400


@dataclass(frozen=True)
class Choice:
    """Frames chosen as views."""

    indices: list[int]
    """Of the recording, the most telling first."""
    names: list[str]
    """What the recording calls each of them."""
    coverage: float
    """Share of the scan's places that some of them see; 0 … 1."""
    notes: list[str]


def choose_frames(
    recording: Recording, points_m: np.ndarray, count: int, most_candidates: int = MOST_CANDIDATES
) -> Choice:
    """Up to `count` frames with a colour picture and depth (`choose_views`).

    Frames that cannot be read are passed over: the fusion has named them.

    Args:
        points_m: (N, 3) the scan's surface, in the recording's world.
        count: views wanted.
        most_candidates: frames with a picture looked at, evenly spread.
    Raises:
        InputError: no frame has colour and depth.
    """
    places = torch.from_numpy(thinned(points_m, SPACING_M)).float()
    indices, names, seen, sharp = [], [], [], []
    pictured = [index for index in range(len(recording)) if recording.has_picture(index)]
    for index in (pictured[k] for k in evenly(len(pictured), most_candidates)):
        try:
            frame = recording.frame(index)
        except InputError:
            continue
        if frame.color is not None and frame.depth_m is not None:
            indices.append(index)
            names.append(frame.name)
            seen.append(places_seen(frame, places).numpy())
            sharp.append(sharpness(frame.color))
    if not indices:
        raise InputError(f"{recording.name}: no frame has a colour picture and depth; views need both")
    sees = np.stack(seen)
    rows = choose_views(sees, np.array(sharp), count)
    coverage = float(sees[rows].any(axis=0).mean())
    with_picture = " with a picture" if len(pictured) < len(recording) else ""
    note = (
        f"{len(rows)} of {len(pictured):,} frames{with_picture} are the views; they see {coverage:.0%} "
        f"of the scan ({sees.any(axis=0).mean():.0%} is seen by all {len(indices):,} that were looked "
        "at)"
    )
    return Choice([indices[row] for row in rows], [names[row] for row in rows], coverage, [note])


def choose_views(seen: np.ndarray, sharp: np.ndarray, count: int) -> list[int]:
    """Up to `count` frames, each the one that shows most of what those before it do not.

    Of frames that show nearly as much the sharpest is taken. Blurred ones come only after all others.
    Once everything is seen it is to be seen again. The same arguments give the same frames.

    Args:
        seen: (F, M) bool, which frame sees which place, frames in the order of their time.
        sharp: (F,) `sharpness` of each.
        count: frames wanted.
    Returns:
        Rows of `seen`, in the order in which they were taken.
    """
    if count < 1:
        raise InputError(f"views: found {count}; expected 1 or more")
    usual = median_filter(sharp, size=min(NEIGHBORS, len(sharp)), mode="nearest")
    blurred = sharp < BLURRED * usual
    weight = seen.astype(np.float32)
    unseen = np.ones(seen.shape[1], np.float32)
    chosen: list[int] = []
    for group in (np.flatnonzero(~blurred), np.flatnonzero(blurred)):
        left = list(group)
        while left and len(chosen) < count:
            gain = weight[left] @ unseen
            if gain.max() == 0 and unseen.min() == 0:
                unseen[:] = 1
                continue
            good = np.flatnonzero(gain >= TIE * gain.max())
            row = left.pop(int(good[sharp[left][good].argmax()]))
            chosen.append(int(row))
            unseen[seen[row]] = 0
    return chosen


def places_seen(frame: Frame, places_m: Tensor) -> Tensor:
    """(M,) bool: the place (M, 3) is on the colour picture and is what the depth camera measured."""
    assert frame.color_camera is not None and frame.depth_camera is not None
    world2cam, K = _matrices(frame.color_camera.cam2world, frame.color_camera.K)
    pixel, z = project(places_m, world2cam, K)
    world2cam, K = _matrices(frame.depth_camera.cam2world, frame.depth_camera.K)
    depth_m = torch.from_numpy(np.ascontiguousarray(frame.depth_m, np.float32))
    measured = agrees_with_depth(places_m, depth_m, world2cam, K, LiftingConfig())
    return inside_image(pixel, z, *frame.color_camera.size) & measured


def _matrices(cam2world: np.ndarray, K: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.linalg.inv(cam2world)).float(), torch.from_numpy(K).float()


def sharpness(color: np.ndarray) -> float:
    """Variance of the Laplacian of a picture (H, W, 3) uint8, reduced and in grey levels.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000. It tells pictures
    of the same place apart, no more.
    """
    factor = max(1, color.shape[1] // SMALL_WIDTH)
    height, width = (length // factor * factor for length in color.shape[:2])
    grey = color[:height, :width].mean(axis=2, dtype=np.float32)
    grey = grey.reshape(height // factor, factor, width // factor, factor).mean(axis=(1, 3))
    return float(laplace(grey).var())


def thinned(points_m: np.ndarray, spacing_m: float) -> np.ndarray:
    """(M, 3) one of the points in each cube of that edge, the first."""
    first = np.unique(occupied_cells(points_m, spacing_m), return_index=True)[1]
    return points_m[np.sort(first)]
