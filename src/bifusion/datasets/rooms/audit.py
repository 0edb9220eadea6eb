"""What the generated rooms give away and what they allow: the figures that belong beside any result.

`audit` writes root/audit.json:

- `probe`: accuracy, with chance beside it, of a classifier that knows only voxel colours and geometry
  of an instance (`voxels`), and of one that sees only its image crops (`images`), within each texture
  group and among the classes that geometry tells apart;
- `superpoint_oracle`: metrics on val when each superpoint carries its points' most frequent label, the
  best any model on these superpoints can reach;
- `points`, `seen_share`: per split and class; `rooms`; `config`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bifusion.data.scene_folder import load_scene
from bifusion.data.view_files import load_cameras, load_view
from bifusion.datasets.rooms.config import GEOMETRY_CLASSES, TEXTURE_CLASSES, TEXTURE_GROUPS, RoomsConfig
from bifusion.datasets.rooms.probe import image_features, probe_predictions, voxel_features
from bifusion.datasets.rooms.rooms import CONFIG_FILE, make_scan
from bifusion.datasets.rooms.superpoint_oracle import oracle_result
from bifusion.errors import InputError
from bifusion.evaluation.evaluator import Evaluator
from bifusion.geometry import LiftingConfig, agrees_with_depth, inside_image, project
from bifusion.labels.sets import SCANNET20
from bifusion.storage.files import write_text
from bifusion.types import Scene, SceneTruth, View

SPLITS = ("train", "val")
FRESH = "audit"
"""Name of the split of rooms that are generated for the audit only."""
MIN_POINTS = 50
"""Smaller instances are not probed."""
MIN_CROP = 12
"""Smallest width and height of an image crop, pixels."""
FOLDS = 4
PROBED: dict[str, tuple[str, ...]] = {**TEXTURE_GROUPS, "geometry classes": GEOMETRY_CLASSES}


@dataclass
class _Instance:
    """One annotated thing as the probes see it."""

    label: str
    room: int
    split: str
    voxels: np.ndarray
    images: np.ndarray | None
    """None where no view shows enough of it."""


@dataclass
class _Totals:
    """Sums over the rooms of one split."""

    rooms: int = 0
    points: np.ndarray = field(default_factory=lambda: np.zeros(SCANNET20.num_classes, dtype=np.int64))
    seen: np.ndarray = field(default_factory=lambda: np.zeros(SCANNET20.num_classes, dtype=np.int64))


def audit(root: Path, voxel_size_m: float, fresh_rooms: int = 30) -> dict[str, Any]:
    """Audit the rooms in root/train and root/val; returns what it writes to root/audit.json.

    Args:
        voxel_size_m: voxel size of the models whose results the audit accompanies.
        fresh_rooms: rooms generated only for the cross-validated probe on voxels, with the config in
            root/rooms.json, since a small benchmark's own instances leave wide margins.
    Raises:
        InputError: no rooms under `root`, or a scene without annotation.
    """
    root = Path(root)
    folders = [
        (split, path.parent) for split in SPLITS for path in sorted(root.glob(f"{split}/*/scene.json"))
    ]
    if not folders:
        raise InputError(
            f"{root}: holds no rooms (train/NAME, val/NAME); make them with `bifusion prepare synthetic`"
        )
    instances: list[_Instance] = []
    totals = {split: _Totals() for split in SPLITS}
    oracle = Evaluator(SCANNET20)
    for room, (split, folder) in enumerate(folders):
        scene = load_scene(folder, SCANNET20)
        truth = _annotation(scene, folder)
        cameras = load_cameras(folder) if scene.view_names else None
        views = [load_view(folder, name, cameras) for name in scene.view_names]
        sightings = [_sighting(scene, view) for view in views]
        _count(totals[split], truth, sightings)
        instances += _instances(scene, truth, views, sightings, room, split, voxel_size_m)
        if split == "val":
            oracle.add(oracle_result(scene.superpoint, truth), truth)
    stored = root / CONFIG_FILE
    config = RoomsConfig.read(stored) if stored.exists() else None
    if config:
        instances += _fresh_instances(config, fresh_rooms, len(folders), voxel_size_m)
    result = {
        "voxel_size_m": voxel_size_m,
        "rooms": {split: total.rooms for split, total in totals.items()},
        "texture_classes": list(TEXTURE_CLASSES),
        "texture_groups": {group: list(classes) for group, classes in TEXTURE_GROUPS.items()},
        "probe": {
            "voxels": _probe(instances, "voxels"),
            "images": _probe(instances, "images"),
        },
        "superpoint_oracle": _oracle_summary(oracle) if totals["val"].rooms else None,
        "points": {split: _per_class(total.points) for split, total in totals.items()},
        "seen_share": {split: _seen_shares(total) for split, total in totals.items()},
        "config": dataclasses.asdict(config) if config else None,
    }
    text = json.dumps(result, indent=2, allow_nan=False)
    write_text(root / "audit.json", text + "\n")
    return json.loads(text)


def _annotation(scene: Scene, folder: Path) -> SceneTruth:
    if scene.segment is None or scene.instance is None:
        raise InputError(
            f"{folder}: segment20.npy or instance.npy is missing; an audit needs annotated rooms, make "
            "them with `bifusion prepare synthetic`"
        )
    return SceneTruth(scene.name, scene.segment, scene.instance)


def _sighting(scene: Scene, view: View) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) pixel of each point in the colour image and (N,) whether the view sees it, by the same
    test as the models' lifting."""
    coord = torch.from_numpy(np.array(scene.coord))
    matrices = [
        np.linalg.inv(view.color_cam2world),
        view.color_K,
        np.linalg.inv(view.depth_cam2world),
        view.depth_K,
    ]
    color_pose, color_K, depth_pose, depth_K = (torch.from_numpy(m.astype(np.float32)) for m in matrices)
    pixel, depth_m = project(coord, color_pose, color_K)
    inside = inside_image(pixel, depth_m, *view.color.shape[:2])
    agrees = agrees_with_depth(
        coord, torch.from_numpy(view.depth_m), depth_pose, depth_K, LiftingConfig()
    )
    return pixel.numpy(), (inside & agrees).numpy()


def _count(total: _Totals, truth: SceneTruth, sightings: list[tuple[np.ndarray, np.ndarray]]) -> None:
    seen = np.zeros(len(truth.semantic), dtype=bool)
    for _, valid in sightings:
        seen |= valid
    total.rooms += 1
    known = truth.semantic >= 0
    total.points += np.bincount(truth.semantic[known], minlength=SCANNET20.num_classes)
    total.seen += np.bincount(truth.semantic[known & seen], minlength=SCANNET20.num_classes)


def _instances(
    scene: Scene, truth: SceneTruth, views: list[View], sightings: list[tuple[np.ndarray, np.ndarray]],
    room: int, split: str, voxel_size_m: float,
) -> list[_Instance]:  # fmt: skip
    """The features of all things of a room."""
    found = []
    for instance in np.unique(truth.instance[truth.instance >= 0]):
        rows = np.flatnonzero(truth.instance == instance)
        if len(rows) < MIN_POINTS:
            continue
        crops = [
            _crop(view.color, pixel[rows[valid[rows]]])
            for view, (pixel, valid) in zip(views, sightings, strict=True)
        ]
        crops = [crop for crop in crops if min(crop.shape[:2]) >= MIN_CROP]
        found.append(
            _Instance(
                label=SCANNET20.class_names[truth.semantic[rows[0]]],
                room=room,
                split=split,
                voxels=voxel_features(scene.coord[rows], scene.color[rows], voxel_size_m),
                images=image_features(crops) if crops else None,
            )
        )
    return found


def _fresh_instances(
    config: RoomsConfig, count: int, first: int, voxel_size_m: float
) -> list[_Instance]:
    """Things of `count` further rooms without views, numbered from `first`."""
    found = []
    for index in range(count):
        scene, truth = make_scan(config, FRESH, index)
        found += _instances(scene, truth, [], [], first + index, FRESH, voxel_size_m)
    return found


def _crop(image: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """The middle of the image region of the seen points `pixel` (n, 2), without its outer tenths."""
    if len(pixel) < MIN_CROP:
        return image[:0]
    (x0, y0), (x1, y1) = np.quantile(pixel, [0.1, 0.9], axis=0).astype(int)
    return image[max(y0, 0) : y1, max(x0, 0) : x1]


def _probe(instances: list[_Instance], sense: str) -> dict[str, Any]:
    """Accuracy of the probe on one kind of features, for each group of `PROBED`."""
    result: dict[str, Any] = {}
    for group, classes in PROBED.items():
        chosen = [i for i in instances if i.label in classes and getattr(i, sense) is not None]
        labels = np.array([classes.index(i.label) for i in chosen])
        rooms = np.array([i.room for i in chosen])
        train, val = (np.array([i.split == split for i in chosen], dtype=bool) for split in SPLITS)
        if not (train.any() and val.any()):
            result[group] = None
            continue
        features = np.stack([getattr(i, sense) for i in chosen])
        guess = probe_predictions(features[train], labels[train], features[val], len(classes))
        crossed = np.empty_like(labels)
        for fold in range(FOLDS):
            test = rooms % FOLDS == fold
            crossed[test] = probe_predictions(
                features[~test], labels[~test], features[test], len(classes)
            )
        result[group] = {
            "classes": list(classes),
            "chance": 1 / len(classes),
            "val": _accuracy(guess == labels[val]),
            "cross_validated": _accuracy(crossed == labels),
        }
    return result


def _accuracy(correct: np.ndarray) -> dict[str, float | int]:
    """Accuracy, its standard error (Agresti and Coull's, not 0 where all is right), instances."""
    count, hits = len(correct), int(correct.sum())
    share = (hits + 2) / (count + 4)
    error = float(np.sqrt(share * (1 - share) / (count + 4)))
    return {"accuracy": hits / count, "standard_error": error, "instances": count}


def _oracle_summary(oracle: Evaluator) -> dict[str, Any]:
    metrics = oracle.compute()
    iou = {name: _null(value) for name, value in metrics["iou"].items()}
    return {**{key: _null(metrics[key]) for key in ("miou", "ap", "ap50", "ap25", "pq")}, "iou": iou}


def _null(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _per_class(counts: np.ndarray) -> dict[str, int]:
    return {name: int(count) for name, count in zip(SCANNET20.class_names, counts, strict=True)}


def _seen_shares(total: _Totals) -> dict[str, Any]:
    pairs = zip(SCANNET20.class_names, total.seen, total.points, strict=True)
    shares = {name: float(seen / points) if points else None for name, seen, points in pairs}
    count = int(total.points.sum())
    return {"all": float(total.seen.sum() / count) if count else None, "per_class": shares}
