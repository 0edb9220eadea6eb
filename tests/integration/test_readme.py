"""README's Python runs as it stands there, and its make targets are there."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyElement
from safetensors.torch import save_file

import bifusion
from bifusion import plugins
from bifusion.labels.sets import SCANNET20
from bifusion.losses.criterion import Criterion
from bifusion.models.towers.clip import ClipEncoder
from bifusion.recipes import get_recipe
from documents import ROOT, blocks
from tiny_runs import make_tiny_data
from untrained_runs import bifusion as untrained
from untrained_runs import save_run


def test_python_section_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """As it stands in README, on a run of a moment and tiny rooms; training and model are smaller."""
    (block,) = [block.text for block in blocks("README.md") if "import bifusion\n" in block.text]
    assert len(block.splitlines()) <= 15 and block.count("epochs=20") == 1
    assert 'model.predict({"coord": coord, "color": color})' in block
    monkeypatch.chdir(tmp_path)
    data = make_tiny_data(Path("runs/demo/rooms-seed0"))
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
    tower = get_recipe("bifusion_tiny").model.tower
    seen = ClipEncoder(dataclasses.replace(tower, depth_channel=False))
    save_file(seen.open_clip_state(), "runs/demo/tower-small.safetensors")
    smaller = block.replace("epochs=20", "epochs=3").replace('"bifusion_small"', '"bifusion_tiny"')
    exec(smaller, shown)
    assert len(shown["found"].points) == len(scene.coord)
    assert shown["run"].status.state == "completed"
    printed = capsys.readouterr().out
    assert "<Segmentation of hall: " in printed and "tower-small.safetensors" in printed
    assert "random weights" not in printed
    assert Path("runs/mine/evaluation.json").is_file()


RGB = ("red", "green", "blue")


def test_code_from_outside_that_the_documentation_shows_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(plugins.VARIABLE, "my_rooms")
    block = next(block.text for block in blocks("docs/outside.md") if block.language == "python")
    shown: dict = {}
    exec(block, shown)
    config = shown["small"]()
    assert list(Criterion(config.criterion, SCANNET20).terms)[-1] == "confident"
    assert all(stage.weights["confident"].value == 0.2 for stage in config.stages.stages)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M), f"make {target}"
