"""NAME.r3d, or such an archive unpacked: metadata, rgbd/0.jpg, rgbd/0.depth, rgbd/0.conf of Record3D.

Sources: the app's maker in issues 7, 36, 64, 80, 81, 86, 93 of marek-simonik/record3d. A ZIP archive.
Depth is float32, metres, row by row, packed by LZFSE; where the metadata do not say how large it is
(`dw`, `dh`), it has colour's shape. Confidence, of LiDAR only, is bytes 0, 1, 2, packed likewise. Poses
and intrinsics as in the export (`record3d_metadata`).
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bifusion.datasets.recordings.archive import Members, open_members
from bifusion.datasets.recordings.confidence import levels
from bifusion.datasets.recordings.file_recording import FileRecording, FrameFiles, file_recording
from bifusion.datasets.recordings.layouts.record3d_metadata import Metadata, read_metadata
from bifusion.datasets.recordings.lzfse import stated_bytes, unpack
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.parts import Part
from bifusion.datasets.recordings.reading import Reading
from bifusion.datasets.recordings.text_files import json_numbers, parse_json
from bifusion.errors import InputError
from bifusion.untrusted.pictures import decode_color

METADATA, FRAMES = "metadata", "rgbd"
MOST_PICTURE_BYTES = 1 << 26
"""Of a member; an hour of poses takes as many."""


@dataclass(frozen=True)
class _Pictures:
    """Decodes what an archive holds."""

    members: Members
    depth_size: tuple[int, int]
    """Width, height."""

    def color(self, name: str) -> np.ndarray:
        where = f"{self.members.path}: {name}"
        return decode_color(io.BytesIO(self.members.read(name, MOST_PICTURE_BYTES)), where)

    def depth_m(self, name: str) -> np.ndarray:
        depth_m = self._unpacked(name, np.dtype("<f4"))
        return np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.float32(0))

    def confidence(self, name: str) -> np.ndarray:
        return levels(self._unpacked(name, np.dtype("u1")), f"{self.members.path}: {name}")

    def _unpacked(self, name: str, dtype: np.dtype) -> np.ndarray:
        width, height = self.depth_size
        where = f"{self.members.path}: {name}"
        data = unpack(
            self.members.read(name, MOST_PICTURE_BYTES), width * height * dtype.itemsize, where
        )
        return np.frombuffer(data, dtype).reshape(height, width)

    def part(self, number: int, ending: str) -> Part | None:
        """None where the archive has no such picture."""
        name = f"{FRAMES}/{number}.{ending}"
        if name not in self.members.names:
            return None
        read = {"jpg": self.color, "depth": self.depth_m, "conf": self.confidence}[ending]
        return Part(self.members.path, name, partial(read, name))


def is_r3d(path: Path) -> bool:
    if path.is_dir():
        return (path / METADATA).is_file() and (path / FRAMES).is_dir()
    return path.is_file() and path.suffix.lower() == ".r3d"


def open_r3d(path: Path, options: OpenOptions) -> FileRecording:
    """The frames whose pictures are there: paired with poses by the file's number."""
    members = open_members(path)
    where = f"{path}: {METADATA}"
    try:
        text = members.read(METADATA, MOST_PICTURE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is no text ({error.reason}); copy the recording again") from None
    found = parse_json(text, where, finite=False)
    said = read_metadata(found, where, options)
    pictures = _Pictures(members, _depth_size(found, said, members))
    files = [
        FrameFiles(
            str(k), pictures.part(k, "jpg"), pictures.part(k, "depth"), pictures.part(k, "conf"),
            said.time_s(k), said.K(k),
        )
        for k in range(len(said.stored))
    ]  # fmt: skip
    recording = file_recording(
        path, "r3d", files, said.stored, said.cameras, options, declared=Reading(axes="opengl"),
        depth_scale=1.0, up=said.up,
    )  # fmt: skip
    recording.name = path.resolve().stem if path.is_file() else recording.name
    return recording


def _depth_size(found: dict, said: Metadata, members: Members) -> tuple[int, int]:
    """Width, height: as stated, else of colour's shape, as many pixels as the first depth map has."""
    assert said.cameras.size is not None
    where = f"{members.path}: {METADATA}"
    if "dw" in found:
        width, height = json_numbers([found["dw"], found.get("dh")], 2, f"{where}: dw, dh")
        if not (1 <= width <= 4096 and 1 <= height <= 4096):
            raise InputError(f"{where}: dw, dh are {width:g}, {height:g}; expected pixels")
        return int(width), int(height)
    names = (f"{FRAMES}/{k}.depth" for k in range(len(said.stored)))
    first = next((name for name in names if name in members.names), None)
    if first is None:
        return said.cameras.size  # nothing will be read
    where = f"{members.path}: {first}"
    pixels = stated_bytes(members.read(first, MOST_PICTURE_BYTES), 4 << 24, where) // 4
    height = round(math.sqrt(pixels * said.cameras.size[1] / said.cameras.size[0]))
    if height == 0 or pixels % height:
        raise InputError(f"{where}: has {pixels:,} pixels, no picture of colour's shape; copy it again")
    return pixels // height, height
