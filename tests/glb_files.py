"""GLB files as programs write them, and as these are with another JSON or other colours."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

TEXTURE = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
"""Top left red, top right green, bottom left blue, bottom right yellow."""
COMPONENTS = {"uint8": 5121, "uint16": 5123, "float32": 5126}


def glb(path: Path, scene: trimesh.Scene | trimesh.Trimesh) -> Path:
    path.write_bytes(bytes(trimesh.exchange.gltf.export_glb(trimesh.Scene(scene))))
    return path


def box(color: tuple[int, int, int]) -> trimesh.Trimesh:
    mesh = trimesh.creation.box()
    mesh.visual.vertex_colors = np.tile((*color, 255), (8, 1))
    return mesh


def textured_glb(path: Path, image: Image.Image | None = None, **material) -> Path:
    """One triangle whose corners are red, green and blue in its texture, unless another is given."""
    mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 1, 2]], process=False)
    image = image or Image.fromarray(TEXTURE).resize((64, 64), Image.Resampling.NEAREST)
    pbr = trimesh.visual.material.PBRMaterial(baseColorTexture=image, **material)
    uv = [[0.25, 0.75], [0.75, 0.75], [0.25, 0.25]]
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=pbr)
    return glb(path, mesh)


def with_tree(path: Path, change) -> Path:
    """The GLB in `path` with another JSON."""
    data = path.read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    tree = json.loads(data[20 : 20 + length])
    change(tree)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text + data[20 + length :]
    changed = path.with_name("changed.glb")
    changed.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)
    return changed


def with_stored_colors(
    path: Path, color: np.ndarray, points: bool = False, attribute: str = "COLOR_0"
) -> Path:
    """The GLB in `path`, its COLOR_0, or another attribute, replaced by (N, k) numbers in the file's own
    buffer, rows a multiple of 4 bytes apart."""
    rows = np.ascontiguousarray(color).view(np.uint8).reshape(len(color), -1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))

    def change(tree) -> None:
        begin = tree["buffers"][0]["byteLength"]
        tree["buffers"][0]["byteLength"] += rows.size
        view = {"buffer": 0, "byteOffset": begin, "byteLength": rows.size, "byteStride": rows.shape[1]}
        tree["bufferViews"].append(view)
        tree["accessors"].append(
            {
                "bufferView": len(tree["bufferViews"]) - 1,
                "componentType": COMPONENTS[color.dtype.name],
                "count": len(color),
                "type": f"VEC{color.shape[1]}",
                "normalized": color.dtype.kind == "u",
            }
        )
        part = tree["meshes"][0]["primitives"][0]
        part["attributes"][attribute] = len(tree["accessors"]) - 1
        if points:
            part["mode"] = 0

    changed = with_tree(path, change)
    data = bytearray(changed.read_bytes()) + rows.tobytes()
    text = struct.unpack("<I", data[12:16])[0]
    length = struct.unpack("<I", data[20 + text : 24 + text])[0] + rows.size
    data[8:12], data[20 + text : 24 + text] = struct.pack("<I", len(data)), struct.pack("<I", length)
    changed.write_bytes(data)
    return changed
