"""Generated rooms with rendered RGB-D views: the embedded benchmark."""

from bifusion.datasets.rooms.config import (
    GEOMETRY_CLASSES,
    TEXTURE_CLASSES,
    TEXTURE_GROUPS,
    RoomsConfig,
)
from bifusion.datasets.rooms.rooms import make_room, make_rooms, make_scan, scene_name

__all__ = [
    "GEOMETRY_CLASSES",
    "TEXTURE_CLASSES",
    "TEXTURE_GROUPS",
    "RoomsConfig",
    "make_room",
    "make_rooms",
    "make_scan",
    "scene_name",
]
