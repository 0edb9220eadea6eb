"""Single arguments that a user gives as arrays; each refusal names the argument."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from bifusion.data.checks import array_remedy, check_finite, color_note, range_remedy
from bifusion.data.scene_folder import as_bytes
from bifusion.datasets.placement import COARSE_M, extent_note, extent_of, is_too_large, stray_note
from bifusion.errors import InputError
from bifusion.labels.label_set import LabelSet, check_labels
from bifusion.labels.sets import get_label_set

UNIT_TOLERANCE = 0.01
"""Largest | |n| − 1 | of a normal; zero stands for none."""


def read_points(coord: Any) -> np.ndarray:
    """(N, 3) float64, finite, N ≥ 1."""
    numbers = _numbers(coord, "coord", (None, 3))
    points = numbers.astype(np.float64)
    if not len(points):
        raise InputError("coord: holds no point; expected at least one")
    check_finite(points, "coord")
    if numbers.dtype.kind == "f" and (note := _coarse_note(numbers)):
        warnings.warn(f"coord: {note}", stacklevel=4)
    return points


def _coarse_note(coord: np.ndarray) -> str | None:
    """What to say of (N, 3) floats whose type had no place for millimetres, so that they are lost."""
    typical = np.abs(np.median(coord, axis=0)).max()  # whatever stray points there are
    step = float(np.spacing(typical.astype(coord.dtype)))
    if step <= COARSE_M:
        return None
    return (
        f"is {coord.dtype} around {typical:,.0f}, where its steps are {step:.2g} m: points lie that far "
        "off; give float64 as it was before, or subtract an offset before making it smaller"
    )


def read_colors(color: Any) -> np.ndarray:
    """(N, 3) uint8."""
    numbers = _numbers(color, "color", (None, 3))
    bytes_ = as_bytes(numbers, "color")
    if bytes_.max(initial=0) == 1 and (note := color_note(bytes_)):
        warnings.warn(f"color: {note}", stacklevel=4)
    return bytes_


def read_faces(faces: Any) -> np.ndarray:
    """(F, 3) int64; F is 0 where there are none."""
    if faces is None or (isinstance(faces, list | tuple) and not faces):
        return np.zeros((0, 3), np.int64)
    numbers = _numbers(faces, "faces", (None, 3), kinds="iu")
    return numbers.astype(np.int64)


def read_normals(normal: Any, points: np.ndarray) -> np.ndarray | None:
    """(N, 3) float64 unit vectors; None stays None, and is what zeros everywhere come to."""
    if normal is None:
        return None
    vectors = _numbers(normal, "normal", (None, 3)).astype(np.float64)
    same_length(vectors, "normal", points)
    length = np.linalg.norm(vectors, axis=1)
    wrong = ~((np.abs(length - 1) < UNIT_TOLERANCE) | (length == 0))
    if wrong.any():
        raise InputError(
            f"normal: {int(wrong.sum())} of {len(points)} are no unit vectors (first: point "
            f"{int(wrong.argmax())}, length {length[wrong.argmax()]:.3g}); divide each by its length"
        )
    return vectors if length.any() else None


def read_whole(values: Any, name: str, points: np.ndarray) -> np.ndarray | None:
    """(N,) int32; None stays None."""
    if values is None:
        return None
    numbers = _numbers(values, name, (None,), kinds="iu")
    same_length(numbers, name, points)
    whole = numbers.astype(np.int32)
    if not np.array_equal(whole, numbers):
        raise InputError(
            f"{name}: goes up to {numbers.max()}; expected numbers of 32 bits"
            f"{range_remedy(numbers, name)}"
        )
    return whole


def read_classes(segment: Any, labels: LabelSet | str | None, points: np.ndarray) -> np.ndarray | None:
    """(N,) int16 classes of the set; None stays None."""
    classes = read_whole(segment, "segment", points)
    if classes is None:
        return None
    check_labels(classes, label_set_of(labels), "segment")
    return classes.astype(np.int16)


def label_set_of(labels: Any) -> LabelSet:
    """The set, be it named; InputError for anything else."""
    if labels is None:
        raise InputError(
            "labels: segment is given, but nothing says its classes; expected a LabelSet or the name of "
            "a built-in one (`bifusion labels` lists them)"
        )
    if not isinstance(labels, LabelSet | str):
        raise InputError(
            f"labels: is a {type(labels).__name__}; expected a LabelSet (LabelSet.of(name, class_names) "
            "makes one) or the name of a built-in one"
        )
    return labels if isinstance(labels, LabelSet) else get_label_set(labels)


def as_array(values: Any, name: str, dtype: type | None = None) -> np.ndarray:
    """What numpy makes of an argument; InputError naming it where that is nothing, and where a masked
    array hides some of it: what lies under a mask is no measurement."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputError(
            f"{name}: {np.ma.count_masked(values)} of {values.size} numbers are masked; expected none: "
            "leave those points out"
        )
    try:
        array = np.asarray(values)
        is_complex = dtype is not None and array.dtype.kind == "c"
        if dtype is not None and not is_complex:
            array = array.astype(dtype, copy=False)
    except (ValueError, TypeError, RuntimeError) as error:
        # rows of unequal length, a tensor on a GPU, a tensor that requires its gradient
        raise InputError(f"{name}: is no array for numpy ({error})") from error
    if is_complex:
        raise InputError(f"{name}: holds complex numbers; expected real ones")
    return array


def _numbers(values: Any, name: str, shape: Sequence[int | None], *, kinds: str = "iuf") -> np.ndarray:
    """`values` as an array of `shape`, None: any length; InputError naming the argument."""
    array = as_array(values, name)
    fits = len(array.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in kinds:
        sizes = ", ".join("N" if size is None else str(size) for size in shape)
        what = "numbers" if "f" in kinds else "whole numbers"
        raise InputError(
            f"{name}: is {array.dtype} of shape {array.shape}; expected {what} of shape "
            f"({sizes}{',' if len(shape) == 1 else ''}){_remedy(array, name, fits, kinds)}"
        )
    return array


def _remedy(array: np.ndarray, name: str, fits: bool, kinds: str) -> str:
    """What makes the array that is expected of one of another shape or type; "" where nothing tells."""
    if not fits or array.dtype.kind not in "fb":
        row = (3,) if kinds == "iuf" or name == "faces" else ()
        return array_remedy(array.shape, array.dtype, row, name)
    if not np.isfinite(array).all():
        return ": give those without a number -1"
    return f": {name}.astype(int)" if (array == np.rint(array.astype(float))).all() else ""


def same_length(array: np.ndarray, name: str, points: np.ndarray) -> None:
    """InputError unless there is one row a point."""
    if len(array) != len(points):
        raise InputError(
            f"{name}: has {len(array)} rows; coord has {len(points)} points, expected one for each"
        )


def check_extent(points: np.ndarray) -> None:
    """InputError for coordinates that cannot be metres; a scan that is small, or high as halls are,
    only warns, and so do stray points."""
    if stray := stray_note(points):
        warnings.warn(f"coord: {stray}", stacklevel=4)
    note = extent_note(
        points, lambda factor: f"multiply coord (and the poses' translations) by {factor:g}"
    )
    if note is None:
        return
    if is_too_large(extent_of(points)):
        raise InputError(f"coord: {note}")
    warnings.warn(f"coord: {note}", stacklevel=4)
