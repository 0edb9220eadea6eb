"""The proof that labels are right on a user's own vertices: a model that knows one real scan by heart is
shown that scan as people have it. A mistake in frame, unit, order or sampling makes it a stranger's.

    pytest -m slow -s tests/integration/test_overfitted_scan.py

prints each share beside the most that superpoints allow: the annotation itself carried the same way.
BIFUSION_OVERFITTED=FOLDER keeps the trained model there, and takes it from there the next time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import KDTree

import needs
import overfitted
import room_meshes as rooms
from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.scan.make import make_scan
from bifusion.datasets.scan.options import ScanOptions
from bifusion.inference.labelled import LabelledScan, segment
from bifusion.inference.segmenter import Segmenter

REAL = needs.folder("BIFUSION_REAL_DATA", "data") / "scannet"
SAME, SAME_ELSEWHERE, LEARNED = 0.98, 0.95, 0.95
"""Least share of annotated vertices with the class that they have in the scan as it lies; where the
surface is another, decimated or recorded anew; and with the annotation's class."""
FAR = np.array([5e5, -3e5, 100.0])
"""Metres, 500 km away, as map projections have."""

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


@dataclass(frozen=True)
class Known:
    """The model, and what it says of the scan as it lies."""

    segmenter: Segmenter
    scan: LabelledScan
    labelled: overfitted.Labelled

    @property
    def mesh(self) -> Mesh:
        return self.scan.made.mesh

    @property
    def annotated(self) -> np.ndarray:
        """(N,) bool, of the scan's vertices."""
        return self.labelled.segment >= 0

    def label(self, path: Path) -> LabelledScan:
        """Of an input, as `bifusion scan` labels it."""
        return segment(make_scan(path, ScanOptions(views=0)), self.segmenter)

    def elsewhere(self, path: Path) -> float:
        """Share of an input's vertices with the class that the scan's nearest vertex has; of those that
        are near an annotated one."""
        said = self.label(path)
        coord = said.made.mesh.coord
        away_m, nearest = KDTree(self.mesh.coord).query(coord)
        there = self.annotated[nearest] & (away_m < overfitted.BEYOND_M)
        assert len(said.semantic) == len(coord) and there.mean() > 0.6
        truth = np.where(there, self.labelled.segment[nearest], -1)
        superpoint = said.made.scene.superpoint[: len(coord)]
        most = (overfitted.commonest(truth, superpoint) == truth)[there].mean()
        found = share(self.scan.semantic[nearest][there], said.semantic[there])
        right = share(truth[there], said.semantic[there])
        print(f"{path.name}: {found:.4f} the same, {right:.4f} as annotated, of at most {most:.4f}")
        return found


def share(wanted: np.ndarray, said: np.ndarray) -> float:
    """Of vertices with the class that is wanted; 0 where one label is said of everything."""
    assert wanted.shape == said.shape
    return float((wanted == said).mean()) if len(np.unique(said)) > 1 else 0.0


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    if not REAL.is_dir():
        needs.lacking("real_data", REAL)
    kept = os.environ.get("BIFUSION_OVERFITTED")
    root = Path(kept) if kept else tmp_path_factory.mktemp("overfitted")
    labelled = overfitted.labelled_scan(REAL, root)
    segmenter = Segmenter(overfitted.overfit(labelled, root))
    return Known(segmenter, segment(make_scan(labelled.path), segmenter), labelled)


def test_the_scan_is_known_by_heart(known: Known) -> None:
    truth, said = (of[known.annotated] for of in (known.labelled.segment, known.scan.semantic))
    right = share(truth, said)
    print(f"as it lies: {right:.4f} as annotated")
    assert right >= LEARNED
    constant = np.full_like(said, np.bincount(said).argmax())
    assert share(said, constant) == 0  # what says one thing of all passes nowhere …
    assert (said == constant).mean() < 0.6  # … nor would it, counted like the others


def moved(turn: np.ndarray, shift: np.ndarray | float, scale: float) -> Callable[[Mesh], Mesh]:
    return lambda mesh: Mesh((mesh.coord @ turn.T + shift) * scale, mesh.color, mesh.faces)


SHAPES = {
    "y up": (moved(rooms.Y_UP, 0.0, 1.0), rooms.write_ply),
    "millimetres": (moved(np.eye(3), 0.0, 1000.0), rooms.write_ply),
    "far": (moved(np.eye(3), FAR, 1.0), rooms.write_ply),
    "permuted": (moved(np.eye(3), 0.0, 1.0), rooms.write_ply),
    "obj": (moved(rooms.Y_UP, 0.0, 1.0), rooms.write_obj),
    "glb": (moved(rooms.Y_UP, 0.0, 1.0), rooms.write_glb),
    "all at once": (moved(rooms.Y_UP, FAR, 1000.0), rooms.write_ply),
}
"""How the scan comes, and in what file; vertices are in another order each time."""


@pytest.mark.parametrize("shape", SHAPES)
def test_the_scan_in_another_shape(shape: str, known: Known, tmp_path: Path) -> None:
    move, write = SHAPES[shape]
    order = np.random.default_rng(0).permutation(len(known.mesh.coord))  # that of rooms.permuted
    path = write(
        tmp_path / f"scan.{write.__name__.removeprefix('write_')}", move(rooms.permuted(known.mesh))
    )
    said, annotated = known.label(path), known.annotated[order]
    found = share(known.scan.semantic[order][annotated], said.semantic[annotated])
    every = share(known.scan.semantic[order], said.semantic)
    print(f"{shape}: {found:.4f} the same, {every:.4f} with what is not annotated")
    assert found >= SAME


def test_the_scan_decimated_to_a_third(known: Known) -> None:
    assert known.elsewhere(known.labelled.decimated) >= SAME_ELSEWHERE


def test_the_scan_recorded_anew(known: Known) -> None:
    assert known.elsewhere(known.labelled.recorded) >= SAME_ELSEWHERE
