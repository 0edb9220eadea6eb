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
HELD_DEG = 40.0
"""The cameras' common up is nearer to true up than this: people look down a little."""
COHERENT = 0.6
"""Least length of the mean of unit vectors that say the same thing."""
UPRIGHT_BONUS = 0.15
"""How much more coherent sideways must be than upright."""
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
    """Up by the surfaces and the cameras, which must agree where both tell.

    Args:
        cam2world: (V, 4, 4) poses, or None.
    """
    axes = main_axes(facing)
    if not len(axes):
        return Unclear("its surfaces face no common direction")
    alone = up_of_planes(facing, axes)
    held = [] if cam2world is None else camera_ups(cam2world)
    if cam2world is None or not held:
        return alone
    if isinstance(alone, Estimate):
        apart = min(_degrees(alone.up, up) for up in held)
        if apart > HELD_DEG:
            return Unclear(f"{alone.how} and its cameras, {apart:.0f}° apart, contradict each other")
        return Estimate(alone.up, f"{alone.how}, {apart:.0f}° from its cameras' up")
    return _level_to(axes, held[0], facing, cam2world)


def _level_to(
    axes: np.ndarray, held: np.ndarray, facing: Facing, cam2world: np.ndarray
) -> Estimate | Unclear:
    """The main direction that is nearest to the cameras' up."""
    cosine = axes @ held
    nearest = int(np.abs(cosine).argmax())
    up = refined(axes[nearest] * np.sign(cosine[nearest]), facing)
    apart = _degrees(held, up)
    if apart > HELD_DEG:
        return Unclear("no large plane is level to its cameras")
    floor, eyes = np.percentile(facing.point @ up, ENDS[0]), cam2world[:, :3, 3] @ up
    if np.median(eyes) < floor:
        return Unclear("its cameras lie below the lowest plane")
    return Estimate(up, f"its cameras, {apart:.0f}° from the plane that fits them best")


def up_of_planes(facing: Facing, axes: np.ndarray) -> Estimate | Unclear:
    """Up by the surfaces alone, among `axes` (A, 3)."""
    planes = [(_Level(facing, fine), fine) for fine in (refined(axis, facing) for axis in axes)]
    signed = facing.signed and all(level.faces_inward() for level, _ in planes)
    found = []
    for level, fine in planes:
        evidence = level.evidence(signed)
        found.append((abs(evidence), evidence, fine))
    found.sort(key=lambda one: -one[0])
    strength, evidence, axis = found[0]
    if strength < CLEAR:
        return Unclear("neither a floor without ceiling nor furniture tells which way is up")
    if any(other > RIVAL * strength for other, _, fine in found[1:] if abs(fine @ axis) < 0.5):
        return Unclear("its surfaces were seen from one side, and several directions may be up")
    return Estimate(axis * np.sign(evidence), "its floor and what stands on it")


class _Level:
    """The pieces of a scan's surface that are square to an axis: at its two ends, and between them."""

    def __init__(self, facing: Facing, axis: np.ndarray):
        cosine, height = facing.normal @ axis, facing.point @ axis
        low, high = np.percentile(height, ENDS)
        level = np.abs(cosine) > LEVEL
        self._area, self._along = facing.area, cosine > 0
        self._bottom, self._top = level & (height < low + END_M), level & (height > high - END_M)
        self._inner = level & (height > low + INNER_M) & (height < high - INNER_M)

    def faces_inward(self) -> bool:
        """Whether normals are signed as those of a room seen from within: those of each end by itself,
        as normals without orientation have any sign, one for all of a plane."""
        ends = (self._facing(self._bottom), -self._facing(self._top))
        return all(inward == 0 or inward > CLEAR for inward in ends)

    def evidence(self, signed: bool) -> float:
        """−1 … 1: how much speaks for the axis as up, below 0 for its opposite; 0: nothing, or both
        do. `signed`: whether normals tell tops from undersides."""
        votes = [_balance(self._area[self._bottom], self._area[self._top])]
        if signed:
            votes.append(self._facing(self._inner))
        strongest = max(votes, key=abs)
        return 0.0 if any(vote * strongest < -(CLEAR**2) for vote in votes) else strongest

    def _facing(self, pieces: np.ndarray) -> float:
        """−1 … 1, how much more area of `pieces` (S,) faces along the axis than against it."""
        return _balance(self._area[pieces & self._along], self._area[pieces & ~self._along])


def _balance(first: np.ndarray, second: np.ndarray) -> float:
    """−1 … 1, how much more area the first has than the second; 0 for too little of both."""
    both = first.sum() + second.sum()
    return float((first.sum() - second.sum()) / both) if both >= LEAST_AREA else 0.0


def camera_ups(cam2world: np.ndarray) -> list[np.ndarray]:
    """Directions that may have been the cameras' up, the likeliest first; none where they were turned
    all ways.

    Pictures may all lie sideways, as phones store them: then up is the cameras' ±x. Which it is shows
    when they have turned about, as then the other axes point everywhere; else upright is likelier.

    Args:
        cam2world: (V, 4, 4) poses, OpenCV cameras.
    """
    x, y, z = (cam2world[:, :3, axis] for axis in range(3))
    aside = x if z.mean(axis=0) @ x.mean(axis=0) < 0 else -x  # people look down rather than up
    found = []
    for tops, level, bonus in ((-y, x, UPRIGHT_BONUS), (aside, y, 0.0), (-aside, y, -UPRIGHT_BONUS)):
        coherence = float(np.linalg.norm(tops.mean(axis=0)))
        if coherence >= COHERENT:
            found.append((coherence + bonus, _common_up(tops, level)))
    return [up for _, up in sorted(found, key=lambda one: -one[0])]


def _common_up(tops: np.ndarray, level: np.ndarray) -> np.ndarray:
    """(3,) mean of the cameras' tops (V, 3); more exactly, where they have turned enough, the direction
    across their level axes (V, 3), as looking down does not move those."""
    mean = tops.mean(axis=0)
    mean /= np.linalg.norm(mean)
    values, vectors = np.linalg.eigh(level.T @ level / len(level))
    across = vectors[:, 0] * np.sign(vectors[:, 0] @ mean)
    turned = values[0] < LEVEL_SPREAD * values[1]
    return across if turned and _degrees(across, mean) < HELD_DEG else mean


def _degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(np.arccos(np.clip(a @ b, -1, 1))))
