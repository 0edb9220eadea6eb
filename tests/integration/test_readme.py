"""Every `bifusion` command that README and RECIPES show is understood as it stands there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

import bifusion
from bifusion import cli, plugins
from bifusion.commands import parsing
from bifusion.labels.sets import SCANNET20
from bifusion.losses.criterion import Criterion
from tiny_runs import make_tiny_data
from untrained_runs import bifusion as untrained
from untrained_runs import save_run

ROOT = Path(__file__).resolve().parents[2]


def _commands() -> list[str]:
    blocks = [block for name in ("README.md", "RECIPES.md") for block in _blocks(name, "")]
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(\w+=\S+ )*bifusion ", line)]


def _blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text()
    return [
        block
        for of, block in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.S | re.M)
        if of == language
    ]


class _Understood(Exception):
    """The command's arguments were parsed."""


@pytest.mark.parametrize("command", _commands())
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


def test_readme_shows_commands():
    assert len(_commands()) >= 5


def test_python_section_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """As it stands in README, on a run of a moment and tiny rooms; only the training is shorter."""
    (block,) = [block for block in _blocks("README.md", "python") if "import bifusion\n" in block]
    assert len(block.splitlines()) <= 15 and block.count("epochs=20") == 1
    monkeypatch.chdir(tmp_path)
    data = make_tiny_data(Path("runs/demo/rooms"))
    save_run(Path("runs/demo/bifusion_small-seed0"), untrained())
    scene = bifusion.open_scene(data / "val" / "roomval0")
    view = next(iter(scene.views.values()))
    vertices = np.zeros(len(scene.coord), [*((axis, "f4") for axis in "xyz"), *((c, "u1") for c in RGB)])
    for columns, array in (("xyz", scene.coord), (RGB, scene.color)):
        for column, name in enumerate(columns):
            vertices[name] = array[:, column]
    PlyData([PlyElement.describe(vertices, "vertex")]).write("room.ply")
    shown: dict = {
        "coord": scene.coord,
        "color": scene.color,
        "image": view.color,
        "depth_m": view.depth_m,
        "K": view.color_K,
        "cam2world": view.color_cam2world,
    }
    exec(block.replace("epochs=20", "epochs=3"), shown)
    assert len(shown["found"].points) == len(scene.coord)
    assert shown["run"].status.state == "completed"
    assert "<Segmentation of hall: " in capsys.readouterr().out
    assert Path("runs/tiny/evaluation.json").is_file()


RGB = ("red", "green", "blue")


def test_code_from_outside_that_readme_shows_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(plugins.VARIABLE, "my_rooms")
    (block,) = [block for block in _blocks("README.md", "python") if "my_rooms" in block]
    shown: dict = {}
    exec(block, shown)
    config = shown["small"]()
    assert list(Criterion(config.criterion, SCANNET20).terms)[-1] == "confident"
    assert all(stage.weights["confident"].value == 0.2 for stage in config.stages.stages)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M), f"make {target}"
