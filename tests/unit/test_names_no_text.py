"""Names of files in another encoding than UTF-8: refused by name, before anything is made of them."""

import os
import re
from pathlib import Path

import pytest

from bifusion.config.run import Config
from bifusion.data.dataset import SceneDataset, scene_sample
from bifusion.data.scene_folder import load_scene
from bifusion.data.transforms import SceneStream
from bifusion.datasets.check.run import check_data
from bifusion.datasets.scan.make import make_scan
from bifusion.datasets.scan.prepare import prepare_scan
from bifusion.errors import InputError
from bifusion.inference.segmenter import dataset_of
from bifusion.storage.files import append_line
from bifusion.storage.json_files import write_json
from bifusion.viewer.scene import show_scene
from room_meshes import room_mesh, write_ply
from scene_factory import make_tiny_scene
from untrained_runs import baseline

NAME = os.fsdecode("房间".encode("gb18030"))
REFUSED = rf"{re.escape(repr(NAME))}: its name is no text in UTF-8.*rename it"
"""As messages show it: they too must be written somewhere."""


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    made = make_tiny_scene(tmp_path / "data" / "val" / "room")
    return made.rename(made.with_name(NAME))


@pytest.fixture
def tiny(scene: Path) -> Config:
    config = baseline()
    config.data.root = scene.parent.parent
    return config


def test_a_data_set_with_it_is_not_trained_on(tiny: Config) -> None:
    with pytest.raises(InputError, match=REFUSED):
        SceneDataset(tiny.data, "val", 0, training=True)


def test_a_scene_is_refused_and_not_those_beside_it(scene: Path, tiny: Config) -> None:
    make_tiny_scene(scene.with_name("other"))
    for folder, wrong in ((scene, True), (scene.with_name("other"), False)):
        dataset, index = dataset_of(folder, tiny.data)
        name = dataset.names[index]
        if not wrong:
            assert scene_sample(dataset.scenes, name, tiny.data, SceneStream(0, 0, name)).name == "other"
            continue
        with pytest.raises(InputError, match=REFUSED):
            scene_sample(dataset.scenes, name, tiny.data, SceneStream(0, 0, name))


def test_a_check_tells_it_and_a_page_does_not_begin(scene: Path) -> None:
    assert load_scene(scene, None).name == NAME  # there is nothing else wrong with it
    messages = [one.message for one in check_data(scene).scenes[0].findings if one.severity == "error"]
    assert len(messages) == 1
    assert "its name is no text" in messages[0]
    with pytest.raises(InputError, match=REFUSED):
        show_scene(scene)


def test_a_scan_of_it_is_refused_and_a_scene_made_below_it(tmp_path: Path) -> None:
    mesh = write_ply(tmp_path / "room.ply", room_mesh(0.3))
    named = tmp_path / f"{NAME}.ply"
    os.link(mesh, named)
    with pytest.raises(InputError, match=REFUSED):
        make_scan(named)
    below = tmp_path / NAME / "room.ply"
    below.parent.mkdir()
    os.link(mesh, below)
    assert make_scan(below).scene.name == "room"
    with pytest.raises(InputError, match="its name is no text"):  # scene.json says what it is made of
        prepare_scan(below, tmp_path / "scene")
    assert not (tmp_path / "scene").exists()


def test_nothing_of_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=REFUSED):
        make_tiny_scene(tmp_path / NAME)
    with pytest.raises(InputError, match="root.*is no text in UTF-8"):
        write_json(tmp_path / "config.json", {"root": Path("/mnt") / NAME})
    with pytest.raises(InputError, match="is no text in UTF-8"):
        append_line(tmp_path / "steps.jsonl", NAME)
    assert not any(tmp_path.iterdir())
