"""The same recording fused by Open3D 0.19, in an environment of its own.

Run by `run` as a script of that environment, which has nothing of ours: RECORDING OUT.npz; prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

PEER = Path("build/peers/open3d")
VOXEL_M, TRUNCATION_M, FARTHEST_M = 0.02, 0.08, 5.0
"""As in our `FusionConfig`."""
UNKNOWN_MM = 65535


def run(recording: Path, out: Path) -> dict[str, Any]:
    """Installs Open3D if need be, starts it, and returns what it measured."""
    python = PEER / "bin" / "python"
    if not python.exists():
        venv.create(PEER, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "open3d-cpu==0.19.*"], check=True)
    command = [str(python), __file__, str(recording), str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def fuse(recording: Path) -> Any:
    """Open3D's mesh of a folder in the layout of 7-Scenes."""
    import numpy as np
    import open3d as o3d

    fusion = o3d.pipelines.integration
    color = fusion.TSDFVolumeColorType.RGB8
    volume = fusion.ScalableTSDFVolume(voxel_length=VOXEL_M, sdf_trunc=TRUNCATION_M, color_type=color)
    K = np.loadtxt(recording / "camera-intrinsics.txt")
    for pose in sorted(recording.glob("*.pose.txt")):
        stem = str(pose).removesuffix(".pose.txt")
        depth = np.asarray(o3d.io.read_image(f"{stem}.depth.png")).copy()
        depth[depth == UNKNOWN_MM] = 0
        picture = o3d.geometry.RGBDImage.create_from_color_and_depth(
            o3d.io.read_image(f"{stem}.color.jpg"), o3d.geometry.Image(depth), depth_scale=1000,
            depth_trunc=FARTHEST_M, convert_rgb_to_intensity=False,
        )  # fmt: skip
        height, width = depth.shape
        camera = o3d.camera.PinholeCameraIntrinsic(width, height, K[0, 0], K[1, 1], K[0, 2], K[1, 2])
        volume.integrate(picture, camera, np.linalg.inv(np.loadtxt(pose)))
    return volume.extract_triangle_mesh()


def main() -> None:
    import numpy as np
    import open3d as o3d

    recording, out = map(Path, sys.argv[1:])
    seconds, walls, mesh = [], [], None
    for _ in range(3):
        started, wall = time.process_time(), time.perf_counter()
        mesh = fuse(recording)
        seconds.append(time.process_time() - started)
        walls.append(time.perf_counter() - wall)
    assert mesh is not None
    np.savez(out, coord=np.asarray(mesh.vertices), faces=np.asarray(mesh.triangles))
    figures = {
        "version": o3d.__version__,
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.triangles),
        "seconds": {"all": min(seconds), "wall": min(walls)},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
