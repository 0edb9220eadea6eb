"""GLB files whose primitives share their vertices, or that have objects without a colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.errors import InputError
from glb_files import box, glb, textured_glb, with_tree

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [5, 5, 5]], float)
"""The fifth is in no face."""


def submeshes(path: Path, *colors: tuple[int, int, int], unused: int = 0) -> Path:
    """A square of two triangles on the same vertices, each in a texture of its own that has one colour;
    the fifth vertex is left out unless it is to be `unused`."""
    scene = trimesh.Scene()
    count = 4 + unused
    for color, face in zip(colors, ([0, 1, 2], [0, 2, 3]), strict=True):
        mesh = trimesh.Trimesh(SQUARE[:count], [face], process=False)
        image = Image.fromarray(np.full((4, 4, 3), color, np.uint8))
        pbr = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
        mesh.visual = trimesh.visual.TextureVisuals(uv=np.full((count, 2), 0.5), material=pbr)
        scene.add_geometry(mesh)
    glb(path, scene)

    def share(tree) -> None:
        """Both as primitives of one mesh, as three.js and UniGLTF write groups and submeshes."""
        first, second = (mesh["primitives"][0] for mesh in tree["meshes"])
        second["attributes"] = first["attributes"]
        tree["meshes"] = [{"primitives": [first, second]}]
        tree["nodes"] = [{"mesh": 0, "translation": [0, 0, 7]}]
        tree["scenes"] = [{"nodes": [0]}]

    return with_tree(path, share)


def test_shared_vertices_are_read_once_in_the_colours_of_their_faces(tmp_path: Path) -> None:
    mesh = read_mesh_file(submeshes(tmp_path / "m.glb", (200, 0, 0), (0, 0, 100)))
    assert np.array_equal(mesh.coord, SQUARE[:4] + (0, 0, 7))
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    both = [100, 0, 50]  # at vertices of both triangles
    assert mesh.color.tolist() == [both, [200, 0, 0], both, [0, 0, 100]]
    assert mesh.notes == ["vertices have the colour of the texture at their place"]


def test_shared_vertices_on_no_face_are_grey(tmp_path: Path) -> None:
    mesh = read_mesh_file(submeshes(tmp_path / "m.glb", (200, 0, 0), (0, 0, 100), unused=1))
    assert mesh.color[4].tolist() == [128] * 3
    assert "1 of 5 vertices of a mesh are on no face: grey" in mesh.notes


def test_a_mesh_that_is_placed_twice_is_there_twice(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    mesh = box((255, 0, 0))
    for x in (0, 5):
        matrix = trimesh.transformations.translation_matrix((x, 0, 0))
        scene.add_geometry(mesh, geom_name="box", transform=matrix)
    found = read_mesh_file(glb(tmp_path / "m.glb", scene))
    assert len(found.coord) == 16 and len(found.faces) == 24


def with_white_box(path: Path, material: dict | None) -> Path:
    """A red box, and one of `material` alone, or of none."""
    white = trimesh.creation.box()
    scene = trimesh.Scene([box((255, 0, 0)), white.apply_translation((3, 0, 0))])

    def change(tree) -> None:
        part = tree["meshes"][1]["primitives"][0]
        part["attributes"].pop("COLOR_0", None)
        part.pop("material", None)
        if material is not None:
            tree["materials"] = [material]
            part["material"] = 0

    return with_tree(glb(path, scene), change)


@pytest.mark.parametrize("material", [None, {}, {"pbrMetallicRoughness": {"metallicFactor": 0}}])
def test_what_has_no_colour_is_white_as_gltf_has_it(material: dict | None, tmp_path: Path) -> None:
    path = with_white_box(tmp_path / "m.glb", material)
    mesh = read_mesh_file(path)
    assert mesh.color.tolist() == [[255, 0, 0]] * 8 + [[255] * 3] * 8
    assert "1 of 2 meshes have no colour: white, as is glTF's default" in mesh.notes

    def colourless(tree) -> None:
        tree["meshes"][0]["primitives"][0]["attributes"].pop("COLOR_0")
        tree["meshes"][0]["primitives"][0].pop("material", None)

    with pytest.raises(
        InputError, match="no mesh has colours; export it with vertex colours or texture"
    ):
        read_mesh_file(with_tree(path, colourless))


def test_a_texture_that_is_not_read_is_not_taken_for_white(tmp_path: Path) -> None:
    def other(tree) -> None:
        tree["images"][0]["mimeType"] = "image/ktx2"

    with pytest.raises(InputError, match="a texture is no picture that is read; export it with PNG"):
        read_mesh_file(with_tree(textured_glb(tmp_path / "m.glb"), other))


@pytest.mark.parametrize("scale", [[-1, 1, 1], [-2, -2, -2], [-1, -1, 1]])
def test_meshes_that_a_node_mirrors_keep_their_front(scale: list[float], tmp_path: Path) -> None:
    """Of an odd number of mirrored axes corners go the other way round (glTF 2.0, 3.7.4)."""
    path = glb(tmp_path / "m.glb", box((255, 0, 0)))

    def mirror(tree) -> None:
        node = next(node for node in tree["nodes"] if "mesh" in node)
        node.pop("matrix", None)
        node["scale"] = scale

    mesh = read_mesh_file(with_tree(path, mirror))
    a, b, c = (mesh.coord[mesh.faces[:, k]] for k in range(3))
    outwards = np.einsum("fi,fi->f", np.cross(b - a, c - a), a + b + c)
    assert (outwards > 0).all()


@pytest.mark.parametrize(
    ("attribute", "change", "words"),
    [
        ("POSITION", {"sparse": {"count": 1}}, "the numbers of a mesh's POSITION are sparse"),
        ("COLOR_0", {"sparse": {"count": 1}}, "the numbers of a mesh's COLOR_0 are sparse"),
        ("POSITION", {"bufferView": None}, "a mesh's POSITION are compressed, or not there"),
        ("POSITION", {"componentType": 5122}, "vertices lie at whole numbers"),
    ],
)
def test_numbers_that_would_be_taken_for_others_are_refused(
    attribute: str, change: dict, words: str, tmp_path: Path
) -> None:
    def stored_otherwise(tree) -> None:
        accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"][attribute]]
        accessor |= change
        for key in [key for key, value in accessor.items() if value is None]:
            del accessor[key]

    with pytest.raises(InputError, match=f"{words}.*export it without compression"):
        read_mesh_file(with_tree(glb(tmp_path / "m.glb", box((255, 0, 0))), stored_otherwise))
