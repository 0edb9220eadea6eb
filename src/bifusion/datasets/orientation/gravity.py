"""The direction up, estimated from what a scan's surfaces and cameras show.

Rooms have floors, and what stands on them is seen from above: of all the scan's main directions only
up has a large lowest plane with no counterpart at the top, or furniture of which the tops were seen and
the undersides were not. Walls come in opposite pairs. Where cameras are known, they were held upright.
Each piece of evidence may be missing; what is left must be clear, or nothing is said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bifusion.datasets.orientation.facing import Facing, main_axes, refined

LEVEL = np.cos(np.deg2rad(12))
END_M = 0.12
"""The lowest and the highest plane lie within it of the ends …"""
INNER_M = 0.25
"""… and what stands between them farther away."""
ENDS = (1, 99)
"""Percentiles of heights that count as ends: stray pieces lie beyond."""
LEAST_AREA = 0.02
"""Share of the surface below which evidence is too little to count."""
CLEAR = 0.6
"""Evidence, −1 … 1, that says up by itself (generated rooms: 1.0 up, other directions up to 0.2; a scan
of ScanNet: 1.0, 0.33; the red kitchen, seen from one side only: 0.8 … 1 in all three) …"""
RIVAL = 0.5
"""… if no other main direction has this share of it."""
HELD_UPRIGHT = np.deg2rad(40)
"""The cameras' mean up is nearer to true up than this: people look down a little."""
COHERENT, INCOHERENT = 0.8, 0.6
"""Length of the mean of unit vectors that say the same thing, or do not."""
LEVEL_SPREAD = 0.3
"""Cameras have turned enough where the level axes spread across more than they do upwards."""


@dataclass(frozen=True)
class Estimate:
    """A direction up, and the words for what it comes from."""

    up: np.ndarray
    """(3,) unit vector."""
    how: str


@dataclass(frozen=True)
class Unclear:
    """No direction up, and why."""

    why: str


def estimate_up(facing: Facing, cam2world: np.ndarray | None) -> Estimate | Unclear:
    """Up by the cameras and the plane that fits them, else by the planes alone.

    Args:
        cam2world: (V, 4, 4) poses, or None.
    """
    axes = main_axes(facing)
    if not len(axes):
        return Unclear("its surfaces face no common direction")
    alone = up_of_planes(facing, axes)
    if cam2world is None or not len(cam2world):
        return alone
    held = up_of_cameras(cam2world)
    if held is None:
        return (
            alone
            if isinstance(alone, Estimate)
            else Unclear(f"its cameras were turned all ways, and {alone.why}")
        )
    cosine = axes @ held
    nearest = int(np.abs(cosine).argmax())
    if np.abs(cosine[nearest]) < np.cos(HELD_UPRIGHT):
        return Unclear("no large plane is level to its cameras")
    up = refined(axes[nearest] * np.sign(cosine[nearest]), facing)
    if isinstance(alone, Estimate) and alone.up @ up < np.cos(HELD_UPRIGHT):
        return Unclear(f"its cameras and {alone.how} contradict each other")
    floor, eyes = np.percentile(facing.point @ up, ENDS[0]), cam2world[:, :3, 3] @ up
    if np.median(eyes) < floor:
        return Unclear("its cameras lie below the lowest plane")
    return Estimate(up, f"its cameras, {_degrees(held, up):.0f}° from the plane that fits them best")


def up_of_planes(facing: Facing, axes: np.ndarray) -> Estimate | Unclear:
    """Up by the surfaces alone, among `axes` (A, 3)."""
    found = []
    for axis in axes:
        fine = refined(axis, facing)
        evidence = _evidence(facing, fine)
        found.append((abs(evidence), evidence, fine))
    found.sort(key=lambda one: -one[0])
    strength, evidence, axis = found[0]
    if strength < CLEAR:
        return Unclear("neither a floor without ceiling nor furniture tells which way is up")
    if any(other > RIVAL * strength for other, _, fine in found[1:] if abs(fine @ axis) < 0.5):
        return Unclear("its surfaces were seen from one side, and several directions may be up")
    return Estimate(axis * np.sign(evidence), "its floor and what stands on it")


def _evidence(facing: Facing, axis: np.ndarray) -> float:
    """−1 … 1: how much speaks for `axis` as up, below 0 for its opposite; 0: nothing, or both do."""
    cosine, height = facing.normal @ axis, facing.point @ axis
    low, high = np.percentile(height, ENDS)
    level = np.abs(cosine) > LEVEL
    votes = [
        _balance(
            facing.area[level & (height < low + END_M)], facing.area[level & (height > high - END_M)]
        )
    ]
    if facing.signed:
        inner = level & (height > low + INNER_M) & (height < high - INNER_M)
        votes.append(_balance(facing.area[inner & (cosine > 0)], facing.area[inner & (cosine < 0)]))
    strongest = max(votes, key=abs)
    return 0.0 if any(vote * strongest < -(CLEAR**2) for vote in votes) else strongest


def _balance(first: np.ndarray, second: np.ndarray) -> float:
    """−1 … 1, how much more area the first has than the second; 0 for too little of both."""
    both = first.sum() + second.sum()
    return float((first.sum() - second.sum()) / both) if both >= LEAST_AREA else 0.0


def up_of_cameras(cam2world: np.ndarray) -> np.ndarray | None:
    """(3,) the direction that the cameras' tops had in common, more exactly the one across their level
    axes; None where they had none. Pictures may all be sideways, as phones store them."""
    x, y = cam2world[:, :3, 0], cam2world[:, :3, 1]
    top, level = -y.mean(axis=0), x
    aside = x.mean(axis=0)
    if np.linalg.norm(top) < INCOHERENT and np.linalg.norm(aside) > COHERENT:
        top, level = _upper(aside, cam2world), y
    if np.linalg.norm(top) < INCOHERENT:
        return None
    top = top / np.linalg.norm(top)
    values, vectors = np.linalg.eigh(level.T @ level / len(level))
    across = vectors[:, 0] * np.sign(vectors[:, 0] @ top)
    turned = values[0] < LEVEL_SPREAD * values[1]
    return across if turned and across @ top > np.cos(HELD_UPRIGHT) else top


def _upper(aside: np.ndarray, cam2world: np.ndarray) -> np.ndarray:
    """Of a sideways phone's ±x the one that is up: people look down rather than up."""
    ahead = cam2world[:, :3, 2].mean(axis=0)
    return aside if ahead @ aside < 0 else -aside


def _degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(np.arccos(np.clip(a @ b, -1, 1))))
