"""A recording as a mesh: its frames read one by one, in time with the fusion of the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bifusion.arguments import require, whole_of
from bifusion.datasets.fusion.surface import Surface, SurfaceConfig, extract_surface
from bifusion.datasets.fusion.volume import FusionConfig, Volume
from bifusion.datasets.recordings.frame import Frame, Recording
from bifusion.errors import InputError

FEW = 3
"""Frames that are named when some could not be read."""


def fuse(
    recording: Recording,
    config: FusionConfig | None = None,
    surface: SurfaceConfig | None = None,
    *,
    most_frames: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Surface:
    """The surface that a recording's depth maps measured, in the recording's world.

    Frames without depth, and those that cannot be read, are left out; the mesh's notes say how many.
    Frames without a picture give the surface alone: what no picture shows is grey, and a note says so.

    Args:
        most_frames: use no more, evenly spread, those with a picture first; None: all.
        progress: called as progress(done, total) after every frame.

    Raises:
        InputError: no frame could be used; no surface came out; an argument of another type.
    """
    has_frames = hasattr(recording, "frame") and hasattr(recording, "__len__")
    require(has_frames, recording, "recording", "what open_recording returned")
    require(isinstance(config, FusionConfig | None), config, "config", "a FusionConfig")
    require(isinstance(surface, SurfaceConfig | None), surface, "surface", "a SurfaceConfig")
    most_frames = None if most_frames is None else whole_of(most_frames, "most_frames")
    volume = Volume(config or FusionConfig())
    chosen = _chosen(recording, most_frames)
    failures: list[str] = []
    pictured = 0
    for done, frame in enumerate(_read_ahead(recording, chosen), 1):
        if isinstance(frame, InputError):
            failures.append(str(frame))
        elif frame.depth_m is None:
            failures.append(f"{frame.name}: has no depth")
        else:
            volume.add(frame)
            pictured += frame.color is not None
        if progress:
            progress(done, len(chosen))
    if len(failures) == len(chosen):
        raise InputError(f"{recording.name}: no frame can be fused; {_described(failures)}")
    fused = extract_surface(volume, surface)
    fused.mesh.notes.append(_note(len(chosen) - len(failures), pictured, len(recording), volume))
    fused.mesh.notes += _grey_notes(fused.colored)
    if failures:
        fused.mesh.notes.append(f"{len(failures):,} frames left out: {_described(failures)}")
    return fused


def _chosen(recording: Recording, most: int | None) -> Sequence[int]:
    """At most `most` frames in their order, evenly spread; those with a picture first, as they give
    colour too."""
    if most is None or not 1 <= most < len(recording):
        return evenly(len(recording), most)
    pictured = [index for index in range(len(recording)) if recording.has_picture(index)]
    others = sorted({*range(len(recording))} - {*pictured})
    first = [pictured[k] for k in evenly(len(pictured), most)]
    left = most - len(first)
    return sorted([*first, *(others[k] for k in evenly(len(others), left))]) if left else first


def evenly(count: int, most: int | None) -> Sequence[int]:
    """At most `most` of 0 … count − 1, evenly spread, the first and last among them; all for None."""
    if most is None or most >= count:
        return range(count)
    if most < 1:
        raise InputError(f"most frames: found {most}; expected 1 or more")
    return np.unique(np.rint(np.linspace(0, count - 1, most)).astype(int)).tolist()


def _read_ahead(recording: Recording, indices: Sequence[int]) -> Iterator[Frame | InputError]:
    """The frames in order, the next one decoded meanwhile; in place of one, why it cannot be read."""

    def read(index: int) -> Frame | InputError:
        try:
            return recording.frame(index)
        except InputError as error:
            return error

    with ThreadPoolExecutor(1) as reader:
        coming = None
        for index in indices:
            ready, coming = coming, reader.submit(read, index)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def _described(failures: list[str]) -> str:
    if not failures:
        return "it has none"
    return "; ".join(failures[:FEW]) + ("; …" if len(failures) > FEW else "")


def _note(used: int, pictured: int, there: int, volume: Volume) -> str:
    size_cm, farthest_m = volume.config.voxel_size_m * 100, volume.config.farthest_m
    with_picture = f", {pictured:,} of them with a picture" if 0 < pictured < used else ""
    fused = f"{used:,} of {there:,} frames fused at {size_cm:g} cm"
    return f"{fused}{with_picture}, depth up to {farthest_m:g} m"


def _grey_notes(colored: np.ndarray) -> list[str]:
    """What to say of vertices, (N,) bool, that no picture shows; their colour is not made up."""
    if colored.all():
        return []
    if not colored.any():
        return ["no frame has a colour picture: the mesh is grey"]
    bare = int((~colored).sum())
    return [
        f"{bare:,} of {len(colored):,} vertices ({bare / len(colored):.1%}) are on no picture: they are "
        "grey"
    ]
