"""Generated rooms as scene folders: layout, scan, superpoints and RGB-D views of each, from a seed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bifusion.data.scene_folder import read_description, scene_files, write_scene
from bifusion.datasets.processes import Died, run_in_processes
from bifusion.datasets.rooms.cameras import choose_rigs
from bifusion.datasets.rooms.config import RoomsConfig
from bifusion.datasets.rooms.layout import Layout, make_layout
from bifusion.datasets.rooms.lighting import Lighting, draw_lighting
from bifusion.datasets.rooms.raycast import RayCaster, layout_faces
from bifusion.datasets.rooms.render import render_view
from bifusion.datasets.rooms.scan import Scan, scan_room
from bifusion.datasets.superpoints.superpoints import graph_superpoints
from bifusion.errors import FAILURES, InputError
from bifusion.labels.sets import SCANNET20
from bifusion.rng import numpy_rng
from bifusion.storage.files import locked, write_text
from bifusion.storage.folders import check_replaceable, tidy
from bifusion.types import Scene, SceneTruth, View

CONFIG_FILE = "rooms.json"
SPLITS = ("train", "val")
FEW = 4
"""As many rooms are made sooner than processes, which must import torch, have begun with theirs."""


def make_rooms(
    root: Path,
    config: RoomsConfig,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
) -> None:
    """Write root/train/NAME and root/val/NAME, and the config beside them in root/rooms.json.

    Rooms that are complete and were made with the same config are kept, so an interrupted call can
    be repeated; rooms are the same whatever `workers` is.

    Args:
        progress: called as progress(done, total) after every room.
        workers: processes that make rooms; 1, or where they are few: this one.
    Raises:
        InputError: `root` already holds scenes that are not of this call, or folders of others where
            rooms are to be; another process writes to it.
    """
    root = Path(root)
    with locked(root):
        for split in SPLITS:
            tidy(root / split, scene_files)
        _make_missing(root, config, progress, workers)


def _make_missing(
    root: Path, config: RoomsConfig, progress: Callable[[int, int], None] | None, workers: int
) -> None:
    jobs = [(root, config, split, i) for split in SPLITS for i in range(_count(config, split))]
    _refuse_others(root, config)
    missing = [job for job in jobs if not _is_made(*job)]
    for _, _, split, index in missing:
        check_replaceable(root / split / scene_name(config, split, index), scene_files)
    if missing and (root / CONFIG_FILE).exists():
        (root / "audit.json").unlink(missing_ok=True)  # it spoke of other rooms
    write_text(root / CONFIG_FILE, json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    done = len(jobs) - len(missing)
    for _ in _run(missing, workers):
        done += 1
        if progress:
            progress(done, len(jobs))
    if progress and not missing:
        progress(done, len(jobs))


def make_room(config: RoomsConfig, split: str, index: int) -> tuple[Scene, Iterator[View]]:
    """One room in memory: its annotated scene, and its views, rendered as they are asked for."""
    layout, scan, rays, lighting = _scanned(config, split, index)
    stream = (config.stream, split, index)
    rigs = choose_rigs(layout, rays, scan.coord, config, numpy_rng(config.seed, *stream, "cameras"))

    def views() -> Iterator[View]:
        for number, rig in enumerate(rigs):
            rng = numpy_rng(config.seed, *stream, "view", number)
            yield render_view(f"{number:02d}", rig, layout, rays, lighting, config, rng)

    # Superpoints know the measurements only, never what the points were sampled from.
    superpoint = graph_superpoints(scan.coord, scan.normal, scan.color)
    return _scene(scan, _truth(scan, layout, scene_name(config, split, index)), superpoint), views()


def make_scan(config: RoomsConfig, split: str, index: int) -> tuple[Scene, SceneTruth]:
    """One room without views and with a single superpoint: enough for statistics, and quick."""
    layout, scan, _, _ = _scanned(config, split, index)
    truth = _truth(scan, layout, scene_name(config, split, index))
    return _scene(scan, truth, np.zeros(len(scan.coord), dtype=np.int32)), truth


def scene_name(config: RoomsConfig, split: str, index: int) -> str:
    """Folder name of a room; rooms of different streams, splits and seeds have different names."""
    return f"{config.stream}{config.seed}_{split}_{index:04d}"


def _scanned(config: RoomsConfig, split: str, index: int) -> tuple[Layout, Scan, RayCaster, Lighting]:
    layout = make_layout(config, split, index)
    rays = RayCaster(layout_faces(layout))
    stream = (config.stream, split, index)
    lighting = draw_lighting(layout.size_m, numpy_rng(config.seed, *stream, "lighting"))
    scan = scan_room(layout, rays, lighting, config, numpy_rng(config.seed, *stream, "scan"))
    return layout, scan, rays, lighting


def _truth(scan: Scan, layout: Layout, name: str) -> SceneTruth:
    """The annotation of the scan's points, classes in ScanNet20's order."""
    classes = np.array([_class_number(label) for label in layout.labels], dtype=np.int16)
    return SceneTruth(name, classes[scan.item], layout.instance[scan.item])


def _scene(scan: Scan, truth: SceneTruth, superpoint: np.ndarray) -> Scene:
    return Scene(
        name=truth.name,
        coord=scan.coord,
        color=scan.color,
        normal=scan.normal,
        superpoint=superpoint,
        segment=truth.semantic,
        instance=truth.instance,
    )


def _class_number(label: str) -> int:
    return SCANNET20.class_names.index(label) if label in SCANNET20.class_names else -1


def _count(config: RoomsConfig, split: str) -> int:
    return config.train_rooms if split == "train" else config.val_rooms


def _refuse_others(root: Path, config: RoomsConfig) -> None:
    """InputError where scenes would silently be trained on that this config does not ask for."""
    for split in SPLITS:
        wanted = {scene_name(config, split, index) for index in range(_count(config, split))}
        there = {path.parent.name for path in root.glob(f"{split}/*/scene.json")}
        others = sorted(there - wanted)
        if others:
            raise InputError(
                f"{root / split}: holds {len(others)} scenes that these rooms do not include "
                f"(first: {others[0]}); choose another folder, or remove them"
            )


def _source(config: RoomsConfig) -> str:
    return f"generated room, config {config.fingerprint()}"


def _is_made(root: Path, config: RoomsConfig, split: str, index: int) -> bool:
    """Whether the room is there, complete, and of this config."""
    folder = root / split / scene_name(config, split, index)
    return read_description(folder).get("source") == _source(config)


Job = tuple[Path, RoomsConfig, str, int]


def _write(job: Job) -> None:
    root, config, split, index = job
    scene, views = make_room(config, split, index)
    assert scene.segment is not None
    segments = {SCANNET20: scene.segment}
    write_scene(root / split / scene.name, scene, segments=segments, views=views, source=_source(config))


def _tried(job: Job) -> BaseException | None:
    """What kept a room from being written: in a process of its own it would be a traceback."""
    try:
        return _write(job)
    except FAILURES as error:
        return error


def _run(jobs: list[Job], workers: int) -> Iterator[None]:
    """Make the rooms, yielding after each."""
    if workers <= 1 or len(jobs) <= FEW:
        yield from map(_write, jobs)
        return
    for _, failed in run_in_processes(_tried, jobs, min(workers, len(jobs))):
        if isinstance(failed, Died):
            raise InputError(
                f"{jobs[0][0]}: a process that makes rooms {failed}; repeat the command, which keeps "
                "the rooms that are there"
            )
        if failed is not None:
            raise failed
        yield
