"""A recording as a scan: checked, fused, brought upright, with the frames that tell most as views."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from bifusion.datasets.fusion.choice import Choice, choose_frames
from bifusion.datasets.fusion.fuse import fuse
from bifusion.datasets.fusion.volume import FusionConfig
from bifusion.datasets.orientation.facing import mesh_facing
from bifusion.datasets.orientation.orient import Orientation, orient, parse_up
from bifusion.datasets.placement import Placement, placement_notes
from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.recordings.check import check_recording
from bifusion.datasets.recordings.confidence import HIGHEST, LEVELS, MEDIUM, share
from bifusion.datasets.recordings.frame import Frame, Recording
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.recordings.upright import upright
from bifusion.datasets.scan.made import MadeScan, made_scan
from bifusion.datasets.scan.mesh_scan import place, sampled
from bifusion.datasets.scan.options import FUSED, WITH_MESH, ScanOptions, refuse_without_effect
from bifusion.datasets.scan.telling import Telling
from bifusion.datasets.superpoints.normals import mesh_normals
from bifusion.datasets.superpoints.surface import surface_superpoints
from bifusion.errors import InputError
from bifusion.types import View

MOST_POSES = 500
"""Cameras that are asked which way is up."""


def scan_recording(path: Path, options: ScanOptions, telling: Telling) -> MadeScan:
    """The recording in a file or folder as a scan with views.

    Raises InputError: as `open_recording`, `check_recording` and `fuse`; an upright that cannot be told.
    """
    recording = open_recording(path, options.opening, layout=options.layout)
    refuse_without_effect(path, options, FUSED if recording.mesh is None else WITH_MESH)
    up = None if options.up is None else parse_up(options.up)
    telling.add(_confidence_notes(path, recording, options.least_confidence))
    telling.add(check_recording(recording, up).lines)
    try:
        mesh = _mesh_of(recording, options, telling)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    orientation = _oriented(path, recording, mesh, options)
    telling.add(orientation.notes)
    placement = _placed(recording, mesh, orientation)
    surface = mesh if recording.mesh is None else sampled(mesh, options.spacing_m, telling)
    coord_m = placement.points(surface.coord)
    telling.progress("superpoints", 0, 1)
    normal = mesh_normals(coord_m, surface.faces)
    superpoint = surface_superpoints(coord_m, normal, surface.faces)
    telling.progress("superpoints", 1, 1)
    telling.add(placement_notes(placement, coord_m, 0.0, rescaled))
    views = _views(recording, mesh, orientation, placement, options, telling)
    source = f"{path.resolve().name}, a recording in layout {recording.layout}"
    made = made_scan(
        "recording", recording.name, mesh, surface, placement, source, normal, superpoint, coord_m,
        telling.lines,
    )  # fmt: skip
    made.scene = dataclasses.replace(made.scene, views=views, view_names=list(views))
    return made


def rescaled(factor: float) -> str:
    """What makes a recording smaller by a factor: poses and depth must go on agreeing."""
    return f"multiplying its poses by {factor:g}, and --depth-scale by {1 / factor:g},"


def _mesh_of(recording: Recording, options: ScanOptions, telling: Telling) -> Mesh:
    """The one it comes with, or one fused of its depth; in the recording's world less `offset_m`."""
    if recording.mesh is not None:
        mesh = dataclasses.replace(recording.mesh)
        telling.add([f"its own mesh of {len(mesh.coord):,} vertices, {len(mesh.faces):,} triangles"])
        return mesh
    least = share(_least_confidence(options))
    config = FusionConfig(voxel_size_m=options.voxel_size_m, least_confidence=least)
    mesh = fuse(
        recording,
        config,
        most_frames=options.most_frames,
        progress=lambda done, total: telling.progress("frames fused", done, total),
    ).mesh
    mesh.coord = mesh.coord.astype(np.float32).astype(np.float64)  # nothing finer was measured
    telling.add([*mesh.notes, f"mesh of {len(mesh.coord):,} vertices, {len(mesh.faces):,} triangles"])
    return mesh


def _least_confidence(options: ScanOptions) -> int:
    return MEDIUM if options.least_confidence is None else options.least_confidence


def _confidence_notes(path: Path, recording: Recording, asked: int | None) -> list[str]:
    """What to say of the least confidence of depth that was asked for. InputError: there is none to
    judge by."""
    if asked is None:
        return []
    judged = sum(recording.has_confidence(index) for index in range(len(recording)))
    if judged == 0:
        raise InputError(
            f"{path}: holds no confidence of its depth, as other layouts than those of phones do "
            f"(it is read as {recording.layout}), so --least-confidence would do nothing; leave it out"
        )
    used = "all depth is used" if asked == 0 else f"depth of {LEVELS[asked]} confidence is used"
    lines = [used + (" and of higher" if 0 < asked < HIGHEST else "") + ", as asked"]
    if judged < len(recording):
        lines[0] += f"; {len(recording) - judged:,} of {len(recording):,} frames say nothing of it"
    return lines


def _oriented(path: Path, recording: Recording, mesh: Mesh, options: ScanOptions) -> Orientation:
    step = -(-len(recording) // MOST_POSES)
    poses = np.array([recording.cam2world(index) for index in range(0, len(recording), step)])
    up = None if options.up is None else parse_up(options.up)
    try:
        return orient(mesh_facing(mesh.coord, mesh.faces), poses, recording.up, up)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _placed(recording: Recording, mesh: Mesh, orientation: Orientation) -> Placement:
    """`mesh` in the recording's own world, and how it gets from there into the scene."""
    mesh.coord = mesh.coord + recording.offset_m
    return place(mesh, orientation, 1.0)


def _views(
    recording: Recording,
    mesh: Mesh,
    orientation: Orientation,
    placement: Placement,
    options: ScanOptions,
    telling: Telling,
) -> Mapping[str, View]:
    if options.views == 0:
        return {}
    telling.progress("views chosen", 0, 1)
    turned = upright(recording, orientation.rotation[2])
    choice = choose_frames(turned, mesh.coord - recording.offset_m, options.views)
    telling.add([*turned.notes, *choice.notes])
    telling.progress("views chosen", 1, 1)
    return RecordedViews(turned, view_names(choice), placement, share(_least_confidence(options)))


def view_names(choice: Choice) -> dict[str, int]:
    """Name of each view → its frame's place in the recording, in the order of time.

    The names are the frames' own numbers ("frame-000120" and "120" are 000120), where all of them have
    one and no two the same; else their places.
    """
    found = [re.fullmatch(r"\D*(\d{1,9})", name) for name in choice.names]
    numbers = [int(one[1]) for one in found if one]
    if len(set(numbers)) < len(choice.names):
        numbers = choice.indices
    pairs = sorted(zip(choice.indices, numbers, strict=True))
    return {f"{number:06d}": index for index, number in pairs}


class RecordedViews(Mapping[str, View]):
    """Frames of a recording by name, placed in the scene's frame, decoded when asked for."""

    def __init__(
        self,
        recording: Recording,
        places: Mapping[str, int],
        placement: Placement,
        least_confidence: float,
    ):
        self._recording, self._placement = recording, placement
        self._least = least_confidence
        self._index = dict(places)

    def __getitem__(self, name: str) -> View:
        return self._view(name, self._recording.frame(self._index[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def _view(self, name: str, frame: Frame) -> View:
        color, depth = frame.color_camera, frame.depth_camera
        assert frame.color is not None and frame.depth_m is not None
        assert color is not None and depth is not None
        depth_m = frame.depth_m
        if frame.confidence is not None:
            depth_m = np.where(frame.confidence >= self._least, depth_m, 0).astype(np.float32)
        return View(
            name, frame.color, depth_m, color.K, depth.K, self._pose(color.cam2world),
            self._pose(depth.cam2world),
        )  # fmt: skip

    def _pose(self, cam2world: np.ndarray) -> np.ndarray:
        world = cam2world.astype(np.float64)
        world[:3, 3] += self._recording.offset_m
        return self._placement.pose(world)
