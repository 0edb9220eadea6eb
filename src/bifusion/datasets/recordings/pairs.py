"""Which colour picture is of which depth picture where no list says it: by numbers, times or place.

Sources: Open3D's reconstruction system, which sorts both folders and takes the k-th of both together,
and its synchronize_frames.py, which brings recordings of OpenNI (Redwood's, Open3D's fountain) to that:
names there are a number of each stream's own and microseconds, 0000010-000001228920.jpg.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bifusion.datasets.recordings.pictures import name_times_s
from bifusion.errors import InputError

MOST_APART_S = 0.02
"""More than half of what lies between the pictures of a stream of 30 a second."""
COLOR_AND_DEPTH = ("colour pictures", "of depth")
Numbered = dict[int, Path]
"""Number in the name → file, rising."""


@dataclass
class Pairs:
    """Pictures of two streams and what belongs together."""

    colors: list[Path]
    depths: list[Path]
    depth_of: list[int | None]
    """Place in `depths` for each of `colors`."""
    times_s: np.ndarray | None = None
    """Of the depth pictures, where the names of both streams carry times."""
    notes: list[str] = field(default_factory=list)

    def color_of(self) -> list[Path | None]:
        """For each of `depths`."""
        found: list[Path | None] = [None] * len(self.depths)
        for color, k in zip(self.colors, self.depth_of, strict=True):
            if k is not None:
                found[k] = color
        return found


def pair(folder: Path, colors: Numbered, depths: Numbered) -> Pairs:
    """By their numbers where these are alike; else by times in their names; else by place, of equally
    many.

    Raises InputError: what belongs together cannot be told.
    """
    color_s, depth_s = (name_times_s([path.stem for path in of.values()]) for of in (colors, depths))
    pairs = Pairs([*colors.values()], [*depths.values()], [None] * len(colors))
    if colors and depths and colors.keys() != depths.keys():
        if color_s is not None and depth_s is not None:
            return _by_time(folder, pairs, color_s, depth_s)
        if color_s is not None or depth_s is not None or not colors.keys() & depths.keys():
            return _by_place(folder, pairs)
        check_shift(folder, colors, depths, COLOR_AND_DEPTH)
    place = {number: k for k, number in enumerate(depths)}
    pairs.depth_of = [place.get(number) for number in colors]
    return pairs


def nearest(sorted_or_not: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(W,) index of the value nearest to each wanted one."""
    order = np.argsort(sorted_or_not, kind="stable")
    ordered = sorted_or_not[order]
    right = np.clip(np.searchsorted(ordered, wanted), 1, max(len(ordered) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(ordered) - 1)
    closer = np.abs(ordered[left] - wanted) <= np.abs(ordered[right] - wanted)
    return order[np.where(closer, left, right)]


def _by_time(folder: Path, pairs: Pairs, color_s: np.ndarray, depth_s: np.ndarray) -> Pairs:
    """Those that are each other's nearest within MOST_APART_S.

    Of equally many the k-th of both must be near: programs take these together, and made the poses so.
    """
    if len(color_s) == len(depth_s):
        _check_apart(folder, pairs, np.abs(color_s - depth_s))
        partner, mutual = np.arange(len(color_s)), np.ones(len(color_s), bool)
    else:
        partner = nearest(depth_s, color_s)
        mutual = nearest(color_s, depth_s)[partner] == np.arange(len(color_s))
        mutual &= np.abs(depth_s[partner] - color_s) <= MOST_APART_S
    pairs.depth_of = [int(k) if near else None for k, near in zip(partner, mutual, strict=True)]
    pairs.times_s = depth_s
    pairs.notes.append(
        f"paired by the times in their names: {int(mutual.sum()):,} of {len(color_s):,} colour pictures "
        f"have depth within {MOST_APART_S * 1000:g} ms"
    )
    return pairs


def _check_apart(folder: Path, pairs: Pairs, apart_s: np.ndarray) -> None:
    far = np.flatnonzero(apart_s > MOST_APART_S)
    if len(far):
        color, depth = pairs.colors[far[0]].name, pairs.depths[far[0]].name
        raise InputError(
            f"{folder}: {_described(pairs)}, but {color} and {depth}, each the {far[0] + 1}. of its "
            f"folder, are {apart_s[far[0]]:.3f} s apart: which belong together cannot be told; remove "
            "the pictures that have no partner"
        )


def _by_place(folder: Path, pairs: Pairs) -> Pairs:
    if len(pairs.colors) != len(pairs.depths):
        raise InputError(
            f"{folder}: {_described(pairs)}, whose numbers are not alike: which belong together cannot "
            "be told; give a pair the same number"
        )
    pairs.depth_of = [*range(len(pairs.depths))]
    pairs.notes.append(f"{_described(pairs)}, whose numbers are not alike: paired in their order")
    return pairs


def check_shift(folder: Path, one: Numbered, other: Numbered, called: tuple[str, str]) -> None:
    """InputError where equally many files of two kinds are counted from another number on: partners may
    have one number or one place."""
    shifts = {first - second for first, second in zip(one, other, strict=False)}
    if len(one) == len(other) and len(shifts) == 1 and shifts != {0} and one.keys() & other.keys():
        first, second = (next(iter(of.values())).name for of in (one, other))
        raise InputError(
            f"{folder}: {len(one):,} {called[0]} from {first} on, {len(other):,} {called[1]} from "
            f"{second} on: whether those of one number belong together or those of one place cannot be "
            "told; give a pair the same number"
        )


def _described(pairs: Pairs) -> str:
    color, depth = pairs.colors[0].name, pairs.depths[0].name
    return (
        f"{len(pairs.colors):,} colour pictures from {color} on, {len(pairs.depths):,} of depth from "
        f"{depth} on"
    )
