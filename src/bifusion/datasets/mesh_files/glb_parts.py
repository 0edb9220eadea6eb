"""Meshes and clouds of a GLB file, placed by their nodes and coloured by their materials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.datasets.mesh_files.glb_colors import read_primitives, stored_colors, stored_places
from bifusion.datasets.mesh_files.textures import (
    Textures,
    linear_to_srgb,
    mean_over_corners,
    srgb_to_linear,
    texture_colors,
)
from bifusion.datasets.ply.surface_colors import SurfaceColors
from bifusion.errors import InputError
from bifusion.untrusted.pictures import MOST_PIXELS

IMAGES = ("PNG", "JPEG", "MPO", "WEBP")
"""As Pillow calls what glTF and its extensions allow."""
MOVES_TEXTURES = "KHR_texture_transform"


@dataclass
class Part:
    """Vertices that one accessor has, in the scene's frame, with the faces of all primitives on them."""

    coord: np.ndarray
    """(N, 3) float64."""
    color: np.ndarray
    """(N, 3) uint8."""
    faces: np.ndarray
    """(F, 3) int64."""
    surface: SurfaceColors
    """Between the vertices."""


@dataclass(frozen=True, eq=False)
class _Look:
    """A primitive's base colour: the product, in linear light, of what there is (glTF 2.0, 3.9.2)."""

    factor: np.ndarray | None
    """(3,) of its material."""
    own: np.ndarray | None
    """(N, 3) COLOR_0 of its vertices, as shares of 1."""
    uv: np.ndarray | None
    """(N, 2) float32 places of its vertices in its texture, where it has one."""
    image: Any
    """Its texture, as Pillow has it."""

    @property
    def is_default(self) -> bool:
        """Whether nothing gives it a colour: it has that of glTF's default material, white."""
        return self.factor is None and self.own is None and self.uv is None

    @property
    def is_smooth(self) -> bool:
        """Whether vertices of different colours tell what is between them, as no texture does."""
        return self.own is not None and bool((self.own != self.own[0]).any())

    def of_vertices(self, rows: np.ndarray, textures: Textures) -> np.ndarray:
        """(K, 3) uint8 sRGB of some vertices."""
        own = 1.0 if self.own is None else self.own[rows]
        if self.uv is None:
            return self._colors(np.ones((len(rows), 3)), own)
        picture = textures.get(id(self.image), self._decoded)
        return self._colors(srgb_to_linear(texture_colors(picture, self.uv[rows]) / 255), own)

    def at(self, uv: np.ndarray) -> np.ndarray:
        """(K, 3) uint8 sRGB at places (K, 2) in its texture, of one that is not smooth."""
        own = 1.0 if self.own is None else self.own[0]
        if self.uv is None:
            return self._colors(np.ones((len(uv), 3)), own)
        return self._colors(srgb_to_linear(texture_colors(self._decoded(), uv) / 255), own)

    def _decoded(self) -> np.ndarray:
        return np.array(self.image.convert("RGB"))

    def _colors(self, texture: np.ndarray, own: np.ndarray | float) -> np.ndarray:
        linear = texture * own * (1.0 if self.factor is None else self.factor)
        return np.clip(np.rint(np.nan_to_num(linear_to_srgb(linear)) * 255), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class _Primitive:
    """A primitive where a node has placed it."""

    coord: np.ndarray
    faces: np.ndarray
    look: _Look

    @property
    def vertices(self) -> np.ndarray:
        """(K,) those of its faces; of a cloud all."""
        return np.unique(self.faces) if len(self.faces) else np.arange(len(self.coord))


def load_parts(path: Path, tree: dict[str, Any], notes: list[str]) -> list[Part]:
    """What the file's scene shows, in the order of its meshes.

    Primitives that share their vertices, as those of one mesh in several materials do, become one part:
    its vertices have the colours of the primitives whose faces use them.

    Raises InputError: a face that names what is not there, a texture that is not read, no colours.
    """
    import trimesh

    scene = trimesh.load_scene(path, file_type="glb", process=False)
    primitives = zip(
        read_primitives(tree), stored_colors(path, tree), stored_places(path, tree), strict=True
    )
    known = dict(zip(scene.geometry, primitives, strict=True))  # both in the file's order
    looks: dict[str, _Look] = {}
    textures = Textures(path)
    shared: dict[tuple[Any, ...], list[_Primitive]] = {}
    place_in_file = {name: number for number, name in enumerate(scene.geometry)}
    placements: list[tuple[np.ndarray, Any]] = [scene.graph[node] for node in scene.graph.nodes_geometry]
    for transform, name in sorted(placements, key=lambda placement: place_in_file[placement[1]]):
        geometry, (primitive, stored, at) = scene.geometry[name], known[name]
        if isinstance(geometry, trimesh.Trimesh | trimesh.PointCloud) and len(geometry.vertices):
            if name not in looks:
                looks[name] = _look(path, geometry, _base_texture(tree, primitive), stored, at, notes)
            place = primitive["attributes"]["POSITION"], *transform.ravel().tolist()
            placed = shared.setdefault(place, [])
            turned = np.asarray(geometry.vertices, float) @ transform[:3, :3].T + transform[:3, 3]
            coord = placed[0].coord if placed else turned
            faces = np.asarray(getattr(geometry, "faces", np.zeros((0, 3))), np.int64)
            if faces.size and not 0 <= faces.min() <= faces.max() < len(coord):
                raise InputError(f"{path}: a face names a vertex that is not there; export it again")
            if np.linalg.det(transform[:3, :3]) < 0:  # mirrored: the other side is the front (3.7.4)
                faces = faces[:, ::-1]
            placed.append(_Primitive(coord, faces, looks[name]))
    white = sum(look.is_default for look in looks.values())
    if white and white == len(looks):
        raise InputError(f"{path}: no mesh has colours; export it with vertex colours or texture")
    if white:
        notes.append(f"{white:,} of {len(looks):,} meshes have no colour: white, as is glTF's default")
    return [_part(placed, textures, notes) for placed in shared.values()]


def _part(placed: list[_Primitive], textures: Textures, notes: list[str]) -> Part:
    """Primitives on the same vertices as one."""
    first, *others = placed
    used = [one.vertices for one in placed] if others else [np.arange(len(first.coord))]
    colors = [one.look.of_vertices(rows, textures) for one, rows in zip(placed, used, strict=True)]
    count = len(first.coord)
    color, seen = mean_over_corners(np.concatenate(used), np.concatenate(colors), count)
    if not seen.all():
        notes.append(f"{int((~seen).sum()):,} of {count:,} vertices of a mesh are on no face: grey")
    faces = np.concatenate([one.faces for one in placed])
    return Part(first.coord, color, faces, _surface(placed))


def _surface(placed: list[_Primitive]) -> SurfaceColors:
    nowhere = np.zeros(2, np.float32)
    uv = [
        np.broadcast_to(nowhere, (len(one.faces), 3, 2))
        if one.look.uv is None
        else one.look.uv[one.faces]
        for one in placed
    ]
    number = [-1 if one.look.is_smooth else at for at, one in enumerate(placed)]
    look = np.repeat(np.array(number, np.int32), [len(one.faces) for one in placed])
    return SurfaceColors(
        np.concatenate(uv) if len(uv) > 1 else uv[0], look, [one.look.at for one in placed]
    )


def _base_texture(tree: dict[str, Any], primitive: dict[str, Any]) -> dict[str, Any] | None:
    material = tree["materials"][primitive["material"]] if "material" in primitive else {}
    return material.get("pbrMetallicRoughness", {}).get("baseColorTexture")


def _look(
    path: Path,
    geometry: Any,
    texture: dict[str, Any] | None,
    stored: np.ndarray | None,
    at: np.ndarray | None,
    notes: list[str],
) -> _Look:
    """`texture`: its material's, where it has one; `stored`: COLOR_0, where it was found; `at`: places
    in the texture, v downwards, where trimesh has them wrongly."""
    count = len(geometry.vertices)
    visual = getattr(geometry, "visual", None)
    material = getattr(visual, "material", None)
    factor: Any = getattr(material, "baseColorFactor", None)
    image: Any = getattr(material, "baseColorTexture", None)
    own = stored if stored is not None and len(stored) == count else _own_colors(geometry)
    if texture is not None and image is None:
        raise InputError(f"{path}: a texture is no picture that is read; export it with PNG or JPEG")
    uv = getattr(visual, "uv", None) if image is not None else None
    if uv is not None and at is not None:
        uv = at * (1, -1) + (0, 1)
    if uv is not None and len(uv) == count:
        _check_image(path, image)
        moved = (texture or {}).get("extensions", {}).get(MOVES_TEXTURES)
        uv = np.asarray(uv, float) if moved is None else _moved(path, np.asarray(uv, float), moved)
        uv = np.nan_to_num(uv.astype(np.float32))
        notes.append("vertices have the colour of the texture at their place")
    else:
        uv = None
    if own is not None:
        notes.append("vertex colours taken as linear, as glTF has them")
    elif uv is None and factor is not None:
        notes.append("a mesh without texture has the one colour of its material")
    return _Look(
        None if factor is None else _shares(np.asarray(factor)[:3]),
        None if own is None else _shares(own[:, :3]),
        uv,
        image,
    )


def _moved(path: Path, uv: np.ndarray, by: dict[str, Any]) -> np.ndarray:
    """(N, 2) places, v upwards, scaled, turned and shifted as KHR_texture_transform says of those with v
    downwards: turned counter-clockwise as one looks at the picture. InputError for other numbers."""
    rows = [by.get("scale", [1, 1]), by.get("offset", [0, 0]), [by.get("rotation", 0), 0]]
    numbers = np.array(rows, float)
    if numbers.shape != (3, 2) or not np.isfinite(numbers).all():
        raise InputError(
            f"{path}: {MOVES_TEXTURES} moves a texture by {str(by)[:80]}; expected two numbers "
            "of scale, two of offset and one of rotation: export it again"
        )
    scale, offset, (angle, _) = numbers
    u, v = (uv * (1, -1) + (0, 1)).T * scale[:, None]
    turned = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
    return (np.stack(turned, axis=1) + offset) * (1, -1) + (0, 1)


def _check_image(path: Path, image: Any) -> None:
    """InputError for pictures that glTF does not allow, or too large ones."""
    if image.width * image.height > MOST_PIXELS:
        raise InputError(f"{path}: a texture is {image.width}×{image.height} pixels; reduce it")
    if image.format not in (*IMAGES, None):
        raise InputError(f"{path}: a texture is stored as {image.format}; expected PNG or JPEG")
    if image.mode.startswith(("I", "F")):
        raise InputError(
            f"{path}: a texture has one channel of more than 8 bits ({image.mode}); expected colours"
        )


def _own_colors(geometry: Any) -> np.ndarray | None:
    """(N, 3 or 4) COLOR_0 of the vertices, as trimesh has it; None where there is none."""
    visual = getattr(geometry, "visual", None)
    own = getattr(geometry, "colors", None) if visual is None else None
    if visual is not None and visual.kind == "vertex":
        own = visual.vertex_colors
    elif visual is not None and visual.kind == "texture":
        own = visual.vertex_attributes.get("color")
    return np.asarray(own) if own is not None and len(own) == len(geometry.vertices) else None


def _shares(color: np.ndarray) -> np.ndarray:
    """Colours as shares of 1, whatever type they are stored in."""
    if color.dtype.kind in "iu":
        return color / np.iinfo(color.dtype).max
    return color.astype(float)
