"""A recording whose pictures are files: what most layouts come to once their lists are read."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from bifusion.datasets.recordings.depth_files import FLOATS, holds_floats, read_depth_file
from bifusion.datasets.recordings.frame import Camera, Frame, RecordingInfo
from bifusion.datasets.recordings.intrinsics import Calibration, Size, of_one_size
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.parts import Part
from bifusion.datasets.recordings.poses import (
    MOST_NAMED,
    PoseList,
    left_out_notes,
    offset_notes,
    pose_list,
)
from bifusion.datasets.recordings.reading import Reading
from bifusion.errors import InputError, listing
from bifusion.untrusted.files import entries, is_file
from bifusion.untrusted.pictures import (
    UPRIGHT,
    image_size,
    read_upright,
)

ReadMap = Callable[[Path], np.ndarray]
"""(h, w) float32 of a file: metres of depth, or confidence of 0 … 1."""
MOST_TRIED = 5
"""Frames that are asked how large pictures are."""


@dataclass(frozen=True)
class FrameFiles:
    """The files of one frame."""

    name: str
    color: Path | Part | None
    depth: Path | Part | None
    confidence: Path | Part | None = None
    time_s: float | None = None
    K: np.ndarray | None = None
    """(3, 3) of this frame alone, for pictures of `size`."""
    size: tuple[int, int] | None = None
    """Width, height that `K` is for; None: that of the cameras."""


@dataclass
class Cameras:
    """Of all frames of a recording."""

    color: Calibration
    depth: Calibration | None = None
    """None: the colour camera, its pictures resized."""
    size: tuple[int, int] | None = None
    """Width, height that a frame's own `K` is for."""


@dataclass
class FileRecording(RecordingInfo):
    """Frames that are read from files when they are asked for."""

    files: list[FrameFiles] = field(default_factory=list)
    poses: PoseList = field(default_factory=lambda: pose_list(np.zeros((0, 4, 4)), 0, Reading()))
    """Of what the files' poses speak of; each camera's extrinsic comes on top."""
    color_poses: PoseList | None = None
    """Of the pictures, where they were taken at other times than depth; None: `poses`."""
    cameras: Cameras = field(default_factory=lambda: Cameras(Calibration(np.eye(3))))
    read_depth: ReadMap | None = None
    """None: by its kind (`depth_files`)."""
    read_confidence: ReadMap | None = None

    def __len__(self) -> int:
        return len(self.files)

    def has_picture(self, index: int) -> bool:
        return self.files[index].color is not None

    def has_confidence(self, index: int) -> bool:
        sure = self.files[index].confidence
        return isinstance(sure, Part) or (sure is not None and self.read_confidence is not None)

    def cam2world(self, index: int, shift: int = 0) -> np.ndarray:
        return self.poses.pose(index, shift) @ self._depth_calibration().extrinsic

    def frame(self, index: int, color: bool = True) -> Frame:
        files, calibration = self.files[index], self._depth_calibration()
        frame = Frame(files.name, time_s=files.time_s)
        depth_is_color_resized = (
            self.cameras.depth is None and calibration.size is None and files.K is None
        )
        if files.color is not None and (color or depth_is_color_resized):
            of = self._own(self.cameras.color, index)
            frame.color = self._read_color(files.color, of)
            frame.color_camera = self._camera(
                of, frame.color, index, files.color, self.color_poses or self.poses
            )
        if files.depth is not None:
            frame.depth_m = self._read_depth(files.depth)
            if depth_is_color_resized:
                size = self._picture_size if frame.color is None else image_size(frame.color)
                calibration = replace(calibration, size=size)
            of = self._own(calibration, index)
            frame.depth_camera = self._camera(of, frame.depth_m, index, files.depth, self.poses)
        if files.confidence is not None:
            frame.confidence = self._read_confidence(files.confidence)
            _check_confidence(frame, files.confidence)
        return frame if color else replace(frame, color=None, color_camera=None)

    @cached_property
    def _picture_size(self) -> Size:
        """Of the first picture that can be read, for frames that have none."""
        for picture in (files.color for files in self.files if files.color is not None):
            with contextlib.suppress(InputError):  # it is named where its own frame is read
                return image_size(self._read_color(picture, self.cameras.color))
        raise InputError(f"{self.name}: none of its pictures can be read, whose size its camera is for")

    def _sizes(self) -> tuple[Size, Size] | None:
        """Of colour and depth of one of the first frames; None: they cannot be read."""
        pictured = (files for files in self.files if files.color is not None)
        for files in itertools.islice(pictured, MOST_TRIED):
            with contextlib.suppress(InputError):  # it is named where the frame itself is read
                assert files.color is not None and files.depth is not None
                color = self._read_color(files.color, self.cameras.color)
                return image_size(color), image_size(self._read_depth(files.depth))
        return None

    def share_camera(self) -> None:
        """Where one camera is of colour and depth, which are not of one size, finds which of both it is
        for; a note says so. InputError: it cannot be told (`of_one_size`)."""
        shared = self.cameras.color
        if self.cameras.depth is shared and shared.size is None:
            sizes = self._sizes()
            if sizes is not None and sizes[0] != sizes[1]:
                shared, note = of_one_size(shared, *sizes, self.name)
                self.cameras = replace(self.cameras, color=shared, depth=shared)
                self.notes.append(note)

    def _read_color(self, path: Path | Part, of: Calibration) -> np.ndarray:
        """Upright by the orientation tag, which only whole files have."""
        if isinstance(path, Part):
            return path.read()
        color, tag = read_upright(path)
        self._note_turned(tag)
        of.check_turned(image_size(color), path, tag)
        return color

    def _read_depth(self, path: Path | Part) -> np.ndarray:
        if isinstance(path, Part):
            depth_m = path.read() / np.float32(self.depth_scale)
        elif self.read_depth is not None:
            depth_m = self.read_depth(path) / np.float32(self.depth_scale)
        else:
            depth_m = read_depth_file(path, self.depth_scale)
        if not np.isfinite(depth_m).all() or (depth_m < 0).any():
            raise InputError(f"{path}: holds depth that is negative or not finite; export it again")
        return depth_m

    def _read_confidence(self, path: Path | Part) -> np.ndarray | None:
        if isinstance(path, Part):
            return path.read()
        return None if self.read_confidence is None else self.read_confidence(path)

    def _depth_calibration(self) -> Calibration:
        return self.cameras.depth or self.cameras.color

    def _own(self, of: Calibration, index: int) -> Calibration:
        own, size = self.files[index].K, self.files[index].size or self.cameras.size
        return of if own is None else Calibration(own, size, of.extrinsic)

    def _camera(
        self, of: Calibration, picture: np.ndarray, index: int, path: Path | Part, poses: PoseList
    ) -> Camera:
        size = image_size(picture)
        cam2world = poses.pose(index) @ of.extrinsic
        return Camera(of.fitted(size, str(path)), (size[1], size[0]), cam2world)

    def _note_turned(self, tag: int) -> None:
        note = "pictures were turned as their orientation tag says"
        if tag != UPRIGHT and note not in self.notes:
            self.notes.append(note)


def _check_confidence(frame: Frame, path: Path | Part) -> None:
    if frame.confidence is None:
        return
    if frame.depth_m is None or frame.confidence.shape != frame.depth_m.shape:
        shape = None if frame.depth_m is None else frame.depth_m.shape
        raise InputError(
            f"{path}: has shape {frame.confidence.shape}, its depth {shape}; export it again"
        )


def file_recording(
    folder: Path,
    layout: str,
    files: Sequence[FrameFiles],
    stored: np.ndarray,
    cameras: Cameras,
    options: OpenOptions,
    *,
    color_stored: np.ndarray | None = None,
    declared: Reading | None = None,
    depth_scale: float = 1000.0,
    up: np.ndarray | None = None,
    notes: Sequence[str] = (),
    read_depth: ReadMap | None = None,
    read_confidence: ReadMap | None = None,
    depth_alone: bool = True,
) -> FileRecording:
    """A recording of files and of the poses (V, 4, 4) that were stored for them, in the same order;
    `color_stored`: those of the pictures, where theirs are others than depth's.

    Frames without a usable pose or whose depth is missing are left out and counted in the notes; so are
    those without a picture if `depth_alone` is of no use, else they are counted.

    Raises InputError: no frame is left that has a picture.
    """
    reading = options.reading(declared or Reading())
    floats = read_depth is None and _is_of_floats(files)
    if floats and options.depth_scale is None:
        depth_scale, notes = 1.0, [*notes, FLOATS]
    recording = FileRecording(
        folder.resolve().name,
        layout,
        [*notes],
        up,
        reading,
        options.scale(1.0 if read_depth else depth_scale),
        cameras=cameras,
        read_depth=read_depth,
        read_confidence=read_confidence,
    )
    poses = pose_list(stored, len(files), reading)
    pictured = np.array([_is_there(one.color) for one in files], bool)
    of_color = None
    if color_stored is not None:
        of_color = pose_list(color_stored, len(files), reading, poses.offset_m)
        pictured &= of_color.tracked
    there = np.array([_lacks(one) is None for one in files], bool) & (pictured | depth_alone)
    recording.notes += _left_out(files, poses, there)
    kept = np.flatnonzero(poses.tracked & there)
    recording.notes += picture_notes([files[row].name for row in kept.tolist()], pictured[kept])
    if not pictured[kept].any():
        said = "; ".join(recording.notes) or "it lists none"
        raise InputError(
            f"{folder}: no frame with pictures and pose in this {layout} recording ({said})"
            f"{_where_looked(folder, files)}"
        )
    recording.files = [
        files[row] if pictured[row] else replace(files[row], color=None) for row in kept.tolist()
    ]
    recording.poses, recording.offset_m = poses.only(kept), poses.offset_m
    recording.color_poses = None if of_color is None else of_color.only(kept)
    recording.notes += offset_notes(poses.offset_m)
    recording.share_camera()
    return recording


def _is_of_floats(files: Sequence[FrameFiles]) -> bool:
    """Whether the first depth file that can be read is of floats; others are named with their frames."""
    for path in (one.depth for one in files if isinstance(one.depth, Path) and is_file(one.depth)):
        with contextlib.suppress(InputError):
            return holds_floats(path)
    return False


def _where_looked(folder: Path, files: Sequence[FrameFiles]) -> str:
    """Where pictures were expected of which none is there, and what is there instead."""
    wanted = [part for one in files[:1] for part in (one.color, one.depth) if isinstance(part, Path)]
    lacking = [str(part) for part in wanted if not part.exists()]
    if not (lacking and folder.is_dir()):
        return ""
    return f"; expected {' and '.join(lacking)} among others, but {folder.name} holds {entries(folder)}"


def picture_notes(names: Sequence[str], pictured: np.ndarray) -> list[str]:
    """What to say of the frames (V,) that are not `pictured` (V,) but have depth and a pose."""
    without = [names[row] for row in np.flatnonzero(~pictured).tolist()]
    if not without:
        return []
    if len(without) == len(names):
        return [f"none of {len(names)} frames has a picture, of which colours come: copy them too"]
    return [
        f"{len(without)} of {len(names)} frames have no picture: their depth is used, colours and views "
        f"are the others': {listing(without, MOST_NAMED)}"
    ]


def _is_there(part: Path | Part | None) -> bool:
    return part is not None and (part.is_file() if isinstance(part, Part) else is_file(part))


def _lacks(files: FrameFiles) -> str | None:
    """The file without which a frame's depth cannot be read."""
    if files.depth is None:
        return "depth"
    for part in (files.depth, files.confidence):
        if part is not None and not _is_there(part):
            return part.name
    return None


def _left_out(files: Sequence[FrameFiles], poses: PoseList, there: np.ndarray) -> list[str]:
    """Lines on the frames that cannot be used."""
    names = [f"{one.name} (no {lacking})" if (lacking := _lacks(one)) else one.name for one in files]
    missing = (poses.tracked & ~there, "whose pictures are missing")
    return left_out_notes([*poses.unusable(), missing], names)
