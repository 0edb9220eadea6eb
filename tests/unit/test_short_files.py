"""A disk that is full in a file's last block: no file that ends short is taken for whole."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import bifusion
from bifusion.data.scene_folder import write_scene
from bifusion.inference.export import write_labelled_ply
from bifusion.labels.sets import SCANNET20
from bifusion.storage.files import DiskFullError, write_array, written_beside
from bifusion.types import Scene, View
from scene_factory import camera_matrix

SOURCES = Path(bifusion.__file__).parent
BELOW_PYTHON = re.compile(r"\bnp\.save\(|\.tofile\(")
POINTS = 2000


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As `ulimit -f`: no file of this process may have more bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def a_scene(folder: Path, points: int, views: list[View]) -> Path:
    coord = np.random.default_rng(0).uniform(0, 3, (points, 3)).astype(np.float32)
    color = np.zeros((points, 3), np.uint8)
    scene = Scene("room", coord, color, np.zeros(points, np.int32))
    write_scene(folder, scene, views=views, segments={}, source="a test")
    return folder


def a_view(color_size: tuple[int, int], depth_size: tuple[int, int]) -> View:
    color_K, depth_K = (camera_matrix(size[::-1]) for size in (color_size, depth_size))
    noise = np.random.default_rng(0)
    color = noise.integers(0, 256, (*color_size, 3)).astype(np.uint8)
    depth_m = noise.uniform(0.5, 60, depth_size).astype(np.float32)
    return View("0", color, depth_m, color_K, depth_K, np.eye(4), np.eye(4))


def a_cloud(path: Path, faces: np.ndarray | None) -> Path:
    coord = np.zeros((POINTS, 3), np.float32)
    ids, color = np.zeros(POINTS, np.int64), np.zeros((POINTS, 3), np.uint8)
    write_labelled_ply(path, coord, color, ids, ids, SCANNET20, faces)
    return path


def an_array(path: Path) -> Path:
    with written_beside(path) as beside:
        write_array(beside, np.zeros((POINTS, 3)))
    return path


FACES = np.zeros((POINTS, 3), np.int64)
WRITERS: dict[str, Callable[[Path], Path]] = {
    "array": an_array,
    "points": lambda path: a_scene(path, POINTS, []),
    "picture": lambda path: a_scene(path, 9, [a_view((60, 80), (6, 8))]),
    "depth": lambda path: a_scene(path, 9, [a_view((6, 8), (60, 80))]),
    "PLY cloud": lambda path: a_cloud(path, None),
    "PLY mesh": lambda path: a_cloud(path, FACES),
}


@pytest.mark.parametrize("missing", [1, 100, 4000])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_lacks_its_last_bytes_is_named(kind: str, missing: int, tmp_path: Path) -> None:
    written = WRITERS[kind](tmp_path / "whole")
    files = [written] if written.is_file() else [path for path in written.rglob("*") if path.is_file()]
    largest = max(path.stat().st_size for path in files)
    with largest_file(largest - missing), pytest.raises(DiskFullError, match=r"ulimit -f"):
        WRITERS[kind](tmp_path / "short")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_nothing_is_written_below_python() -> None:
    found = {
        str(path.relative_to(SOURCES)): BELOW_PYTHON.findall(path.read_text())
        for path in SOURCES.rglob("*.py")
        if BELOW_PYTHON.search(path.read_text())
    }
    assert found == {"storage/files.py": ["np.save("]}
