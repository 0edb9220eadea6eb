"""Scans and pictures as people have them, through the command line: what comes out, what is said."""

import json
import re
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData, PlyElement

from bifusion.cli import main
from bifusion.data.scene_folder import load_points, read_offset
from bifusion.data.view_files import load_cameras, load_view

SIDE, STEP_M = 16, 0.1
K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
FRONT = np.array([[1, 0, 0, 0.75], [0, 0, 1, -1.5], [0, -1, 0, 0.75], [0, 0, 0, 1.0]])
"""Looks along y at the wall y = 1.5 from 3 m before it, camera z forward."""
FLOOR_ROW = 39
"""First row of such a picture that shows the floor: (row − cy)/fy · 3 m > 0.75 m."""
DEPTH_M = np.full((48, 64), 3.0)
"""What its camera measures: the wall, and in the lower rows the floor."""
DEPTH_M[FLOOR_ROW:] = (0.75 * K[1, 1] / (np.arange(FLOOR_ROW, 48) - K[1, 2]))[:, None]
ORIENTATION = 274


def room() -> tuple[np.ndarray, np.ndarray]:
    """A wall and a floor of SIDE × SIDE vertices each, 1.5 m wide, and their triangles."""
    u, v = (a.ravel() for a in np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"))
    corner = (np.arange(SIDE - 1)[:, None] * SIDE + np.arange(SIDE - 1)).ravel()
    square = np.stack(
        [corner, corner + 1, corner + SIDE, corner + 1, corner + SIDE + 1, corner + SIDE], axis=1
    ).reshape(-1, 3)
    wall = np.stack([u, np.full_like(u, SIDE - 1), v], axis=1) * STEP_M
    floor = np.stack([u, v, np.zeros_like(u)], axis=1) * STEP_M
    return np.concatenate([wall, floor]), np.concatenate([square, square + SIDE**2])


def write_mesh(path: Path, coord: np.ndarray, faces: np.ndarray | None, kind: str = "f8") -> None:
    vertex = np.zeros(len(coord), [*((a, kind) for a in "xyz"), *((c, "u1") for c in CHANNELS)])
    for column, axis in enumerate("xyz"):
        vertex[axis] = coord[:, column]
    for channel in CHANNELS:
        vertex[channel] = 100 + np.arange(len(coord)) % 5  # nearly grey: pictures need not fit it
    elements = [PlyElement.describe(vertex, "vertex")]
    if faces is not None:
        face = np.zeros(len(faces), [("vertex_indices", "i4", (3,))])
        face["vertex_indices"] = faces
        elements.append(PlyElement.describe(face, "face"))
    PlyData(elements).write(path)


CHANNELS = ("red", "green", "blue")


class Released:
    """A released test scan and its posed images, to be changed and prepared."""

    def __init__(self, root: Path):
        self.root, self.scan = root, root / "scans" / "room"
        self.posed, self.scene = root / "posed" / "room", root / "out" / "test" / "room"
        self.scan.mkdir(parents=True)
        self.mesh = self.scan / "room_vh_clean_2.ply"
        self.coord, self.faces = room()
        write_mesh(self.mesh, self.coord, self.faces)
        self.meta("axisAlignment = " + " ".join(map(str, np.eye(4).ravel())))
        (root / "splits").mkdir()
        (root / "splits" / "scannetv2_test.txt").write_text("room\n")
        (root / "labels.tsv").write_text("id\traw_category\tnyu40id\n1\twall\t1\n")

    def meta(self, text: str) -> None:
        (self.scan / "room.txt").write_text(text + "\n")

    def picture(self, depth_units: float | None = 1000, pose: np.ndarray = FRONT) -> None:
        """One posed image in the flat layout; its depth, None: without."""
        self.posed.mkdir(parents=True, exist_ok=True)
        shades = np.arange(48 * 64 * 3).reshape(48, 64, 3) % 255
        Image.fromarray(shades.astype(np.uint8)).save(self.posed / "00000.jpg")
        if depth_units:
            depth = np.rint(DEPTH_M * depth_units).astype(np.uint16)
            Image.fromarray(depth).save(self.posed / "00000.png")
        np.savetxt(self.posed / "00000.txt", pose)
        np.savetxt(self.posed / "intrinsic.txt", K)


@pytest.fixture
def released(tmp_path: Path) -> Released:
    return Released(tmp_path)


@pytest.fixture
def bifusion(monkeypatch, capsys):
    """Runs a command; gives its exit status and what it printed, blanks between words."""

    def run(*args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bifusion", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), " ".join((printed.out + printed.err).split())

    return run


@pytest.fixture
def prepare(bifusion, released):
    """Prepares the scan; with words, they must be printed, with a status it must end so."""

    def run(*options: object, says: str = "1 scene written", status: int = 0) -> str:
        posed = ["--posed-images", released.posed.parent] if released.posed.exists() else []
        places = ("--scans", released.root / "scans", "--labels", released.root / "labels.tsv")
        places += ("--splits", released.root / "splits", "--out", released.root / "out")
        found, printed = bifusion("prepare", "scannet", *places, *posed, "--overwrite", *options)
        assert found == status and says in printed, printed
        return printed

    return run


def is_quiet(printed: str) -> bool:
    """Nothing is told of the scan but that it was written (test/room)."""
    return re.search(r"(?<!/)room:", printed) is None


# ------------------------------------------------------------------------------------ mesh and cloud


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_a_cloud_gets_superpoints_and_normals(kind, released, prepare):
    write_mesh(released.mesh, released.coord, None, kind)
    prepare(says="room: the file has no faces: superpoints of the cloud, its normals estimated")
    superpoint = np.load(released.scene / "superpoint.npy")
    wall, floor = superpoint.reshape(2, SIDE, SIDE)
    # Where they meet, estimated normals are neither's.
    assert len(set(wall[:, 2:].flat)) == 1 and len(set(floor[:, :-2].flat)) == 1
    assert wall[0, -1] != floor[0, 0] and len(set(superpoint)) <= 3
    assert np.allclose(np.linalg.norm(np.load(released.scene / "normal.npy"), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("offset", [(500_000.25, 4e6, 100), (-3000, 0, 0), (0, 0, 9000)])
def test_far_from_the_origin_nothing_is_lost(offset, released, prepare):
    released.picture(pose=FRONT + np.pad(np.array(offset)[:, None], ((0, 1), (3, 0))))
    write_mesh(released.mesh, released.coord + offset, released.faces)
    prepare(says="room: coordinates are far from the origin: offset")
    coord, taken = load_points(released.scene)[0], read_offset(released.scene)
    assert coord.dtype == np.float32 and np.abs(coord).max() < 3
    assert np.allclose(coord + taken, released.coord + offset, atol=1e-6)
    assert len(np.unique(np.load(released.scene / "superpoint.npy"))) == 2
    pose = load_view(released.scene, "00000").color_cam2world
    assert np.allclose(pose[:3, 3] + taken, FRONT[:3, 3] + offset)
    assert json.loads((released.scene / "scene.json").read_text())["offset_m"] == taken.tolist()


def test_coarse_numbers_far_away_are_told_and_near_ones_stay(released, prepare):
    assert is_quiet(prepare())
    assert np.array_equal(load_points(released.scene)[0], released.coord.astype(np.float32))
    assert not read_offset(released.scene).any()
    write_mesh(released.mesh, released.coord + 500_000, released.faces, "f4")
    prepare(says="the file's numbers have steps of 0.031 m")


@pytest.mark.parametrize(
    ("factor", "unit", "option"), [(1000, "millimetres", 0.001), (100, "centimetres", 0.01)]
)
def test_other_units_are_named_and_mended(factor, unit, option, released, prepare):
    pose = FRONT.copy()
    pose[:3, 3] = FRONT[:3, 3] * factor + factor
    released.picture(pose=pose)
    write_mesh(released.mesh, released.coord * factor + factor, released.faces)
    shift = np.eye(4)
    shift[:3, 3] = -factor
    released.meta("axisAlignment=" + " ".join(map(str, shift.ravel())))
    prepare(says=f"likely in {unit} (1.5 m then); --scale {option:g} makes metres of them")
    assert is_quiet(prepare("--scale", option))
    assert np.allclose(load_points(released.scene)[0], released.coord, atol=1e-5)
    assert np.allclose(load_view(released.scene, "00000").color_cam2world, FRONT)
    alignment = json.loads((released.scene / "scene.json").read_text())["axis_alignment"]
    assert np.allclose(np.array(alignment)[:3, 3], -1)


def test_a_large_flat_floor_is_no_mistake(released, prepare):
    write_mesh(released.mesh, released.coord * [80, 80, 2], released.faces)
    assert is_quiet(prepare())


# ------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize("sign", [" = ", "=", " =", "=  "])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_metadata_with_any_blanks(sign, mark, released, prepare):
    shift = np.eye(4)
    shift[:3, 3] = (1, 2, 3)
    released.meta(f"{mark}axisAlignment{sign}{' '.join(map(str, shift.ravel()))}\nsceneType{sign}Office")
    assert is_quiet(prepare())
    assert np.allclose(load_points(released.scene)[0], released.coord + (1, 2, 3), atol=1e-6)


def test_lines_that_are_not_read_are_named(released, prepare):
    released.meta("axisAlignment: 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\nnotes\n")
    prepare(says="room.txt: 2 lines are no 'key = value' and were not read, the first is 'axisAlign")
    released.meta("axisAlignment = 1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1")
    prepare(says="room.txt: axisAlignment is no list of numbers", status=1)


@pytest.mark.parametrize("file", ["labels.tsv", "splits/scannetv2_test.txt"])
def test_tables_with_a_byte_order_mark(file, released, prepare):
    path = released.root / file
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert is_quiet(prepare())


# ---------------------------------------------------------------------------------------- pictures


def exported(released: Released, cameras: str, names: str, ending: str, digits: int = 0) -> None:
    """The images of `picture` in the layout of an export from .sens."""
    for kind, old, new in (("color", "jpg", ending), ("depth", "png", "png"), ("pose", "txt", "txt")):
        (released.posed / kind).mkdir()
        target = released.posed / kind / f"{0:0{digits}d}.{new}"
        if old == "jpg":
            Image.open(released.posed / "00000.jpg").save(target)
            (released.posed / "00000.jpg").unlink()
        else:
            (released.posed / f"00000.{old}").rename(target)
    (released.posed / cameras).mkdir(exist_ok=True)
    (released.posed / "intrinsic.txt").unlink()
    for kind in ("color", "depth"):
        np.savetxt(released.posed / cameras / f"{names}_{kind}.txt", _four(K))


def _four(K: np.ndarray) -> np.ndarray:
    return np.pad(K, ((0, 1), (0, 1))) + np.diag([0, 0, 0, 1])


@pytest.mark.parametrize(
    "cameras", [("intrinsic", "intrinsic"), (".", "intrinsics"), (".", "intrinsic")]
)
@pytest.mark.parametrize("ending", ["jpg", "jpeg", "png", "JPG"])
@pytest.mark.parametrize("digits", [0, 6])
def test_layouts_of_exports(cameras, ending, digits, released, prepare):
    released.picture()
    exported(released, *cameras, ending, digits)
    assert is_quiet(prepare())
    (name,) = load_cameras(released.scene).names
    view = load_view(released.scene, name)
    assert (
        view.color.shape == (48, 64, 3)
        and np.allclose(view.depth_m, DEPTH_M, atol=6e-4)  # it is kept in whole millimetres
        and np.allclose(view.depth_K, K)
    )


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("layout", ["flat", "exported"])
def test_depth_is_rendered_where_there_is_none(ending, layout, released, prepare):
    released.picture()
    if layout == "exported":
        exported(released, ".", "intrinsics", ending)
        shutil.rmtree(released.posed / "depth")
    else:
        (released.posed / "00000.png").unlink()
        if ending == "png":
            Image.open(released.posed / "00000.jpg").save(released.posed / "00000.png")
            (released.posed / "00000.jpg").unlink()
    prepare(says="room: the images have no depth: it was rendered from the mesh")
    (name,) = load_cameras(released.scene).names
    depth_m = load_view(released.scene, name).depth_m
    assert depth_m.shape == (48, 64) and np.allclose(depth_m[20:24, 20:44], 3, atol=1e-3)
    assert depth_m[0, 0] == 0 and 1.5 < depth_m[45, 32] < 2.9  # nothing there; the floor


def test_depth_cannot_be_rendered_of_a_cloud(released, prepare):
    released.picture(depth_units=None)
    write_mesh(released.mesh, released.coord, None)
    prepare(says="holds no depth images, and without faces", status=1)


@pytest.mark.parametrize(("units", "named"), [(5000, "5000"), (6553.5, "6553.5"), (100, "100")])
def test_depth_in_other_units(units, named, released, prepare):
    released.picture(depth_units=units)
    factor = f"{max(units / 1000, 1000 / units):.3g}"
    prepare(says=f"disagree with the scan by a factor {factor}: they say")
    assert f"--depth-scale {named}" in prepare()
    assert is_quiet(prepare("--depth-scale", units))
    rounding_m = 0.5 / units + 6e-4
    assert np.allclose(load_view(released.scene, "00000").depth_m, DEPTH_M, atol=rounding_m)
    prepare("--depth-scale", -1, says="depth_scale: found -1", status=2)


def save_turned(released: Released, orientation: int, transpose: Image.Transpose) -> np.ndarray:
    """Stores the picture otherwise than it is to be seen; returns it as it is to be seen."""
    upright = Image.open(released.posed / "00000.jpg")
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    upright.transpose(transpose).save(released.posed / "00000.jpg", exif=exif, quality=95)
    return np.array(upright)


@pytest.mark.parametrize(
    ("orientation", "transpose"),
    [(6, Image.Transpose.ROTATE_90), (8, Image.Transpose.ROTATE_270), (3, Image.Transpose.ROTATE_180),
     (2, Image.Transpose.FLIP_LEFT_RIGHT)],
)  # fmt: skip
def test_pictures_are_turned_as_their_tag_says(orientation, transpose, released, prepare):
    released.picture()
    np.savetxt(released.posed / "intrinsic_depth.txt", K)
    gradient = np.linspace(0, 250, 64).astype(np.uint8)
    Image.fromarray(np.stack([np.tile(gradient, (48, 1))] * 3, 2)).save(released.posed / "00000.jpg")
    upright = save_turned(released, orientation, transpose)
    prepare(says="room: pictures were turned as their orientation tag says")
    color = load_view(released.scene, "00000").color
    assert color.shape == (48, 64, 3) and np.abs(color.astype(int) - upright).mean() < 3


def test_a_tag_that_the_intrinsics_contradict_is_named(released, prepare):
    released.picture()
    save_turned(released, 6, Image.Transpose.ROTATE_90)  # stored 48×64
    stored = K.copy()
    stored[0, 2], stored[1, 2] = 23.5, 31.5
    np.savetxt(released.posed / "intrinsic.txt", stored)
    prepare(says="orientation tag (6) makes it 64×48 pixels, but the intrinsics fit the 48×64", status=1)


def test_depth_with_a_tag_and_sixteen_bits_of_grey_are_refused(released, prepare):
    released.picture()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    depth = Image.open(released.posed / "00000.png")
    depth.load()
    depth.save(released.posed / "00000.png", exif=exif)
    prepare(says="00000.png: depth has an orientation tag (6)", status=1)
    released.picture()
    exported(released, ".", "intrinsics", "png")
    shutil.copyfile(released.posed / "depth" / "0.png", released.posed / "color" / "0.png")
    prepare(says="color/0.png: has image mode I;16, one channel of more than 8 bits", status=1)


def test_sixteen_bits_a_channel_keep_the_upper_eight(released, prepare):
    released.picture()
    exported(released, ".", "intrinsics", "png")
    (released.posed / "color" / "0.png").write_bytes(sixteen_bit_png(0x1234, 0x8000, 0xFFFF))
    assert is_quiet(prepare())
    color = load_view(released.scene, "0").color.reshape(-1, 3).mean(axis=0)
    assert np.abs(color - (0x12, 0x80, 0xFF)).max() < 3


def sixteen_bit_png(*channels: int) -> bytes:
    """A 64×48 picture of one colour with 16 bits a channel, which PIL cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">3H", *channels) * 64
    head = struct.pack(">2I5B", 64, 48, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * 48)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


# ------------------------------------------------------------------------------------------- arrays


def pointcept(folder: Path, color: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "coord.npy", room()[0].astype(np.float32))
    np.save(folder / "color.npy", color)
    return folder


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_mean_colours_are_rounded(kind, bifusion, tmp_path):
    means = (np.random.default_rng(0).random((2 * SIDE**2, 3)) * 255).astype(kind)
    folder = pointcept(tmp_path / "data" / "val" / "room", means)
    with pytest.warns(UserWarning, match=r"color.npy holds float.. of 0 … 255 with fractions.*rounded"):
        assert bifusion("prepare", "superpoints", tmp_path / "data")[0] == 0
    with pytest.warns(UserWarning, match="rounded"):
        assert np.array_equal(load_points(folder)[1], np.round(means))


@pytest.mark.parametrize(
    ("factor", "remedy"), [(1 / 255, "multiply colours of 0 … 1 by 255"), (2.0, "scale them to it")]
)
def test_colours_of_another_range_are_not_guessed(factor, remedy, bifusion, tmp_path):
    means = np.random.default_rng(0).random((2 * SIDE**2, 3)) * 255 * factor
    pointcept(tmp_path / "data" / "val" / "room", means)
    status, printed = bifusion("prepare", "superpoints", tmp_path / "data")
    assert status == 1 and remedy in printed


# ------------------------------------------------------------------------------------------- cases

SAID = {
    "ascii_ply": "1 scene written",
    "binary_ok": "1 scene written",
    "vertex_index": "1 scene written",
    "float_colour": "scaled to 0 … 255",
    "no_faces": "superpoints of the cloud",
    "png_colour": "1 scene written",
    "frames_25k_layout": "1 scene written",
    "colour_without_depth": "rendered from the mesh",
    "depth_fifths": "by a factor 5: they say 5 times the distance; --depth-scale 5000",
    "exif_turned": "turned as their orientation tag says",
    "far_from_origin": "far from the origin",
    "millimetres": "likely in millimetres",
}


@pytest.mark.parametrize("case", SAID)
def test_case(case, cases, tmp_path, bifusion):
    folder = cases / case
    args = [
        "--scans",
        folder / "scans",
        "--labels",
        folder / "labels.tsv",
        "--splits",
        folder / "splits",
    ]
    has_views = (folder / "posed").is_dir()
    if has_views:
        args += ["--posed-images", folder / "posed"]
    status, printed = bifusion("prepare", "scannet", *args, "--out", tmp_path)
    assert status == 0 and SAID[case] in printed and "1 scene written" in printed
    (scene,) = tmp_path.glob("*/room")
    described = json.loads((scene / "scene.json").read_text())
    assert (described["points"], described["superpoints"]) == (512, 2)
    assert described["views"] == has_views
    assert len(np.unique(load_points(scene)[0], axis=0)) in (
        512,
        496,
    )  # wall and floor may share an edge
    if has_views:
        assert load_view(scene, *load_cameras(scene).names).color.shape == (48, 64, 3)
