"""Materials of OBJ files (MTL): a texture or a colour.

The format has no encoding: programs write names in their machine's (GBK, Windows-1252). They are kept
byte for byte (surrogateescape), so that those of both files match.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

import numpy as np

from bifusion.datasets.recordings.text_files import as_numbers
from bifusion.errors import InputError
from bifusion.untrusted.files import check_inside, is_file, read_bytes

OPTION_WORDS = {
    "-blendu": 1, "-blendv": 1, "-boost": 1, "-mm": 2, "-o": 3, "-s": 3, "-t": 3, "-texres": 1,
    "-clamp": 1, "-bm": 1, "-imfchan": 1, "-type": 1, "-colorspace": 1,
}  # fmt: skip
"""What may stand before a texture's file, and how many words each takes at most; of those with three
numbers the second and third may be left out."""
ENCODINGS = ("gbk", "cp1252", "shift_jis", "euc_kr", "cp1251")
"""In which a file may be meant that a name is not of as it stands; messages show the first two."""
ADVICE = "export the mesh again"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass
class Material:
    """What a face looks like."""

    library: Path
    """The file that it stands in; its texture lies beside it."""
    texture: str = ""
    """Options and name of its texture as they are written, none where this is empty."""
    diffuse: np.ndarray | None = None
    """(3,) of 0 … 255."""

    def texture_file(self) -> Path | None:
        """None where it has no texture. InputError for one that is not there, or is moved by options."""
        if not self.texture:
            return None
        name = _without_options(self.texture, self.library)
        found = _beside(self.library, name)
        if not is_file(found):
            raise InputError(
                f"{self.library}: its texture {_shown(name)} is not beside it; copy it too, or export "
                "the mesh with vertex colours"
            )
        return found


def read_materials(obj: Path, libraries: Sequence[str]) -> dict[str, Material]:
    """Name → material, of the libraries that an OBJ file names.

    Raises InputError: a library that is not there.
    """
    found: dict[str, Material] = {}
    for name in libraries:
        paths = [_beside(obj, name)]
        if not is_file(paths[0]):  # several, then; a single name may have blanks
            paths = [_beside(obj, word) for word in name.split()]
        if not paths or not all(map(is_file, paths)):
            raise InputError(
                f"{obj}: its materials {_shown(name)} are not beside it; copy them and their textures "
                "too"
            )
        for path in paths:
            found |= _parse(path)
    return found


def _parse(path: Path) -> dict[str, Material]:
    materials: dict[str, Material] = {}
    current = Material(path)
    text = read_bytes(path, advice=ADVICE).decode("utf-8-sig", "surrogateescape")
    for line in text.splitlines():
        word, *after = line.split(None, 1) or [""]
        rest = after[0].strip() if after else ""
        if word == "newmtl":
            current = materials.setdefault(rest, Material(path))
        elif word.lower() == "kd" and len(rest.split()) == 3:
            values = as_numbers([rest.split()], path)[0]
            current.diffuse = np.clip(np.nan_to_num(values), 0, 1) * 255
        elif word.lower() == "map_kd":
            current.texture = rest
    return materials


def _without_options(rest: str, path: Path) -> str:
    """The file's name, which may have blanks, behind the options. InputError for one that moves it."""
    while (parts := rest.split(None, 1)) and parts[0] in OPTION_WORDS and len(parts) > 1:
        option, rest = parts[0], parts[1]
        for place in range(OPTION_WORDS[option]):
            word, *after = rest.split(None, 1)
            if not after or (place and OPTION_WORDS[option] == 3 and not _NUMBER.fullmatch(word)):
                break
            if place < 2 and _NUMBER.fullmatch(word) and _moves(option, float(word)):
                raise InputError(
                    f"{path}: moves its texture by {option} {word[:20]}, which is not read; export the "
                    "mesh without, or with vertex colours"
                )
            rest = after[0]
    return rest


def _moves(option: str, number: float) -> bool:
    """Whether an option takes a texture, which repeats, elsewhere in u or v."""
    return (option == "-o" and number % 1 != 0) or (option == "-s" and number != 1)


def _beside(path: Path, name: str) -> Path:
    """The file in `path`'s folder, or below, that is meant by a name from some other machine: in its
    encoding, with % before what is no letter, or with upper and lower case as one.

    InputError: a link that leads out of there, and out of where `path` is itself a link to.
    """
    meant = [_within(path.parent, reading) for reading in _readings(name)]
    found = next(filter(is_file, meant), meant[0])
    if not Path(os.path.realpath(found)).is_relative_to(Path(os.path.realpath(path)).parent):
        check_inside(found, path.parent)
    return found


def _readings(name: str) -> list[str]:
    names = [name, unquote(name, errors="surrogateescape")]
    for one in names[:]:
        if not one.isascii():
            names += [_bytes(one).decode(encoding, "replace") for encoding in ENCODINGS]
    return list(dict.fromkeys(names))


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _shown(name: str) -> str:
    """The name of a file for people: in encodings that it may be in, where it is not in UTF-8."""
    readings = [name]
    if any("\udc80" <= letter <= "\udcff" for letter in name):
        readings = [_bytes(name).decode(encoding, "replace") for encoding in ENCODINGS[:2]]
    return " or ".join(_parts(reading).name[:120] for reading in readings)


def _parts(name: str) -> PureWindowsPath:
    return PureWindowsPath(name.replace("\0", "").strip().strip('"'))


def _within(folder: Path, name: str) -> Path:
    parts = _parts(name)
    if parts.is_absolute() or parts.drive or parts.root or ".." in parts.parts:
        parts = PureWindowsPath(parts.name)
    meant = folder / Path(*parts.parts)
    if is_file(meant) or not meant.parent.is_dir():
        return meant
    alike = [one for one in meant.parent.iterdir() if one.name.lower() == meant.name.lower()]
    return alike[0] if len(alike) == 1 else meant
