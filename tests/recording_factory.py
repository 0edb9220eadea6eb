"""Small recordings of a box of a room, written in every layout that is read."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import OpenEXR
from PIL import Image
from scipy.spatial.transform import Rotation

from bifusion.datasets.recordings.reading import FLIP, inverse

SIZE = (96, 72)
"""Width, height of colour and depth."""
K = np.array([[80.0, 0, 47.5], [0, 80, 35.5], [0, 0, 1]])
ROOM = np.array([[-2.0, -1.5, 0.0], [2.0, 1.5, 2.5]])
"""Corners of the walls, z up."""


def poses(count: int = 8) -> np.ndarray:
    """(count, 4, 4) cam2world of a walk that looks around, slightly down."""
    found = []
    for k in range(count):
        angle = 0.25 * k
        forward = np.array([np.cos(angle), np.sin(angle), -0.3])
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0, 0, 1))
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = (-0.6 + 0.12 * k, -0.3 + 0.08 * k, 1.2 + 0.03 * k)
        found.append(pose)
    return np.array(found)


def depth_of(pose: np.ndarray, K: np.ndarray = K, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(h, w) float64 metres: where the rays of a camera within the room meet its walls."""
    ray = _rays(pose, K, size)
    wall = np.where(ray > 0, ROOM[1], ROOM[0])
    return ((wall - pose[:3, 3]) / np.where(np.abs(ray) < 1e-9, 1e-9, ray)).min(axis=2)


def _rays(pose: np.ndarray, K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) directions of pixels in the room, 1 along the camera's axis."""
    row, column = np.mgrid[: size[1], : size[0]]
    ray = np.stack([(column - K[0, 2]) / K[0, 0], (row - K[1, 2]) / K[1, 1], np.ones(row.shape)], axis=2)
    return ray @ pose[:3, :3].T


def painted(pose: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: what a camera sees of painted walls, whose colours go by the place."""
    place = pose[:3, 3] + _rays(pose, K, SIZE) * depth_of(pose)[..., None]
    red, green, blue = np.moveaxis(place, 2, 0)
    waves = np.sin(2 * red), np.sin(2.5 * green + 1), np.sin(3 * blue + red)
    return np.rint(128 + 100 * np.stack(waves, axis=2)).astype(np.uint8)


def color_of(k: int) -> np.ndarray:
    """(h, w, 3) uint8, smooth, another for each frame; of no room, as it goes by the pixel."""
    row, column = np.mgrid[: SIZE[1], : SIZE[0]]
    return np.stack([row + 10 * k, column + 50, 200 - row], axis=2).astype(np.uint8)


def picture(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pgm":  # Pillow 10.0 writes none of 16 bits
        head = f"P5 {array.shape[1]} {array.shape[0]} 65535\n".encode()
        path.write_bytes(head + array.astype(">u2").tobytes())
        return
    Image.fromarray(array).save(path, **({"quality": 95} if path.suffix.lower() == ".jpg" else {}))


def units(pose: np.ndarray, scale: float) -> np.ndarray:
    return np.rint(depth_of(pose) * scale).astype(np.uint16)


def matrix(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, values)


def scannet(folder: Path, walk: np.ndarray, *, paint: bool = False) -> Path:
    """`paint`: with pictures that fit the room and each other."""
    folder = folder / "scene0001_00"
    for k, pose in enumerate(walk):
        picture(folder / "color" / f"{10 * k}.jpg", painted(pose) if paint else color_of(k))
        picture(folder / "depth" / f"{10 * k}.png", units(pose, 1000))
        matrix(folder / "pose" / f"{10 * k}.txt", pose)
    four = np.eye(4)
    four[:3, :3] = K
    matrix(folder / "intrinsic" / "intrinsic_color.txt", four)
    matrix(folder / "intrinsic" / "intrinsic_depth.txt", four)
    return folder


def seven_scenes(
    folder: Path, walk: np.ndarray, color: str = "color.png", depth: str = "depth.png"
) -> Path:
    for k, pose in enumerate(walk):
        raw = units(pose, 1000)
        raw[0, 0], raw[1, 1] = 65535, 0
        picture(folder / f"frame-{k:06d}.{color}", color_of(k))
        picture(folder / f"frame-{k:06d}.{depth}", raw)
        matrix(folder / f"frame-{k:06d}.pose.txt", pose)
    matrix(folder / "camera-intrinsics.txt", K)
    return folder


def three_rscan(folder: Path, walk: np.ndarray) -> Path:
    seven_scenes(folder / "sequence", walk, "color.jpg", "depth.pgm")
    (folder / "sequence" / "camera-intrinsics.txt").unlink()
    camera = "80 0 47.5 0 0 80 35.5 0 0 0 1 0 0 0 0 1"
    (folder / "sequence" / "_info.txt").write_text(
        f"m_versionNumber = 4\nm_sensorName = x y\nm_colorWidth = {SIZE[0]}\nm_colorHeight = {SIZE[1]}\n"
        f"m_depthWidth = {SIZE[0]}\nm_depthHeight = {SIZE[1]}\nm_depthShift = 1000\n"
        f"m_calibrationColorIntrinsic = {camera}\nm_calibrationDepthIntrinsic = {camera}\n"
    )
    return folder


def tum(folder: Path, walk: np.ndarray, scale: float = 5000) -> Path:
    lists: dict[str, list[str]] = {
        "rgb": [],
        "depth": [],
        "groundtruth": ["# timestamp tx ty tz qx qy qz qw"],
    }
    for k, pose in enumerate(walk):
        time = 100 + k / 30
        picture(folder / "rgb" / f"{time:.4f}.png", color_of(k))
        picture(folder / "depth" / f"{time + 0.005:.4f}.png", units(pose, scale))
        lists["rgb"].append(f"{time:.4f} rgb/{time:.4f}.png")
        lists["depth"].append(f"{time + 0.005:.4f} depth/{time + 0.005:.4f}.png")
        quaternion = Rotation.from_matrix(pose[:3, :3]).as_quat()
        numbers = " ".join(f"{value:.9f}" for value in (*pose[:3, 3], *quaternion))
        lists["groundtruth"].append(f"{time + 0.002:.4f} {numbers}")
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    matrix(folder / "camera-intrinsics.txt", K)
    return folder


def open3d(folder: Path, walk: np.ndarray) -> Path:
    for k, pose in enumerate(walk):
        picture(folder / "color" / f"{k:05d}.jpg", color_of(k))
        picture(folder / "depth" / f"{k:05d}.png", units(pose, 1000))
    (folder / "trajectory.log").write_text(log(walk))
    (folder / "intrinsic.json").write_text(json.dumps(open3d_camera()))
    return folder


def redwood(folder: Path, walk: np.ndarray) -> Path:
    """As Open3D's fountain: each stream with numbers of its own and microseconds, the poses beside."""
    for k, pose in enumerate(walk):
        time = 1_228_920 + 33_333 * k
        picture(folder / "image" / f"{10 + k:07d}-{time:012d}.jpg", color_of(k))
        picture(folder / "depth" / f"{38 + 4 * k:07d}-{time + 5_742:012d}.png", units(pose, 1000))
    (folder / "scene").mkdir()
    (folder / "scene" / "key.log").write_text(log(walk))
    (folder / "camera_primesense.json").write_text(json.dumps(open3d_camera()))
    return folder


def log(walk: np.ndarray) -> str:
    blocks = [[f"{k} {k} {k + 1}", *(" ".join(map(str, row)) for row in p)] for k, p in enumerate(walk)]
    return "\n".join(line for block in blocks for line in block)


def open3d_camera() -> dict:
    return {"width": SIZE[0], "height": SIZE[1], "intrinsic_matrix": K.T.ravel().tolist()}


def open3d_json(folder: Path, walk: np.ndarray) -> Path:
    open3d(folder, walk)
    (folder / "trajectory.log").unlink()
    (folder / "intrinsic.json").unlink()
    frames = [{"extrinsic": inverse(p).T.ravel().tolist(), "intrinsic": open3d_camera()} for p in walk]
    text = json.dumps({"class_name": "PinholeCameraTrajectory", "parameters": frames})
    (folder / "camera_trajectory.json").write_text(text)
    return folder


def replica(folder: Path, walk: np.ndarray) -> Path:
    """At a tenth of its size, less a row and a column of rounding."""
    for k, pose in enumerate(walk):
        picture(folder / "results" / f"frame{k:06d}.jpg", np.zeros((68, 120, 3), np.uint8) + 20 * k)
        small = depth_of(pose, np.array([[60.0, 0, 59.5], [0, 60, 33.5], [0, 0, 1]]), (120, 68))
        picture(folder / "results" / f"depth{k:06d}.png", np.rint(small * 6553.5).astype(np.uint16))
    np.savetxt(folder / "traj.txt", walk.reshape(len(walk), 16))
    return folder


def hololens(folder: Path, walk: np.ndarray) -> Path:
    for k, pose in enumerate(walk):
        picture(folder / "images" / f"{k + 3:05d}.png", color_of(k))
        picture(folder / "depth" / f"{k + 3:05d}.png", units(pose, 1000))
    np.savetxt(folder / "poses.txt", walk.reshape(len(walk), 16))
    matrix(folder / "K.txt", K)
    return folder


def write_exr(path: Path, depth_m: np.ndarray) -> None:
    """One channel of float16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"R": depth_m.astype(np.float16)}).write(str(path))


def record3d(folder: Path, walk: np.ndarray) -> Path:
    """Colour of twice the depth's size; the file of frame 1 is missing."""
    stored = []
    for k, pose in enumerate(walk):
        gl = pose @ FLIP
        stored.append([*Rotation.from_matrix(gl[:3, :3]).as_quat(), *gl[:3, 3]])
        if k != 1:
            picture(folder / "rgb" / f"{k}.jpg", np.repeat(np.repeat(color_of(k), 2, 0), 2, 1))
            write_exr(folder / "depth" / f"{k}.exr", depth_of(pose))
    colour_K = [160, 0, 0, 0, 160, 0, 95.5, 71.5, 1]
    metadata = {"w": 192, "h": 144, "dw": 96, "dh": 72, "K": colour_K, "poses": stored}
    metadata["frameTimestamps"] = [k / 60 for k in range(len(walk))]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def sens(folder: Path, walk: np.ndarray, depth_step: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    four = np.eye(4, dtype="<f4")
    camera = four.copy()
    camera[:3, :3] = K
    depth_size = (SIZE[0] // depth_step, SIZE[1] // depth_step)
    data = struct.pack("<IQ", 4, 6) + b"sensor"
    data += b"".join(one.tobytes() for one in (camera, four, camera, four))
    data += struct.pack("<2i4IfQ", 2, 1, *SIZE, *depth_size, 1000.0, len(walk))
    for k, pose in enumerate(walk):
        jpeg = BytesIO()
        Image.fromarray(color_of(k)).save(jpeg, "JPEG", quality=95)
        raw = units(pose, 1000)[::depth_step, ::depth_step].astype("<u2")
        color, depth = jpeg.getvalue(), zlib.compress(raw.tobytes())
        data += pose.astype("<f4").tobytes()
        data += struct.pack("<4Q", 1000 * k, 1000 * k, len(color), len(depth)) + color + depth
    (folder / "scene0001_00.sens").write_bytes(data + b"imu")
    return folder / "scene0001_00.sens"


WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "scannet": scannet,
    "sens": sens,
    "7scenes": seven_scenes,
    "7scenes of 3RScan": three_rscan,
    "tum": tum,
    "open3d": open3d,
    "open3d json": open3d_json,
    "open3d of Redwood": redwood,
    "replica": replica,
    "hololens": hololens,
    "record3d": record3d,
}
"""Layout, and more, → what writes it; the layout is the first word."""
