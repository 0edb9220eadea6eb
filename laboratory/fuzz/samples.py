"""Small valid samples of scans, pictures, tables and weights."""

from __future__ import annotations

import io
import json
import shutil
import struct
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import phone_recordings
import recording_factory
import room_meshes
from bifusion.datasets.ply.mesh import Mesh
from bifusion.inference.export import write_labelled_ply
from bifusion.labels.files import labels_text
from bifusion.labels.label_set import LabelSet
from bifusion.labels.palette import color_classes
from laser_files import write_e57, write_las
from pcd_files import write_pcd
from scene_factory import make_tiny_scene

Write = Callable[[Path], Path]


def room() -> Mesh:
    """A few hundred vertices."""
    return room_meshes.room_mesh(spacing_m=0.6)


def ply_binary(folder: Path) -> Path:
    return room_meshes.write_ply(folder / "room.ply", room())


def ply_ascii(folder: Path) -> Path:
    """With normals, triangles and a square, whose rows are of different lengths."""
    lines = ["ply", "format ascii 1.0", "comment made by hand", "element vertex 4"]
    lines += [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue", "alpha")]
    lines += ["element face 2", "property list uchar int vertex_indices", "end_header"]
    lines += [f"{k % 2} {k // 2} 0.5 0 0 1 {50 * k} 100 200 255" for k in range(4)]
    path = folder / "room.ply"
    path.write_text("\n".join([*lines, "3 0 1 2", "4 0 1 3 2", ""]))
    return path


def ply_lists(folder: Path) -> Path:
    """Big-endian, with lists of several types and lengths before and behind the vertices."""
    lines = ["ply", "format binary_big_endian 1.0", "element marker 2", "property list ushort double t"]
    lines += ["element vertex 3", *(f"property double {axis}" for axis in "xyz")]
    lines += [f"property float {name}" for name in ("red", "green", "blue")]
    lines += ["element face 2", "property list uint uint vertex_index", "property uchar flags"]
    data = struct.pack(">H2dHd", 2, 1.0, 2.0, 1, 3.0)
    data += b"".join(struct.pack(">3d3f", k, k * k, 1, 0.1 * k, 0.5, 1) for k in range(3))
    data += struct.pack(">I3IBI4IB", 3, 0, 1, 2, 7, 4, 0, 1, 2, 0, 7)
    path = folder / "room.ply"
    path.write_bytes("\n".join([*lines, "end_header", ""]).encode() + data)
    return path


def obj(folder: Path) -> Path:
    return room_meshes.write_obj(folder / "room.obj", room())


def obj_textured(folder: Path) -> Path:
    """Two materials, one with a texture."""
    (folder / "room.mtl").write_text(
        "newmtl wall\nKd 0.5 0.25 1\nmap_Kd -s 1 1 1 wall.png\nnewmtl floor\nKd 0.1 0.2 0.3\n"
    )
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(folder / "wall.png")
    (folder / "room.obj").write_text(
        "mtllib room.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvn 0 0 1\n"
        "usemtl wall\nf 1/1/1 2/2/1 3/3/1\nusemtl floor\nf 1//1 3//1 4//1\nf -1/1 -2/2 -3/3\n"
    )
    return folder / "room.obj"


def glb(folder: Path) -> Path:
    return room_meshes.write_glb(folder / "room.glb", room())


def glb_textured(folder: Path) -> Path:
    import trimesh

    mesh, path = room(), folder / "room.glb"
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    uv = mesh.coord[:, :2] / 3
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=image, baseColorFactor=[1, 1, 0.5, 1]
    )
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    shape = trimesh.Trimesh(mesh.coord, mesh.faces, visual=visual, process=False)
    scene = trimesh.Scene()
    for k in range(2):
        pose = np.eye(4)
        pose[0, 3] = 3 * k
        scene.add_geometry(shape, transform=pose)
    scene.export(str(path), file_type="glb")
    return path


def recording(kind: str) -> Write:
    """A recording of three frames in one of the layouts that tests write."""
    write = {**recording_factory.WRITERS, **phone_recordings.WRITERS}[kind]
    return lambda folder: write(folder / "r", recording_factory.poses(3))


def laser(suffix: str) -> Write:
    """A cloud of a laser scanner: .las, .laz or .e57."""
    cloud = room()
    if suffix == ".e57":
        return lambda folder: write_e57(folder / "cloud.e57", [cloud])
    return lambda folder: write_las(folder / f"cloud{suffix}", cloud)


def pcd(data: str, rgb: str = "F") -> Write:
    """A cloud of PCL: binary, ascii or binary_compressed."""
    return lambda folder: write_pcd(folder / "cloud.pcd", room(), data, rgb)


def scene_folder(folder: Path) -> Path:
    return make_tiny_scene(folder / "val" / "room", color_size=(16, 12), depth_size=(12, 9))


def image(suffix: str) -> Write:
    """A colour picture of a few pixels, with an orientation tag where the format has one."""

    def write(folder: Path) -> Path:
        path = folder / f"picture{suffix}"
        exif = Image.Exif()
        exif[0x0112] = 6
        pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
        options = {"exif": exif} if suffix in (".jpg", ".png", ".webp", ".tif") else {}
        Image.fromarray(pixels).save(path, **options)
        return path

    return write


def depth_image(folder: Path) -> Path:
    path = folder / "depth.png"
    Image.fromarray(np.arange(108, dtype=np.uint16).reshape(9, 12) * 500).save(path)
    return path


def exr(folder: Path) -> Path:
    import OpenEXR

    path = folder / "depth.exr"
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    pixels = np.linspace(0, 4, 108, dtype=np.float16).reshape(9, 12)
    OpenEXR.File(header, {"R": pixels}).write(str(path))
    return path


def npy(folder: Path) -> Path:
    path = folder / "coord.npy"
    np.save(path, np.arange(30, dtype=np.float32).reshape(10, 3))
    return path


def labels_json(folder: Path) -> Path:
    path = folder / "labels.json"
    path.write_text(labels_text(own_classes()))
    return path


def own_classes() -> LabelSet:
    return LabelSet.of("own", ["wall", "chair", "lamp"], [1, 5, 7], [0], colors=[(1, 2, 3)] * 3)


def class_table(folder: Path) -> Path:
    path = folder / "classes.csv"
    path.write_text("name,kind,color,id,group\nwall,stuff,#a0b0c0,1,\nchair,thing,1 2 3,5,head\n")
    return path


def scannet_scan(folder: Path) -> Path:
    """Mesh, segments, annotation, metadata and label table of a scan, and posed images."""
    name = "scene0001_00"
    scan = folder / name
    scan.mkdir()
    mesh = room()
    room_meshes.write_ply(scan / f"{name}_vh_clean_2.ply", mesh)
    segments = np.arange(len(mesh.coord)) // 8 * 10
    (scan / f"{name}_vh_clean_2.0.010000.segs.json").write_text(
        json.dumps({"sceneId": name, "segIndices": segments.tolist()})
    )
    groups = [
        {"id": 0, "objectId": 0, "segments": [0, 10], "label": "wall"},
        {"id": 1, "objectId": 1, "segments": [20], "label": "office chair"},
    ]
    (scan / f"{name}.aggregation.json").write_text(json.dumps({"sceneId": name, "segGroups": groups}))
    pose = " ".join(map(str, np.eye(4).ravel()))
    (scan / f"{name}.txt").write_text(
        f"axisAlignment = {pose}\ncolorToDepthExtrinsics = {pose}\nfx_depth = 80\nfy_depth = 80\n"
        "mx_depth = 47.5\nmy_depth = 35.5\ndepthWidth = 96\ndepthHeight = 72\nsceneType = Office\n"
    )
    (folder / "labels.tsv").write_text(
        "id\traw_category\tnyu40id\n1\twall\t1\n10\toffice chair\t5\n99\tbelt\t40\n2\toffice chair\t7\n"
    )
    return scan


def intrinsics_json(folder: Path) -> Path:
    path = folder / "intrinsic.json"
    path.write_text(json.dumps(recording_factory.open3d_camera()))
    return path


def trajectory_json(folder: Path) -> Path:
    recording_factory.open3d_json(folder / "r", recording_factory.poses(2))
    path = folder / "camera_trajectory.json"
    shutil.move(folder / "r" / path.name, path)
    shutil.rmtree(folder / "r")
    return path


def raw_pickle(folder: Path) -> Path:
    path = folder / "data.pkl"
    path.write_bytes(_zipped_pickle())
    return path


@cache
def _zipped_pickle() -> bytes:
    import zipfile

    file = io.BytesIO()
    torch.save(_state(), file)
    with zipfile.ZipFile(file) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith("data.pkl"))
        return archive.read(name)


def _state() -> dict:
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2).half()}
    return {"state_dict": weights, "epoch": 3, "optimizer": {"lr": [0.1, None, True]}, "name": "x" * 20}


def torch_zip(folder: Path) -> Path:
    path = folder / "weights.pth"
    torch.save(_state(), path)
    return path


def torch_legacy(folder: Path) -> Path:
    path = folder / "weights.pth"
    torch.save(_state(), path, _use_new_zipfile_serialization=False)
    return path


def torchscript(folder: Path) -> Path:
    path = folder / "tower.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the format lives on in published weights
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), str(path))
    return path


def labelled_scan(folder: Path) -> Path:
    """What the page of found words reads of a labelled scan, beside the scene that it was made of."""
    scene = make_tiny_scene(folder / "scene", color_size=(16, 12), depth_size=(12, 9))
    coord = np.load(scene / "coord.npy")[:-3]
    count, labels = len(coord), LabelSet.of("two", ("wall", "chair"))
    semantic = np.arange(count, dtype=np.int16) % 3 - 1
    instance = np.arange(count, dtype=np.int32) % 2 - 1
    np.save(folder / "labels.npy", semantic)
    np.save(folder / "instances.npy", instance)
    color = color_classes(semantic, labels)
    write_labelled_ply(folder / "classes.ply", coord, color, semantic, instance, labels)
    objects = [{"id": 0, "class": "chair", "label": 1, "score": 0.5, "vertices": 3}]
    listed = {"classes": ["wall", "chair"], "objects": objects}
    (folder / "objects.json").write_text(json.dumps(listed))
    (folder / "scan.json").write_text(json.dumps({"lines": ["a"], "versions": {"format": 1}}))
    return folder


def architecture(folder: Path) -> Path:
    """A CLIP in open_clip's format."""
    path = folder / "open_clip_config.json"
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}
    text = {"context_length": 16, "vocab_size": 100, "width": 64, "heads": 1, "layers": 1}
    sides = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    path.write_text(json.dumps({"model_cfg": sides}))
    return path
