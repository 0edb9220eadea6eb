"""Small recordings of phone apps and benchmarks of phones, written in the layouts that are documented.

Colour is twice the depth's size, as phones' is larger; the walk and the room are recording_factory's.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.recordings.reading import FLIP, inverse
from recording_factory import ROOM, color_of, depth_of, picture, units, write_exr
from room_meshes import write_ply

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


def scannerapp(folder: Path, walk: np.ndarray, every: int = 1) -> Path:
    """A picture of each `every`-th frame; the world is a room's, which has z up, whatever the app's."""
    width, height = COLOR_SIZE
    projection = np.zeros((4, 4))
    projection[0, 0], projection[1, 1] = 2 * COLOR_K[0, 0] / width, 2 * COLOR_K[1, 1] / height
    for k, pose in enumerate(walk):
        picture(folder / f"depth_{k:05d}.png", units(pose, 1000))
        picture(folder / f"conf_{k:05d}.png", level(2))
        if k % every == 0:
            picture(folder / f"frame_{k:05d}.jpg", large(k))
        frame = {
            "cameraPoseARFrame": (pose @ FLIP).ravel().tolist(),
            "intrinsics": COLOR_K.ravel().tolist(),
            "projectionMatrix": projection.ravel().tolist(),
            "motionQuality": 1,
            "time": 402896.5 + 0.1 * k,
        }
        (folder / f"frame_{k:05d}.json").write_text(json.dumps(frame))
    picture(folder / "thumb_00000.jpg", large(0))
    (folder / "info.json").write_text(json.dumps({"numImages": len(walk)}))
    return folder


def scannerapp_exr(folder: Path, walk: np.ndarray) -> Path:
    scannerapp(folder, walk)
    for k, pose in enumerate(walk):
        (folder / f"depth_{k:05d}.png").unlink()
        write_exr(folder / f"frame_{k:05d}.exr", depth_of(pose))
    return folder


def video(path: Path, pictures: list[np.ndarray], every: int = 4) -> None:
    """Frames at 60 a second, each `every`-th a key frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=60, options={"g": str(every), "qmax": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate, stream.time_base = 40_000_000, Fraction(1, 60)
        for one in pictures:
            frame = av.VideoFrame.from_ndarray(one, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def stored(data: bytes) -> bytes:
    """An LZFSE stream of one block that is not compressed."""
    return b"bvx-" + struct.pack("<I", len(data)) + data + b"bvx$"


def r3d(
    folder: Path, walk: np.ndarray, pack: Callable[[bytes], bytes] = stored, stated: bool = True
) -> Path:
    """`pack` compresses depth and confidence; `stated`: the metadata say how large they are."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = []
    with zipfile.ZipFile(folder / "room.r3d", "w") as archive:
        for k, pose in enumerate(walk):
            gl, jpeg = pose @ FLIP, BytesIO()
            numbers.append([*Rotation.from_matrix(gl[:3, :3]).as_quat(), *gl[:3, 3]])
            Image.fromarray(large(k)).save(jpeg, "JPEG", quality=95)
            archive.writestr(f"rgbd/{k}.jpg", jpeg.getvalue())
            archive.writestr(f"rgbd/{k}.depth", pack(depth_of(pose).astype("<f4").tobytes()))
            archive.writestr(f"rgbd/{k}.conf", pack(level(2).tobytes()))
        metadata = {"w": 192, "h": 144, "K": COLOR_K.T.ravel().tolist(), "poses": numbers}
        metadata |= {"perFrameIntrinsicCoeffs": [[160, 160, 95.5, 71.5]] * len(walk), "fps": 60}
        metadata |= {"dw": 96, "dh": 72} if stated else {}
        archive.writestr("metadata", json.dumps(metadata))
    return folder / "room.r3d"


def r3d_unpacked(folder: Path, walk: np.ndarray) -> Path:
    with zipfile.ZipFile(r3d(folder / "packed", walk)) as archive:
        archive.extractall(folder / "r")
    return folder / "r"


def stray(folder: Path, walk: np.ndarray) -> Path:
    """As newer versions of the app write it: intrinsics of each frame, and empty cells."""
    names = "timestamp, frame, x, y, z, qx, qy, qz, qw, fx, fy, cx, cy, distortion_center_x"
    lines = [names]
    for k, pose in enumerate(walk):
        picture(folder / "depth" / f"{k:06d}.png", units(pose, 1000))
        picture(folder / "confidence" / f"{k:06d}.png", level(2))
        quaternion = Rotation.from_matrix(pose[:3, :3]).as_quat()
        numbers = ", ".join(f"{value:.9f}" for value in (*pose[:3, 3], *quaternion))
        lines.append(f"{65575.5 + k / 60}, {k:06d}, {numbers}, 160.0, 160.0, 95.5, 71.5, ")
    (folder / "odometry.csv").write_text("\n".join(lines) + "\n")
    (folder / "camera_matrix.csv").write_text("161.0, 0.0, 95.5\n0.0, 161.0, 71.5\n0.0, 0.0, 1.0\n")
    video(folder / "rgb.mp4", [large(k) for k in range(len(walk))])
    return folder


def arkitscenes(folder: Path, walk: np.ndarray) -> Path:
    """Poses ten a second, pictures twenty: every other one has no pose."""
    lines = []
    for k in range(2 * len(walk)):
        time, pose = f"{6790.1 + k / 20:.3f}", walk[k // 2]
        picture(folder / "lowres_wide" / f"41_{time}.png", large(k // 2))
        picture(folder / "lowres_depth" / f"41_{time}.png", units(pose, 1000))
        picture(folder / "confidence" / f"41_{time}.png", level(2))
        lens = folder / "lowres_wide_intrinsics" / f"41_{float(time) - 0.001:.3f}.pincam"
        lens.parent.mkdir(exist_ok=True)
        lens.write_text("192 144 160 160 95.5 71.5\n")
        if k % 2 == 0:
            stored = inverse(pose)
            numbers = (*Rotation.from_matrix(stored[:3, :3]).as_rotvec(), *stored[:3, 3])
            lines.append(f"{float(time) + 0.0004:.7f} " + " ".join(f"{one:.9f}" for one in numbers))
    (folder / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
    return folder


PHONE_K, PHONE_SIZE = np.array([[213.0, 0, 127.5], [0, 213, 95.5], [0, 0, 1]]), (256, 192)


def phone_depth(pose: np.ndarray) -> np.ndarray:
    """(192, 256) metres, as ScanNet++'s depth.bin has them."""
    return depth_of(pose, PHONE_K, PHONE_SIZE)


def lz4_literals(data: bytes) -> bytes:
    """An LZ4 block of literals alone."""
    more, rest = divmod(len(data) - 15, 255)
    return b"\xf0" + b"\xff" * more + bytes([rest]) + data


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def scannetpp(folder: Path, walk: np.ndarray, whole: bool = False) -> Path:
    """Depth packed frame by frame, by LZ4 and by deflate in turn, or (`whole`) in one stream."""
    phone, posed, packed = folder / "iphone", {}, []
    phone.mkdir(parents=True)
    for k, pose in enumerate(walk):
        depth_m = phone_depth(pose)
        floats = depth_m.astype("<f4").tobytes()
        if k % 2 == 0:
            block = lz4_literals(np.rint(depth_m * 1000).astype("<u2").tobytes())
        else:
            block = deflated(floats)
        packed.append(floats if whole else struct.pack("<I", len(block)) + block)
        camera = [[426.0, 0, 255.5], [0, 426, 191.5], [0, 0, 1]]
        posed[f"frame_{k:06d}"] = {
            "pose": np.eye(4).tolist(), "aligned_pose": pose.tolist(), "intrinsic": camera,
        }  # fmt: skip
    (phone / "depth.bin").write_bytes(deflated(b"".join(packed)) if whole else b"".join(packed))
    (phone / "pose_intrinsic_imu.json").write_text(json.dumps(posed))
    ramps = [np.resize(large(k), (384, 512, 3)) for k in range(len(walk))]
    video(phone / "rgb.mkv", ramps)
    return folder


def scannetpp_stream(folder: Path, walk: np.ndarray) -> Path:
    return scannetpp(folder, walk, whole=True)


def room_box() -> Mesh:
    """The walls that recordings are made of, a vertex every 12 cm or so."""
    box = trimesh.creation.box(bounds=ROOM)
    for _ in range(5):
        box = box.subdivide()
    color = np.full((len(box.vertices), 3), 150, np.uint8)
    return Mesh(np.asarray(box.vertices), color, np.asarray(box.faces, np.int64))


def colmap(folder: Path, walk: np.ndarray, binary: bool = True) -> Path:
    """Pictures by two cameras, one of them with a lens that hardly distorts."""
    model, images = folder / "sparse" / "0", []
    model.mkdir(parents=True)
    cameras = [(1, 1, "PINHOLE", [160.0, 160, 96, 72]), (7, 2, "SIMPLE_RADIAL", [160.0, 96, 72, 1e-3])]
    for k, pose in enumerate(walk):
        picture(folder / "images" / "left" / f"{k:04d}.jpg", large(k))
        stored = inverse(pose)
        quaternion = np.roll(Rotation.from_matrix(stored[:3, :3]).as_quat(), 1)
        images.append((k + 1, [*quaternion, *stored[:3, 3]], (1, 7)[k % 2], f"left/{k:04d}.jpg"))
    if binary:
        lens = b"".join(
            struct.pack("<iiQQ", number, kind, *COLOR_SIZE) + struct.pack(f"<{len(numbers)}d", *numbers)
            for number, kind, _, numbers in cameras
        )
        (model / "cameras.bin").write_bytes(struct.pack("<Q", len(cameras)) + lens)
        posed = b"".join(
            struct.pack("<i7di", number, *numbers, camera) + name.encode() + b"\0"
            + struct.pack("<Qddq", 1, 3.5, 4.5, -1)
            for number, numbers, camera, name in images
        )  # fmt: skip
        (model / "images.bin").write_bytes(struct.pack("<Q", len(images)) + posed)
    else:
        text = [" ".join(map(str, (number, name, 192, 144, *n))) for number, _, name, n in cameras]
        (model / "cameras.txt").write_text("# CAMERA_ID, MODEL\n" + "\n".join(text) + "\n")
        text = [" ".join(map(str, (n, *numbers, camera, name))) for n, numbers, camera, name in images]
        (model / "images.txt").write_text("# IMAGE_ID\n" + "\n\n".join(text) + "\n\n")
    write_ply(folder / "mesh.ply", room_box())
    return folder


def colmap_text(folder: Path, walk: np.ndarray) -> Path:
    return colmap(folder, walk, binary=False)


WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "nerfstudio": nerfstudio,
    "nerfstudio of NeRFCapture": nerf_capture,
    "polycam": polycam,
    "polycam uncorrected": polycam_raw,
    "stray": stray,
    "scannerapp": scannerapp,
    "scannerapp in exr": scannerapp_exr,
    "r3d": r3d,
    "arkitscenes": arkitscenes,
    "scannetpp": scannetpp,
    "colmap": colmap,
    "colmap in text": colmap_text,
    "scannetpp in one stream": scannetpp_stream,
    "r3d unpacked": r3d_unpacked,
}
"""Layout, and more, → what writes it; the layout is the first word."""
