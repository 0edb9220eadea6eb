"""What generated rooms are like: `RoomsConfig`, and the classes that only texture tells apart."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bifusion.errors import InputError
from bifusion.untrusted.json_text import read_json
from bifusion.untrusted.names import brief

MAKE_AGAIN = "make the rooms again (`bifusion prepare synthetic`)"

TEXTURE_GROUPS: dict[str, tuple[str, ...]] = {
    "panels": ("picture", "window", "door", "curtain"),
    "boxes": ("cabinet", "bookshelf", "refrigerator", "otherfurniture"),
}
"""Within a group shapes, sizes, places and mean colours are drawn from one distribution: flat panels
on the walls, boxes on the floor. The n-th class of each group wears the n-th pattern of
`textures.PATTERNS`; nothing else tells the classes of a group apart."""

TEXTURE_CLASSES: tuple[str, ...] = TEXTURE_GROUPS["panels"] + TEXTURE_GROUPS["boxes"]

GEOMETRY_CLASSES: tuple[str, ...] = (
    "bed", "chair", "sofa", "table", "desk", "counter", "toilet", "sink", "bathtub", "shower curtain",
)  # fmt: skip
"""Classes that their shape tells apart; untextured, coloured like everything else."""


@dataclass
class RoomsConfig:
    """Generated rooms with ScanNet20 classes. Ranges are (low, high), both included."""

    train_rooms: int = 20
    """Rooms to train on."""
    val_rooms: int = 8
    """Rooms to validate on."""
    seed: int = 0
    """All rooms follow from it."""
    stream: str = "rooms"
    """First name of the random streams: rooms of another stream share nothing with these."""

    room_size_m: tuple[float, float] = (3.4, 4.4)
    """Length of each side."""
    panels: tuple[int, int] = (4, 6)
    """How many flat things hang on the walls of a room."""
    boxes: tuple[int, int] = (2, 4)
    """How many textured boxes stand on its floor."""
    furniture: tuple[int, int] = (5, 6)
    """How many things of `GEOMETRY_CLASSES` a room is meant to have; what finds no place is left out."""

    texture_contrast: float = 1.0
    """How far patterns stand out, 0 … 1. At 0 (texture-off rooms) all classes of a
    texture group look the same."""
    texture_period_m: float = 0.06
    """Length in which the patterns repeat."""

    point_spacing_m: float = 0.04
    """Distance of neighbouring points of the scan."""
    point_noise_m: float = 0.003
    """Standard deviation of their places."""
    color_blur_m: float = 0.035
    """Standard deviation of the window over which the scan's *point* colours average the surface's
    colour, a good half of the pattern period: a low-resolution scan, of whose patterns a thousandth is
    left at its points (with sharp point colours a voxel would give them away). Images are sharp."""
    color_noise: float = 3.0
    """Standard deviation in grey levels (0 … 255), points and images."""

    views: int = 6
    """Views of a room."""
    cover: float = 0.55
    """Share of a room's points that its views are chosen to see; sensor noise and dropouts take about a
    twentieth of the points off it."""
    image_size: tuple[int, int] = (320, 240)
    """Width, height of the colour images."""
    depth_size: tuple[int, int] = (240, 180)
    """Width, height of the depth images."""
    same_camera: bool = False
    """Depth from the colour camera itself instead of a depth camera of its own beside it."""
    depth_noise: float = 1.0
    """Factor on the depth camera's noise and dropouts; 0: exact depth everywhere."""
    pose_noise_m: float = 0.005
    """Standard deviation of camera positions."""
    pose_noise_rad: float = 0.003
    """Standard deviation of camera directions."""

    def __post_init__(self) -> None:
        for name in ("texture_contrast", "cover"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"rooms: {name} is {getattr(self, name)}; expected a number in [0, 1]")
        for name in ("room_size_m", "panels", "boxes", "furniture"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise InputError(f"rooms: {name} is ({low}, {high}); expected 0 ≤ low ≤ high")
        if self.room_size_m[0] < 3:
            raise InputError(
                f"rooms: room_size_m starts at {self.room_size_m[0]}; expected at least 3 m"
            )
        for name in ("point_spacing_m", "texture_period_m"):
            if not getattr(self, name) > 0:
                raise InputError(f"rooms: {name} is {getattr(self, name)}; expected a length above 0")
        if min(self.train_rooms, self.val_rooms, self.views) < 0:
            raise InputError("rooms: train_rooms, val_rooms and views must not be negative")

    @classmethod
    def for_pretraining(cls, num_rooms: int) -> RoomsConfig:
        """Rooms of a stream of their own, with more views, to pretrain the image tower on."""
        return cls(
            train_rooms=num_rooms,
            val_rooms=max(2, num_rooms // 8),
            stream="pretraining",
            views=8,
            cover=0.7,
        )

    @classmethod
    def read(cls, path: Path) -> RoomsConfig:
        """The config that `make_rooms` wrote to rooms.json. InputError where it is none."""
        fields, defaults = read_json(path, advice=MAKE_AGAIN), cls()
        if not isinstance(fields, dict):
            raise InputError(f"{path}: holds no object; {MAKE_AGAIN}")
        for key, value in fields.items():
            fields[key] = tuple(value) if isinstance(value, list) else value
            if not hasattr(defaults, key) or not _is_like(fields[key], getattr(defaults, key)):
                raise InputError(f"{path}: {brief(key)} is {brief(value)}; {MAKE_AGAIN}")
        return cls(**fields)

    def fingerprint(self) -> str:
        """Names everything a single room depends on (not how many rooms there are)."""
        fields = dataclasses.asdict(self)
        del fields["train_rooms"], fields["val_rooms"]
        text = json.dumps(fields, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value is of the type of its field's default."""
    if isinstance(default, tuple):
        same = isinstance(value, tuple) and len(value) == len(default)
        return same and all(map(_is_like, value, default))
    return type(value) is type(default) or (type(default) is float and type(value) is int)
