"""Colours that are stored in another range than they seem, and column names in capitals."""

from __future__ import annotations

import logging
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bifusion
from bifusion.data.checks import color_note
from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.datasets.mesh_scene import open_mesh
from bifusion.datasets.scan.options import ScanOptions
from bifusion.errors import InputError
from bifusion.untrusted.pictures import read_color
from laser_files import write_las
from room_meshes import room_mesh

ROOM = room_mesh(0.2)
NAMES = ("x", "y", "z", "red", "green", "blue")


def ply(path: Path, color: np.ndarray, kind: str, names: tuple[str, ...] = NAMES) -> Path:
    """A cloud of the room's points, as text, colours of PLY's type `kind`."""
    types = ("float",) * 3 + (kind,) * 3
    lines = ["ply", "format ascii 1.0", f"element vertex {len(color)}"]
    lines += [f"property {of} {name}" for of, name in zip(types, names, strict=True)]
    rows = zip(ROOM.coord.tolist(), color.tolist(), strict=True)
    lines += ["end_header", *(" ".join(map(str, (*point, *one))) for point, one in rows), ""]
    path.write_text("\n".join(lines))
    return path


def png_of_16_bits(path: Path, color: np.ndarray) -> Path:
    """(H, W, 3), as Pillow does not write them."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in color)
    size = struct.pack(">IIBBBBB", color.shape[1], color.shape[0], 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks:
            file.write(struct.pack(">I", len(data)) + kind + data)
            file.write(struct.pack(">I", zlib.crc32(kind + data)))
    return path


@pytest.mark.parametrize(
    ("high", "told"),
    [
        (4095, ["4,095 of 65,535, as of 12 bits"]),
        (1000, ["1,023 of 65,535, as of 10 bits"]),
        (4096, []),
        (0, []),
    ],
)
def test_pictures_of_fewer_bits_in_16_are_told_once_a_folder(high, told, tmp_path, caplog) -> None:
    color = np.linspace(0, high, 60).astype(int).reshape(4, 5, 3)
    with caplog.at_level(logging.WARNING):
        for name in ("0.png", "1.png"):
            read = read_color(png_of_16_bits(tmp_path / str(high) / name, color))
            assert (read == color >> 8).all(), "no silent guess"
    assert len(caplog.messages) == len(told)
    assert all(words in said for words, said in zip(told, caplog.messages, strict=True))


def test_colours_of_12_bits_in_16_are_not_made_nearly_black(tmp_path: Path) -> None:
    path = ply(tmp_path / "room.ply", ROOM.color.astype(int) * 16, "ushort")
    with pytest.raises(InputError, match=r"stored as uint16 from \d+ to \d+, as of 10 or 12 bits in 16"):
        read_mesh_file(path)
    with pytest.raises(InputError, match="16-bit colours by 257, of 12 bits by 16"):
        bifusion.make_scene(ROOM.coord, ROOM.color.astype(np.uint16) * 16)
    whole = read_mesh_file(ply(path, ROOM.color.astype(int) * 257, "ushort"))
    assert np.array_equal(whole.color, ROOM.color)


def test_las_colours_of_12_bits_are_refused(tmp_path: Path) -> None:
    path = write_las(tmp_path / "room.las", replace(ROOM, color=np.maximum(ROOM.color, 16)), shift=4)
    with pytest.raises(InputError, match=r"colours go up to \d+, as of 10 or 12 bits in 16"):
        read_mesh_file(path)


def test_shares_of_1_that_became_whole_numbers_are_told(tmp_path: Path) -> None:
    cut = (ROOM.color > 128).astype(np.uint8)
    scene = open_mesh(ply(tmp_path / "room.ply", cut, "uchar"))
    assert any("no colour is above 1 of 255" in note for note in scene.notes)
    with pytest.warns(
        UserWarning, match="color: no colour is above 1 of 255.*multiply colours of 0 … 1"
    ):
        bifusion.make_scene(ROOM.coord, cut)


def test_one_colour_for_all_is_told(tmp_path: Path) -> None:
    white = np.full_like(ROOM.color, 255)
    words = "all points have the colour [255, 255, 255]; expected those of the scan"
    path = ply(tmp_path / "room.ply", white, "uchar")
    told = bifusion.make_scan(path, ScanOptions(up="z")).lines
    assert any(words in line for line in told)
    assert any(words in note for note in bifusion.make_scene(ROOM.coord, white).notes)
    assert color_note(ROOM.color) is None and color_note(white[:1]) is None


@pytest.mark.parametrize("names", [("X", "Y", "Z", "Red", "Green", "Blue"), ("x", "y", "z", *"RGB")])
def test_names_of_columns_in_capitals(tmp_path: Path, names: tuple[str, ...]) -> None:
    mesh = read_mesh_file(ply(tmp_path / "room.ply", ROOM.color, "uchar", names))
    assert np.array_equal(mesh.color, ROOM.color) and np.allclose(mesh.coord, ROOM.coord)
