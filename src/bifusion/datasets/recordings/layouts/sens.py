"""ScanNet's .sens files, version 4, also written by BundleFusion.

Source: ScanNet/SensReader (c++/src/sensorData.h, python/SensorData.py). All little endian. The file is
never read whole: frames are found by stepping over their pictures, which are decoded when asked for.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bifusion.datasets.recordings.file_recording import picture_notes
from bifusion.datasets.recordings.frame import Z_UP, Camera, Frame, RecordingInfo
from bifusion.datasets.recordings.intrinsics import Calibration, given_intrinsics
from bifusion.datasets.recordings.layouts.scannet_export import SCAN
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.poses import (
    PoseList,
    left_out_notes,
    offset_notes,
    pose_list,
    usable,
)
from bifusion.datasets.recordings.reading import Reading
from bifusion.errors import InputError
from bifusion.untrusted.files import check_regular, open_regular
from bifusion.untrusted.pictures import decode_color

VERSION = 4
MOST_NAME_BYTES = 4096
MOST_SIDE = 1 << 14
MOST_FRAME_BYTES = 1 << 27
MOST_FRAMES = 1 << 20
"""Nine hours."""
RAW, PNG, JPEG = 0, 1, 2
"""Compression of colour."""
RAW_DEPTH, ZLIB_DEPTH = 0, 1
FRAME = struct.Struct("<16f4Q")


@dataclass(frozen=True)
class Header:
    """What stands before the frames."""

    matrices: np.ndarray
    """(4, 4, 4): intrinsics and extrinsics of colour, then of depth."""
    compression: tuple[int, int]
    color_size: tuple[int, int]
    """Width, height."""
    depth_size: tuple[int, int]
    depth_shift: float
    frames: int


@dataclass(frozen=True)
class Place:
    """Where a frame's pictures stand in the file."""

    number: int
    time_s: float
    color_at: int
    color_bytes: int
    depth_bytes: int


@dataclass
class SensRecording(RecordingInfo):
    """Frames of a .sens file."""

    path: Path = Path()
    header: Header | None = None
    places: list[Place] = field(default_factory=list)
    poses: PoseList = field(default_factory=lambda: pose_list(np.zeros((0, 4, 4)), 0, Reading()))
    color: Calibration = field(default_factory=lambda: Calibration(np.eye(3)))
    depth: Calibration = field(default_factory=lambda: Calibration(np.eye(3)))

    def __len__(self) -> int:
        return len(self.places)

    def has_picture(self, index: int) -> bool:
        return self.places[index].color_bytes > 0

    def cam2world(self, index: int, shift: int = 0) -> np.ndarray:
        return self.poses.pose(index, shift) @ self.depth.extrinsic

    def frame(self, index: int, color: bool = True) -> Frame:
        place, header = self.places[index], self.header
        assert header is not None
        frame = Frame(f"{place.number:06d}", time_s=place.time_s)
        where = f"{self.path}: frame {place.number}"
        with open_regular(self.path) as file:
            file.seek(place.color_at)
            picture, depth = file.read(place.color_bytes), file.read(place.depth_bytes)
        if color and self.has_picture(index):
            frame.color = _decode_color(picture, header, where)
            frame.color_camera = self._camera(self.color, frame.color, index, where)
        raw = _decode_depth(depth, header, where)
        metres = raw.astype(np.float32) / np.float32(self.depth_scale)
        frame.depth_m = np.where(raw == 65535, np.float32(0), metres)
        frame.depth_camera = self._camera(self.depth, frame.depth_m, index, where)
        return frame

    def _camera(self, of: Calibration, picture: np.ndarray, index: int, where: str) -> Camera:
        height, width = picture.shape[:2]
        return Camera(
            of.fitted((width, height), where), (height, width), self.poses.pose(index) @ of.extrinsic
        )


def is_sens(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".sens"


def open_sens(path: Path, options: OpenOptions) -> SensRecording:
    """The frames with a usable pose. InputError: damaged, another version, no frame left."""
    size = check_regular(path)
    with open_regular(path) as file:
        header = _read_header(file, path)
        stored, places, cut = _find_frames(file, header, size)
    notes = []
    if cut:
        notes.append(
            f"the file is cut short: {len(places)} of the {header.frames:,} frames it declares read"
        )
    reading = options.reading(Reading())
    poses = pose_list(stored, len(places), reading)
    kept = np.flatnonzero(poses.tracked)
    notes += left_out_notes(poses.unusable(), [f"{place.number:06d}" for place in places])
    places = [places[k] for k in kept.tolist()]
    pictured = np.array([place.color_bytes > 0 for place in places], bool)
    notes += picture_notes([f"{place.number:06d}" for place in places], pictured)
    if not pictured.any():
        said = "; ".join(notes) or "it has none"
        raise InputError(f"{path}: no frame with a pose and a picture ({said})")
    notes += offset_notes(poses.offset_m)
    color, depth = _calibrations(header, path, options)
    return SensRecording(
        path.stem, "sens", notes, Z_UP if SCAN.search(path.stem) else None, reading,
        options.scale(header.depth_shift), poses.offset_m, path=path, header=header,
        places=places, poses=poses.only(kept), color=color, depth=depth,
    )  # fmt: skip


def _read_header(file: BinaryIO, path: Path) -> Header:
    def values(layout: str) -> tuple:
        data = file.read(struct.calcsize(layout))
        if len(data) < struct.calcsize(layout):
            raise InputError(f"{path}: is cut short within its header; copy it again")
        return struct.unpack(layout, data)

    (version,) = values("<I")
    if version != VERSION:
        raise InputError(f"{path}: is of version {version}; expected a .sens file of version {VERSION}")
    (length,) = values("<Q")
    if length > MOST_NAME_BYTES:
        raise InputError(f"{path}: its sensor's name has {length:,} bytes; the file is damaged")
    file.read(length)
    matrices = np.array(values("<64f"), float).reshape(4, 4, 4)
    compression = values("<2i")
    color_w, color_h, depth_w, depth_h = values("<4I")
    shift, frames = values("<fQ")
    if not all(1 <= side <= MOST_SIDE for side in (color_w, color_h, depth_w, depth_h)):
        raise InputError(
            f"{path}: says its pictures are {color_w}×{color_h} and {depth_w}×{depth_h} "
            "pixels; it is damaged"
        )
    if compression[0] not in (RAW, PNG, JPEG) or compression[1] not in (RAW_DEPTH, ZLIB_DEPTH):
        raise InputError(
            f"{path}: is compressed as {compression}; expected colour raw, png or jpeg (0, 1, 2) and "
            "depth raw or zlib (0, 1): write it again with ScanNet's tools"
        )
    if not (np.isfinite(shift) and shift > 0):
        raise InputError(f"{path}: its depth has {shift} units a metre; the file is damaged")
    return Header(
        matrices, (compression[0], compression[1]), (color_w, color_h), (depth_w, depth_h), shift, frames
    )


def _find_frames(file: BinaryIO, header: Header, size: int) -> tuple[np.ndarray, list[Place], bool]:
    """Poses (V, 4, 4), places, and whether the file ends before the frames it declares do."""
    poses, places = [], []
    at = file.tell()
    for number in range(min(header.frames, MOST_FRAMES)):
        file.seek(at)
        data = file.read(FRAME.size)
        if len(data) < FRAME.size:
            return _stacked(poses), places, True
        *pose, color_time, depth_time, color_bytes, depth_bytes = FRAME.unpack(data)
        at += FRAME.size
        end = at + color_bytes + depth_bytes
        if max(color_bytes, depth_bytes) > MOST_FRAME_BYTES or end > size:
            return _stacked(poses), places, True
        poses.append(pose)
        time_s = (depth_time or color_time) * 1e-6
        places.append(Place(number, time_s, at, color_bytes, depth_bytes))
        at = end
    return _stacked(poses), places, header.frames > MOST_FRAMES


def _stacked(poses: list[list[float]]) -> np.ndarray:
    return np.array(poses, float).reshape(-1, 4, 4)


def _calibrations(header: Header, path: Path, options: OpenOptions) -> tuple[Calibration, Calibration]:
    if options.intrinsics is not None:
        given = given_intrinsics(options.intrinsics)
        given = replace(given, size=given.size or header.color_size)
        return given, given  # of the depth, which is colour's resized, it is fitted to that size
    cameras = []
    for k, size in ((0, header.color_size), (2, header.depth_size)):
        extrinsic = header.matrices[k + 1]
        if not usable(extrinsic[None])[0]:
            raise InputError(f"{path}: the extrinsics of a camera are no rigid transform; it is damaged")
        cameras.append(Calibration(header.matrices[k][:3, :3], size, extrinsic))
    return cameras[0], cameras[1]


def _decode_color(data: bytes, header: Header, where: str) -> np.ndarray:
    width, height = header.color_size
    if header.compression[0] == RAW:
        if len(data) != width * height * 3:
            raise InputError(f"{where}: its colour has {len(data):,} bytes; expected {width}×{height}×3")
        return np.frombuffer(data, np.uint8).reshape(height, width, 3).copy()
    return decode_color(io.BytesIO(data), where)


def _decode_depth(data: bytes, header: Header, where: str) -> np.ndarray:
    """(h, w) uint16 as stored; of what zlib gives, no more than the picture needs is unpacked."""
    width, height = header.depth_size
    expected = width * height * 2
    if header.compression[1] == ZLIB_DEPTH:
        try:
            data = zlib.decompressobj().decompress(data, expected + 1)
        except zlib.error as error:
            raise InputError(f"{where}: its depth cannot be unpacked ({error}); copy it again") from None
    if len(data) != expected:
        raise InputError(f"{where}: its depth has {len(data):,} bytes; expected {expected:,}")
    return np.frombuffer(data, "<u2").reshape(height, width)
