"""LAS, LAZ and E57: frames, units, colours, and files that are cut or lie."""

import struct
import sys
from dataclasses import replace

import laspy
import numpy as np
import pytest

import needs
from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.datasets.mesh_scene import open_mesh
from bifusion.datasets.scan.make import make_scan
from bifusion.datasets.scan.units import find_scale
from bifusion.errors import InputError
from laser_files import write_e57, write_e57_colors, write_las
from room_meshes import room_mesh

FEET = 'PROJCS["x",GEOGCS["y",UNIT["degree",0.0174]],UNIT["US survey foot",0.304800609601219]]'
FEET_OF_WKT2 = (
    'PROJCRS["x",BASEGEOGCRS["y",DATUM["z",ELLIPSOID["e",6378137,298.3,LENGTHUNIT["metre",1,'
    'ID["EPSG",9001]]]],PRIMEM["Greenwich",0,ANGLEUNIT["degree",0.0174]]],CONVERSION["c",PARAMETER['
    '"False easting",1,LENGTHUNIT["metre",1]]],CS[Cartesian,2],AXIS["(E)",east],'
    'LENGTHUNIT["foot",0.3048]]'
)
METRES_HIGH_IN_FEET = (
    'COMPD_CS["x",PROJCS["y",GEOGCS["z",UNIT["degree",0.0174]],UNIT["metre",1]],'
    'VERT_CS["v",UNIT["foot",0.3048]]]'
)
DEGREES_OF_WKT2 = (
    'GEOGCRS["x",DATUM["z",ELLIPSOID["e",6378137,298.3,LENGTHUNIT["metre",1]]],CS[ellipsoidal,2],'
    'ANGLEUNIT["degree",0.0174]]'
)
DEGREES = 'GEOGCS["WGS 84",DATUM["WGS_1984"],UNIT["degree",0.0174532925199433]]'


@pytest.mark.parametrize("name", ["room.las", "room.laz", "room.e57"])
def test_a_far_room_keeps_its_millimetres(name, tmp_path):
    room = room_mesh(0.2)
    room.coord = room.coord + (636_001.5, 4_851_044.25, 120)
    write = write_las if name[-3:] != "e57" else lambda path, mesh: write_e57(path, [mesh])
    found = read_mesh_file(write(tmp_path / name, room))
    assert np.abs(found.coord - room.coord).max() < 1e-3 and found.coord.dtype == np.float64
    assert np.array_equal(found.color, room.color) and len(found.faces) == 0
    assert found.up is not None and found.up.tolist() == [0, 0, 1]
    path = (tmp_path / name).rename(tmp_path / "other.ply")  # what it begins with counts
    assert len(read_mesh_file(path).coord) == len(room.coord)


def test_units_of_las(tmp_path):
    room = room_mesh(0.2)
    feet = replace(room, coord=room.coord / 0.3048006)
    found = read_mesh_file(write_las(tmp_path / "feet.las", feet, FEET))
    assert found.unit_m == pytest.approx(0.3048006) and found.notes == []
    scale, said = find_scale(found.coord, None, found.unit_m)
    assert scale == found.unit_m and "0.304801 m a unit, as the file says" in said
    assert find_scale(found.coord, 1.0, found.unit_m)[0] == 1.0  # the user knows better
    assert read_mesh_file(write_las(tmp_path / "2.las", feet, FEET_OF_WKT2)).unit_m == 0.3048
    for wkt, words in [
        (DEGREES, "degrees of longitude and latitude"),
        (DEGREES_OF_WKT2, "degrees of longitude and latitude"),
        (METRES_HIGH_IN_FEET, "heights are in units of 0.3048 m, its plan in units of 1 m"),
    ]:
        with pytest.raises(InputError, match=words):
            read_mesh_file(write_las(tmp_path / "other.las", room, wkt))
    bare = read_mesh_file(write_las(tmp_path / "bare.las", room, shift=0))
    assert bare.unit_m is None and np.array_equal(bare.color, room.color)
    assert "taken as 0 … 255, as many writers store them" in bare.notes[0]
    with pytest.raises(InputError, match="by the unit of its file, which no building is"):
        find_scale(room.coord * 1000, None, 1.0)


@pytest.mark.parametrize("place", [100, 243])
def test_las_files_of_more_records_than_bytes_are_refused_at_once(tmp_path, place):
    """laspy reads as many records as the header says, behind the end of the file too."""
    path = write_las(tmp_path / "room.las", room_mesh(0.3))
    data = bytearray(path.read_bytes())
    data[place : place + 4] = struct.pack("<I", 0x40000000)
    path.write_bytes(data)
    with pytest.raises(
        InputError, match=r"says it has 1,073,741,824 records in .* bytes; copy it again"
    ):
        read_mesh_file(path)


def test_las_files_of_fewer_points_than_they_say_are_refused(tmp_path):
    """Points that begin later leave fewer of them, or none, and laspy says nothing."""
    path = write_las(tmp_path / "room.las", room_mesh(0.3))
    whole = path.read_bytes()
    begin = int.from_bytes(whole[OFFSET : OFFSET + 4], "little")
    size = int.from_bytes(whole[SIZE : SIZE + 2], "little")
    for left in (7, 0):
        there = len(whole) - left * size
        assert there > begin
        path.write_bytes(whole[:OFFSET] + there.to_bytes(4, "little") + whole[OFFSET + 4 :])
        with pytest.raises(InputError, match=rf"points and has {left}; copy it again"):
            read_mesh_file(path)


@pytest.mark.parametrize("name", ["room.las", "room.laz"])
def test_points_of_las_that_are_withheld_are_deleted(name, tmp_path):
    room = room_mesh(0.3)
    path = write_las(tmp_path / name, room)
    cloud = laspy.read(path)
    cloud.withheld = np.arange(len(room.coord)) < 7
    cloud.write(str(path))
    found = read_mesh_file(path)
    assert np.abs(found.coord - room.coord[7:]).max() < 1e-3
    assert np.array_equal(found.color, room.color[7:])
    assert found.notes == ["7 points marked withheld, as deleted, left out; labels are of the others"]
    cloud.withheld[:] = 1
    cloud.write(str(path))
    with pytest.raises(InputError, match="all its points are marked withheld"):
        read_mesh_file(path)


OFFSET, SIZE = 96, 105
"""Where in a LAS header stand at which byte its points begin, and how many bytes each has."""


@pytest.mark.parametrize(
    ("record", "place", "value", "message"),
    [
        (True, 32, 0, "remainder with a divisor of zero"),  # kinds of columns: a panic
        (True, 12, 0xFFFFFFF0, "memory allocation of"),  # points of a chunk
        (False, 44, 0xF0FFFFF0, "memory allocation of"),  # bytes of a layer
    ],
)
def test_laz_files_that_end_their_decoder_are_refused(tmp_path, record, place, value, message):
    path = write_las(tmp_path / "room.laz", room_mesh(0.3))
    whole = path.read_bytes()
    points = int.from_bytes(whole[OFFSET : OFFSET + 4], "little") + 8
    place += whole.index(b"laszip encoded") - 2 + 54 if record else points
    size = 2 if value == 0 else 4
    path.write_bytes(whole[:place] + value.to_bytes(size, "little") + whole[place + size :])
    with pytest.raises(InputError, match=rf"room.laz: its decoder ended with -?\d+ .*{message}"):
        read_mesh_file(path)


def test_las_files_that_lie(tmp_path):
    room = room_mesh(0.3)
    with pytest.raises(InputError, match=r"points .format 6. have no colours"):
        read_mesh_file(write_las(tmp_path / "grey.las", room, point_format=6))
    for name in ("room.las", "room.laz"):
        path = write_las(tmp_path / name, room)
        whole = path.read_bytes()
        for data, words in [
            (whole[: len(whole) // 2], "is cut short|cannot be read as LAS|table of chunks"),
            (whole[:100], "cannot be read as LAS"),
            (whole[:25] + b"\x24" + whole[26:257], "cannot be read as LAS"),  # a later version
            (whole[:247] + struct.pack("<Q", 10**9) + whole[255:], "says it has 1,000,000,000 points"),
            (whole[:247] + struct.pack("<Q", 0) + whole[255:], "says it has 0 points"),
            (
                whole[:247] + struct.pack("<Q", 10**7) + whole[255:],
                "is cut short|cannot be read as LAS|table of chunks",
            ),
        ]:
            path.write_bytes(data)
            with pytest.raises(InputError, match=words):
                read_mesh_file(path)


def test_scans_of_e57_are_placed(tmp_path):
    room = room_mesh(0.3)
    path = write_e57(tmp_path / "two.e57", [room, replace(room, color=255 - room.color)], (0.7, -2.0))
    found = read_mesh_file(path)
    assert np.allclose(found.coord, np.concatenate([room.coord] * 2), atol=1e-6)
    assert np.array_equal(found.color[len(room.color) :], 255 - room.color)
    assert found.unit_m == 1.0 and found.notes == ["2 scans, placed by their poses"]
    grey = write_e57(tmp_path / "grey.e57", [room], colored=False)
    with pytest.raises(InputError, match="its scans have no colours"):
        read_mesh_file(grey)
    whole = path.read_bytes()
    for data in (whole[:2000], whole[:40], whole[:5000] + bytes(200) + whole[5200:]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="cannot be read as E57"):
            read_mesh_file(path)


@pytest.mark.parametrize(
    ("top", "stated"),
    [(255, True), (255, False), (1023, True), (65535, True), (65535, False), (1.0, True), (1.0, False),
     (255.0, True)],
)  # fmt: skip
def test_colours_of_e57_are_of_any_type(top, stated, tmp_path):
    room = room_mesh(0.3)
    found = read_mesh_file(write_e57_colors(tmp_path / "a.e57", room, top, stated))
    assert np.array_equal(found.coord, room.coord[::2])
    assert np.array_equal(found.color, room.color[::2])
    assert f"{len(room.coord) // 2:,} points marked invalid left out" in found.notes[-1]


@pytest.mark.parametrize(
    ("name", "module"), [("a.laz", "lazrs"), ("a.las", "laspy"), ("a.e57", "pye57")]
)
def test_without_the_packages(name, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"pip install 'bifusion\[laser\]'"):
        read_mesh_file(tmp_path / name)


def test_a_scan_of_las(tmp_path):
    feet = room_mesh(0.1)
    feet.coord = feet.coord / 0.3048006 + (2_000_000, 500_000, 100)
    made = make_scan(write_las(tmp_path / "room.las", feet, FEET))
    assert made.scene.unit_stated
    assert made.kind == "cloud" and len(made.mesh.coord) == len(feet.coord)
    extent = np.ptp(made.scene.coord, axis=0)
    assert np.allclose(np.sort(extent), np.sort(np.ptp(room_mesh(0.1).coord, axis=0)), atol=0.02)


def test_a_scene_of_las_is_in_metres(tmp_path):
    """What predict opens, which finds out no unit but takes the file's."""
    room = room_mesh(0.2)
    path = write_las(tmp_path / "feet.las", replace(room, coord=room.coord / 0.3048006), FEET)
    scene = open_mesh(path)
    assert np.allclose(scene.coord, room.coord, atol=1e-3)
    assert "0.304801 m a unit, as the file says" in scene.notes
    assert np.allclose(open_mesh(path, scale=1.0).coord, room.coord / 0.3048006, atol=1e-2)


def real(name: str):
    path = needs.folder("BIFUSION_REAL_DATA", "data") / "recordings" / name
    return path if path.exists() else needs.lacking("real_data", path)


@pytest.mark.real_data
def test_real_laser_files():
    for name in ("las/simple.las", "las/simple.laz"):
        found = read_mesh_file(real(name))
        assert len(found.coord) == 1065 and found.color.max() == 249 and found.unit_m is None
    aerial = read_mesh_file(real("las/autzen_trim.laz"))
    assert len(aerial.coord) == 110_000 and aerial.unit_m == 0.3048
    for name in ("e57/translationWithoutRotation.e57", "e57/testWithNormals.e57"):
        with pytest.raises(InputError, match="no colours"):
            read_mesh_file(real(name))
