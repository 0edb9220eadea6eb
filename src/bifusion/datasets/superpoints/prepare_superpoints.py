"""`bifusion prepare superpoints`: superpoint.npy for scene folders that come without (Pointcept's)."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bifusion.data.checks import check_finite
from bifusion.data.scene_folder import load_points, read_unit_stated
from bifusion.data.scene_sums import SUMS, forget_sum, read_sums, record_sum
from bifusion.datasets.placement import far_offset, size_note
from bifusion.datasets.ply.mesh import read_mesh
from bifusion.datasets.scannet.scan import read_segments
from bifusion.datasets.shards import WHOLE, locked_shard
from bifusion.datasets.superpoints.normals import estimate_normals
from bifusion.datasets.superpoints.superpoints import CLOUD_NEIGHBORS, graph_superpoints
from bifusion.errors import FAILURES, InputError, SomeFailedError, failure
from bifusion.storage.files import write_array, written_beside

FILE = "superpoint.npy"
LEAST_NORMALS = 0.5
"""Share of the points that must have a stored normal for these to be used."""
SOURCES = ("kept", "ScanNet's segments", "mesh", "cloud with normals", "cloud, normals estimated")


def prepare_superpoints(
    folders: Sequence[Path],
    *,
    scans: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Counter[str]:
    """Write superpoint.npy into every scene folder that has none, and its sum beside it.

    A scene that cannot be done does not stop the others: all of them are named at the end.

    Args:
        folders: scene folders, folders of scene folders (a split), or folders of those (a data set).
        scans: folder of ScanNet's released scans. Where it has one of the scene's name, the official
            segments are taken, or else computed on its mesh; otherwise they are computed on the
            points. Only on the mesh are they ScanNet's (see `add_superpoints`).
        overwrite: replace superpoint.npy where it is there.
        progress: called with (scenes done, scenes in all).
    Returns:
        How many scenes took their superpoints from each of SOURCES.
    Raises:
        InputError: no scene; another process prepares one of the folders.
        SomeFailedError: after all others are done, what is wrong with each that failed.
    """
    scenes = [scene for folder in folders for scene in find_scenes(Path(folder))]
    with ExitStack() as held:
        for root in dict.fromkeys(_locked_for(Path(folder)) for folder in folders):
            held.enter_context(locked_shard(root, WHOLE))
        return _prepare(scenes, scans, overwrite, progress)


def _locked_for(folder: Path) -> Path:
    """The folder that other commands are kept from: the one that was named, or, of a scene, the one that
    holds it."""
    folder = folder.resolve()
    return folder.parent if (folder / "coord.npy").exists() else folder


def _prepare(
    scenes: Sequence[Path],
    scans: Path | None,
    overwrite: bool,
    progress: Callable[[int, int], None] | None,
) -> Counter[str]:
    sources, failures = Counter[str](), []
    for done, scene in enumerate(scenes, start=1):
        try:
            if (scene / FILE).exists() and not overwrite:
                if (scene / SUMS).is_file() and FILE not in read_sums(scene):
                    record_sum(scene, FILE)  # a process was killed before it did
                sources["kept"] += 1
            else:
                sources[add_superpoints(scene, scans / scene.name if scans else None)] += 1
        except FAILURES as error:
            failures.append(failure(error, scene))
        if progress:
            progress(done, len(scenes))
    if failures:
        listed = "\n".join(failures)
        raise SomeFailedError(f"{len(failures)} of {len(scenes)} scenes got no superpoints:\n{listed}")
    return sources


def find_scenes(folder: Path) -> list[Path]:
    """Scene folders (those with coord.npy): `folder` itself, or in it, or one level further down."""
    for pattern in ("coord.npy", "[!.]*/coord.npy", "[!.]*/[!.]*/coord.npy"):
        found = sorted(path.parent for path in folder.glob(pattern))
        if found:
            return found
    raise InputError(
        f"{folder}: holds no scene folder; expected folders with coord.npy, such as SPLIT/SCENE"
    )


def add_superpoints(scene: Path, scan: Path | None = None) -> str:
    """Compute and write scene/superpoint.npy; returns which of SOURCES they come from.

    On ScanNet's mesh they agree with the official ones but for ties (adjusted Rand index 0.997 on a
    scan). The points alone do not tell which of them a triangle joins: on their nearest neighbours
    the index is about 0.7, so models trained on official superpoints lose some accuracy on these.

    Args:
        scene: scene folder.
        scan: folder of the released scan whose vertices are the scene's points, in order; it may be
            missing.
    Raises:
        InputError: arrays that cannot be read, or a scan with another number of vertices.
    """
    coord, _, normal = load_points(scene)
    check_finite(coord, scene / "coord.npy")
    stated = read_unit_stated(scene)
    note = size_note(coord, lambda factor: f"multiplying coord.npy by {factor:g}", stated=stated)
    if note:
        warnings.warn(f"{scene}: {note}", stacklevel=2)
    superpoint, source = _from_scan(scene, scan, len(coord))
    if superpoint is None:
        normal = None if normal is None else _unit(normal, scene / "normal.npy")
        source = SOURCES[3] if normal is not None else SOURCES[4]
        normal = estimate_normals(coord) if normal is None else normal
        superpoint = graph_superpoints(coord, normal, neighbors=CLOUD_NEIGHBORS)
    forget_sum(scene, FILE)
    with written_beside(scene / FILE) as beside:
        write_array(beside, superpoint.astype(np.int32))
    record_sum(scene, FILE)
    return source


def _unit(normal: np.ndarray, path: Path) -> np.ndarray | None:
    """(N, 3) float32 of length 1; None, and it is said, where few of (N, 3) stored ones have one:
    programs that know none write zeros or NaN."""
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    there = np.isfinite(length) & (length > 0)
    if there.mean() < LEAST_NORMALS:
        warnings.warn(
            f"{path}: {1 - there.mean():.0%} of the points have no normal (zero or not finite): "
            "estimated for their superpoints; remove the file",
            stacklevel=3,
        )
        return None
    return np.where(there, normal / np.where(there, length, 1), 0).astype(np.float32)


def _from_scan(scene: Path, scan: Path | None, count: int) -> tuple[np.ndarray | None, str]:
    """Official superpoints of the scan, or those of its mesh; None where it has neither."""
    if scan is None:
        return None, ""
    segments = scan / f"{scan.name}_vh_clean_2.0.010000.segs.json"
    mesh = scan / f"{scan.name}_vh_clean_2.ply"
    if segments.exists():
        raw = read_segments(segments, count)
        return np.unique(raw, return_inverse=True)[1], SOURCES[1]
    if not mesh.exists():
        return None, ""
    read = read_mesh(mesh, every_vertex=True)
    if len(read.coord) != count:
        raise InputError(
            f"{scene / 'coord.npy'}: has {count} points, but {mesh} has {len(read.coord)} vertices; "
            "expected the same: the scene must be made from that mesh, or leave --scans out"
        )
    if len(read.faces) == 0:
        return None, ""
    return graph_superpoints(read.coord - far_offset(read.coord), faces=read.faces), SOURCES[2]
