"""Content checks of scenes, poses and cameras; each raises InputError that says what to do.

Checks that read whole arrays run where scenes are written or prepared; loading only looks at
shapes and dtypes (`scene_folder.py`), and at the few numbers of a camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bifusion.errors import InputError, listing
from bifusion.types import Scene, View

ROTATION_TOLERANCE = 1e-3
"""Largest |RᵀR − 1| of a pose; ScanNet's text files keep six decimals."""

LAST_ROW_TOLERANCE = 1e-6

KEPT_M = 1e-3
"""Most that a coordinate may move when it becomes float32."""

MOST_COORDINATE = 1e12
"""A place on Earth in millimetres from the other side of it takes 2e10."""

FOCAL_LENGTHS = (0.01, 1000.0)
"""Least and most, in the image's longer sides: a fisheye's have about 0.2, a telephoto lens 50."""

PRINCIPAL_POINT_TOLERANCE = 0.2
"""Largest distance of the principal point from the image centre, as a share of the image's width or
height. Intrinsics of an image twice as large or small are off by at least 0.25."""

TURNED = (0.1, 0.03)
"""Principal points farther from the centre than the first are of the picture turned by a quarter if they
are nearer to that one's than the second: of 4:3 they are off by 0.17."""


def require_text(name: str, what: str) -> str:
    """`name` of `what`, such as "scene", as records and pages can hold it.

    InputError for what the bytes of a file's name become that are no UTF-8, as archives of systems with
    other encodings leave them.
    """
    try:
        str(name).encode()  # what code from outside calls a scene may be a number
    except UnicodeEncodeError:
        raise InputError(
            f"{what} {name!r}: its name is no text in UTF-8, as archives of other systems leave it; "
            "rename it"
        ) from None
    return name


def check_pose(cam2world: np.ndarray, where: str | Path) -> np.ndarray:
    """`cam2world` as (4, 4) float64 if it is a rigid transform, else InputError naming `where`.

    ScanNet writes a pose of −inf where its tracking was lost; that is refused here too.
    """
    pose = np.asarray(cam2world, dtype=np.float64)
    if pose.shape != (4, 4):
        raise InputError(
            f"{where}: the pose has shape {pose.shape}; expected a 4×4 camera-to-world matrix"
        )
    if not np.isfinite(pose).all():
        raise InputError(
            f"{where}: the pose is not finite (ScanNet writes -inf where tracking was lost); "
            "leave this view out (`bifusion prepare scannet` skips and counts such views)"
        )
    rotation = pose[:3, :3]
    skewness = np.abs(rotation.T @ rotation - np.eye(3)).max()
    determinant = float(np.linalg.det(rotation))
    if skewness > ROTATION_TOLERANCE or determinant < 0:
        raise InputError(
            f"{where}: the pose is no rigid transform (|RᵀR − 1| = {skewness:.2g}, det R = "
            f"{determinant:.3g}; expected 0 and 1); give camera-to-world without scale or mirroring"
        )
    if np.abs(pose[3] - (0, 0, 0, 1)).max() > LAST_ROW_TOLERANCE:
        raise InputError(f"{where}: the pose's last row is {pose[3].tolist()}; expected [0, 0, 0, 1]")
    return pose


def check_poses(cam2world: np.ndarray, names: Sequence[str], where: str | Path, camera: str) -> None:
    """InputError if one of (V, 4, 4) poses is no rigid transform, as `check_pose` says of the first; the
    others are named.

    Args:
        names: of the V views.
        camera: whose poses these are, in words.
    """
    bad = np.flatnonzero(~_rigid(np.asarray(cam2world, dtype=np.float64)))
    if not len(bad):
        return
    try:
        check_pose(cam2world[bad[0]], f"{where}: view {names[bad[0]]}, {camera}")
    except InputError as error:
        others = [str(names[row]) for row in bad[1:].tolist()]
        more = f"; so it is with {len(others)} other views ({listing(others)})" if others else ""
        raise InputError(f"{error}{more}") from None


def _rigid(poses: np.ndarray) -> np.ndarray:
    """(V,) bool: which of (V, 4, 4) poses `check_pose` takes."""
    finite = np.asarray(np.isfinite(poses).all(axis=(1, 2)))
    poses = np.where(finite[:, None, None], poses, 0)
    rotation = poses[:, :3, :3]
    skewness = np.abs(rotation.transpose(0, 2, 1) @ rotation - np.eye(3)).max(axis=(1, 2))
    last_row = np.abs(poses[:, 3] - (0, 0, 0, 1)).max(axis=1)
    right_handed = np.linalg.det(rotation) >= 0
    return finite & right_handed & (skewness <= ROTATION_TOLERANCE) & (last_row <= LAST_ROW_TOLERANCE)


def check_intrinsics(K: np.ndarray, size: tuple[int, int], where: str | Path) -> np.ndarray:
    """`K` as (3, 3) float64 if it is a pinhole matrix of an image of `size` (width, height).

    Raises InputError for another shape, focal lengths that no camera has, and a principal point so far
    from the centre that the matrix must belong to an image of another size.
    """
    matrix = np.asarray(K, dtype=np.float64)
    if matrix.shape != (3, 3):
        raise InputError(
            f"{where}: the intrinsics have shape {matrix.shape}; expected a 3×3 pinhole matrix"
        )
    if not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise InputError(
            f"{where}: the intrinsics need finite, positive focal lengths; found {matrix.tolist()}"
        )
    least, most = (factor * max(size) for factor in FOCAL_LENGTHS)
    if not least <= min(matrix[0, 0], matrix[1, 1]) <= max(matrix[0, 0], matrix[1, 1]) <= most:
        raise InputError(
            f"{where}: focal lengths are {matrix[0, 0]:g} and {matrix[1, 1]:g}; expected {least:g} to "
            f"{most:g} pixels for an image of {size[0]}×{size[1]}"
        )
    off_pinhole = np.abs([matrix[0, 1], matrix[1, 0], *(matrix[2] - (0, 0, 1))]).max()
    if off_pinhole > 1e-6:
        raise InputError(
            f"{where}: expected intrinsics [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]; "
            f"found {matrix.tolist()}"
        )
    turned = (size[1], size[0])
    if off_centre(matrix, size) > TURNED[0] and off_centre(matrix, turned) < TURNED[1]:
        raise InputError(
            f"{where}: the intrinsics are those of the picture turned by a quarter, {turned[0]}×"
            f"{turned[1]}: cx, cy = {matrix[0, 2]:.1f}, {matrix[1, 2]:.1f} in an image of {size[0]}×"
            f"{size[1]} pixels; turn the picture back, or intrinsics and pose with it"
        )
    for centre, length, axis in ((matrix[0, 2], size[0], "cx"), (matrix[1, 2], size[1], "cy")):
        if abs((centre + 0.5) / length - 0.5) > PRINCIPAL_POINT_TOLERANCE:
            raise InputError(
                f"{where}: the intrinsics belong to another image size: {axis} = {centre:.1f} in an "
                f"image of {size[0]}×{size[1]} pixels; scale them to this image (fx' = fx·s, "
                "cx' = (cx + 0.5)·s − 0.5)"
            )
    return matrix


def off_centre(K: np.ndarray, size: tuple[int, int]) -> float:
    """How far the principal point of `K` (3, 3) lies from the centre of an image of `size` (width,
    height), as a share of its width or height, whichever is more."""
    return float(np.abs((K[:2, 2] + 0.5) / size - 0.5).max())


def check_view(view: View, where: str | Path) -> None:
    """Everything that makes a view usable: image types, depth, intrinsics, rigid poses."""
    for name, image in (("color", view.color), ("depth_m", view.depth_m)):
        if not isinstance(image, np.ndarray):
            raise InputError(f"{where}: {name} is a {type(image).__name__}; expected a numpy array")
    is_picture = view.color.ndim == 3 and view.color.shape[2] == 3 and view.color.size > 0
    if not is_picture or view.color.dtype != np.uint8:
        raise InputError(
            f"{where}: colour image is {view.color.dtype} {view.color.shape}; expected uint8 (H, W, 3)"
        )
    if view.depth_m.ndim != 2 or view.depth_m.size == 0:
        raise InputError(
            f"{where}: view has no depth (shape {view.depth_m.shape}); expected (H, W) metres"
        )
    if view.depth_m.dtype.kind != "f":
        raise InputError(
            f"{where}: depth_m holds {view.depth_m.dtype}; expected float metres: divide by the units a "
            "metre, 1000 for millimetres"
        )
    if not np.isfinite(view.depth_m).all() or view.depth_m.min() < 0:
        raise InputError(f"{where}: depth must be finite and ≥ 0 metres (0 where nothing was measured)")
    for camera, image in (("color", view.color), ("depth", view.depth_m)):
        size = (image.shape[1], image.shape[0])
        check_intrinsics(getattr(view, f"{camera}_K"), size, f"{where} ({camera} camera)")
        check_pose(getattr(view, f"{camera}_cam2world"), f"{where} ({camera} camera)")


def check_scene(scene: Scene, where: str | Path) -> None:
    """Full check of a scene's arrays: counts, finite coordinates, compact superpoint ids."""
    count = len(scene.coord)
    if scene.coord.ndim != 2 or scene.coord.shape[1] != 3 or count == 0:
        raise InputError(f"{where}: coord has shape {scene.coord.shape}; expected (N, 3) with N ≥ 1")
    expected = {"color": (count, 3), "superpoint": (count,), "segment": (count,), "instance": (count,),
                "normal": (count, 3)}  # fmt: skip
    for name, shape in expected.items():
        array = getattr(scene, name)
        if array is not None and array.shape != shape:
            raise InputError(
                f"{where}: {name} has shape {array.shape}; coord has {count} points, expected {shape}"
            )
    check_finite(scene.coord, where)
    ids = np.unique(scene.superpoint)
    if ids[0] != 0 or ids[-1] != len(ids) - 1:
        raise InputError(
            f"{where}: superpoint ids go from {ids[0]} to {ids[-1]} but {len(ids)} are used; expected "
            "0 … S−1 without gaps (numpy.unique(..., return_inverse=True) makes them so)"
        )


def check_finite(coord: np.ndarray, where: str | Path) -> None:
    """InputError if a coordinate is NaN, infinite, or larger than any scan's in any unit."""
    bad = ~(np.abs(coord) <= MOST_COORDINATE).all(axis=1)
    if bad.any():
        finite = np.isfinite(coord).all()
        what = f"beyond {MOST_COORDINATE:.0e}, as no scan has it" if finite else "that is not finite"
        raise InputError(
            f"{where}: {int(bad.sum())} of {len(coord)} points have a coordinate {what} "
            f"(first: point {int(bad.argmax())} = {coord[bad.argmax()].tolist()}); remove these points"
        )


def array_remedy(shape: tuple[int, ...], dtype: np.dtype, row: tuple[int, ...], name: str) -> str:
    """What makes an array of (N, *row) numbers of the one called `name`, of another shape or type; ""
    where nothing tells. `row` is (3,) of points and () of labels."""
    if dtype.names:
        return f": numpy.lib.recfunctions.structured_to_unstructured({name}) makes columns of fields"
    if dtype.kind in "OUS" and shape:
        return f": np.stack({name}).astype(float)" if len(shape) == 1 else f": {name}.astype(float)"
    if len(shape) == len(row) + 2 and shape[0] == 1:
        return f": {name}[0]"
    if row == () and len(shape) == 2 and 1 in shape:
        return f": {name}.ravel()"
    if row and len(shape) == 2 and shape[0] == row[0]:
        return f": {name}.T"
    if row and len(shape) == 2 and shape[1] > row[0]:
        return f": {name}[:, :{row[0]}], if those come first"
    return ""


def half_note(numbers: np.ndarray) -> str | None:
    """What to say of metres that were stored as float16 and lost their millimetres; None of others."""
    if numbers.dtype != np.float16 or not numbers.size:
        return None
    step = float(np.spacing(np.abs(numbers).max()))
    if not step > KEPT_M:
        return None
    return (
        f"holds float16, whose steps are up to {step:.2g} there: places that far off blur surfaces; "
        "save it as float32 where it is made"
    )


def range_remedy(numbers: np.ndarray, name: str) -> str:
    """What makes (N,) whole numbers fit that are too large for the array called `name`; "" where nothing
    tells."""
    if numbers.dtype.kind == "u" and numbers.max() == np.iinfo(numbers.dtype).max:
        return f": {numbers.max()} is -1 without its sign: {name}.view({numbers.dtype.name[1:]!r})"
    if numbers.dtype.kind in "iu" and name in ("instance", "superpoint"):
        return f": number them anew, np.unique({name}, return_inverse=True)[1], and -1, of none, apart"
    return ""


def color_note(color: np.ndarray) -> str | None:
    """What to say of (N, 3) uint8 colours that cannot be a scan's: all one, or shares of 1 without their
    fractions. None for others."""
    if len(color) < 2:
        return None
    if (color == color[0]).all():
        return (
            f"all points have the colour {color[0].tolist()}; expected those of the scan: was it "
            "exported without?"
        )
    if color.max() <= 1:
        return (
            "no colour is above 1 of 255; expected those of the scan: multiply colours of 0 … 1 by 255 "
            "before they become whole numbers"
        )
    return None
