"""PLY files as programs write them: encodings, types, lists, colours; and files that lie."""

import itertools
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from bifusion.datasets.ply.mesh import read_mesh
from bifusion.errors import InputError

COORD = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1.25]])
COLOR = np.array([[0, 128, 255], [1, 2, 3], [255, 0, 0], [9, 9, 9], [200, 100, 50]])
TRIANGLES = [[0, 1, 4], [1, 2, 4], [2, 3, 4]]
ENCODINGS = {"ascii": (True, "="), "little": (False, "<"), "big": (False, ">")}
HEADER = """ply
format {format} 1.0
element vertex {count}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
{more}end_header
"""


def vertices(coordinate="f4", color="u1", *, colors=COLOR, names=("red", "green", "blue"), extra=()):
    kinds = [(axis, coordinate) for axis in "xyz"] + [(name, color) for name in names]
    table = np.zeros(len(COORD), [*kinds, *((name, color) for name in extra)])
    for column, axis in enumerate("xyz"):
        table[axis] = COORD[:, column]
    for column, name in enumerate(names):
        table[name] = colors[:, column]
    return PlyElement.describe(table, "vertex")


def face_table(polygons, name="vertex_indices", texture=False):
    fields = [(name, "O")] + ([("texcoord", "O"), ("texnumber", "i4")] if texture else [])
    table = np.zeros(len(polygons), fields)
    for row, polygon in enumerate(polygons):
        table[name][row] = np.array(polygon, "i4")
        if texture:
            table["texcoord"][row] = np.linspace(0, 1, 2 * len(polygon)).astype("f4")
    return PlyElement.describe(
        table, "face", len_types={name: "u1", "texcoord": "u1"}, val_types={name: "i4", "texcoord": "f4"}
    )


def written(path: Path, *elements, encoding="little", comments=()) -> Path:
    text, order = ENCODINGS[encoding]
    PlyData(list(elements), text=text, byte_order=order, comments=list(comments)).write(path)
    return path


def text_file(path: Path, body: bytes, *, count="5", more="", form="ascii") -> Path:
    path.write_bytes(HEADER.format(format=form, count=count, more=more).encode() + body)
    return path


def rows(coord=COORD, color=COLOR) -> bytes:
    lines = (" ".join(map(str, [*p, *c])) for p, c in zip(coord.tolist(), color.tolist(), strict=True))
    return ("\n".join(lines) + "\n").encode()


# ------------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize(
    ("encoding", "coordinate", "name", "texture"),
    list(
        itertools.product(
            ENCODINGS, ("f4", "f8"), ("vertex_indices", "vertex_index", "corners"), (False, True)
        )
    ),
)
def test_every_encoding_type_and_list(encoding, coordinate, name, texture, tmp_path):
    faces = face_table(TRIANGLES, name, texture)
    mesh = read_mesh(written(tmp_path / "m.ply", vertices(coordinate), faces, encoding=encoding))
    assert np.array_equal(mesh.coord, COORD) and np.array_equal(mesh.color, COLOR)
    assert mesh.faces.tolist() == TRIANGLES and mesh.notes == [] and mesh.normal is None


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("texture", [False, True])
@pytest.mark.parametrize("order", [1, -1])
def test_polygons_of_different_length_become_triangles(encoding, texture, order, tmp_path):
    faces = face_table([[0, 1, 2, 3], [0, 1, 4], [2], [0, 1, 2, 3, 4]], texture=texture)
    elements = [vertices(), faces][::order]  # faces may come first
    mesh = read_mesh(written(tmp_path / "m.ply", *elements, encoding=encoding))
    fans = [[0, 1, 2], [0, 2, 3], [0, 1, 4], [0, 1, 2], [0, 2, 3], [0, 3, 4]]
    assert mesh.faces.tolist() == fans and np.array_equal(mesh.coord, COORD)
    assert mesh.notes == [
        "1 faces with fewer than three corners left out",
        "2 polygons cut into triangles",
    ]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_equal_quads_and_elements_of_no_interest(encoding, tmp_path):
    camera = PlyElement.describe(np.array([(1.5, 2)], [("view_px", "f8"), ("id", "u2")]), "camera")
    edge = np.zeros(2, [("vertices", "O")])
    edge["vertices"][:] = [np.array([1, 2], "i4"), np.array([3], "i4")]
    edges = PlyElement.describe(edge, "edge", val_types={"vertices": "i4"})
    quads = face_table([[0, 1, 2, 3], [3, 2, 1, 0]])
    path = written(tmp_path / "m.ply", camera, edges, vertices(), quads, encoding=encoding)
    assert read_mesh(path).faces.tolist() == [[0, 1, 2], [0, 2, 3], [3, 2, 1], [3, 1, 0]]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("kind", "values", "note"),
    [
        ("f4", COLOR / 255, "colours are stored as float"),
        ("f8", COLOR / 255, "colours are stored as float64 from 0 to 1: scaled to 0 … 255"),
        ("f4", COLOR + np.linspace(-0.25, 0, 5)[:, None].clip(-COLOR), "taken as 0 … 255, rounded"),
        ("u2", COLOR * 257, "colours are stored as uint16 from 0 to 65535: scaled to 0 … 255"),
        ("u2", COLOR, None),
        ("i4", COLOR, None),
    ],
)
def test_colours_of_every_range(encoding, kind, values, note, tmp_path):
    mesh = read_mesh(written(tmp_path / "m.ply", vertices(color=kind, colors=values), encoding=encoding))
    assert np.array_equal(mesh.color, COLOR) and mesh.color.dtype == np.uint8
    assert (note is None) == (mesh.notes == []) and all(note in line for line in mesh.notes)


@pytest.mark.parametrize("names", [("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b")])
def test_colours_of_other_names_and_alpha(names, tmp_path):
    path = written(tmp_path / "m.ply", vertices(names=names, extra=("alpha",)))
    assert np.array_equal(read_mesh(path).color, COLOR)


def test_normals_of_the_file_are_made_unit_vectors(tmp_path):
    table = np.zeros(5, [(n, "f4") for n in ("x", "y", "z", "nx", "ny", "nz", "red", "green", "blue")])
    table["nz"], table["red"] = 2, 0.5
    mesh = read_mesh(written(tmp_path / "m.ply", PlyElement.describe(table, "vertex")))
    assert mesh.normal is not None and np.allclose(mesh.normal, [0, 0, 1])
    table["nz"][2] = 0
    assert read_mesh(written(tmp_path / "m.ply", PlyElement.describe(table, "vertex"))).normal is None


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_line_endings_and_a_byte_order_mark(ending, form, tmp_path):
    table = vertices().data
    body = rows() if form == "ascii" else table.tobytes()
    header = HEADER.format(format=form, count=5, more="comment  made by hand\nobj_info 3\n")
    path = tmp_path / "m.ply"
    path.write_bytes(b"\xef\xbb\xbf" + header.replace("\n", ending).encode() + body)
    assert np.array_equal(read_mesh(path).coord, COORD)


def test_text_may_break_lines_anywhere_and_keeps_its_digits(tmp_path):
    far = COORD + [500_000.125, 4e6, 0]
    body = rows(far).replace(b" ", b"\n", 7).replace(b" ", b"\t\t", 5)
    mesh = read_mesh(text_file(tmp_path / "m.ply", body))
    assert np.array_equal(mesh.coord, far) and mesh.spacing < 1e-8


def test_step_of_the_stored_type_far_away(tmp_path):
    table = vertices("f4").data.copy()
    table["x"] += 500_000
    path = written(tmp_path / "m.ply", PlyElement.describe(table, "vertex"))
    assert read_mesh(path).spacing == np.spacing(np.float32(500_001))


def seconds_to_read(path: Path, thousands: int, form: str) -> float:
    """Of the processor, for as many vertices and faces of three and four corners in turn, whose rows
    differ in length."""
    count = 1000 * thousands
    more = f"element face {count}\nproperty list uchar int vertex_index\n"
    point, polygons = b"0.25 -1.5 2 7 8 9\n", b"3 0 1 2\n4 3 4 5 6\n"
    if form != "ascii":
        point = np.array([0.25, -1.5, 2], "<f4").tobytes() + bytes([7, 8, 9])
        three, four = np.array([0, 1, 2], "<i4").tobytes(), np.array([3, 4, 5, 6], "<i4").tobytes()
        polygons = b"\x03" + three + b"\x04" + four
    body = point * count + polygons * (count // 2)
    text_file(path, body, count=str(count), more=more, form=form)
    start = time.process_time()
    mesh = read_mesh(path)
    seconds = time.process_time() - start
    assert mesh.coord.shape == (count, 3) and (mesh.coord == [0.25, -1.5, 2]).all()
    assert len(mesh.faces) == 3 * count // 2 and mesh.faces[-1].tolist() == [3, 5, 6]
    return seconds


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_ten_times_as_large_takes_about_ten_times_as_long(form, tmp_path):
    """A million take about 4 s; what grew with the square, a hundred times as long."""
    small, large = (seconds_to_read(tmp_path / f"{size}.ply", size, form) for size in (20, 200))
    assert large < 40 * small


# ----------------------------------------------------------------------------- what is not believed


def refused(path: Path, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_mesh(path)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("where", ["vertex", "face", "camera"])
def test_counts_that_the_file_cannot_hold(form, where, tmp_path):
    huge = "999999999999999999"
    count = huge if where == "vertex" else "1"
    more = (
        f"element {where} {huge}\nproperty list uchar int vertex_indices\n" if where != "vertex" else ""
    )
    body = b"0 0 0 1 2 3\n" if form == "ascii" else bytes(15)
    path = text_file(tmp_path / "m.ply", body, count=count, more=more, form=form)
    refused(path, f"declares 999,999,999,999,999,999 × {where} of at least")


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize("count", ["uint", "int"])
def test_lists_that_the_file_cannot_hold(form, count, tmp_path):
    more = f"element face 2\nproperty list {count} int vertex_indices\n"
    lengths = np.array([2**31 - 1, 3], "<u4")
    body = b"0 0 0 1 2 3\n2147483647 1\n3 0 0 0\n"
    if form != "ascii":
        body = bytes(15) + lengths.tobytes() + bytes(40)
    path = text_file(tmp_path / "m.ply", body, count="1", more=more, form=form)
    refused(path, "cut short within its 2 × face")


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_a_list_of_negative_length(form, tmp_path):
    more = "element face 2\nproperty list char int vertex_indices\n"
    body = b"0 0 0 1 2 3\n-1 0\n3 0 0 0\n" if form == "ascii" else bytes(15) + b"\xff" + bytes(40)
    path = text_file(tmp_path / "m.ply", body, count="1", more=more, form=form)
    refused(path, "a list of its face elements has a length of -1; the file is damaged")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("polygons", [TRIANGLES, [[0, 1, 2, 3], [0, 1, 2]]])
def test_cut_short_anywhere(encoding, polygons, tmp_path):
    whole = written(tmp_path / "m.ply", vertices(), face_table(polygons), encoding=encoding).read_bytes()
    last = len(whole) - 1 if encoding != "ascii" else len(whole.rstrip()) - 1
    for length in range(0, last, 3):
        (tmp_path / "m.ply").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"m.ply: "):
            read_mesh(tmp_path / "m.ply")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_changed_bytes_are_read_or_refused(encoding, tmp_path):
    faces = face_table([[0, 1, 2, 3], [0, 1, 4]], texture=True)
    whole = written(tmp_path / "m.ply", vertices(), faces, encoding=encoding).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        (tmp_path / "m.ply").write_bytes(changed)
        with warnings.catch_warnings(action="ignore"):  # of bytes left over
            try:
                mesh = read_mesh(tmp_path / "m.ply")
            except InputError:
                continue
        assert mesh.faces.max(initial=0) < len(mesh.coord)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>", "is no PLY file, it begins with b'<!DOCTYPE html>'"),
        (b"\x1f\x8b\x08\x00", "is no PLY file"),
        (b"ply\nformat ascii 1.0\n", "no line 'end_header'"),
        (b"ply\nend_header\n", "no line 'format'"),
        (b"ply\nformat binary_middle_endian 1.0\nend_header\n", "line 2 of the header.*expected one of"),
        (b"ply\nformat ascii 1.0\nproperty float x\nend_header\n", "before any element"),
        (b"ply\nformat ascii 1.0\nelement vertex -3\nend_header\n", "name and how many"),
        (b"ply\nformat ascii 1.0\nelement vertex " + b"9" * 5000 + b"\nend_header\n", "how many"),
        (b"ply\nformat ascii 1.0\nelement v 1\nproperty quad x\nend_header\n", "with types char"),
        (b"ply\nformat ascii 1.0\nelement v 1\nproperty list float int x\nend_header\n", "length of a"),
        (b"ply\nformat ascii 1.0\nelement v 0\nelement v 0\nend_header\n", "declares an element twice"),
        (b"ply\nformat ascii 1.0\nelement point 0\nend_header\n", "has no vertices.*elements are point"),
        (b"ply\nformat ascii 1.0\ngarbage\nend_header\n", "line 3 of the header, 'garbage'"),
    ],
)
def test_headers_that_are_none(content, words, tmp_path):
    path = tmp_path / "m.ply"
    path.write_bytes(content)
    refused(path, words)


def test_values_that_are_none(tmp_path):
    path = tmp_path / "m.ply"
    refused(
        text_file(path, rows().replace(b"0.5", b"1.#IND", 1)), "line 5 behind the header has '1.#IND'"
    )
    refused(text_file(path, rows().replace(b"128", b"300", 1)), "green has the value 300; .* 0 … 255")
    refused(text_file(path, rows() + b"1 2\n"), "declares 30 numbers, the file has 32")
    nowhere = rows(np.full((5, 3), np.nan))
    refused(text_file(path, nowhere), "no point with a finite place")
    refused(text_file(path, b"", count="0"), "holds no vertex")
    refused(written(path, vertices(), face_table([[0, 1, 5]])), "names vertex 5, but there are 5")
    refused(written(path, vertices(), face_table([[0, 1, -1]])), "names vertex -1, but there are 5")
    refused(written(path, vertices(color="f4", colors=COLOR * 1.5)), "from 0 to 382.5; expected uchar")
    refused(written(path, vertices(color="f4", colors=COLOR / 170)), "from 0 to 1.5; expected uchar")
    refused(tmp_path / "absent.ply", "absent.ply: missing")


def test_no_colour_says_why(tmp_path):
    names = ("f_dc_0", "f_dc_1", "f_dc_2")
    path = written(tmp_path / "m.ply", vertices(names=names))
    refused(path, "lack red, green, blue; they have x, y, z, f_dc_0.*Gaussian splats")
    refused(
        written(path, vertices(names=("s", "t", "u")), comments=["TextureFile a.png"]), "in a texture"
    )


def test_bytes_behind_the_last_element_are_told(tmp_path):
    path = written(tmp_path / "m.ply", vertices(), face_table(TRIANGLES))
    path.write_bytes(path.read_bytes() + b"abc")
    with pytest.warns(UserWarning, match="3 bytes behind the last element were not read"):
        assert len(read_mesh(path).faces) == 3


@pytest.mark.parametrize(("kind", "red"), [("uchar", "255"), ("float", "1")])
def test_colours_of_faces_are_those_of_their_vertices(kind, red, tmp_path):
    """A red and a black triangle share an edge; the last vertex is on none."""
    lines = ["ply", "format ascii 1.0", "element vertex 5"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += ["element face 2", "property list uchar int vertex_indices"]
    lines += [f"property {kind} {channel}" for channel in ("red", "green", "blue")]
    lines += ["end_header", "0 0 0", "1 0 0", "1 1 0", "0 1 0", "9 9 9"]
    lines += [f"3 0 1 2 {red} 0 0", "3 0 2 3 0 0 0", ""]
    (tmp_path / "m.ply").write_text("\n".join(lines))
    mesh = read_mesh(tmp_path / "m.ply")
    assert mesh.color.tolist() == [[128, 0, 0], [255, 0, 0], [128, 0, 0], [0, 0, 0], [128, 128, 128]]
    assert mesh.notes[-1] == "colours are of the faces: vertices have the mean of theirs"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_cloud_has_points_that_were_not_measured(encoding, tmp_path):
    cloud = vertices(extra=("quality",))
    cloud.data["y"][1], cloud.data["z"][3] = np.nan, np.inf
    mesh = read_mesh(written(tmp_path / "m.ply", cloud, encoding=encoding))
    assert np.array_equal(mesh.coord, COORD[[0, 2, 4]]) and np.array_equal(mesh.color, COLOR[[0, 2, 4]])
    assert mesh.notes == ["2 points without a place left out; labels are of the others"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_mesh_without_the_vertices_that_have_no_place(encoding, tmp_path):
    table = vertices()
    table.data["y"][1] = np.nan
    path = written(
        tmp_path / "m.ply", table, face_table([[0, 1, 2], [0, 2, 3], [2, 3, 4]]), encoding=encoding
    )
    mesh = read_mesh(path)
    assert np.array_equal(mesh.coord, COORD[[0, 2, 3, 4]])
    assert np.array_equal(mesh.color, COLOR[[0, 2, 3, 4]])
    assert mesh.faces.tolist() == [[0, 1, 2], [1, 2, 3]]
    assert mesh.notes == [
        "1 of 5 vertices without a place (NaN or infinite) left out, and 1 of 3 triangles with them; "
        "labels are of the others"
    ]


def packed_cloud(path: Path, kind: str, encoding: str, name: str = "rgb", alpha: int = 0) -> Path:
    """COLOR as PCL packs it, its four bytes said to be of type `kind`."""
    red, green, blue = COLOR.astype(np.uint32).T
    table = np.zeros(len(COORD), [*((axis, "f4") for axis in "xyz"), (name, kind)])
    for column, axis in enumerate("xyz"):
        table[axis] = COORD[:, column]
    table[name] = (np.uint32(alpha << 24) | red << 16 | green << 8 | blue).view(kind)
    return written(path, PlyElement.describe(table, "vertex"), encoding=encoding)


@pytest.mark.parametrize("name", ["rgb", "rgba"])
@pytest.mark.parametrize("kind", ["u4", "i4", "f4"])
@pytest.mark.parametrize(
    ("encoding", "alpha"), [("ascii", 0), ("little", 0), ("little", 255), ("big", 255)]
)
def test_colours_that_pcl_has_packed(encoding, alpha, kind, name, tmp_path):
    mesh = read_mesh(packed_cloud(tmp_path / "m.ply", kind, encoding, name, alpha))
    assert np.array_equal(mesh.color, COLOR) and mesh.color.dtype == np.uint8 and not mesh.notes


def test_floats_that_pack_no_colours(tmp_path):
    path = packed_cloud(tmp_path / "m.ply", "f4", "little", alpha=63)
    refused(path, "numbers from .* whose bytes are none; export it with red, green and blue")
