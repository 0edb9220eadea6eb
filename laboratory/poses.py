"""`python -m laboratory.poses SCENE …`: wrong cameras put into right views, and which of them are found.

Each view of each scene folder gets one fault after another, as a wrong pose file or a wrong reading of
one would make it; colour and depth camera move alike. What is told is the share of views that the check
of a training (`data/view_agreement.py`) finds, each judged by itself, and how far the fault moves what
the view measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation

from bifusion.data.dataset import DataConfig
from bifusion.data.images import EncoderView, encoder_view
from bifusion.data.open_scene import open_folder
from bifusion.data.view_agreement import ViewAgreementConfig, find_disagreement
from bifusion.data.view_fit import ScanSample
from bifusion.rng import numpy_rng

SHIFTS_M = (0.02, 0.05, 0.1, 0.2, 0.4)
TURNS_DEGREES = (1.0, 2.0, 5.0, 10.0, 20.0)
DRAWS = 4
"""Directions of a shift and axes of a turn a view."""

Views = list[EncoderView]
Move = Callable[[Views, int, np.random.Generator], np.ndarray]
"""The wrong (4, 4) cam2world of the depth camera of view `i`."""


@dataclasses.dataclass(frozen=True)
class Fault:
    name: str
    move: Move
    draws: int = 1


@dataclasses.dataclass
class Found:
    """What the check said of one fault."""

    found: list[bool] = dataclasses.field(default_factory=list)
    moved_m: list[float] = dataclasses.field(default_factory=list)
    """Median distance between where a view's depth pixels are and where the fault puts them."""

    def record(self) -> dict[str, float]:
        return {
            "tried": len(self.found),
            "found": sum(self.found),
            "moved_m": statistics.median(self.moved_m),
        }


def faults() -> Iterator[Fault]:
    yield Fault("none", lambda views, i, rng: _pose(views[i]))
    for metres in SHIFTS_M:
        yield Fault(f"moved by {100 * metres:g} cm", _shift(metres), DRAWS)
    for degrees in TURNS_DEGREES:
        yield Fault(f"turned by {degrees:g}°", _turn(degrees), DRAWS)
    yield Fault("the next view's pose", lambda views, i, rng: _pose(views[(i + 1) % len(views)]))
    yield Fault("any other view's pose", _another, DRAWS)
    yield Fault("world2cam read as cam2world", lambda views, i, rng: np.linalg.inv(_pose(views[i])))
    yield Fault("y and z of the camera turned round", _opengl)


def measure(scenes: list[Path], config: DataConfig) -> dict[str, dict[str, float]]:
    """Fault → views tried, views found, and how far it moved them in the middle."""
    told = {fault.name: Found() for fault in faults()}
    for folder in scenes:
        scene = open_folder(folder)
        scan = ScanSample(np.asarray(scene.coord), np.asarray(scene.color))
        sizes = config.image_size, config.patch_size, config.depth_size
        views = [encoder_view(scene.views[name], *sizes) for name in scene.view_names]
        for fault in faults():
            for i, view in enumerate(views):
                for draw in range(fault.draws):
                    rng = numpy_rng(0, "poses", folder.name, fault.name, view.name, draw)
                    pose = fault.move(views, i, rng)
                    wrong = _with_pose(view, pose)
                    found = find_disagreement(folder.name, scan, wrong, ViewAgreementConfig())
                    told[fault.name].found.append(found is not None)
                    told[fault.name].moved_m.append(_moved(view, pose))
    return {name: found.record() for name, found in told.items()}


def _pose(view: EncoderView) -> np.ndarray:
    return np.linalg.inv(view.depth_world2cam.astype(np.float64))


def _with_pose(view: EncoderView, cam2world: np.ndarray) -> EncoderView:
    """The view with its depth camera there, and its colour camera where it is beside that one."""
    depth_to_color = view.world2cam.astype(np.float64) @ _pose(view)
    world2depth = np.linalg.inv(cam2world)
    return dataclasses.replace(
        view,
        depth_world2cam=world2depth.astype(np.float32),
        world2cam=(depth_to_color @ world2depth).astype(np.float32),
    )


def _shift(metres: float) -> Move:
    def move(views: Views, i: int, rng: np.random.Generator) -> np.ndarray:
        direction = rng.normal(size=3)
        pose = _pose(views[i]).copy()
        pose[:3, 3] += metres * direction / np.linalg.norm(direction)
        return pose

    return move


def _turn(degrees: float) -> Move:
    def move(views: Views, i: int, rng: np.random.Generator) -> np.ndarray:
        axis = rng.normal(size=3)
        by = np.radians(degrees) * axis / np.linalg.norm(axis)
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_rotvec(by).as_matrix()
        return _pose(views[i]) @ turn

    return move


def _another(views: Views, i: int, rng: np.random.Generator) -> np.ndarray:
    others = [other for number, other in enumerate(views) if number != i]
    return _pose(others[rng.integers(len(others))])


def _opengl(views: Views, i: int, rng: np.random.Generator) -> np.ndarray:
    return _pose(views[i]) @ np.diag([1.0, -1.0, -1.0, 1.0])


def _moved(view: EncoderView, pose: np.ndarray) -> float:
    """Median distance in metres between the measured points and the same ones seen from `pose`."""
    v, u = np.nonzero(view.depth_m > 0)
    depth = view.depth_m[v, u].astype(np.float64)
    rays = np.stack([u, v, np.ones(len(u))]).astype(np.float64)
    points = np.linalg.inv(view.depth_K.astype(np.float64)) @ rays * depth
    apart = (pose - _pose(view)) @ np.vstack([points, np.ones(len(u))])
    return float(np.median(np.linalg.norm(apart[:3], axis=0)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m laboratory.poses", description=__doc__)
    parser.add_argument("scenes", nargs="+", type=Path, metavar="SCENE", help="scene folders with views")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    told = measure(wanted.scenes, DataConfig())
    if wanted.json:
        print(json.dumps(told, indent=1))
        return
    table = Table("fault", "views", "found", "moves what is seen by")
    for name, record in told.items():
        share = f"{record['found'] / record['tried']:.0%}"
        table.add_row(name, str(record["tried"]), share, f"{record['moved_m']:.2f} m")
    Console().print(table)


if __name__ == "__main__":
    main()
