"""A scene on disk: one folder of memory-mapped arrays and RGB-D views (format: CONVENTIONS.md).

Arrays carry Pointcept's names, so a folder of its preprocessed ScanNet loads as it is (without
views) once it has superpoints. Loading looks at shapes and dtypes only; what is not used is not
read. Writing checks everything.
"""

from __future__ import annotations

import importlib.metadata
import json
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.data.checks import KEPT_M, array_remedy, check_scene, half_note, range_remedy, require_text
from bifusion.data.scene_sums import SUMS, write_sums
from bifusion.data.view_files import has_views, load_cameras, read_cameras, write_views
from bifusion.errors import InputError, listing
from bifusion.labels.label_set import LabelSet, check_labels
from bifusion.storage.files import write_array
from bifusion.storage.folders import folder_written_beside
from bifusion.types import Scene, View
from bifusion.untrusted.arrays import load_npy
from bifusion.untrusted.files import is_leftover
from bifusion.untrusted.json_text import read_json

SEGMENT_FILES = {"scannet20": "segment20.npy", "scannet200": "segment200.npy"}
"""Files with the semantic classes of the two sets that Pointcept's ScanNet folders hold side by side."""

ARRAYS = ("coord", "color", "normal", "segment20", "segment200", "instance", "superpoint")
"""What a scene.json without a list of files was written with."""
FORMAT_VERSION = 1
OVERSHOOT = 15.0
"""Colours of 0 … 255 may go so far beyond it where they were interpolated or corrected."""


SPLITS = ("train", "val", "test")
"""Folders of a data set, each of scene folders."""


def segment_file(labels: LabelSet) -> str:
    """Name of the file with a scene's semantic classes in the order of `labels`."""
    return SEGMENT_FILES.get(labels.name, "segment.npy")


def scene_folders(split: Path) -> list[Path]:
    """The scene folders in a split's, by name; none where it is not there. Those that are still being
    written begin with a dot, and archives leave some of their own."""
    return sorted(path for path in split.glob("*") if path.is_dir() and not is_leftover(path))


def data_sets_in(folder: Path) -> list[Path]:
    """The data sets in a folder, by name: folders whose splits hold scenes."""
    splits = (split for name in SPLITS for split in folder.glob(f"[!.]*/{name}"))
    return sorted({split.parent for split in splits if any(split.glob("[!.]*/coord.npy"))})


def refuse_folder_of_scenes(folder: Path) -> None:
    """InputError for a split, a data set or a folder of those where one scene is meant."""
    if (folder / "coord.npy").exists():
        return
    inside = [
        path.parent for depth in ("[!.]*", "[!.]*/[!.]*") for path in folder.glob(f"{depth}/coord.npy")
    ]
    if inside:
        names = listing(sorted(str(path.relative_to(folder)) for path in inside), 3)
        raise InputError(f"{folder}: is no scene folder but holds some: {names}; give one of them")
    if several := data_sets_in(folder):
        names = listing([path.name for path in several], 3)
        raise InputError(f"{folder}: is no scene folder but holds data sets: {names}; give one of those")


def load_scene(folder: Path, labels: LabelSet | None, *, read_views: bool = True) -> Scene:
    """The scene in `folder`; its arrays are read-only memory maps where the stored dtype is ours.

    Args:
        folder: scene folder of this project or of Pointcept's preprocessed ScanNet.
        labels: chooses the file of semantic labels (`segment_file`); where it is absent, segment is
            None. None: annotation is not looked at, segment and instance are None.
        read_views: False leaves `view_names` empty and opens nothing under views/
    Raises:
        InputError: a missing, truncated or misshapen array.
    """
    folder = Path(folder)
    refuse_folder_of_scenes(folder)
    coord, color, normal = load_points(folder)
    count = len(coord)
    if not (folder / "superpoint.npy").exists():
        raise InputError(
            f"{folder}: superpoint.npy is missing (Pointcept's folders have none); compute it with "
            f"`bifusion prepare superpoints {folder}` (a whole data set at once: name its folder)"
        )
    segment, instance = (None, None) if labels is None else load_labels(folder, labels, count)
    views = read_views and has_views(folder)
    return Scene(
        name=folder.name,
        coord=coord,
        color=color,
        superpoint=load_array(folder / "superpoint.npy", count, (), np.int32),
        segment=segment,
        instance=instance,
        normal=normal,
        view_names=load_cameras(folder).names if views else [],
    )


def load_points(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Coordinates, colours and normals (None: not stored) of a scene folder, as in `Scene`.

    Raises InputError: no folder, no point, a missing, truncated or misshapen array.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such scene folder; `bifusion prepare` makes them")
    coord = load_array(folder / "coord.npy", None, (3,), np.float32)
    if len(coord) == 0:
        raise InputError(f"{folder / 'coord.npy'}: holds no point; expected at least one")
    color = load_array(folder / "color.npy", len(coord), (3,), np.uint8)
    return coord, color, _load_if_there(folder / "normal.npy", len(coord), (3,), np.float32)


def load_labels(
    folder: Path, labels: LabelSet, count: int | None = None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(N,) int16 classes and (N,) int32 instances of a scene folder as stored, None where there is no
    such file. `count`: points that both must be of. InputError as in `load_scene`."""
    return (
        _load_if_there(folder / segment_file(labels), count, (), np.int16),
        _load_if_there(folder / "instance.npy", count, (), np.int32),
    )


def write_scene(
    folder: Path,
    scene: Scene,
    *,
    segments: Mapping[LabelSet, np.ndarray],
    views: Iterable[View] = (),
    pictures: Mapping[str, Path] | None = None,
    source: str,
    axis_alignment: np.ndarray | None = None,
    offset_m: np.ndarray | None = None,
    unit_stated: bool = False,
) -> None:
    """Check and write one scene folder; it appears complete or not at all, replacing an older one.

    Files in the older one that were not written here, a user's notes, move into the new one.

    Args:
        folder: target, e.g. root/train/NAME.
        scene: arrays; its `segment`, `view_names` are not used (see `segments`, `views`).
        segments: label set → (N,) semantic classes in that set's order, −1 unlabelled; may be
            empty for scans without annotation.
        views: written one at a time; may be a generator.
        pictures: as of `write_views`.
        source: where the scene comes from, for scene.json.
        axis_alignment: (4, 4) transform from the recording's raw frame, in metres, which points and
            poses already went through; None: there is no raw frame.
        offset_m: (3,) what was taken off points and poses afterwards, as they were far from the origin;
            what is predicted gets it back. None: nothing.
        unit_stated: a file or a user said the unit that was made metres of.
    Raises:
        InputError: arrays that disagree, coordinates that are not finite, labels out of range,
            superpoint ids with gaps, a view that fails `check_view`; a folder at this place that was
            not written here; a name that is no text.
    """
    folder = Path(folder)
    require_text(folder.name, "scene")
    require_text(source, "source")
    check_scene(scene, folder)
    arrays = {
        "coord": scene.coord.astype(np.float32),
        "color": as_bytes(scene.color, folder / "color.npy"),
        "superpoint": scene.superpoint.astype(np.int32),
    }
    if scene.normal is not None:
        arrays["normal"] = scene.normal.astype(np.float32)
    if scene.instance is not None:
        arrays["instance"] = scene.instance.astype(np.int32)
    for labels, segment in segments.items():
        arrays[Path(segment_file(labels)).stem] = _checked_segment(segment, labels, scene, folder)

    with folder_written_beside(folder, scene_files) as beside:
        for name, array in arrays.items():
            write_array(beside / f"{name}.npy", array)
        view_names = write_views(beside, views, pictures)
        written = sorted(str(path.relative_to(beside)) for path in beside.rglob("*") if path.is_file())
        write_sums(beside, written)
        description = {
            "name": folder.name,
            "source": source,
            "axis_alignment": None if axis_alignment is None else np.asarray(axis_alignment).tolist(),
            "offset_m": [0.0, 0.0, 0.0] if offset_m is None else np.asarray(offset_m, float).tolist(),
            "unit_stated": unit_stated,
            "points": len(scene.coord),
            "superpoints": int(scene.superpoint.max()) + 1,
            "views": len(view_names),
            "files": [*(f"{name}.npy" for name in arrays), SUMS],
            "versions": {"format": FORMAT_VERSION, "bifusion": importlib.metadata.version("bifusion")},
        }
        (beside / "scene.json").write_text(json.dumps(description, indent=2) + "\n")


def scene_complete(folder: Path) -> bool:
    """Whether `write_scene` finished `folder` (scene.json is in place only then)."""
    return (Path(folder) / "scene.json").exists()


def scene_files(folder: Path) -> list[str]:
    """The files in a scene folder that `write_scene` wrote, scene.json last; none in foreign folders
    (Pointcept's), nor where scene.json cannot be read."""
    try:
        described = read_description(folder)
    except InputError:
        return []
    if not isinstance(described.get("versions"), dict):
        return []
    views, cameras = Path(folder) / "views", "views/cameras.npz"
    names: list[str] = []
    if (views / "cameras.npz").is_file():
        with suppress(InputError):
            names = read_cameras(folder).names
    images = [f"views/{name}.{kind}" for name in names for kind in ("jpg", "png")]
    stated = described.get("files")
    arrays = stated if isinstance(stated, list) else [f"{name}.npy" for name in ARRAYS]
    return [*map(str, arrays), *images, cameras, "scene.json"]


def read_description(folder: Path) -> dict[str, Any]:
    """What scene.json says; nothing for a foreign folder without one. InputError where it is damaged."""
    path = Path(folder) / "scene.json"
    if not path.is_file():
        return {}
    described = read_json(path, advice="prepare the scene again")
    if not isinstance(described, dict):
        raise InputError(
            f"{path}: found {type(described).__name__}, expected a JSON object; prepare the scene again"
        )
    return described


def read_offset(folder: Path) -> np.ndarray:
    """(3,) float64 metres that were taken off a scene's points and poses; zeros where nothing says so.

    Raises InputError where scene.json is damaged.
    """
    stored = read_description(folder).get("offset_m", [0, 0, 0])
    numbers = isinstance(stored, list) and all(isinstance(x, int | float) for x in stored)
    if not numbers or len(stored) != 3 or not np.isfinite(stored).all():
        raise InputError(
            f"{Path(folder) / 'scene.json'}: offset_m is {stored!r}; expected three finite numbers"
        )
    return np.array(stored, dtype=np.float64)


def read_unit_stated(folder: Path) -> bool:
    """Whether scene.json says that the unit was stated which became metres. InputError as
    `read_description`."""
    return read_description(folder).get("unit_stated") is True


def _checked_segment(segment: np.ndarray, labels: LabelSet, scene: Scene, folder: Path) -> np.ndarray:
    where = folder / segment_file(labels)
    if segment.shape != (len(scene.coord),):
        raise InputError(f"{where}: has shape {segment.shape}; coord has {len(scene.coord)} points")
    check_labels(segment, labels, where)
    return segment.astype(np.int16)


def _load_if_there(
    path: Path, count: int | None, row: tuple[int, ...], dtype: type
) -> np.ndarray | None:
    return load_array(path, count, row, dtype) if path.exists() else None


def load_array(path: Path, count: int | None, row: tuple[int, ...], dtype: type) -> np.ndarray:
    """The array in `path`, (count, *row) of `dtype`: a memory map, or a converted copy.

    `count` None: any number of rows. InputError where it is missing, truncated, of another shape, or of
    values that `dtype` does not hold.
    """
    missing = "missing; a scene folder needs it, prepare the scene again"
    array = load_npy(path, missing=missing, advice="copy or prepare it again")
    shape = array.shape
    if row == () and len(shape) == 2 and shape[1] == 1:
        array = array[:, 0]  # some versions of Pointcept's preprocessing keep labels as (N, 1)
    if array.ndim == 0 or array.shape[1:] != row or (count is not None and len(array) != count):
        expected = str(("N" if count is None else count, *row)).replace("'", "")
        raise InputError(
            f"{path}: has shape {shape}; expected {expected}, one row for each point of coord.npy"
            f"{array_remedy(shape, array.dtype, row, path.stem)}"
        )
    if array.dtype == dtype:
        return array
    if dtype == np.uint8:
        return as_bytes(array, path)
    return _converted(array, dtype, path)


def _converted(array: np.ndarray, dtype: type, path: Path) -> np.ndarray:
    """`array` as `dtype` where its values allow it."""
    if array.dtype.kind not in "iuf":
        raise InputError(f"{path}: holds {array.dtype}; expected {np.dtype(dtype)}")
    whole = np.issubdtype(dtype, np.integer)
    if whole and not np.isfinite(array).all():
        raise InputError(f"{path}: holds numbers that are not finite; expected whole ones, −1 for none")
    converted = array.astype(dtype)
    if whole and not np.array_equal(converted, array):
        low, high = array.min(), array.max()
        raise InputError(
            f"{path}: holds {array.dtype} values from {low} to {high}, which do not fit "
            f"{np.dtype(dtype)}; expected whole numbers of that type, −1 for none"
            f"{range_remedy(array, path.stem)}"
        )
    if not whole and (note := float32_note(array, converted)):
        remedy = "and write it into scene.json as offset_m: what is predicted gets it back"
        raise InputError(f"{path}: {note}, {remedy}")
    if note := half_note(array):
        warnings.warn(f"{path.name} {note}", stacklevel=2)
    return converted


def float32_note(coord: np.ndarray, converted: np.ndarray) -> str | None:
    """What to say of (N, 3) metres that float32 (`converted`) moves, as it does those of map
    projections; None where it does not."""
    with np.errstate(invalid="ignore"):  # what is not finite is told by name elsewhere
        moved = np.abs(converted.astype(np.float64) - coord) > KEPT_M
    if not moved.any():
        return None
    low, high = np.percentile(coord, (5, 95), axis=0)  # whatever stray points there are
    if np.abs(low + high).max() / 2 <= (high - low).max():  # only large, as in millimetres
        return None
    furthest = float(np.abs(coord[moved]).max())
    return (
        f"holds {coord.dtype} up to {furthest:,.0f} from zero, where float32 has steps of "
        f"{np.spacing(np.float32(furthest)):.2g}; subtract an offset of whole metres from points and "
        "poses"
    )


def _color_remedy(dtype: np.dtype, low: float, high: float) -> str:
    """What makes colours of 0 … 255 of those from `low` to `high`."""
    if dtype == np.int8:
        return "bytes that were taken to have signs: color.view(np.uint8)"
    if dtype.kind == "f" and low >= 0 and high <= 1:
        return "multiply colours of 0 … 1 by 255"
    if dtype.kind == "f" and low >= -1 and high <= 1:
        return "colours of −1 … 1: add 1, multiply by 127.5"
    if low >= 0 and (900 if dtype.kind == "f" else 255) < high <= 65535:
        return "divide 16-bit colours by 257, of 12 bits by 16, of 10 bits by 4"
    if low >= -OVERSHOOT and 255 - OVERSHOOT < high <= 255 + OVERSHOOT:
        return "clip what went beyond it: np.clip(color, 0, 255)"
    if low < 0:
        return "undo a normalisation: multiply by its deviation, then add its mean"
    return "scale them to it"


def as_bytes(color: np.ndarray, where: Path | str) -> np.ndarray:
    """`color` as uint8, if it is of 0 … 255; means with fractions are rounded, and it is said. Floats of
    0 … 1 are no such colours, though each be 0 or 1.

    `where`: what errors call it.
    """
    if color.dtype == np.uint8:
        return color
    if color.dtype.kind not in "iuf":
        raise InputError(f"{where}: holds {color.dtype}; expected uint8")
    if not color.size:
        return color.astype(np.uint8)
    lost = ~np.isfinite(color).reshape(len(color), -1).all(axis=1)
    if lost.any():
        raise InputError(
            f"{where}: {int(lost.sum()):,} of {len(color):,} points have a colour that is not finite "
            f"(first: point {int(lost.argmax())}); expected 0 … 255: give them one, or leave them out"
        )
    whole = np.round(color)
    fractions = not np.array_equal(color, whole)
    low, high = color.min(), color.max()
    of_one = color.dtype.kind == "f" and 0 < high <= 1
    if not (low >= 0 and high <= 255) or of_one:
        raise InputError(
            f"{where}: holds {color.dtype} from {low} to {high}; expected uint8, or "
            f"numbers of 0 … 255 ({_color_remedy(color.dtype, float(low), float(high))})"
        )
    if fractions:
        name = where.name if isinstance(where, Path) else where
        warnings.warn(
            f"{name} holds {color.dtype} of 0 … 255 with fractions, like means over points: "
            "rounded when read",
            stacklevel=2,
        )
    return whole.astype(np.uint8)
