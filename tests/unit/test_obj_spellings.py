"""OBJ files and their materials as programs other than MeshLab write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.errors import InputError

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
CORNERS = ("0 0 0", "1 0 0", "0 1 0")
SHARES = ("1 0 0", "0 1 0", "0 0 1")


def written(folder: Path, rows: list[str], faces: str = "f 1 2 3") -> Path:
    (folder / "m.obj").write_text("\n".join([*(f"v {row}" for row in rows), faces, ""]))
    return folder / "m.obj"


@pytest.mark.parametrize("form", ["{p} 1.0 {c}", "{p} {c} 1.0", "{p} {c}", "{p} {c}  # a corner"])
def test_colours_behind_a_weight_before_an_alpha_or_a_comment(tmp_path: Path, form: str) -> None:
    """Of seven numbers the fourth is the format's weight, 1, or the first of the colour."""
    rows = [form.format(p=p, c=c) for p, c in zip(CORNERS, SHARES, strict=True)]
    mesh = read_mesh_file(written(tmp_path, rows, "f 1 2 3  # the triangle"))
    assert np.array_equal(mesh.color, COLORS) and mesh.faces.tolist() == [[0, 1, 2]]


def test_an_alpha_of_255_is_no_weight(tmp_path: Path) -> None:
    rows = [f"{p} {' '.join(map(str, c))} 255" for p, c in zip(CORNERS, COLORS, strict=True)]
    assert np.array_equal(read_mesh_file(written(tmp_path, rows)).color, COLORS)


def test_a_word_that_is_no_number_is_named(tmp_path: Path) -> None:
    rows = [f"{p} {c}".replace("1", "1,0") for p, c in zip(CORNERS, SHARES, strict=True)]
    with pytest.raises(
        InputError, match=r"m\.obj: a line 'v' holds '1,0', expected numbers with points"
    ):
        read_mesh_file(written(tmp_path, rows))


def textured(folder: Path, map_kd: str, library: str = "m.mtl") -> Path:
    Image.fromarray(np.full((4, 4, 3), (10, 20, 30), np.uint8)).save(folder / "a t.png")
    (folder / "m.mtl").write_text(f"newmtl m\nmap_Kd {map_kd}\n")
    head = f"mtllib {library}\n" + "".join(f"v {p}\n" for p in CORNERS)
    (folder / "m.obj").write_text(f"{head}vt 0.5 0.5\nusemtl m\nf 1/1 2/1 3/1\n")
    return folder / "m.obj"


@pytest.mark.parametrize(
    "map_kd",
    [
        "a t.png",
        '"a t.png"',
        "-s 1 1 1  a t.png",
        "-s 1 1 a t.png",
        "-s 1 a t.png",
        "-o 0 0 0 -clamp\ton\ta t.png",
        "-o 1 -2 0.5 -bm 0.5 a t.png",
    ],
)
def test_the_name_of_a_texture_stands_behind_its_options(tmp_path: Path, map_kd: str) -> None:
    assert (read_mesh_file(textured(tmp_path, map_kd, '"m.mtl"')).color == (10, 20, 30)).all()


@pytest.mark.parametrize("moved", ["-s 2 2 1", "-o 0.5 0 0", "-s 1 .5"])
def test_a_texture_that_is_moved_is_refused(tmp_path: Path, moved: str) -> None:
    """Its colours would be those of other places."""
    with pytest.raises(InputError, match=r"m\.mtl: moves its texture by -[so] \S+, which is not read"):
        read_mesh_file(textured(tmp_path, f"{moved} a t.png"))


BROWN = (10, 20, 30)


def in_encoding(folder: Path, encoding: str, library: str, material: str, texture: str) -> Path:
    """A triangle whose OBJ and MTL have their names in `encoding`; the files' own names are as given."""
    Image.fromarray(np.full((4, 4, 3), BROWN, np.uint8)).save(folder / texture)
    (folder / library).write_bytes(f"newmtl {material}\nmap_Kd {texture}\n".encode(encoding))
    head = f"# {material}\nmtllib {library}\n" + "".join(f"v {p}\n" for p in CORNERS)
    text = f"{head}vt 0.5 0.5\nusemtl {material}\nf 1/1 2/1 3/1\n"
    (folder / "m.obj").write_bytes(text.encode(encoding))
    return folder / "m.obj"


@pytest.mark.parametrize(
    ("encoding", "library", "material", "texture"),
    [
        ("gbk", "房间.mtl", "材质", "纹理.png"),
        ("gbk", "m.mtl", "乗", "a t.png"),  # its second byte is a backslash
        ("latin-1", "Räume.mtl", "Wände", "Böden.png"),
        ("cp1252", "m.mtl", "Wände – außen", "Türen – außen.png"),
        ("shift_jis", "部屋.mtl", "表", "壁 表.png"),
        ("utf-8", "房间.mtl", "Wände", "纹理.png"),
    ],
)
def test_names_in_the_encoding_of_their_writer(
    encoding: str, library: str, material: str, texture: str, tmp_path: Path
) -> None:
    path = in_encoding(tmp_path, encoding, library, material, texture)
    assert (read_mesh_file(path).color == BROWN).all()


def test_files_whose_own_names_are_in_that_encoding(tmp_path: Path) -> None:
    """As archives unpack them that say nothing of theirs."""
    path = in_encoding(tmp_path, "gbk", "房间.mtl", "材质", "纹理.png")
    for name in ("房间.mtl", "纹理.png"):
        (tmp_path / name).rename(tmp_path / name.encode("gbk").decode("utf-8", "surrogateescape"))
    assert (read_mesh_file(path).color == BROWN).all()


def test_a_file_that_is_missing_is_named_readably(tmp_path: Path) -> None:
    path = in_encoding(tmp_path, "gbk", "房间.mtl", "材质", "纹理.png")
    (tmp_path / "纹理.png").unlink()
    with pytest.raises(
        InputError, match=r"房间\.mtl: its texture 纹理\.png or .*\.png is not beside it"
    ):
        read_mesh_file(path)
    (tmp_path / "房间.mtl").unlink()
    with pytest.raises(InputError, match=r"its materials 房间\.mtl or .*\.mtl are not beside it"):
        read_mesh_file(path)


@pytest.mark.parametrize("rest", ["map_Kd ", "map_Kd gone.png", "map_Kd -s 2 2 1 a t.png"])
def test_materials_that_no_face_has_are_not_asked_for_a_texture(rest: str, tmp_path: Path) -> None:
    path = textured(tmp_path, "a t.png")
    library = tmp_path / "m.mtl"
    library.write_text(f"{library.read_text()}newmtl leftover\n{rest}\n")
    path.write_text(path.read_text() + "usemtl leftover\n")
    assert (read_mesh_file(path).color == BROWN).all()


def test_no_name_is_no_texture(tmp_path: Path) -> None:
    path = textured(tmp_path, "")
    (tmp_path / "m.mtl").write_text("newmtl m\nKd 1 0 0\nmap_Kd \n")
    assert (read_mesh_file(path).color == (255, 0, 0)).all()


def test_a_texture_named_as_in_an_address(tmp_path: Path) -> None:
    assert (read_mesh_file(textured(tmp_path, "a%20t.png")).color == BROWN).all()


def with_rows(path: Path, *rows: str) -> Path:
    """The OBJ in `path` with other lines of vertices."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("v ")]
    path.write_text("\n".join([lines[0], *(f"v {row}" for row in rows), *lines[1:], ""]))
    return path


def test_vertex_colours_that_are_all_one_hide_no_texture(tmp_path: Path) -> None:
    rows = [f"{p} 1 1 1" for p in (*CORNERS, "1 1 0")]
    path = with_rows(textured(tmp_path, "a t.png"), *rows)
    mesh = read_mesh_file(path)
    assert mesh.color.tolist() == [list(BROWN)] * 3 + [[255] * 3]  # the fourth is in no face
    assert mesh.notes == [
        "all vertices have the colour [255, 255, 255]: the texture's are taken instead"
    ]
    (tmp_path / "a t.png").unlink()
    with pytest.raises(InputError, match=r"its texture a t\.png is not beside it"):
        read_mesh_file(path)
    (tmp_path / "m.mtl").write_text("newmtl m\nKd 1 0 0\n")
    assert (read_mesh_file(path).color == 255).all()


def test_vertex_colours_of_a_scan_count_more_than_a_texture(tmp_path: Path) -> None:
    rows = [f"{p} {c}" for p, c in zip(CORNERS, SHARES, strict=True)]
    mesh = read_mesh_file(with_rows(textured(tmp_path, "gone.png"), *rows))
    assert np.array_equal(mesh.color, COLORS)


def test_vertices_without_a_colour_have_their_materials(tmp_path: Path) -> None:
    rows = [*CORNERS[:2], f"{CORNERS[2]} 0 0 1"]
    mesh = read_mesh_file(with_rows(textured(tmp_path, "a t.png"), *rows))
    assert mesh.coord.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert mesh.color.tolist() == [list(BROWN), list(BROWN), [0, 0, 255]]
    assert "2 of 3 vertices have no colour of their own: theirs is that of their faces" in mesh.notes[-1]


def test_vertices_that_nothing_gives_a_colour_are_counted(tmp_path: Path) -> None:
    rows = [CORNERS[0], f"{CORNERS[1]} 1 0 0", f"{CORNERS[2]} 0 0 1"]
    with pytest.raises(InputError, match=r"1 of 3 vertices have no colour \(the first is vertex 1\)"):
        read_mesh_file(written(tmp_path, rows))
    path = with_rows(textured(tmp_path, "a t.png"), *rows, "1 1 0", "2 1 0")
    with pytest.raises(InputError, match=r"2 of 5 vertices have no colour \(the first is vertex 4\)"):
        read_mesh_file(path)


def test_a_texture_that_is_a_link_to_another_folder_is_refused(tmp_path: Path) -> None:
    """Files of ours would colour a mesh that is then shared; links of all of an OBJ's files are ours."""
    own, theirs = tmp_path / "own", tmp_path / "theirs"
    own.mkdir()
    textured(own, "a t.png")
    theirs.mkdir()
    for name in ("m.obj", "m.mtl", "a t.png"):
        (theirs / name).symlink_to(own / name)
    assert (read_mesh_file(theirs / "m.obj").color == (10, 20, 30)).all()
    for name in ("m.obj", "m.mtl"):
        (theirs / name).unlink()
        (theirs / name).write_bytes((own / name).read_bytes())
    with pytest.raises(InputError, match=r"a t\.png: leads out of .*theirs, to .*own/a t\.png; copy"):
        read_mesh_file(theirs / "m.obj")
