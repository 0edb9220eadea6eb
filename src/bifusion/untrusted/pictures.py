"""Pictures and depth images of strangers, decoded within limits or refused by name."""

from __future__ import annotations

import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from bifusion.errors import InputError
from bifusion.untrusted.files import open_regular

DEPTH_SCALE = 1000.0
"""Stored depth is uint16 millimetres."""
MOST_PIXELS = 80_000_000
"""Of one picture; cameras of phones have 48 million, textures up to 8192²."""
FORMATS = (
    "JPEG", "PNG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "PPM", "TGA", "GIF", "JPEG2000", "AVIF",
)  # fmt: skip
"""Of pictures. Pillow knows others, for some of which it starts programs (EPS)."""
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError, LookupError, TypeError,
    AttributeError, ArithmeticError, AssertionError, RuntimeError, MemoryError,
)  # fmt: skip
"""What Pillow raises on files that are no pictures, or damaged ones."""
PGM_HEADER = re.compile(rb"P[25]" + 3 * rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})")
"""Width, height and largest value, with comments between them."""
MOST_HEADER = 4096
"""Bytes of a PGM in which its header must end: comments may be of any length."""
TWELVE_BITS = 4095
"""Cameras' own numbers in 16 bits go up to here at most; in 16-bit colours that is nearly black."""
UPRIGHT = 1
"""The orientation tag of pictures that are stored as they are to be seen."""

_logger = logging.getLogger(__name__)


def image_size(image: np.ndarray) -> tuple[int, int]:
    """(width, height) of an array (H, W, ...)."""
    return image.shape[1], image.shape[0]


def read_color(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file, upright."""
    return read_upright(path)[0]


def read_upright(path: Path) -> tuple[np.ndarray, int]:
    """(H, W, 3) uint8 RGB of an image file, turned as its orientation tag says, and that tag, 1 … 8.

    Of 16 bits a channel the upper 8 are taken; a picture that uses so few of the 16 that it comes out
    nearly black is warned of, once a folder. InputError for a single channel of more than 8 bits,
    which nothing says how to map to 0 … 255.
    """
    image = _decode_file(path)
    return _rgb(image, path), _orientation(image, path)


def image_mode(path: Path) -> str:
    """Pillow's name of how a picture's pixels are stored; InputError where it is none."""
    with open_regular(path) as file:
        return _opened(file, path).mode


def decode_color(file: IO[bytes], where: str) -> np.ndarray:
    """As `read_color`, of an image within another file; `where` names it in errors."""
    return _rgb(_decode(file, where), where)


def _rgb(image: Image.Image, where: str | Path) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        raise InputError(
            f"{where}: has image mode {image.mode}, one channel of more than 8 bits; expected a colour "
            "picture: is it the depth?"
        )
    with _decoding(where):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _orientation(image: Image.Image, where: str | Path) -> int:
    with _decoding(where):
        tag = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    return tag if tag in range(1, 9) else UPRIGHT


def read_depth_m(path: Path, units_per_metre: float = DEPTH_SCALE) -> np.ndarray:
    """(H, W) float32 metres of a uint16 PNG or PGM (of millimetres), 0 where nothing was measured.

    65535, which some Kinect exports write for "no reading", counts as not measured too.
    """
    if not path.exists():
        raise InputError(
            f"{path}: the view has no depth; expected a 16-bit PNG in millimetres beside its image "
            "(leave the view out if it has none)"
        )
    image = _decode_file(path)
    if image.mode not in ("I;16", "I;16B", "I"):
        raise InputError(
            f"{path}: depth has image mode {image.mode}; expected one 16-bit channel in millimetres"
            f"{_depth_remedy(image.mode)}"
        )
    if (tag := _orientation(image, path)) != UPRIGHT:
        raise InputError(
            f"{path}: depth has an orientation tag ({tag}); store it as its intrinsics "
            "see it, without the tag"
        )
    raw = np.array(image)
    if image.format == "PPM":
        raw = _unstretched(raw, path)
    return np.where(raw == 65535, 0, raw).astype(np.float32) / np.float32(units_per_metre)


def read_float_picture(path: Path) -> np.ndarray:
    """(H, W) float32 as stored in a picture of one channel of floats. InputError: any other."""
    image = _decode_file(path)
    if not image.mode.startswith("F"):
        raise InputError(f"{path}: has image mode {image.mode}; expected one channel of floats")
    return np.array(image, np.float32)


def _depth_remedy(mode: str) -> str:
    """What to do about a picture that holds no depth of 16 bits."""
    if mode.startswith("F"):
        return ": floats; if they are metres, store 1000 times as much as a 16-bit PNG"
    if mode in ("1", "L", "LA", "La"):
        return ": 8 bits or fewer do not hold the depth of a room; export it again with 16"
    return ": this is a picture for the eye, whose colours give no depth back; export the raw depth"


def _unstretched(raw: np.ndarray, path: Path) -> np.ndarray:
    """Values (H, W) as a PGM has them: Pillow stretches them from its largest value to 65535. Exact, as
    the stretched values are farther apart than they were."""
    with open_regular(path) as file:
        found = PGM_HEADER.match(file.read(MOST_HEADER))
    if not found:
        raise InputError(
            f"{path}: its header states no largest value within {MOST_HEADER} bytes; store depth as a "
            "16-bit PNG, or without comments"
        )
    return np.rint(raw * (int(found[3]) / 65535))


def _decode_file(path: Path) -> Image.Image:
    missing = "no such image; the view's colour image is expected there"
    with open_regular(path, missing=missing) as file:  # Pillow leaves what it cannot decode open
        return _decode(file, path)


def _decode(file: IO[bytes], where: str | Path) -> Image.Image:
    """The decoded image; every way in which a file can fail to be one becomes an InputError."""
    image = _opened(file, where)
    of_16_bits = _is_of_16_bits(image)
    with _decoding(where):
        image.load()
        if of_16_bits and image.mode in ("RGB", "RGBA"):
            high = max(channel[1] for channel in image.getextrema()[:3])  # type: ignore[index]
            if 0 < high <= TWELVE_BITS >> 8:  # of what Pillow keeps, the upper 8 bits
                _warn_of_fewer_bits(Path(where).parent, 10 if high < 4 else 12)
    return image


def _is_of_16_bits(image: Image.Image) -> bool:
    """Whether its channels are stored in 16 bits each, as far as its format tells before decoding."""
    stored = (tile[3] for tile in getattr(image, "tile", []))
    return any(";16" in str(one[0] if isinstance(one, tuple) else one) for one in stored)


@cache
def _warn_of_fewer_bits(folder: Path, bits: int) -> None:
    """Once a folder, as what holds of one picture holds of its neighbours."""
    _logger.warning(
        "%s: colours of a picture of 16 bits go no higher than %s of 65,535, as of %d bits in 16; they "
        "are taken as they stand, nearly black: if the camera saw more, export the pictures with 8 bits "
        "a channel, or multiplied by %d",
        folder,
        f"{(1 << bits) - 1:,}",
        bits,
        1 << 16 - bits,
    )


def _opened(file: IO[bytes], where: str | Path) -> Image.Image:
    """The image, before memory is taken for it: only its size has been looked at."""
    with _decoding(where):
        image = Image.open(file, formats=_formats())
    if image.width * image.height > MOST_PIXELS:
        raise InputError(
            f"{where}: says it is {image.width}×{image.height} pixels; expected at most "
            f"{MOST_PIXELS:,} in all: copy it again, or reduce it"
        )
    return image


@cache
def _formats() -> list[str]:
    """Those that Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextmanager
def _decoding(where: str | Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{where}: is too large a picture ({error})") from None
    except PILLOW_ERRORS as error:
        raise InputError(f"{where}: cannot be decoded as an image ({error}); copy it again") from None
