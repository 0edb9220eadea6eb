"""Which scenes make a batch, and which process gets which of them: nobody should wait long for others.

A step takes as long as the process with the most voxels. How many a scene has is known before it is
loaded by its number of points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bifusion.data.scene_folder import read_description
from bifusion.data.scene_source import OutsideScenes, SceneFolders
from bifusion.errors import InputError
from bifusion.rng import numpy_rng
from bifusion.untrusted.arrays import load_npy

CHUNK = 16
"""Batches among whose scenes those of like size are put together: few enough that a batch is still
drawn at random, and enough that its scenes differ by some per cent."""


def scene_sizes(scenes: SceneFolders | OutsideScenes) -> list[int]:
    """Points of each scene, in the order of their names; 1 each where scenes come from outside, as
    nothing tells before they are loaded."""
    if not isinstance(scenes, SceneFolders):
        return [1] * len(scenes.names)
    return [_points(scenes, name) for name in scenes.names]


def _points(scenes: SceneFolders, name: str) -> int:
    """As scene.json says, else as the header of coord.npy does. A damaged file is told where the scene
    is loaded."""
    try:
        told = read_description(scenes.folder / name).get("points")
        if isinstance(told, int) and told > 0:
            return told
        path = scenes.folder / name / "coord.npy"
        return max(len(load_npy(path, missing="missing", advice="prepare the scene again")), 1)
    except (InputError, TypeError):
        return 1


def like_sized(
    order: Sequence[int], sizes: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[int]:
    """`order` with scenes of like size put together in batches.

    Of every `CHUNK` batches the scenes are sorted by size, cut into batches again, and these put in an
    order drawn from (seed, "like-sized", epoch). Which scenes come in the same chunk is as drawn, and
    so is the rest that fills no batch.
    """
    rng, whole = numpy_rng(seed, "like-sized", epoch), len(order) // batch_size * batch_size
    dealt: list[int] = []
    for start in range(0, whole, CHUNK * batch_size):
        chunk = sorted(
            order[start : min(start + CHUNK * batch_size, whole)], key=lambda i: (sizes[i], i)
        )
        for batch in rng.permutation(len(chunk) // batch_size):
            dealt += chunk[batch * batch_size : (batch + 1) * batch_size]
    return [*dealt, *order[whole:]]


def deal(sizes: Sequence[int], processes: int) -> list[list[int]]:
    """The places of a batch's scenes, of the given sizes, that each process gets.

    The largest first, each to the process with the fewest points among those with room (Graham, "Bounds
    on Multiprocessing Timing Anomalies", 1969); places ascend within a process. Of n scenes none gets
    more than n / processes, rounded up, and with as many scenes as processes or more each gets one.
    """
    room = -(-len(sizes) // processes)
    dealt: list[list[int]] = [[] for _ in range(processes)]
    load = [0] * processes
    for place in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        free = (p for p in range(processes) if len(dealt[p]) < room)
        chosen = min(free, key=lambda p: (load[p], len(dealt[p]), p))
        dealt[chosen].append(place)
        load[chosen] += sizes[place]
    return [sorted(places) for places in dealt]


def waiting_share(batches: Sequence[Sequence[int]], sizes: Sequence[int], processes: int) -> float:
    """Share of the processes' time, in [0, 1), that goes by waiting for the one with the most points, if
    time goes with points: 1 − mean over processes / largest, over all `batches` of scenes."""
    mean = longest = 0.0
    for batch in batches:
        of_batch = [sizes[index] for index in batch]
        loads = [sum(of_batch[place] for place in places) for places in deal(of_batch, processes)]
        mean += float(np.mean(loads))
        longest += max(loads)
    return 1 - mean / longest if longest else 0.0
