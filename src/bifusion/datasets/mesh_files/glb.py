"""Binary glTF (GLB), read by trimesh: metres, y up, all nodes placed.

Source: Khronos glTF 2.0, 3.4 (units, axes), 3.9 (COLOR_0 is linear, textures are sRGB), 3.12
(extensions).
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bifusion.datasets.mesh_files.glb_colors import FAN, check_stored
from bifusion.datasets.mesh_files.glb_parts import MOVES_TEXTURES, load_parts
from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.ply.placed import placed
from bifusion.datasets.ply.surface_colors import joined
from bifusion.errors import InputError
from bifusion.untrusted.files import MOST_TEXT_BYTES, check_regular, open_regular
from bifusion.untrusted.json_text import parse_json

MAGIC = b"glTF"
MOST_BYTES = 2 << 30
MOST_NUMBERS = 400_000_000
"""Vertices, once for each of their attributes, and corners of faces, wherever they are placed."""
DEEPEST = 256
"""Nodes below each other."""
UP = np.array([0.0, 1.0, 0.0])
FAULTS = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, OverflowError,
    NotImplementedError, struct.error, OSError, SyntaxError, MemoryError, RecursionError,
    ZeroDivisionError, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What trimesh and Pillow raise on files that are no glTF."""
OTHER_COLORS = "KHR_materials_pbrSpecularGlossiness"
"""Materials with colours of their own, which trimesh mixes with the gloss: up to white."""
SUPPORTED = {
    MOVES_TEXTURES, "KHR_lights_punctual", "KHR_materials_anisotropy", "KHR_materials_clearcoat",
    "KHR_materials_dispersion", "KHR_materials_emissive_strength", "KHR_materials_ior",
    "KHR_materials_iridescence", "KHR_materials_sheen", "KHR_materials_specular",
    "KHR_materials_transmission", "KHR_materials_unlit", "KHR_materials_volume", "KHR_xmp_json_ld",
    "EXT_texture_webp",
}  # fmt: skip
"""Extensions that change neither shape nor base colour, or that are dealt with."""


def read_glb(path: Path) -> Mesh:
    """All meshes and clouds of the scene in `path`, one after another, each vertex once, in the file's
    order, in the scene's frame. Vertices whose place is not finite are left out with their faces, which
    is said.

    Raises InputError: no readable GLB file, data in other files, no mesh, no colours.
    """
    tree = _tree(path)
    notes: list[str] = []
    try:
        _check_tree(path, tree)
        _check_extensions(path, tree)
        check_stored(path, tree)
        parts = load_parts(path, tree, notes)
    except FAULTS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as glTF ({error}); export it again") from None
    if not parts:
        raise InputError(f"{path}: holds no mesh with vertices; export the scan as GLB again")
    first = np.cumsum([0, *(len(part.coord) for part in parts)])
    coord = np.concatenate([part.coord for part in parts])
    faces = np.concatenate([part.faces + at for part, at in zip(parts, first, strict=False)])
    there, surface = placed(coord, path, notes, faces), joined([part.surface for part in parts])
    coord = there.vertices(coord)
    return Mesh(
        coord=coord,
        color=there.vertices(np.concatenate([part.color for part in parts])),
        faces=there.faces(faces),
        spacing=float(np.spacing(np.float32(np.abs(coord).max()))),
        surface=surface and surface.of(there.triangle),
        notes=list(dict.fromkeys(notes)),
        up=UP,
    )


def _tree(path: Path) -> dict[str, Any]:
    """The JSON at the beginning of the file."""
    size = check_regular(path, most_bytes=MOST_BYTES, advice="reduce it")
    with open_regular(path) as file:
        head = file.read(20)
        if len(head) < 20 or head[:4] != MAGIC:
            raise InputError(
                f"{path}: is no binary glTF, it begins with {head[:8]!r}; export it as .glb"
            )
        version, _, length, kind = struct.unpack("<4xIII4s", head)
        if version != 2 or kind != b"JSON" or length > size - 20:
            raise InputError(
                f"{path}: is damaged, or glTF of version {version}; expected 2: export it again"
            )
        if length > MOST_TEXT_BYTES:
            raise InputError(
                f"{path}: has {length:,} bytes of JSON; expected at most {MOST_TEXT_BYTES:,}"
            )
        text = file.read(length)
    tree = parse_json(text, f"{path}: its JSON", advice="export it again")
    if not isinstance(tree, dict):
        raise InputError(f"{path}: is no glTF, its JSON is a {type(tree).__name__}; export it again")
    return tree


def _check_tree(path: Path, tree: dict[str, Any]) -> None:
    """InputError for what would make reading take other files, endless time or memory."""
    size = path.stat().st_size
    for key in ("buffers", "images", "accessors", "nodes", "bufferViews"):
        entries = tree.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise InputError(f"{path}: is damaged: {key} is no list of objects; export it again")
    for key in ("buffers", "images"):
        for entry in tree.get(key, []):
            uri = entry.get("uri")
            if uri is not None and not str(uri).startswith("data:"):
                raise InputError(
                    f"{path}: has data in another file ({str(uri)[:80]}); export it as one .glb"
                )
    for entry in tree.get("accessors", []):
        count = entry.get("count")
        if type(count) is not int or not 0 <= count <= size:
            raise InputError(
                f"{path}: says it has {count} of something in {size:,} bytes; it is damaged"
            )
    if tree.get("meshes") and not tree.get("bufferViews"):
        raise InputError(f"{path}: is damaged: it has meshes and no bufferViews; export it again")
    _check_nodes(path, tree)
    _check_work(path, tree)


def _check_nodes(path: Path, tree: dict[str, Any]) -> None:
    """InputError unless the nodes make trees, not too deep ones."""
    below = [node.get("children") or [] for node in tree.get("nodes", [])]
    children = [child for one in below for child in one]
    if any(type(child) is not int or not 0 <= child < len(below) for child in children):
        raise InputError(f"{path}: a node's child is no node; export it again")
    if len(set(children)) < len(children):
        raise InputError(f"{path}: a node has two parents; export it again")
    level, found = [node for node in range(len(below)) if node not in set(children)], 0
    for _ in range(DEEPEST):
        found += len(level)
        level = [child for node in level for child in below[node]]
    if found < len(below):
        raise InputError(f"{path}: nodes are below themselves, or more than {DEEPEST} deep")


def _check_work(path: Path, tree: dict[str, Any]) -> None:
    """InputError where few bytes stand for very many vertices: shared accessors, meshes placed often."""
    counts = [entry["count"] for entry in tree.get("accessors", [])]
    times = Counter(node.get("mesh") for node in tree.get("nodes", []))
    total = 0
    for number, mesh in enumerate(tree.get("meshes", [])):
        for part in mesh["primitives"]:
            of = [*part.get("attributes", {}).values(), part.get("indices")]
            total += sum(counts[k] for k in of if k is not None) * max(times[number], 1)
    if total > MOST_NUMBERS:
        raise InputError(
            f"{path}: places {total:,} vertices and corners; at most {MOST_NUMBERS:,} are read"
        )


def _check_extensions(path: Path, tree: dict[str, Any]) -> None:
    """InputError for what would be read as another shape or colour than the file has."""
    unknown = sorted({str(name) for name in tree.get("extensionsRequired", [])} - SUPPORTED)
    if unknown:
        raise InputError(
            f"{path}: requires {', '.join(unknown)[:200]}, which is not read; export it without "
            "compression and extensions"
        )
    materials = tree.get("materials", [])
    primitives = [part for mesh in tree.get("meshes", []) for part in mesh["primitives"]]
    if any(part.get("mode") == FAN for part in primitives):  # trimesh leaves them out
        raise InputError(f"{path}: has triangles as fans, which are not read; export single triangles")
    for number in sorted({part["material"] for part in primitives if "material" in part}):
        if OTHER_COLORS in materials[number].get("extensions", {}):
            raise InputError(
                f"{path}: material {number} has its colours in {OTHER_COLORS}, which is not read; "
                "export it with materials of metallic and roughness"
            )
        texture = materials[number].get("pbrMetallicRoughness", {}).get("baseColorTexture", {})
        moved = texture.get("extensions", {}).get(MOVES_TEXTURES, {})
        places = moved.get("texCoord", texture.get("texCoord", 0))
        if places != 0:
            raise InputError(
                f"{path}: material {number} takes its texture's places from TEXCOORD_"
                f"{str(places)[:20]}, and TEXCOORD_0 is read; export it with one set"
            )
