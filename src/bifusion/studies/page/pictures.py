"""Pictures of rooms: coloured points drawn obliquely from above, without a graphics library.

Points are splatted far to near into an image (the nearest is drawn last), darkened where they lie
behind their neighbours (eye-dome lighting, Boucheny 2009), and shrunk for smooth edges.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bifusion.data.checks import check_finite
from bifusion.errors import InputError
from bifusion.labels.label_set import LabelSet
from bifusion.labels.palette import class_palette, color_classes, color_instances
from bifusion.studies.figures.arms import Arm
from bifusion.untrusted.arrays import load_npz

WIDTH = 520
"""Pixels across a picture."""
OVERSAMPLING = 2
AZIMUTH = np.radians(30.0)
ELEVATION = np.radians(52.0)
"""Height of the viewer above the horizon."""
CUT_ABOVE_M = 2.0
"""Points higher above the floor are left out: ceilings and what hangs there."""
CUT_NEAR_M = 0.12
"""Points this close to the two sides of the room that face the viewer are left out."""
PALE = np.array([203, 206, 211], dtype=np.uint8)
MAX_POINTS = 300_000
FARTHEST_M = 1e6
"""Of a coordinate: from there float32 goes in steps of 6 cm."""
AGAIN = "evaluate that run again"
KEYS = {
    "coord": ((3,), "f"), "color": ((3,), "u"), "truth_semantic": ((), "iu"),
    "truth_instance": ((), "iu"), "semantic": ((), "iu"), "panoptic_instance": ((), "iu"),
}  # fmt: skip
"""Array → shape of a point's row, and kinds of its numbers."""


@dataclass(frozen=True)
class Picture:
    """One PNG as a data URL, with what it shows."""

    caption: str
    arm: str | None
    """Key of the arm whose prediction it is; None for colour and annotation."""
    url: str


@dataclass(frozen=True)
class Room:
    """All pictures of one scene."""

    scene: str
    semantic: list[Picture]
    instances: list[Picture]
    classes: list[tuple[str, tuple[int, int, int]]]
    """(name, colour) of the classes that occur, for the legend."""
    size: tuple[int, int]
    """(width, height) in pixels of each picture; a page that knows it does not jump as they appear."""


def predicted_rooms(arms: list[Arm]) -> dict[str, list[tuple[Arm, Path]]]:
    """Scene → what each arm predicted of it, for scenes that runs left predictions of; of several seeds
    the first."""
    files: dict[str, list[tuple[Arm, Path]]] = {}
    for arm in arms:
        run = next((run for run in arm.runs if run.prediction_files), None)
        for path in run.prediction_files if run else []:
            files.setdefault(path.stem, []).append((arm, path))
    return dict(sorted(files.items()))


def picture_rooms(arms: list[Arm]) -> list[Room]:
    """One `Room` a scene of `predicted_rooms`."""
    return [_picture_room(scene, found) for scene, found in predicted_rooms(arms).items()]


def _picture_room(scene: str, files: list[tuple[Arm, Path]]) -> Room:
    first = load_prediction(files[0][1])
    label_set = files[0][0].first.labels
    camera = Camera.above(first["coord"])
    truth = _color_known(first["truth_semantic"], label_set)
    semantic = [
        Picture("Colour", None, camera.draw(first["coord"], first["color"])),
        Picture("Annotation", None, camera.draw(first["coord"], truth)),
    ]
    annotated = _color_things(first["truth_instance"])
    instances = [Picture("Annotated instances", None, camera.draw(first["coord"], annotated))]
    classes = set(np.unique(first["truth_semantic"]).tolist())
    for arm, path in files:
        data = load_prediction(path)
        if len(data["coord"]) != len(first["coord"]):
            raise InputError(
                f"{path}: {len(data['coord'])} points, but {files[0][1]} has {len(first['coord'])}; "
                "evaluate both runs on the same scenes"
            )
        if "semantic" in data:
            color = _color_known(data["semantic"], label_set)
            semantic.append(Picture(arm.label, arm.key, camera.draw(data["coord"], color)))
            classes |= set(np.unique(data["semantic"]).tolist())
        if "panoptic_instance" in data:
            color = _color_things(data["panoptic_instance"])
            instances.append(Picture(arm.label, arm.key, camera.draw(data["coord"], color)))
    height, width = (side // OVERSAMPLING for side in camera.shape)
    return Room(scene, semantic, instances, _legend(classes, label_set), (width, height))


def _legend(classes: set[int], label_set: LabelSet) -> list[tuple[str, tuple[int, int, int]]]:
    palette = class_palette(label_set).tolist()
    known = sorted(c for c in classes if 0 <= c < label_set.num_classes)
    return [(label_set.class_names[c], tuple(palette[c])) for c in known]


def known_classes(semantic: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """(N,) int64 classes; a label that is no class of the set counts as none, -1."""
    known = (semantic >= 0) & (semantic < label_set.num_classes)
    return np.where(known, semantic, -1).astype(np.int64)


def _color_known(semantic: np.ndarray, label_set: LabelSet) -> np.ndarray:
    return color_classes(known_classes(semantic, label_set), label_set)


def _color_things(instance: np.ndarray) -> np.ndarray:
    """Colours of instances; what is none stays pale, so that the instances stand out."""
    return np.where((instance < 0)[:, None], PALE, color_instances(instance))


def load_prediction(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a prediction file, each of its points; those of a head that the model does not have
    are left out. InputError where it is damaged, or lacks points or annotation."""
    data = load_npz(path, keys=KEYS, advice=AGAIN)
    for key in ("semantic", "panoptic_instance"):  # a model without that head writes -1 throughout
        if key in data and data[key].dtype.kind in "iu" and not (data[key] >= 0).any():
            del data[key]
    missing = [key for key in ("coord", "color", "truth_semantic", "truth_instance") if key not in data]
    if missing:
        raise InputError(f"{path}: the arrays {', '.join(missing)} are missing; evaluate that run again")
    shapes = {key: array.shape for key, array in data.items()}
    count = shapes["coord"][0] if shapes["coord"] else 0
    for key, (row, kinds) in KEYS.items():
        if key in data and (shapes[key] != (count, *row) or data[key].dtype.kind not in kinds):
            raise InputError(
                f"{path}: arrays of unequal length, or no points of {key}: {shapes}, "
                f"{data[key].dtype}; {AGAIN}"
            )
    check_finite(data["coord"], path)
    farthest = float(np.abs(data["coord"]).max(initial=0.0))
    if farthest > FARTHEST_M:
        raise InputError(
            f"{path}: a point lies {farthest:g} m from the origin, where float32 does not tell a room's "
            f"points apart; expected at most {FARTHEST_M:g} m; {AGAIN}"
        )
    return data


# ---------------------------------------------------------------------------------------- camera


@dataclass(frozen=True)
class Camera:
    """A parallel projection of one room; the same for all its pictures."""

    axes: np.ndarray
    """(3, 3): image x, image y (down) and distance to the viewer of a scene vector."""
    offset: np.ndarray
    """(2,) image coordinates of the upper left corner, metres."""
    pixels_per_m: float
    shape: tuple[int, int]
    shown: np.ndarray
    """(N,) indices of the points that are drawn."""

    @classmethod
    def above(cls, coord: np.ndarray) -> Camera:
        """Looks at the points of a room (N, 3) from above and one side, room filling the picture."""
        axes = view_axes()
        shown = np.flatnonzero(visible_part(coord))
        if len(shown) > MAX_POINTS:
            shown = shown[:: -(-len(shown) // MAX_POINTS)]
        flat = coord[shown] @ axes[:2].T
        low, high = flat.min(axis=0), flat.max(axis=0)
        size = np.maximum(high - low, 1e-3)
        scale = (WIDTH * OVERSAMPLING - 8) / size[0]
        height = int(min(np.ceil(size[1] * scale) + 8, 1.2 * WIDTH * OVERSAMPLING))
        scale = min(scale, (height - 8) / size[1])
        margin = (np.array([WIDTH * OVERSAMPLING, height]) / scale - size) / 2
        return cls(axes, low - margin, float(scale), (height, WIDTH * OVERSAMPLING), shown)

    def draw(self, coord: np.ndarray, color: np.ndarray) -> str:
        """A PNG data URL of the points (N, 3) in their colours (N, 3) uint8, clear where none is."""
        rgba = splat(coord[self.shown] @ self.axes.T, color[self.shown], self)
        image = Image.fromarray(rgba, "RGBA")
        image = image.resize(
            (image.width // OVERSAMPLING, image.height // OVERSAMPLING), Image.Resampling.BOX
        )
        buffer = io.BytesIO()
        image.quantize(128, method=Image.Quantize.FASTOCTREE).save(buffer, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def view_axes() -> np.ndarray:
    """(3, 3) orthonormal rows: right, down and towards-away of the viewer, in a z-up scene."""
    away = np.array(
        [np.sin(AZIMUTH) * np.cos(ELEVATION), np.cos(AZIMUTH) * np.cos(ELEVATION), -np.sin(ELEVATION)]
    )
    right = np.cross(away, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(away, right), away])


def visible_part(coord: np.ndarray) -> np.ndarray:
    """(N,) bool: not the ceiling, nor the two walls between the viewer and the room."""
    low = np.percentile(coord, 0.5, axis=0)
    below = coord[:, 2] < low[2] + CUT_ABOVE_M
    near = (coord[:, :2] < low[:2] + CUT_NEAR_M).any(axis=1)  # the viewer stands at small x and y
    on_floor = coord[:, 2] < low[2] + 0.08
    return below & (~near | on_floor)


def splat(position: np.ndarray, color: np.ndarray, camera: Camera) -> np.ndarray:
    """(H, W, 4) uint8 of points at (right, down, away) metres, drawn as squares that close gaps."""
    height, width = camera.shape
    pixel = np.floor((position[:, :2] - camera.offset) * camera.pixels_per_m).astype(np.int64)
    area = height * width * 0.5
    side = int(np.clip(np.ceil(2.6 * np.sqrt(area / max(len(position), 1))), 2, 24))
    order = np.argsort(-position[:, 2], kind="stable")
    shift = np.arange(side) - side // 2
    x = pixel[order, 0][:, None, None] + shift[None, None, :]
    y = pixel[order, 1][:, None, None] + shift[None, :, None]
    index = (np.clip(y, 0, height - 1) * width + np.clip(x, 0, width - 1)).reshape(-1)
    source = np.repeat(order, side * side)
    owner = np.full(height * width, -1, dtype=np.int64)
    owner[index] = source  # written far to near: the last one written is the nearest
    owner = fill_holes(owner.reshape(height, width)).reshape(-1)
    drawn = owner >= 0
    depth = np.where(drawn, position[owner, 2], np.inf).reshape(height, width)
    rgba = np.zeros((height * width, 4), dtype=np.uint8)
    rgba[:, :3] = color[owner]
    rgba[:, 3] = np.where(drawn, 255, 0)
    rgba = rgba.reshape(height, width, 4)
    rgba[..., :3] = (rgba[..., :3] * eye_dome(depth)[..., None]).astype(np.uint8)
    rgba[~drawn.reshape(height, width)] = 0
    return rgba


def fill_holes(owner: np.ndarray) -> np.ndarray:
    """(H, W) in which an empty pixel (-1) between two filled ones takes the owner of one of them."""
    for _ in range(3):
        padded = np.pad(owner, 1, constant_values=-1)
        left, right = padded[1:-1, :-2], padded[1:-1, 2:]
        above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
        owner = np.where((owner < 0) & (left >= 0) & (right >= 0), left, owner)
        owner = np.where((owner < 0) & (above >= 0) & (below >= 0), above, owner)
    return owner


def eye_dome(depth: np.ndarray) -> np.ndarray:
    """(H, W) brightness in (0, 1]: lower where neighbours lie nearer to the viewer (metres)."""
    reach = 2  # pixels
    padded = np.pad(depth, reach, constant_values=np.inf)
    rows, columns = depth.shape
    behind = np.zeros_like(depth)
    finite = np.isfinite(depth)
    for dy, dx in ((0, reach), (0, -reach), (reach, 0), (-reach, 0)):
        neighbour = padded[reach + dy : reach + dy + rows, reach + dx : reach + dx + columns]
        both = finite & np.isfinite(neighbour)
        gap = np.where(both, depth, 0) - np.where(both, neighbour, 0)
        behind += np.clip(gap - 0.03, 0, 0.25)
    return np.exp(-2.2 * behind)
