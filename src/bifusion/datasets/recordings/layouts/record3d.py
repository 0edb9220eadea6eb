"""rgb/0.jpg, depth/0.exr, metadata.json: Record3D's export of EXR and JPG.

Sources: the app's maker in issues 36, 64, 27 of marek-simonik/record3d, and real files. Poses cam2world
of OpenGL cameras, quaternions with the scalar last; intrinsics column by column for the colour
pictures; depth float, metres. ARKit's world has y up, but recordings that begin at the identity pose
are of an old version, whose world is the first camera's.
"""

from __future__ import annotations

from pathlib import Path

from bifusion.datasets.recordings.exr import read_exr_m
from bifusion.datasets.recordings.file_recording import FileRecording, FrameFiles, file_recording
from bifusion.datasets.recordings.layouts.record3d_metadata import read_metadata
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pictures import numbered
from bifusion.datasets.recordings.reading import Reading
from bifusion.datasets.recordings.text_files import read_json

FOLDERS = ("rgb", "depth")


def is_record3d(folder: Path) -> bool:
    return (folder / "metadata.json").is_file() and all((folder / name).is_dir() for name in FOLDERS)


def open_record3d(folder: Path, options: OpenOptions) -> FileRecording:
    """The frames whose files exist, which may be fewer than the poses: paired by the file's number."""
    path = folder / "metadata.json"
    said = read_metadata(read_json(path, finite=False), str(path), options)
    colors = numbered(folder / "rgb", (".jpg", ".jpeg", ".png"))
    depths = numbered(folder / "depth", (".exr",))
    files = [
        FrameFiles(str(k), colors.get(k), depths.get(k), time_s=said.time_s(k), K=said.K(k))
        for k in sorted({*range(len(said.stored)), *colors, *depths})
    ]
    return file_recording(
        folder, "record3d", files, said.stored, said.cameras, options,
        declared=Reading(axes="opengl"), up=said.up, read_depth=read_exr_m,
    )  # fmt: skip
