"""What stands where in a generated room: items (a thing, a wall, the floor) made of boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bifusion.datasets.rooms.config import GEOMETRY_CLASSES, TEXTURE_GROUPS, RoomsConfig
from bifusion.datasets.rooms.furniture import FURNITURE, Boxes, cupboard, panel
from bifusion.datasets.rooms.textures import TILES, Appearance
from bifusion.rng import numpy_rng

WALL_HEIGHT_M = 2.5
WALL_THICKNESS_M = 0.1
GAP_M = 0.06
"""Smallest distance between two things."""
TRIES = 80
FREE_STANDING = ("table", "chair")
CEILING = "ceiling"
"""Label of the one item that is rendered but neither scanned nor annotated."""


@dataclass
class Layout:
    """A room with I items made of K boxes; x from 0 to size_m[0], y to size_m[1], floor at z = 0."""

    size_m: tuple[float, float]
    labels: list[str]
    """I class names, or CEILING."""
    instance: np.ndarray
    """(I,) int32, −1 for walls, floor and ceiling."""
    look: Appearance
    centre: np.ndarray
    """(K, 3) float64 metres, like half."""
    half: np.ndarray
    """(K, 3) half edge lengths in the box's own axes."""
    yaw: np.ndarray
    """(K,) rotation about z."""
    item: np.ndarray
    """(K,) int, item of each box."""


class _Room:
    """A room while it is being furnished."""

    def __init__(self, size: tuple[float, float]):
        self.size = size
        self.labels: list[str] = []
        self.patterns: list[int] = []
        self.parts: list[tuple[np.ndarray, np.ndarray, float, int]] = []
        """(centre, half, yaw, item) of each box."""
        self.occupied = np.zeros((0, 2, 3))

    def add(self, label: str, pattern: int, boxes: Boxes, position: np.ndarray, yaw: float) -> None:
        """An item of `boxes`, turned by `yaw` and moved to `position`."""
        for box in boxes.reshape(-1, 3, 2):
            centre = _turn(box.mean(axis=1), yaw) + position
            self.parts.append((centre, (box[:, 1] - box[:, 0]) / 2, yaw, len(self.labels)))
        self.labels.append(label)
        self.patterns.append(pattern)

    def place(
        self, rng: np.random.Generator, label: str, pattern: int, boxes: Boxes, against_wall: bool
    ) -> None:
        """Add the piece at a free place, or leave it out if `TRIES` random places are taken."""
        width, depth = boxes[:, 1].max() - boxes[:, 0].min(), boxes[:, 3].max()
        for _ in range(TRIES):
            position, yaw = (
                self._wall_place(rng, width) if against_wall else self._free_place(rng, depth)
            )
            bounds = _bounds(boxes, position, yaw)
            low, high = bounds + np.array([[-GAP_M], [GAP_M]])
            inside = (bounds[0, :2] > -1e-6).all() and (bounds[1, :2] < np.array(self.size) + 1e-6).all()
            overlap = ((self.occupied[:, 0] < high) & (self.occupied[:, 1] > low)).all(axis=1)
            if inside and not overlap.any():
                self.occupied = np.concatenate([self.occupied, bounds[None]])
                self.add(label, pattern, boxes, position, yaw)
                return

    def _wall_place(self, rng: np.random.Generator, width: float) -> tuple[np.ndarray, float]:
        """A random place along a random wall, the piece's back to it."""
        wall = rng.integers(4)
        length = self.size[0] if wall % 2 == 0 else self.size[1]
        along = rng.uniform(width / 2 + 0.05, length - width / 2 - 0.05)
        corners = [(0, 0), (self.size[0], 0), self.size, (0, self.size[1])]
        yaw = wall * np.pi / 2
        return np.array([*corners[wall], 0.0]) + _turn(np.array([along, 0, 0]), yaw), yaw

    def _free_place(self, rng: np.random.Generator, depth: float) -> tuple[np.ndarray, float]:
        yaw = rng.uniform(0, 2 * np.pi)
        middle = np.array([*(rng.uniform(0.5, length - 0.5) for length in self.size), 0.0])
        return middle - _turn(np.array([0, depth / 2, 0]), yaw), yaw


def make_layout(config: RoomsConfig, split: str, index: int) -> Layout:
    """Room `index` of `split`. The same arguments give the same room, whatever else is made."""
    names = (config.stream, split, index)
    rng = numpy_rng(config.seed, *names, "layout")
    room = _Room((float(rng.uniform(*config.room_size_m)), float(rng.uniform(*config.room_size_m))))
    _add_shell(room)
    # Shapes and places come first and know no class: a group's classes are dealt to them afterwards.
    for group, make, limits in (("boxes", cupboard, config.boxes), ("panels", panel, config.panels)):
        classes = TEXTURE_GROUPS[group]
        for label in _deal(config, split, index, group, classes, _draw(rng, limits), limits[1]):
            room.place(rng, label, classes.index(label) + 1, make(rng), against_wall=True)
    count = _draw(rng, config.furniture)
    for label in _deal(config, split, index, "furniture", GEOMETRY_CLASSES, count, config.furniture[1]):
        room.place(rng, label, 0, FURNITURE[label](rng), against_wall=label not in FREE_STANDING)
    return _finish(room, numpy_rng(config.seed, *names, "look"))


def _draw(rng: np.random.Generator, limits: tuple[int, int]) -> int:
    return int(rng.integers(limits[0], limits[1] + 1))


def _deal(
    config: RoomsConfig,
    split: str,
    index: int,
    deck: str,
    classes: tuple[str, ...],
    count: int,
    stride: int,
) -> list[str]:
    """`count` classes for room `index` from shuffled decks, so that a split has about equally many."""
    dealt = []
    for place in range(index * stride, index * stride + count):
        cycle, card = divmod(place, len(classes))
        order = numpy_rng(config.seed, config.stream, split, deck, cycle).permutation(len(classes))
        dealt.append(classes[order[card]])
    return dealt


def _add_shell(room: _Room) -> None:
    """Floor, four walls and the ceiling as slabs around the room."""
    (x, y), z, t = room.size, WALL_HEIGHT_M, WALL_THICKNESS_M
    slabs = [
        ("floor", TILES, (-t, x + t, -t, y + t, -t, 0)),
        ("wall", 0, (-t, x + t, -t, 0, 0, z)),
        ("wall", 0, (x, x + t, 0, y, 0, z)),
        ("wall", 0, (-t, x + t, y, y + t, 0, z)),
        ("wall", 0, (-t, 0, 0, y, 0, z)),
        (CEILING, 0, (-t, x + t, -t, y + t, z, z + t)),
    ]
    for label, pattern, slab in slabs:
        room.add(label, pattern, np.array([slab], dtype=np.float64), np.zeros(3), 0.0)


def _finish(room: _Room, rng: np.random.Generator) -> Layout:
    """Colours, phases and instance numbers; every thing's colour comes from one distribution."""
    count = len(room.labels)
    color = rng.uniform(0.3, 0.6, (count, 3))
    wall, floor = rng.uniform(0.7, 0.85, 3), np.array([0.5, 0.4, 0.3]) * rng.uniform(0.8, 1.3)
    thing = np.array([label not in ("wall", "floor", CEILING) for label in room.labels])
    for row, label in enumerate(room.labels):
        if not thing[row]:
            color[row] = {"wall": wall, "floor": floor, CEILING: np.full(3, 0.85)}[label]
    look = Appearance(
        color=color.astype(np.float32),
        pattern=np.array(room.patterns),
        phase=rng.uniform(0, 1, (count, 2)).astype(np.float32),
        tilt=rng.uniform(-0.06, 0.06, count).astype(np.float32),
    )
    centre, half, yaw, item = (np.array(column) for column in zip(*room.parts, strict=True))
    instance = np.where(thing, np.cumsum(thing) - 1, -1).astype(np.int32)
    return Layout(room.size, room.labels, instance, look, centre, half, yaw, item)


def _turn(vector: np.ndarray, yaw: float) -> np.ndarray:
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1], vector[2]])


def _bounds(boxes: Boxes, position: np.ndarray, yaw: float) -> np.ndarray:
    """(2, 3) axis-parallel bounds of the turned piece."""
    x0, y0, z0 = boxes[:, 0].min(), boxes[:, 2].min(), boxes[:, 4].min()
    x1, y1, z1 = boxes[:, 1].max(), boxes[:, 3].max(), boxes[:, 5].max()
    corners = np.array([_turn(np.array([x, y, 0]), yaw) for x in (x0, x1) for y in (y0, y1)]) + position
    low, high = corners.min(axis=0), corners.max(axis=0)
    return np.array([[*low[:2], z0], [*high[:2], z1]])
