"""Points that are put on large triangles have the colours that their texture has there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.ply.surface_colors import SurfaceColors, barycentric
from bifusion.datasets.scan.make import make_scan
from bifusion.datasets.scan.mesh_scan import sampled
from bifusion.datasets.scan.options import ScanOptions
from bifusion.datasets.scan.subdivide import subdivided
from bifusion.datasets.scan.telling import Telling
from glb_files import glb

CORNERS = np.array([[0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0]], float)
SPACING = 0.1
RED, GREY = (200, 0, 0), (90, 90, 90)


def picture() -> Image.Image:
    """Grey, with a red square in the middle that no corner touches."""
    pixels = np.full((64, 64, 3), GREY, np.uint8)
    pixels[16:48, 16:48] = RED
    return Image.fromarray(pixels)


def wall_obj(folder: Path, own: str = "", mtl: str = "newmtl m\nmap_Kd t.png\n") -> Path:
    picture().save(folder / "t.png")
    (folder / "m.mtl").write_text(mtl)
    lines = ["mtllib m.mtl", *(f"v {x} {y} {z}{own}" for x, y, z in CORNERS)]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1", "usemtl m", "f 1/1 2/2 3/3 4/4", ""]
    (folder / "m.obj").write_text("\n".join(lines))
    return folder / "m.obj"


def wall_glb(folder: Path) -> Path:
    mesh = trimesh.Trimesh(CORNERS, [[0, 1, 2], [0, 2, 3]], process=False)
    pbr = trimesh.visual.material.PBRMaterial(baseColorTexture=picture())
    mesh.visual = trimesh.visual.TextureVisuals(uv=CORNERS[:, :2] / 4, material=pbr)
    return glb(folder / "m.glb", mesh)


def white_wall_obj(folder: Path) -> Path:
    return wall_obj(folder, " 1 1 1")


@pytest.mark.parametrize("write", [wall_obj, white_wall_obj, wall_glb])
def test_points_in_between_have_the_texture_at_their_place(write, tmp_path: Path) -> None:
    mesh, telling = read_mesh_file(write(tmp_path)), Telling()
    assert (mesh.color == GREY).all()
    surface = sampled(mesh, SPACING, telling)
    assert np.array_equal(surface.color[:4], mesh.color) and len(surface.coord) > 1000
    inside = (np.abs(surface.coord[:, :2] - 2) < 0.95).all(axis=1)
    outside = (np.abs(surface.coord[:, :2] - 2) > 1.05).any(axis=1)
    assert (surface.color[inside] == RED).all() and (surface.color[outside] == GREY).all()
    assert "the others in the colour of its texture or material there" in telling.lines[0]
    assert mesh.surface is None  # let go, with its pictures


def test_corners_of_one_colour_are_not_taken_for_a_scan_of_one(tmp_path: Path) -> None:
    told = make_scan(wall_obj(tmp_path), ScanOptions(up="z")).lines
    assert not any("all points have the colour" in line for line in told)


def test_fine_meshes_let_their_textures_go(tmp_path: Path) -> None:
    mesh = read_mesh_file(wall_obj(tmp_path))
    assert mesh.surface is not None
    assert sampled(mesh, 4.0, Telling()) is mesh and mesh.surface is None


def test_colours_of_materials_end_where_their_faces_end(tmp_path: Path) -> None:
    """Two triangles share an edge, whose ends have the mean of both."""
    path = wall_obj(tmp_path, mtl="newmtl m\nKd 1 0 0\nnewmtl n\nKd 0 0 1\n")
    path.write_text(path.read_text().replace("f 1/1 2/2 3/3 4/4", "f 1 2 3\nusemtl n\nf 1 3 4"))
    dense = subdivided(read_mesh_file(path), SPACING)
    x, y = dense.coord[4:, 0], dense.coord[4:, 1]
    assert (dense.color[4:][x > y] == (255, 0, 0)).all() and (
        dense.color[4:][x < y] == (0, 0, 255)
    ).all()


def test_vertex_colours_of_a_scan_are_taken_in_between_too(tmp_path: Path) -> None:
    path = wall_obj(tmp_path, " 1 1 1")
    path.write_text(path.read_text().replace("4.0 4.0 0.0 1 1 1", "4.0 4.0 0.0 0 0 0"))
    mesh = read_mesh_file(path)
    assert mesh.surface is None and subdivided(mesh, SPACING).color.max() == 255


def test_places_repeat_and_faces_without_a_look_keep_their_vertices_colours() -> None:
    """Along u the picture lies twice; the second triangle has no sampler."""
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    uv = np.zeros((2, 3, 2), np.float32)
    uv[0] = [[0, 0], [2, 0], [2, 1]]

    def halves(at: np.ndarray) -> np.ndarray:
        return np.where(at[:, :1] % 1 < 0.5, RED, GREY).astype(np.uint8)

    surface = SurfaceColors(uv, np.array([0, -1], np.int32), [halves])
    mesh = Mesh(CORNERS, np.full((4, 3), 7, np.uint8), faces, surface=surface)
    dense = subdivided(mesh, SPACING)
    x, y = dense.coord[4:, 0], dense.coord[4:, 1]
    first, red = x > y, x % 2 < 1
    assert (dense.color[4:][first & red] == RED).all() and (dense.color[4:][first & ~red] == GREY).all()
    assert (dense.color[4:][x < y] == 7).all()


def test_weights_of_points_in_triangles_and_in_flat_ones() -> None:
    rng = np.random.default_rng(0)
    corner = rng.normal(size=(200, 3, 3)) * 10 ** rng.uniform(-3, 3, (200, 1, 1)) + 5e5
    weight = rng.dirichlet(np.ones(3), 200)
    point = np.einsum("kc,kcd->kd", weight, corner)
    assert np.abs(barycentric(corner[:100], point[:100]) - weight[:100]).max() < 1e-3
    line = np.array([[0, 0, 0], [1, 0, 0], [3, 0, 0]], float)
    flat = np.stack([line, line[[1, 0, 2]], line[[2, 1, 0]], line[[0, 0, 0]]])
    at = np.array([[2, 0, 0], [2, 0, 0], [2, 0, 0], [0, 0, 0]], float)
    found = barycentric(flat, at)
    assert np.allclose(np.einsum("kc,kcd->kd", found, flat), at) and np.isfinite(found).all()
