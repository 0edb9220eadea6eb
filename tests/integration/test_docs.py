"""What documents show holds: every command is understood, quick blocks run, the others are marked."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

import bifusion as package
import recording_factory
import untrained_runs
from bifusion import cli, plugins
from bifusion.commands import parsing
from bifusion.official import stores
from bifusion.storage import cache
from documents import MARKS, ROOT, blocks, documents
from scene_factory import make_tiny_scene

DOCUMENTS = ["README.md", "README.zh-CN.md", "RECIPES.md", *documents()]
TRANSLATIONS = {"README.zh-CN.md": "README.md", "docs/zh/start.md": "docs/start.md"}
COMMANDS = list(dict.fromkeys(c for name in DOCUMENTS for block in blocks(name) for c in block.commands))
CLASSES = ("ceiling", "floor", "wall", "door", "desk", "chair", "machine")
FROM_SCANNET20 = {-1: -1, 0: 2, 1: 1, 6: 4, 4: 5}
"""Classes of the tiny rooms: wall, floor, table, chair."""


class _Understood(Exception):
    """The command's arguments were parsed."""


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch):
    parse = parsing.parse

    def parse_and_stop(*args):
        parse(*args)
        raise _Understood

    monkeypatch.setattr(parsing, "parse", parse_and_stop)
    monkeypatch.setenv(plugins.VARIABLE, "")
    words = shlex.split(command)
    while words[0] != "bifusion":
        monkeypatch.setenv(*words.pop(0).split("="))
    name, *arguments = words[1:]
    with pytest.raises(_Understood):
        cli.COMMANDS[name](arguments)


def test_documents_show_commands():
    assert len(COMMANDS) >= 40


def test_every_block_says_how_it_is_held():
    for name in documents():
        for block in blocks(name):
            if block.commands or block.language == "python":
                assert block.mark in MARKS, f"{name}: no mark before {block.text.splitlines()[0]}"
            if block.language == "python":
                assert block.mark != "slow", name


@pytest.mark.parametrize(("translation", "original"), TRANSLATIONS.items())
def test_translations_show_the_same_commands_and_figures(translation: str, original: str):
    shown, meant = (
        [line.split("  #")[0].strip() for block in blocks(name) for line in block.text.splitlines()]
        for name in (translation, original)
    )
    assert shown and set(shown) <= set(meant)
    figures, known = (set(_figures(name)) for name in (translation, original))
    assert figures <= known


def _figures(name: str) -> list[tuple[str, ...]]:
    """The numbers of each row of a document's tables that has several."""
    text = (ROOT / name).read_text(encoding="utf-8")
    rows = [re.findall(r"\d\.\d+", line) for line in text.splitlines() if line.startswith("|")]
    return [tuple(row) for row in rows if len(row) > 1]


PAGES = [name for name in documents() if any(block.mark == "run" for block in blocks(name))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: runs of a moment, tiny rooms, a mesh, a recording, a table of classes."""
    root = tmp_path_factory.mktemp("docs")
    for name, make in (
        ("first", untrained_runs.baseline),
        ("demo/oneformer3d_small-seed0", untrained_runs.baseline),
        ("demo/bifusion_small-seed0", untrained_runs.bifusion),
    ):
        untrained_runs.save_run(root / "runs" / name, make())
    shutil.copy(ROOT / "tests/unit/stored_reports/report.json", root / "runs/demo/report.json")
    scene = make_tiny_scene(root / "data/rooms/val/rooms0_val_0000")
    (root / "data/mine").mkdir()
    (root / "classes.csv").write_text(
        "name,kind\n" + "".join(f"{name},{_kind(name)}\n" for name in CLASSES)
    )
    _write_ply(root / "room.ply", np.load(scene / "coord.npy"), np.load(scene / "color.npy"))
    recording_factory.scannet(root / "recordings/kitchen", recording_factory.poses(6), paint=True)
    return root


def _kind(name: str) -> str:
    return "stuff" if name in ("ceiling", "floor", "wall") else "thing"


def _write_ply(path: Path, coord: np.ndarray, color: np.ndarray) -> None:
    columns = [*((axis, "f4") for axis in "xyz"), *((name, "u1") for name in ("red", "green", "blue"))]
    rows = [(*point, *rgb) for point, rgb in zip(coord.tolist(), color.tolist(), strict=True)]
    PlyData([PlyElement.describe(np.array(rows, dtype=columns), "vertex")]).write(path)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(
    page: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    bifusion: Callable,
    capsys: pytest.CaptureFixture[str],
):
    """In order, as they stand; blocks of Python share their names, and find the arrays of a room."""
    monkeypatch.chdir(place)
    monkeypatch.setenv(plugins.VARIABLE, "my_rooms")
    monkeypatch.setenv(stores.VARIABLE, str(place / "hub"))
    monkeypatch.setenv(cache.VARIABLE, str(place / "cache"))
    scene = package.open_scene("data/rooms/val/rooms0_val_0000")
    view = next(iter(scene.views.values()))
    names: dict = {
        "coord": scene.coord,
        "color": scene.color,
        "segment": np.vectorize(FROM_SCANNET20.get)(scene.segment),
        "instance": scene.instance,
        "image": view.color,
        "depth_m": view.depth_m,
        "K": view.color_K,
        "cam2world": view.color_cam2world,
    }
    for block in blocks(page):
        if block.mark != "run":
            continue
        if block.language == "python":
            exec(block.text, names)
            continue
        for command in block.commands:
            called = bifusion(*shlex.split(command)[1:])
            assert called.status == 0, f"{command}\n{called.out}\n{called.err}"


@pytest.mark.slow
def test_the_first_tutorial_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bifusion: Callable
):
    """From the first room to the labelled scan, at the length that its page gives."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("docs/start.md"):
        if block.language == "python":
            exec(block.text, names)
        for command in block.commands:
            assert bifusion(*shlex.split(command)[1:]).status == 0, command
    assert (tmp_path / "labelled/view.html").is_file()
    assert len((tmp_path / "labelled/objects.csv").read_text().splitlines()) > 1, "it finds objects"
    assert len(names["found"].scores) > 0
