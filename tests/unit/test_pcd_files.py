"""PCD: three encodings, colours under every type, points that were not measured, files that lie."""

from __future__ import annotations

import numpy as np
import pytest

from bifusion.datasets.mesh_files.lzf import unpack_lzf
from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.errors import InputError
from pcd_files import pack_lzf, write_pcd
from room_meshes import room_mesh

HEAD = "VERSION .7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nWIDTH 2\nHEIGHT 1\nDATA ascii\n"


def cloud():
    room = room_mesh(0.3)
    room.normal = np.tile([0.6, 0.0, 0.8], (len(room.coord), 1))
    return room


@pytest.mark.parametrize(
    ("data", "rgb"),
    [
        *((data, rgb) for data in ("binary", "binary_compressed") for rgb in ("F", "U", "channels")),
        *(("ascii", rgb) for rgb in ("U", "channels")),  # as floats opaque colours are no numbers: below
    ],
)
def test_every_encoding_gives_the_same_cloud(data, rgb, tmp_path):
    room = cloud()
    found = read_mesh_file(write_pcd(tmp_path / "room.pcd", room, data, rgb))
    assert np.array_equal(found.coord, room.coord.astype(np.float32)) and found.coord.dtype == float
    assert np.array_equal(found.color, room.color) and found.color.dtype == np.uint8
    assert found.normal is not None and np.abs(found.normal - room.normal).max() < 1e-6
    assert len(found.faces) == 0 and found.unit_m is None and found.up is None and not found.notes


def test_a_depth_cameras_cloud_has_points_that_were_not_measured(tmp_path):
    room = cloud()
    room.coord = room.coord[:40]
    room.color, room.normal = room.color[:40], None
    room.coord[[3, 17]] = np.nan
    found = read_mesh_file(write_pcd(tmp_path / "kinect.pcd", room, width=8))
    measured = np.isfinite(room.coord).all(axis=1)
    assert np.array_equal(found.color, room.color[measured]) and len(found.coord) == 38
    assert found.notes == ["2 points without a place left out; labels are of the others"]
    room.coord[:] = np.nan
    with pytest.raises(InputError, match="no point with a finite place"):
        read_mesh_file(write_pcd(tmp_path / "none.pcd", room))


@pytest.mark.parametrize(
    ("written", "colors"),
    [
        ("4.2108e+06 0", [[64, 64, 112], [0, 0, 0]]),  # as in PCL's description, of few digits
        ("2.3418052e-38 1.1754944e-38", [[255, 0, 0], [128, 0, 0]]),  # the float of 0x00FF0000
        ("-1 -16777216", [[255, 255, 255], [0, 0, 0]]),  # whole numbers with a sign
        ("4278190335 4294967295", [[0, 0, 255], [255, 255, 255]]),
    ],
)
def test_colours_written_as_numbers(written, colors, tmp_path):
    one, other = written.split()
    path = tmp_path / "text.pcd"
    path.write_text(HEAD + f"0 0 0 {one}\n1 2 3 {other}\n")
    assert read_mesh_file(path).color.tolist() == colors


def test_what_begins_otherwise_goes_by_its_ending(tmp_path):
    path = tmp_path / "windows.PCD"
    path.write_bytes((HEAD + "0 0 0 255\n1 2 3 65280\n").replace("\n", "\r\n").encode())
    assert read_mesh_file(path).color.tolist() == [[0, 0, 255], [0, 255, 0]]
    named = write_pcd(tmp_path / "room.ply", cloud())
    assert len(read_mesh_file(named).coord) == len(cloud().coord)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("FIELDS x y z rgb", "FIELDS x y z intensity"), r"have x, y, z, intensity: no colours \(rgb\)"),
        (("FIELDS x y z rgb", "FIELDS a y z rgb"), "has no x, y, z; its fields are a, y, z, rgb"),
        (("FIELDS x y z rgb", "FIELDS x y z x"), "has a field twice"),
        (("TYPE F F F F", "TYPE F F F"), "FIELDS has 4 names, SIZE, TYPE and COUNT 4, 3 and 4"),
        (("SIZE 4 4 4 4", "SIZE 4 4 4 3"), "field 'rgb' is 1 × F3, unknown"),
        (("WIDTH 2", "COUNT 1 1 1 00999999999\nWIDTH 2"), "field 'rgb' is 009999999 × F4, unknown"),
        (("WIDTH 2", "WIDTH two"), "WIDTH is 'two'; expected a whole number"),
        (("WIDTH 2", "WIDTH 0"), "says it has no points"),
        (("HEIGHT 1", "HEIGHT 1\nPOINTS 3"), "says it has 3 points, and 2 in WIDTH and HEIGHT"),
        (("HEIGHT 1", "HEIGHT 9"), "cut short"),
        (("DATA ascii", "DATA zipped"), "DATA is 'zipped'; expected ascii, binary or binary_compr"),
        (("DATA ascii", "DOTA ascii"), "is no PCD file, or cut short: no line DATA"),
        (("0 0 0 1", "0 0 0 nan"), "written as numbers from nan to nan, whose bytes are none"),
        (("0 0 0 1", "0 0 0 0.5"), "written as numbers from 0.5 to 2, whose bytes are none"),
        (("0 0 0 1", "0 0 0 x"), "line 1 behind the header has 'x', expected numbers"),
        (("0 0 0 1", "1e40 0 0 1"), "beyond 1e"),
    ],
)
def test_files_that_lie_are_refused(change, said, tmp_path):
    path = tmp_path / "text.pcd"
    path.write_text((HEAD + "0 0 0 1\n1 2 3 2\n").replace(*change))
    with pytest.raises(InputError, match=said):
        read_mesh_file(path)


@pytest.mark.parametrize(
    ("at", "put", "said"),
    [
        (0, b"\xff\xff\xff\xff", r"has [\d,]+: copy or export it again"),  # more than the file has
        (4, b"\x00\x00\x00\x01", "it says 16,777,216 are"),  # another size than the points take
        (8, b"\xe0\xff\xff", "damaged: it points before its beginning"),
        (8, b"\x1f", "damaged: it"),
    ],
)
def test_compressed_points_that_lie_are_refused(at, put, said, tmp_path):
    path = write_pcd(tmp_path / "room.pcd", cloud(), "binary_compressed")
    content = bytearray(path.read_bytes())
    start = content.index(b"binary_compressed\n") + len(b"binary_compressed\n") + at
    content[start : start + len(put)] = put
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_mesh_file(path)


def test_lzf_is_what_it_was():
    plain = bytes(np.random.default_rng(0).integers(0, 3, 20_000, dtype=np.uint8)) + bytes(500)
    assert len(pack_lzf(plain)) < 0.6 * len(plain)
    assert unpack_lzf(pack_lzf(plain), len(plain)) == plain
    assert unpack_lzf(b"\x01ab\xe0\x05\x01", 16) == b"ab" * 8  # a copy that overlaps itself
    for wrong in (b"\x01ab\xe0\x05", b"\x05ab", b"\x01ab\x20"):
        with pytest.raises(ValueError, match="it "):
            unpack_lzf(wrong, 16)
