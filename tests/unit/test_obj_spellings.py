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
