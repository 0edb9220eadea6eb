"""Fusing depth: time and memory on a real recording and on many rendered frames, and Open3D beside it.

Every measurement has a process of its own, so that the memory is its own too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import KDTree
from trimesh import Trimesh
from trimesh.sample import sample_surface

from bifusion.datasets.fusion.surface import Surface, extract_surface
from bifusion.datasets.fusion.volume import FusionConfig, Volume
from bifusion.datasets.recordings.frame import Camera, Frame
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.rooms.cameras import intrinsics, look_at
from bifusion.datasets.rooms.config import RoomsConfig
from bifusion.datasets.rooms.layout import make_layout
from bifusion.datasets.rooms.raycast import MISS, RayCaster, layout_faces
from bifusion.datasets.rooms.render import pixel_grid, pixel_rays
from bifusion.rng import numpy_rng

REAL = Path(os.environ.get("BIFUSION_REAL_DATA", "../shared/data")) / "rgbd_redkitchen"
RENDERED_SIZE = (640, 480)
"""Width, height."""
DEPTH_NOISE_M = 0.003
SAMPLES = 2_000_000
"""Points drawn on a surface to measure distances to: 3 mm apart on 20 m²."""
VERTICES = 20_000
PERCENTILES = (50, 90)


def bench_fusion(peers: bool, out: Path, frames: int = 1000) -> dict[str, Any]:
    """All of it; the recording only where it is there, Open3D only with `peers`."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"rendered": _in_process("rendered", str(frames))}
    if REAL.is_dir():
        ours = out / "ours.npz"
        found["recording"] = _in_process("recording", str(ours))
        if peers:
            from benchmarks import open3d_peer

            theirs = out / "open3d.npz"
            found["open3d"] = open3d_peer.run(REAL, theirs)
            found["distance"] = surface_distances(ours, theirs)
    return found


def _in_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def bench_recording(out: Path, repeats: int = 3) -> dict[str, Any]:
    """The real recording, its pictures decoded each time: the least of the times of a few."""
    before_mb = _peak_mb()
    recording = open_recording(REAL)
    times: dict[str, list[float]] = {"read": [], "add": [], "surface": [], "all": [], "wall": []}
    surface = None
    for _ in range(repeats):
        watch, wall = [time.process_time()], time.perf_counter()
        frames = [recording.frame(index) for index in range(len(recording))]
        watch.append(time.process_time())
        volume = Volume(FusionConfig())
        for frame in frames:
            volume.add(frame)
        watch.append(time.process_time())
        surface = extract_surface(volume)
        watch.append(time.process_time())
        for name, start, end in zip(("read", "add", "surface"), watch, watch[1:], strict=False):
            times[name].append(end - start)
        times["all"].append(watch[-1] - watch[0])
        times["wall"].append(time.perf_counter() - wall)
    assert surface is not None
    np.savez(out, coord=surface.mesh.coord, faces=surface.mesh.faces)
    return _figures(surface, volume, len(recording), before_mb, times)


def bench_rendered(count: int) -> dict[str, Any]:
    """Frames of a generated room; their rendering is not counted."""
    before_mb = _peak_mb()
    volume, seconds = Volume(FusionConfig()), []
    for frame in rendered_frames(count):
        started = time.process_time()
        volume.add(frame)
        seconds.append(time.process_time() - started)
    started = time.process_time()
    surface = extract_surface(volume)
    times = {"add": [sum(seconds)], "surface": [time.process_time() - started]}
    figures = _figures(surface, volume, count, before_mb, times)
    figures["seconds"]["frame"] = sum(seconds) / count
    return figures


def rendered_frames(count: int) -> Iterator[Frame]:
    """A walk through a generated room, depth with a little noise, the surface's place as its colour."""
    layout = make_layout(RoomsConfig(), "train", 0)
    rays, rng = RayCaster(layout_faces(layout)), numpy_rng(0, "benchmark", "frames")
    K, pixel = intrinsics(RENDERED_SIZE, 0.9), pixel_grid(RENDERED_SIZE)
    middle = np.array([*layout.size_m, 2.8]) / 2
    for number in range(count):
        turn = 2 * np.pi * 7 * number / count
        eye = middle + 0.25 * middle * np.array([np.sin(turn / 3), np.cos(turn / 3), 0.3 * np.sin(turn)])
        ahead = np.array([np.cos(turn), np.sin(turn), 0.7 * np.sin(5 * turn)])
        cam2world = look_at(eye, eye + ahead)
        direction = pixel_rays(K, cam2world, pixel)
        face, depth = rays.first_hit(eye.astype(np.float32), direction)
        depth_m = np.where(face == MISS, 0, depth + rng.normal(0, DEPTH_NOISE_M, depth.shape))
        place = np.where(face[:, None] == MISS, 0, eye + depth_m[:, None] * direction)
        shape = RENDERED_SIZE[::-1]
        color = np.clip(place * 50, 0, 255).astype(np.uint8).reshape(*shape, 3)
        camera = Camera(K, shape, cam2world)
        yield Frame(str(number), color, camera, depth_m.reshape(shape).astype(np.float32), camera)


def surface_distances(ours: Path, theirs: Path) -> dict[str, float]:
    """Millimetres from vertices of one mesh to the nearest point of the other, both ways."""
    meshes = [np.load(path) for path in (ours, theirs)]
    found = {}
    for name, one, other in (("ours_to_open3d", 0, 1), ("open3d_to_ours", 1, 0)):
        surface = Trimesh(meshes[other]["coord"], meshes[other]["faces"], process=False)
        points, _ = sample_surface(surface, SAMPLES, seed=0)
        vertices = meshes[one]["coord"]
        drawn = numpy_rng(0, "benchmark", name).choice(len(vertices), VERTICES, replace=False)
        distance = KDTree(points).query(vertices[drawn])[0]
        for percentile in PERCENTILES:
            found[f"{name}_p{percentile}_mm"] = float(np.percentile(distance, percentile) * 1000)
    return found


def _figures(
    surface: Surface, volume: Volume, frames: int, before_mb: float, times: dict[str, list[float]]
) -> dict[str, Any]:
    return {
        "frames": frames,
        "voxel_size_m": volume.config.voxel_size_m,
        "blocks": len(volume.table),
        "vertices": len(surface.mesh.coord),
        "triangles": len(surface.mesh.faces),
        "seconds": {name: min(values) for name, values in times.items()},
        "peak_mb_above_imports": _peak_mb() - before_mb,
    }


def _peak_mb() -> float:
    """Of this process alone: getrusage's figure begins at that of the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    kind, argument = sys.argv[1:]
    measured = bench_recording(Path(argument)) if kind == "recording" else bench_rendered(int(argument))
    print(json.dumps(measured))
