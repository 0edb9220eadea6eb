"""OBJ and GLB files as programs write them: order of vertices, colours, axes; and files that lie."""

import base64
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

import needs
import room_meshes as rooms
from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.datasets.mesh_scene import open_mesh
from bifusion.datasets.placement import AXES, axis_of, level_note, up_to_z
from bifusion.datasets.ply.mesh import Mesh
from bifusion.errors import InputError
from glb_files import TEXTURE, box, glb, textured_glb, with_tree

SQUARE = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (2, 0, 0)]
"""Two squares' worth of corners around a seam."""


def refused(path: Path, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_mesh_file(path)


def textured(folder: Path, faces: str, uv: str, *, mtl: str = "newmtl m\nmap_Kd t.png\n") -> Path:
    """An OBJ of SQUARE's vertices with texture TEXTURE."""
    Image.fromarray(TEXTURE).resize((64, 64), Image.Resampling.NEAREST).save(folder / "t.png")
    (folder / "m.mtl").write_text(mtl)
    vertices = "".join(f"v {x} {y} {z}\n" for x, y, z in SQUARE)
    (folder / "m.obj").write_text(f"mtllib m.mtl\n{vertices}{uv}usemtl m\n{faces}")
    return folder / "m.obj"


def test_three_seams_split_no_vertex(tmp_path):
    """Vertex 1 lies on three seams: four places in the texture, one vertex, their mean."""
    corners = [(0.25, 0.75), (0.75, 0.75), (0.25, 0.25), (0.75, 0.25)]  # red, green, blue, yellow
    uv = "".join(f"vt {u} {v}\n" for u, v in corners)
    faces = "f 2/1 1/1 3/1\nf 2/1 1/2 4/1\nf 2/1 1/3 5/1\nf 3/1 1/4 5/1\n"
    mesh = read_mesh_file(textured(tmp_path, faces, uv))
    assert np.array_equal(mesh.coord, SQUARE)
    assert mesh.faces.tolist() == [[1, 0, 2], [1, 0, 3], [1, 0, 4], [2, 0, 4]]
    assert mesh.color[0].tolist() == [128, 128, 64]
    assert (mesh.color[1:] == (255, 0, 0)).all()


def test_obj_vertices_without_a_place_leave_the_texture_where_it_was(tmp_path):
    corners = [(0.25, 0.75), (0.75, 0.75), (0.25, 0.25), (0.75, 0.25)]  # red, green, blue, yellow
    uv = "".join(f"vt {u} {v}\n" for u, v in corners)
    path = textured(tmp_path, "f 1/1 2/1 4/1\nf 2/2 3/3 4/4\n", uv)
    path.write_text(path.read_text().replace("v 0 0 0\n", "v nan 0 0\n"))
    mesh = read_mesh_file(path)
    assert np.array_equal(mesh.coord, SQUARE[1:]) and mesh.faces.tolist() == [[0, 1, 2]]
    assert mesh.surface is not None and np.allclose(mesh.surface.uv[0, 1], corners[2])
    assert mesh.color[1].tolist() == [0, 0, 255]
    assert any("1 of 5 vertices without a place" in note for note in mesh.notes)


def test_glb_vertices_without_a_place_are_left_out(tmp_path):
    mesh = box((255, 0, 0))
    mesh.vertices[3] = (0.3, 0.7, 0.9)
    path = glb(tmp_path / "m.glb", mesh)
    before = np.float32(mesh.vertices[3]).tobytes()
    assert path.read_bytes().count(before) == 1
    path.write_bytes(path.read_bytes().replace(before, np.full(3, np.nan, np.float32).tobytes()))
    read = read_mesh_file(path)
    assert np.array_equal(read.coord, np.delete(mesh.vertices, 3, axis=0)) and len(read.color) == 7
    kept = mesh.faces[(mesh.faces != 3).all(axis=1)]
    assert np.array_equal(read.coord[read.faces], mesh.vertices[kept])


def test_places_of_a_texture(tmp_path):
    """(0, 0) is the picture's bottom left; beyond 1 it repeats; negative numbers count from the end."""
    uv = "vt 0.25 0.25\nvt 0.75 0.25\nvt 1.75 0.75\nvt -0.75 1.75\n"
    mesh = read_mesh_file(textured(tmp_path, "f -5/-4 -4/-3 -3/-2 -2/-1\n", uv))
    assert mesh.color[:4].tolist() == [[0, 0, 255], [255, 255, 0], [0, 255, 0], [255, 0, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.color[4].tolist() == [128, 128, 128]
    assert any("1 of 5 vertices are on no textured face" in note for note in mesh.notes)


def test_materials_of_other_machines(tmp_path):
    mtl = "newmtl m\nKd 0.5 1 0\nmap_Kd -s 1 1 1 -clamp on C:\\scans\\t.png\n"
    mesh = read_mesh_file(textured(tmp_path, "f 1/1 2/1 3/1\n", "vt 0.25 0.75\n", mtl=mtl))
    assert mesh.color[0].tolist() == [255, 0, 0]
    mesh = read_mesh_file(textured(tmp_path, "f 1 2 3\n", "", mtl="newmtl m\nKd 0 1 0\n"))
    assert mesh.color[0].tolist() == [0, 255, 0]


@pytest.mark.parametrize(
    ("mtl", "libraries"),
    [
        ("newmtl\tm\n\tKd\t1 1 1\n\tmap_Kd\tt.png\n", "m.mtl"),
        ("newmtl m\nkd 1 1 1\nmap_kd T.PNG\n", "M.mtl"),
        ("newmtl m\nKd 1 1 1\nmap_Kd  t.png \n", "n.mtl m.mtl"),
    ],
)
def test_materials_in_other_letters_and_blanks(mtl, libraries, tmp_path):
    """White, their plain colour, is what is left of a texture that is passed over."""
    path = textured(tmp_path, "f 1/1 2/1 3/1\n", "vt 0.25 0.75\n", mtl=mtl)
    (tmp_path / "n.mtl").write_text("newmtl n\nKd 1 1 1\n")
    path.write_text(path.read_text().replace("mtllib m.mtl", f"mtllib\t{libraries}"))
    assert read_mesh_file(path).color[0].tolist() == [255, 0, 0]


def test_lines_of_an_obj_that_go_on(tmp_path):
    lines = [*(f"v {x} {y} \\\n{z} 1 0 0" for x, y, z in SQUARE), "# C:\\scans\\", "f 1 2 \\\n3 \\\n4"]
    (tmp_path / "m.obj").write_text("\n".join([*lines, ""]))
    mesh = read_mesh_file(tmp_path / "m.obj")
    assert np.array_equal(mesh.coord, SQUARE) and mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize(("factor", "words"), [(1.0, "scaled to 0 … 255"), (255.0, "taken as 0 … 255")])
def test_vertex_colours_of_an_obj(factor, words, tmp_path):
    lines = [f"v {x}\t{y} {z} {factor} 0 {factor / 255 * 51}" for x, y, z in SQUARE]
    (tmp_path / "m.obj").write_text("\n".join([*lines, "f 1//1 2//1 3//1", ""]))
    mesh = read_mesh_file(tmp_path / "m.obj")
    assert (mesh.color == (255, 0, 51)).all() and words in mesh.notes[0]


def test_obj_files_that_are_none(tmp_path):
    path = tmp_path / "m.obj"

    def written(text: str) -> Path:
        path.write_text(text)
        return path

    refused(
        tmp_path / "none.obj",
        "missing; expected a mesh or cloud in .ply, .obj, .glb, .las, .laz, .e57 or .pcd",
    )
    refused(written("hello\n"), "has no vertices")
    refused(written("v 0 0 0\nv 1 0\n"), "lines 'v' have 3 and 2 numbers")
    refused(written("v 0 0 x\n"), "a line 'v' holds 'x', expected numbers")
    refused(written("v 0 0 nan 1 0 0\n"), "no point with a finite place")
    refused(written("v 0 0 1e30 1 0 0\n"), "coordinate beyond")
    refused(written("v 0 0 0\nf 1 1 1\n"), "no colours and no materials")
    refused(written("v 0 0 0\nf 1 1 2\n"), "names corner '2', but there are 1 vertices")
    refused(written("v 0 0 0\nf 1 1 a\n"), "a face holds 'a', expected numbers")
    refused(written("mtllib m.mtl\nv 0 0 0\nf 1 1 1\n"), "materials m.mtl are not beside it")
    refused(textured(tmp_path, "f 1 2 3\n", "", mtl="newmtl other\n"), "no texture and no colours")
    refused(textured(tmp_path, "f 1 2 3\n", "", mtl="newmtl m\nmap_Kd ../gone.png\n"), "gone.png is not")
    path.rename(tmp_path / "m.gltf")
    refused(tmp_path / "m.gltf", "is no mesh file that is known.*export it as one .glb")


def test_glb_applies_nodes_and_keeps_the_order(tmp_path):
    mesh, scene = box((255, 0, 0)), trimesh.Scene()
    scene.add_geometry(mesh, transform=trimesh.transformations.translation_matrix((5, 0, 0)))
    read = read_mesh_file(glb(tmp_path / "m.glb", scene))
    assert np.allclose(read.coord, mesh.vertices + (5, 0, 0)) and np.array_equal(read.faces, mesh.faces)
    assert (read.color == (255, 0, 0)).all() and read.up is not None and axis_of(read.up) == "y"


def test_glb_vertex_colours_are_linear(tmp_path):
    """55 of 255 in linear light are 128 of 255 in sRGB."""
    assert (read_mesh_file(glb(tmp_path / "m.glb", box((55, 55, 55)))).color == 128).all()


def test_glb_texture(tmp_path):
    read = read_mesh_file(textured_glb(tmp_path / "wrong_ending.ply"))
    assert read.color.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_glb_files_that_are_none(tmp_path):
    path = glb(tmp_path / "m.glb", box((1, 2, 3)))
    refused(with_tree(path, lambda tree: tree["buffers"][0].update(uri="../../x.bin")), "another file")
    refused(with_tree(path, lambda tree: tree["accessors"][0].update(count=10**12)), "says it has 10")
    refused(with_tree(path, lambda tree: tree.update(nodes=[{"children": [1, 1]}, {}])), "two parents")
    refused(with_tree(path, lambda tree: tree.update(nodes=[{"children": 5}])), "cannot be read as glTF")
    refused(with_tree(path, lambda tree: tree.update(meshes=[])), "glTF|no mesh")
    refused(with_tree(path, lambda tree: tree.pop("bufferViews")), "has meshes and no bufferViews")
    (tmp_path / "m.glb").write_bytes(b"hello")
    refused(tmp_path / "m.glb", "is no binary glTF, it begins with b'hello'")


def with_vertex_colors(path: Path, color: list[list[float]]) -> Path:
    """The GLB in `path` with COLOR_0 (N, 3), in a buffer of its own."""
    data = np.array(color, "<f4").tobytes()
    uri = "data:application/octet-stream;base64," + base64.b64encode(data).decode()

    def change(tree) -> None:
        tree["buffers"].append({"byteLength": len(data), "uri": uri})
        tree["bufferViews"].append({"buffer": len(tree["buffers"]) - 1, "byteLength": len(data)})
        view = len(tree["bufferViews"]) - 1
        tree["accessors"].append(
            {"bufferView": view, "componentType": 5126, "count": len(color), "type": "VEC3"}
        )
        tree["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"] = len(tree["accessors"]) - 1

    return with_tree(path, change)


def test_glb_colours_are_multiplied(tmp_path):
    """Factor × texture × COLOR_0 in linear light, of which 55 of 255 are 128 of 255 in sRGB."""
    path = textured_glb(tmp_path / "m.glb", baseColorFactor=[55, 255, 255, 255])
    color = [[1.0, 1, 1], [1, 55 / 255, 1], [1, 1, 55 / 255]]
    stored = read_mesh_file(with_vertex_colors(path, color)).color
    assert stored.tolist() == [[128, 0, 0], [0, 128, 0], [0, 0, 128]]
    plain = with_tree(
        path, lambda tree: tree["materials"][0]["pbrMetallicRoughness"].pop("baseColorTexture")
    )
    assert (read_mesh_file(plain).color == (128, 255, 255)).all()


@pytest.mark.parametrize(
    ("by", "corners"),
    [
        ({}, "red green blue"),
        ({"scale": [1, 1], "offset": [0, 0], "rotation": 0}, "red green blue"),
        ({"offset": [0.5, 0]}, "green red yellow"),
        ({"offset": [0, 0.5]}, "blue yellow red"),
        ({"scale": [3, 1]}, "green red yellow"),
        ({"rotation": np.pi / 2}, "blue red yellow"),
        ({"scale": [1, 3], "rotation": np.pi / 2, "offset": [0, 0.5]}, "green yellow red"),
    ],
)
def test_glb_moved_textures(tmp_path, by, corners):
    """KHR_texture_transform: scaled, turned about the top left corner, then shifted."""
    path = with_tree(textured_glb(tmp_path / "m.glb"), lambda tree: move_texture(tree, by))
    names = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
    read = read_mesh_file(path)
    assert [tuple(color) for color in read.color.tolist()] == [names[name] for name in corners.split()]
    inside = read.surface.colors(read.coord, read.faces, np.zeros(3, int), read.coord)
    assert inside[0].all() and np.array_equal(inside[1], read.color)


@pytest.mark.parametrize("by", [{"scale": [1]}, {"rotation": "half"}, {"offset": [float("nan"), 0]}])
def test_glb_textures_moved_by_no_numbers(tmp_path, by):
    path = textured_glb(tmp_path / "m.glb")
    refused(with_tree(path, lambda tree: move_texture(tree, by)), "KHR_texture_transform|glTF|JSON")


def move_texture(tree: dict, by: dict) -> None:
    texture = tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
    texture["extensions"] = {"KHR_texture_transform": by}


def test_glb_extensions(tmp_path):
    path = textured_glb(tmp_path / "m.glb")

    def second(tree) -> None:
        tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] = 1

    refused(with_tree(path, second), "material 0 takes its texture's places from TEXCOORD_1")
    other = with_tree(path, lambda tree: move_texture(tree, {"texCoord": 1}))
    refused(other, "material 0 takes its texture's places from TEXCOORD_1")
    required = ["KHR_materials_unlit", "EXT_meshopt_compression"]
    changed = with_tree(path, lambda tree: tree.update(extensionsRequired=required))
    refused(changed, "requires EXT_meshopt_compression, which is not read")
    unlit = with_tree(path, lambda tree: tree.update(extensionsRequired=required[:1]))
    assert len(read_mesh_file(unlit).coord) == 3


def test_changed_bytes_are_read_or_refused(tmp_path):
    faces = "f 1/1 2/1 3/1\nf -1/1 -2/1 -3/1\n"
    sources = [
        textured(tmp_path, faces, "vt 0.25 0.75\n"),
        tmp_path / "m.mtl",
        tmp_path / "t.png",
        glb(tmp_path / "m.glb", box((1, 2, 3))),
    ]
    rng = np.random.default_rng(0)
    for source in sources:
        whole = source.read_bytes()
        read = source if source.suffix in (".obj", ".glb") else tmp_path / "m.obj"
        for turn in range(60):
            changed = bytearray(whole)
            for _ in range(1 + turn % 3):
                changed[rng.integers(len(whole))] = rng.integers(256)
            source.write_bytes(changed if turn % 4 else whole[: rng.integers(len(whole))])
            try:
                mesh = read_mesh_file(read)
            except InputError:
                continue
            assert mesh.faces.max(initial=0) < len(mesh.coord) == len(mesh.color)
        source.write_bytes(whole)


@pytest.mark.parametrize("up", AXES)
def test_every_axis_can_point_up(up):
    rotation = up_to_z(up)[:3, :3]
    axis = np.zeros(3)
    axis["xyz".index(up[-1])] = -1 if up[0] == "-" else 1
    assert np.isclose(np.linalg.det(rotation), 1) and np.allclose(rotation @ axis, (0, 0, 1))
    assert axis_of(axis) == up


def test_a_glb_scene_has_z_up(tmp_path):
    flat = trimesh.creation.box((4, 0.5, 4)).subdivide()
    flat.visual.vertex_colors = np.tile((9, 9, 9, 255), (len(flat.vertices), 1))
    path = glb(tmp_path / "m.glb", flat)
    scene = open_mesh(path)
    assert np.allclose(np.ptp(scene.coord, axis=0), (4, 4, 0.5))
    assert "y was taken to point up: turned so that z does" in scene.notes
    as_stored = open_mesh(path, up="z")
    assert not any("point up" in note for note in as_stored.notes)
    assert np.allclose(np.ptp(as_stored.coord, axis=0), (4, 0.5, 4))
    with pytest.raises(InputError, match="up: found 'w'; expected one of z, y, x"):
        open_mesh(path, up="w")  # pyright: ignore


def test_a_mesh_that_lies_on_its_side_is_told():
    flat = trimesh.creation.box((4, 0.5, 4))
    assert "--up y" in (level_note(flat.vertices, flat.faces) or "")
    flat = trimesh.creation.box((4, 4, 0.5))
    assert level_note(flat.vertices, flat.faces) is None


@pytest.mark.parametrize("kind", ["mesh", "cloud"])
def test_a_file_with_y_up_is_told_as_it_is_opened(kind, tmp_path):
    """By its floor, although more of its surface is square to z, as walls are."""
    room = rooms.room_mesh(0.1)
    faces = room.faces if kind == "mesh" else room.faces[:0]
    y_up = Mesh(room.coord @ rooms.Y_UP.T, room.color, faces)
    (note,) = up_notes(open_mesh(rooms.write_ply(tmp_path / "y.ply", y_up)))
    assert note.endswith("y points up rather than z; if so, --up y")
    assert up_notes(open_mesh(tmp_path / "y.ply", up="y")) == []
    upright = rooms.write_ply(tmp_path / "z.ply", Mesh(room.coord, room.color, faces))
    assert up_notes(open_mesh(upright)) == []


def test_a_glb_with_z_up_is_told(tmp_path):
    (note,) = up_notes(open_mesh(rooms.write_glb(tmp_path / "room.glb", rooms.room_mesh(0.1))))
    assert note.endswith("z points up rather than y; if so, --up z")


def test_faces_without_area_tell_no_up(tmp_path):
    room = rooms.room_mesh(0.1)
    flat = Mesh(room.coord @ rooms.Y_UP.T, room.color, room.faces[:, [0, 0, 1]])
    (note,) = up_notes(open_mesh(rooms.write_ply(tmp_path / "flat.ply", flat)))
    assert note.endswith("if so, --up y")  # its points do


def up_notes(scene):
    return [note for note in scene.notes if "points up" in note]


@pytest.mark.parametrize("write", [rooms.write_ply, rooms.write_glb])
def test_a_file_larger_than_any_building_is_refused(write, tmp_path):
    room = rooms.room_mesh(0.2)
    path = write(
        tmp_path / f"room.{write.__name__[-3:]}", Mesh(room.coord * 1000, room.color, room.faces)
    )
    with pytest.raises(InputError, match=r"room.*: the scan is .* m across.*--scale \(in Python scale="):
        open_mesh(path)
    assert np.ptp(open_mesh(path, scale=0.001).coord, axis=0).max() < 10


@pytest.mark.real_data
def test_a_real_obj_without_its_texture(tmp_path):
    """Of 3D Scanner App: y up; its texture is not there, so it is refused, and read with another."""
    folder = needs.folder("BIFUSION_REAL_DATA", "data") / "recordings" / "obj_3dscannerapp"
    if not folder.is_dir():
        needs.lacking("real_data", folder)
    refused(folder / "textured_output.obj", "its texture textured_output.jpg is not beside it")
    for name in ("textured_output.obj", "textured_output.mtl"):
        (tmp_path / name).symlink_to((folder / name).resolve())
    Image.new("RGB", (16, 16), (10, 20, 30)).save(tmp_path / "textured_output.jpg", quality=100)
    mesh = read_mesh_file(tmp_path / "textured_output.obj")
    assert mesh.coord.shape == (46955, 3) and len(mesh.faces) == 56917
    assert "--up y" in (level_note(mesh.coord, mesh.faces) or "")
