"""Small recordings of phone apps and benchmarks of phones, written in the layouts that are documented.

Colour is twice the depth's size, as phones' is larger; the walk and the room are recording_factory's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bifusion.datasets.recordings.reading import FLIP
from recording_factory import color_of, picture, units

COLOR_SIZE = (192, 144)
COLOR_K = np.array([[160.0, 0, 95.5], [0, 160, 71.5], [0, 0, 1]])


def large(k: int) -> np.ndarray:
    return np.repeat(np.repeat(color_of(k), 2, 0), 2, 1)


def level(highest: int) -> np.ndarray:
    """(72, 96) uint8 confidence: high, but for a patch of low and one of medium."""
    found = np.full((72, 96), highest, np.uint8)
    found[20:30, 20:30], found[40:50, 40:50] = 0, highest // 2
    return found


def nerfstudio(folder: Path, walk: np.ndarray) -> Path:
    """Intrinsics for the whole file, but for the last frame, which states its own."""
    top = {"w": 192, "h": 144, "fl_x": 160.0, "fl_y": 160.0, "cx": 96.0, "cy": 72.0}
    frames = []
    for k, pose in enumerate(walk):
        picture(folder / "images" / f"frame_{k:05d}.jpg", large(k))
        picture(folder / "depth" / f"frame_{k:05d}.png", units(pose, 1000))
        frames.append(
            {
                "file_path": f"./images/frame_{k:05d}.jpg",
                "depth_file_path": f"depth/frame_{k:05d}.png",
                "transform_matrix": (pose @ FLIP).tolist(),
            }
        )
    frames[-1] |= top
    found = {**top, "camera_model": "OPENCV", "k1": 0.0, "p1": 0.0, "frames": frames}
    found["applied_transform"] = [[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    (folder / "transforms.json").write_text(json.dumps(found))
    return folder


def nerf_capture(folder: Path, walk: np.ndarray) -> Path:
    """instant-ngp's keys, with depth in its own unit."""
    nerfstudio(folder, walk)
    found = json.loads((folder / "transforms.json").read_text())
    for k, frame in enumerate(found["frames"]):
        frame["depth_path"] = frame.pop("depth_file_path")
        picture(folder / frame["depth_path"], units(walk[k], 65535 / 10))
    found["integer_depth_scale"] = 10 / 65535
    del found["applied_transform"], found["camera_model"]
    (folder / "transforms.json").write_text(json.dumps(found))
    return folder


def polycam(folder: Path, walk: np.ndarray, corrected: bool = True) -> Path:
    keyframes, kind = folder / "keyframes", "corrected_" if corrected else ""
    for k, pose in enumerate(walk):
        name = str(121_000_000 + 333_333 * k)
        picture(keyframes / f"{kind}images" / f"{name}.jpg", large(k))
        picture(keyframes / "depth" / f"{name}.png", units(pose, 1000))
        picture(keyframes / "confidence" / f"{name}.png", level(255))
        camera = {"fx": 160.0, "fy": 160.0, "cx": 95.5, "cy": 71.5, "width": 192, "height": 144}
        stored = pose @ FLIP
        camera |= {f"t_{row}{column}": stored[row, column] for row in range(3) for column in range(4)}
        (keyframes / f"{kind}cameras").mkdir(exist_ok=True)
        (keyframes / f"{kind}cameras" / f"{name}.json").write_text(json.dumps(camera))
    (folder / "mesh_info.json").write_text(json.dumps({"vertexCount": 0}))
    return folder


def polycam_raw(folder: Path, walk: np.ndarray) -> Path:
    return polycam(folder, walk, corrected=False)


WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "nerfstudio": nerfstudio,
    "nerfstudio of NeRFCapture": nerf_capture,
    "polycam": polycam,
    "polycam uncorrected": polycam_raw,
}
"""Layout, and more, → what writes it; the layout is the first word."""
