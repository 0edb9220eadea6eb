"""The turn that brings a scan upright, walls along x and y, as the models were trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bifusion.datasets.orientation.facing import Facing
from bifusion.datasets.orientation.gravity import Unclear, estimate_up
from bifusion.errors import InputError

AGREE_DEG = 5.0
"""Up by the format and by the scan may differ by so much."""
AXIS_DEG = 1.0
"""An axis of the file that is so near to up as the scan shows it is up: floors tell it to half a degree
or so, and what made the scan knew gravity. It comes out alike whether its format says so or not."""
UPRIGHT = np.sin(np.deg2rad(12))
WALL_WINDOW_DEG = 5.0
LEAST_WALLS = 0.05
"""Share of the surface that must be walls for them to be turned to the axes."""
OPTION = "say which way is up with --up, for example --up y, --up -z or --up 0,0.9,0.1"
AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


@dataclass(frozen=True)
class Orientation:
    """How a scan was turned."""

    rotation: np.ndarray
    """(3, 3) the file's frame to one with z up."""
    how: str
    """What up comes from: "given", "format", or the words of an estimate."""
    notes: list[str]
    """What was assumed, for the user to read."""

    @property
    def alignment(self) -> np.ndarray:
        """(4, 4) the same, for `Placement`."""
        turn = np.eye(4)
        turn[:3, :3] = self.rotation
        return turn


def orient(
    facing: Facing,
    cam2world: np.ndarray | None = None,
    hint: np.ndarray | None = None,
    up: np.ndarray | None = None,
) -> Orientation:
    """Brings a scan upright, then turns it about z so that its walls follow x and y.

    Args:
        facing: the scan's surface (`mesh_facing`, `cloud_facing`).
        cam2world: (V, 4, 4) poses of a recording's cameras, or None.
        hint: (3,) up as the format says it; must agree with the scan where that tells.
        up: (3,) up as the user says it; not doubted.
    Raises:
        InputError: nobody says which way is up and the scan does not tell; format and scan contradict
            each other.
    """
    if up is not None:
        direction, how, notes = _unit(up), "given", [f"up is {_named(_unit(up))}, as given"]
    else:
        direction, how, notes = _up(facing, cam2world, hint)
    upright = turn_up(direction)
    angle = wall_angle(facing.turned(upright))
    if angle is None:
        return Orientation(upright, how, [*notes, "no walls were found to turn to the axes"])
    if abs(angle) > np.deg2rad(0.5):
        notes.append(f"turned by {np.rad2deg(-angle):.0f}° about z, so that walls follow x and y")
    return Orientation(about_z(-angle) @ upright, how, notes)


def parse_up(text: str) -> np.ndarray:
    """(3,) unit vector of "y", "-z" or "0,0.9,0.1"; InputError for anything else."""
    sign, name = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if name in AXES:
        return sign * np.array(AXES[name])
    try:
        vector = np.array([float(part) for part in text.split(",")])
    except ValueError:
        vector = np.zeros(0)
    if vector.shape != (3,) or not np.isfinite(vector).all() or not vector.any():
        raise InputError(
            f"up: found {text!r}; expected x, y, z, -x, -y, -z or three numbers like 0,0.9,0.1"
        )
    return _unit(vector)


def turn_up(direction: np.ndarray) -> np.ndarray:
    """(3, 3) the smallest turn that brings a unit vector to z (for −z: half a turn about x)."""
    axis, cosine = np.cross(direction, AXES["z"]), direction[2]
    sine = float(np.linalg.norm(axis))
    if cosine < 0 and sine < 1e-12:
        return np.diag([1.0, -1.0, -1.0])
    x, y, z = axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    # sin² / (1 − cos) and 1 + cos are the same; near −z the second, near z the first loses its digits
    return np.eye(3) + skew + skew @ skew / (1 + cosine if cosine > 0 else sine**2 / (1 - cosine))


def about_z(angle: float) -> np.ndarray:
    """(3, 3) turn about z, radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])


def wall_angle(facing: Facing) -> float | None:
    """Radians in −π/4 … π/4 by which the walls of a scan with z up are turned from x and y; None: it has
    hardly any. The peak of their normals' directions, modulo a quarter turn."""
    walls = np.abs(facing.normal[:, 2]) < UPRIGHT
    if facing.area[walls].sum() < LEAST_WALLS:
        return None
    normal, area = facing.normal[walls], facing.area[walls]
    degrees = np.rad2deg(np.arctan2(normal[:, 1], normal[:, 0])) % 90
    histogram = np.bincount(degrees.astype(int) % 90, area, 90)
    smooth = np.convolve(np.pad(histogram, 2, mode="wrap"), np.ones(5), mode="valid")
    peak = float(smooth.argmax()) + 0.5
    for _ in range(5):
        off = (degrees - peak + 45) % 90 - 45
        near = np.abs(off) < WALL_WINDOW_DEG
        peak += float(np.average(off[near], weights=area[near]))
    return float(np.deg2rad((peak + 45) % 90 - 45))


def _up(
    facing: Facing, cam2world: np.ndarray | None, hint: np.ndarray | None
) -> tuple[np.ndarray, str, list[str]]:
    estimate = estimate_up(facing, cam2world)
    if hint is None:
        if isinstance(estimate, Unclear):
            raise InputError(f"which way is up is not known: {estimate.why}; {OPTION}")
        found = _axis_near(estimate.up)
        return found, estimate.how, [f"up is {_named(found)}, by {estimate.how}"]
    said = _unit(hint)
    if isinstance(estimate, Unclear):
        note = f"up is {_named(said)}, by the format; the scan does not confirm it: {estimate.why}"
        return said, "format", [note]
    apart = float(np.rad2deg(np.arccos(np.clip(said @ estimate.up, -1, 1))))
    if apart > AGREE_DEG:
        raise InputError(
            f"the format says that up is {_named(said)}, but, by {estimate.how}, it is "
            f"{_named(estimate.up)}, {apart:.0f}° from it (at most {AGREE_DEG:g}° are right); {OPTION}"
        )
    return (
        said,
        "format",
        [f"up is {_named(said)}, by the format; the scan's own is {apart:.1f}° from it"],
    )


def _axis_near(up: np.ndarray) -> np.ndarray:
    """The file's axis that a unit vector is within AXIS_DEG of, else the vector."""
    axis = int(np.abs(up).argmax())
    if np.linalg.norm(np.delete(up, axis)) > np.sin(np.deg2rad(AXIS_DEG)):
        return up
    return np.sign(up[axis]) * np.eye(3)[axis]


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector, float) / np.linalg.norm(vector)


def _named(direction: np.ndarray) -> str:
    """The axis that a unit vector is, else its numbers."""
    axis = int(np.abs(direction).argmax())
    if abs(direction[axis]) > np.cos(np.deg2rad(0.5)):
        return f"{'-' if direction[axis] < 0 else ''}{'xyz'[axis]}"
    return f"({', '.join(f'{number:.2f}' for number in direction)})"
