"""Files of strangers: pipes, devices, bombs, numbers beyond measure, names that steer terminals."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table
from rich.text import Text

import hostile_pickles as hostile
from bifusion import cli
from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.datasets.recordings.open import open_recording
from bifusion.errors import MOST_LETTERS, InputError
from bifusion.labels.files import read_labels
from bifusion.labels.table import read_table
from bifusion.torch_files.files import open_torch_file
from bifusion.torch_files.state_dicts import find_state_dict
from bifusion.untrusted.arrays import load_npy, load_npz
from bifusion.untrusted.files import check_inside, is_file, open_regular, read_bytes, read_text
from bifusion.untrusted.json_text import DEEPEST, parse_json, read_json
from bifusion.untrusted.names import brief, shown
from bifusion.untrusted.pictures import MOST_PIXELS, image_mode, read_color, read_depth_m
from bifusion.untrusted.screen import Screen


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    return path


READERS = {
    "text": read_text,
    "JSON": read_json,
    "npy": load_npy,
    "npz": load_npz,
    "labels": read_labels,
    "table": lambda path: read_table(path, "own"),
    "colour": read_color,
    "depth": read_depth_m,
    "mesh": read_mesh_file,
    "recording": open_recording,
    "weights": lambda path: open_torch_file(path).__enter__(),
}


@pytest.mark.parametrize("reader", READERS)
def test_pipes_and_devices_are_refused_at_once(reader, pipe):
    with pytest.raises(InputError, match="is a pipe, no file"):
        READERS[reader](pipe)
    device = pipe.with_name("zero.ply")
    device.symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is a device, no file"):
        READERS[reader](device)


def test_what_is_no_file_is_told_without_an_error(tmp_path):
    assert not is_file(tmp_path) and not is_file(tmp_path / "none")
    assert not is_file(Path("x" * 5000)) and not is_file(Path("a\0b"))
    with pytest.raises(InputError, match="cannot be opened"):
        open_regular(Path("x" * 5000))


def test_large_files_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "labels.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    for read in (read_bytes, read_text, read_json, read_labels):
        with pytest.raises(InputError, match="has 1,099,511,627,776 bytes; expected at most"):
            read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested without end"),
        ("[" * 150 + "]" * 150, f"nested deeper than {DEEPEST}"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
        ("[1e999]", "is too large"),
        (f"[{2**63}]", "does not fit 64 bits"),
        (f"[{'9' * 5000}]", "does not fit 64 bits"),
        (r'["\ud800"]', "surrogates not allowed"),
        ("{", "Expecting property name"),
    ],
)
def test_json_beyond_measure_is_refused(text, message):
    with pytest.raises(InputError, match=rf"x\.json: not valid JSON \(.*{message}.*\); copy it again"):
        parse_json(text, "x.json")


def test_json_of_every_day_is_read():
    value = {"a": [1, -(2**63) + 1, 2**63 - 1, 0.5, "ü\U0001f600", None, True], "b": {"c": []}}
    assert parse_json(json.dumps(value), "x") == value == parse_json(json.dumps(value).encode(), "x")
    deep = "[" * DEEPEST + "]" * DEEPEST
    assert parse_json(deep, "x") is not None


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("(1000000000000, 3)"), "of which it holds 0 bytes"),
        (npy("(-1, 3)"), "of which it holds|shape"),
        (npy("(10000000000000000000000000000000000000000000,)"), "of which it holds"),
        (npy("(1000000000, 0)"), "of which it holds"),
        (npy("(" * 300 + ")" * 300), "no .npy file"),
        (npy("(1,)", "'|O'"), "an array of object"),
        (npy("(1,)", "[('a', '<f4')]", bytes(4)), "an array of"),
        (npy("(1L,)"), "no .npy file"),
        (b"\x93NUMPY\x02\0" + struct.pack("<I", 1 << 31), "no .npy file"),
        (b"", "no .npy file"),
    ],
)
def test_arrays_that_declare_more_than_there_is(content, message, tmp_path):
    path = tmp_path / "coord.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_npy(path)
    archive = tmp_path / "cameras.npz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.npy", content)
    with pytest.raises(InputError, match="not a readable .npz"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_npz(archive)


def test_archives_that_swell_or_are_encrypted(tmp_path):
    path = tmp_path / "cameras.npz"
    np.savez_compressed(path, a=np.zeros(3 << 20, np.uint8), b=np.arange(3))
    with pytest.raises(InputError, match="its arrays take 3,146,.* bytes, at most 1,000,000 are read"):
        load_npz(path, most_bytes=1_000_000)
    assert list(load_npz(path, keys=("b",), most_bytes=1_000_000)["b"]) == [0, 1, 2]
    data = bytearray(path.read_bytes())
    data[data.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="is encrypted, or compressed as numpy never does"):
        load_npz(path)


@pytest.mark.parametrize("order", "<>")
def test_text_beyond_unicode_is_refused(order, tmp_path):
    """Python ends in a SystemError where such text is used."""
    text = np.array(["a name", "x"]).astype(f"{order}U6")
    np.savez(tmp_path / "good.npz", names=text)
    assert load_npz(tmp_path / "good.npz")["names"].tolist() == ["a name", "x"]
    broken = np.frombuffer(text.tobytes(), f"{order}u4").copy()
    broken[1] = 0x110000
    np.save(tmp_path / "bad.npy", broken.view(f"{order}U6"))
    np.savez(tmp_path / "bad.npz", names=broken.view(f"{order}U6"))
    with pytest.raises(InputError, match="bad.npy: holds what is no text; copy it again"):
        load_npy(tmp_path / "bad.npy")
    with pytest.raises(
        InputError, match="bad.npz: not a readable .npz .'names.npy' holds what is no text"
    ):
        load_npz(tmp_path / "bad.npz")


def test_arrays_come_back_as_they_were_written(tmp_path):
    arrays = {
        "names": np.array(["a", "bü"]),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.array(3),
        "empty": np.zeros((0, 3), np.float32),
        "big": np.arange(3, dtype=">i4"),
    }
    np.savez(tmp_path / "x.npz", **arrays)
    read = load_npz(tmp_path / "x.npz")
    for name, array in arrays.items():
        np.save(tmp_path / "x.npy", array)
        for found in (read[name], load_npy(tmp_path / "x.npy")):
            assert found.dtype == array.dtype and np.array_equal(found, array)


def png_header(width: int, height: int) -> bytes:
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", 0x35AF061E)


@pytest.mark.parametrize("side", [10_000, 50_000])
def test_pictures_of_endless_size(side, tmp_path):
    assert side * side > MOST_PIXELS
    path = tmp_path / "0.png"
    path.write_bytes(png_header(side, side))
    for read in (read_color, read_depth_m, image_mode):
        with pytest.raises(InputError, match="too large a picture|expected at most 80,000,000"):
            read(path)


@pytest.mark.parametrize("largest", [65535, 10_000, 4095, 300])
@pytest.mark.parametrize("magic", ["P5", "P2"])
def test_depth_of_a_pgm_is_as_its_file_has_it(largest, magic, tmp_path):
    """Whatever largest value it states, which Pillow stretches to 65535."""
    values = np.arange(largest - 256, largest).reshape(16, 16)
    values[0, 0] = 0
    rows = values.astype(">u2").tobytes() if magic == "P5" else " ".join(map(str, values.flat)).encode()
    path = tmp_path / "0.pgm"
    path.write_bytes(f"{magic} # a sensor's\n16 16\n# largest\n{largest}\n".encode() + rows)
    assert np.array_equal(np.rint(read_depth_m(path) * 1000), values)
    path.write_bytes(f"{magic}\n#{'-' * 5000}\n16 16 {largest}\n".encode() + rows)
    with pytest.raises(InputError, match=r"0.pgm: its header states no largest value within 4096 bytes"):
        read_depth_m(path)


def test_pictures_that_would_start_programs(tmp_path):
    path = tmp_path / "0.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(InputError, match="cannot be decoded"):
        read_color(path)


def test_a_tuple_doubled_again_and_again_is_not_written_out(tmp_path):
    """445 bytes that stand for 2¹⁴⁰ numbers, wherever an error would name them."""
    doubled = b"K\x01" + b"2\x86" * 140
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    shape = rebuild + hostile.storage(4) + b"K\0" + doubled + b"K\x01K\x01\x86\x89NtR"
    words = hostile.text("storage") + b"ctorch\nFloatStorage\n" + hostile.text("0") + hostile.text("cpu")
    numel = rebuild + b"(" + words + doubled + b"tQK\0K\x01\x85K\x01\x85\x89NtR"
    for content in (shape, numel):
        path = hostile.write_zip(tmp_path / "x.pth", hostile.state_dict(content))
        with pytest.raises(InputError, match="a tuple") as error, open_torch_file(path) as file:
            find_state_dict(file.content)
        assert len(str(error.value)) < 500


def test_a_dict_in_very_many_places_is_looked_at_for_a_while():
    inner: dict = {f"k{number}": {} for number in range(2000)}
    content = {f"a{k}": {f"b{k}": inner for k in range(2000)} for k in range(2000)}
    assert find_state_dict(content) is None


def test_what_other_entries_of_archives_hold(tmp_path):
    path = hostile.write_zip(tmp_path / "x.pth", hostile.state_dict(b"K\x01"), compression=8)
    with pytest.raises(InputError, match="compressed, encrypted or larger"), open_torch_file(path):
        pass


def test_names_that_steer_a_terminal_are_shown_as_escapes(capsys):
    assert shown("a\x1b[2Jb\x07\u202ec\ud800") == "a\\x1b[2Jb\\x07\\u202ec\\ud800"
    assert shown("täglich 机\n\tb") == "täglich 机\n\tb"
    out = io.StringIO()
    screen = Screen(file=out, width=80)
    table = Table("scene\x1b]0;x")
    table.add_row("room\x1b[31m")
    table.add_row(Text("attic\x1b[31m", style="red"))
    screen.print("hall\x1b[2J", markup=False)
    screen.out("den\x1bc")
    screen.print(table)
    assert "\x1b" not in out.getvalue() and out.getvalue().count("\\x1b") == 5


def test_commands_show_things_on_the_screen_alone() -> None:
    commands = Path(cli.__file__).parent / "commands"
    assert [path.name for path in commands.rglob("*.py") if "Console()" in path.read_text()] == []


def test_errors_name_the_beginning_of_what_is_endless():
    assert len(str(InputError("x" * 10**6))) < MOST_LETTERS + 10
    doubled: list = [1]
    for _ in range(60):
        doubled = [doubled, doubled]
    assert len(brief(doubled)) < 500 and len(brief("x" * 10**6)) < 200


def test_links_that_lead_out_are_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "run" / "config.json").symlink_to("../secret.json")
    (tmp_path / "run" / "last").symlink_to("step")
    check_inside(tmp_path / "run" / "last", tmp_path / "run")
    with pytest.raises(InputError, match="leads out of"):
        check_inside(tmp_path / "run" / "config.json", tmp_path / "run")
