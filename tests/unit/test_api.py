"""The names that `import bifusion` offers, and what it costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import bifusion
import bifusion.inference.train_and_evaluate
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.errors import InputError
from bifusion.runs.run_folder import RunStatus
from run_factory import FakeRun
from scene_factory import make_tiny_scene
from tiny_runs import make_tiny_data


def test_import_brings_no_torch():
    """Nor does the command line: help is there at once."""
    code = "import sys, bifusion, bifusion.cli; bifusion.__version__; dir(bifusion); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", done.stdout


def test_names_are_those_that_editors_see():
    """The imports for type checkers, name by name, are what `__getattr__` finds."""
    tree = ast.parse(Path(bifusion.__file__).read_text())
    block, _ = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {(node.module, alias.asname) for node in imports for alias in node.names}
    found = {(module, name) for module, names in bifusion._PLACES.items() for name in names}
    assert seen == found | {("bifusion", name) for name in bifusion._MODULES}
    for module, name in sorted(found):
        assert getattr(bifusion, name) is getattr(sys.modules[module], name)


def test_directory_version_and_an_unknown_name():
    assert {"load", "train", "evaluate", "compare", "open_scene", "write_scene", "segment"} <= set(
        dir(bifusion)
    )
    assert bifusion.__version__ == version("bifusion")
    assert bifusion.InputError is InputError
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        bifusion.lode  # noqa: B018


def test_plugins_are_there_after_the_import_alone():
    code = "import bifusion; bifusion.plugins.allow('my_rooms'); assert 'plugins' in dir(bifusion)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_recipe_and_one_seed_are_taken_for_lists_of_one(tmp_path):
    with pytest.raises(InputError, match="'no_such_recipe'"):
        bifusion.compare("no_such_recipe", seeds=0, data=tmp_path, out=tmp_path / "out")


def test_options_of_the_other_kind_of_input_are_refused(tmp_path):
    with pytest.raises(InputError, match="room: is no mesh file; scale and up go with those"):
        bifusion.open_scene(tmp_path / "room", scale=0.001)
    with pytest.raises(InputError, match="labels: .*room.ply is a mesh file"):
        bifusion.open_scene(tmp_path / "room.ply", labels="scannet20")


def test_package_is_typed():
    assert (Path(bifusion.__file__).parent / "py.typed").is_file()


def test_a_configuration_that_is_given_stays_as_it_is(tmp_path):
    config = bifusion.get_recipe("oneformer3d_small")
    before = repr(config)
    with pytest.raises(InputError, match="no such folder"):
        bifusion.train(config, out=tmp_path / "run", data=tmp_path / "no", epochs=1, seed=7)
    assert repr(config) == before


def test_what_cannot_be_trained_is_named(tmp_path):
    with pytest.raises(InputError, match=r"recipe 'oneformer3d_smal' is unknown \(did you mean"):
        bifusion.train("oneformer3d_smal", out=tmp_path)
    with pytest.raises(InputError, match="run.json: no such file"):
        bifusion.train(tmp_path / "run.json", out=tmp_path)
    with pytest.raises(InputError, match="nothing to compare"):
        bifusion.compare(out=tmp_path)
    with pytest.raises(InputError, match="no checkpoint here"):
        bifusion.load(tmp_path)


def test_what_would_be_trained_twice_is_refused(tmp_path):
    """Before anything is trained: the second would find the first at work in its folder."""
    data, out, name = make_tiny_data(tmp_path / "rooms", 1, 1), tmp_path / "out", "oneformer3d_small"
    with pytest.raises(InputError, match=f"{name}-seed0: asked for more than once"):
        bifusion.compare((name, name), data=data, out=out)
    for seeds in ((0, 0), ()):
        with pytest.raises(InputError, match=r"--seeds \(.*\): expected one or more, each once"):
            bifusion.compare(name, seeds=seeds, data=data, out=out)
    there = FakeRun(arm="baseline", seed=1).write(tmp_path)
    description = json.loads((there / "config.json").read_text())
    (there / "config.json").write_text(json.dumps(description | {"name": name}))
    with pytest.raises(
        InputError, match=f"baseline-seed1: is {name} with seed 1, which would be trained"
    ):
        bifusion.compare(name, seeds=(0, 1), data=data, runs=there, out=out)


def test_where_all_runs_crash_it_says_so(tmp_path, monkeypatch):
    data = make_tiny_data(tmp_path / "rooms", 1, 1)
    monkeypatch.setattr(
        "bifusion.studies.comparison.run.train_runs", lambda runs, **_: [run.folder.name for run in runs]
    )
    with pytest.raises(InputError, match=r"oneformer3d_small-seed0: all runs crashed.* log\.txt"):
        bifusion.compare("oneformer3d_small", data=data, out=tmp_path / "out")


def test_finished_runs_are_compared(tmp_path, capsys):
    runs = [FakeRun(arm=arm).write(tmp_path) for arm in ("baseline", "staged")]
    report = bifusion.compare(runs=runs, out=tmp_path / "compared", progress=False)
    assert len(report.arms) == 2 and report.crashed == []
    assert (tmp_path / "compared" / "report.html").is_file() and capsys.readouterr().out == ""


def test_an_interrupted_run_does_not_look_like_a_trained_one(tmp_path, monkeypatch):
    module = bifusion.inference.train_and_evaluate
    monkeypatch.setattr(module, "train", lambda *args, **options: RunStatus("interrupted"))
    with pytest.raises(KeyboardInterrupt, match="run: saved; resume=True goes on"):
        bifusion.train("oneformer3d_small", out=tmp_path / "run", data=tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: bifusion.load(1), "run: is a int; expected a path"),
        (lambda out: bifusion.evaluate(None), "run: is a NoneType; expected a path"),
        (lambda out: bifusion.train(None, out=out), "recipe: is a NoneType; expected a recipe's name"),
        (lambda out: bifusion.train(SMALL, out=3), "out: is a int; expected a path"),
        (lambda out: bifusion.train(SMALL, out=out, data=3), "data: is a int; expected a path"),
        (lambda out: bifusion.train(SMALL, out=out, epochs=2.5), "epochs: found 2.5, expected a whole"),
        (lambda out: bifusion.train(SMALL, out=out, seed="0"), "seed: found '0', expected a whole"),
        (lambda out: bifusion.train(SMALL, out=out, tower_weights="w.pt"), "has no image tower that"),
        (
            lambda out: bifusion.train(SMALL, out=out, on_epoch=3),
            "on_epoch: is a int; expected a function",
        ),
        (lambda out: bifusion.compare(SMALL, out=out, seeds="0"), "seeds: found '0', expected a whole"),
        (lambda out: bifusion.compare(SMALL, out=out, seeds=[0.5]), "seeds: found 0.5, expected a"),
        (lambda out: bifusion.compare(SMALL, out=out, jobs=None), "jobs: found None, expected a whole"),
        (lambda out: bifusion.compare([None], out=out), "recipes: is a NoneType; expected names"),
        (lambda out: bifusion.compare(runs=[3], out=out), "runs: is a int; expected a path"),
        (lambda out: bifusion.open_scene(3), "path: is a int; expected a path"),
        (lambda out: bifusion.open_scene(out, labels=["a", "b"]), "labels: is a list; expected a Label"),
    ],
)
def test_an_argument_of_another_type_is_named(tmp_path, call, message):
    with pytest.raises(InputError, match=message):
        call(tmp_path / "out")
    assert not (tmp_path / "out").exists()


SMALL = "oneformer3d_small"
ARRAYS = {"coord": np.ones((5, 3)), "color": np.zeros((5, 3), np.uint8)}


@pytest.mark.wrong_types
@pytest.mark.parametrize("call", [bifusion.train, bifusion.compare])
def test_an_argument_that_there_is_not_is_told_with_the_one_that_was_meant(call, tmp_path):
    with pytest.raises(InputError, match=r"argument 'epoch' is unknown \(did you mean 'epochs'\?\)"):
        call("bifusion_small", out=tmp_path / "out", epoch=3)
    assert not (tmp_path / "out").exists()


def test_one_run_is_taken_for_a_list_of_one(tmp_path):
    with pytest.raises(InputError, match="one is no run folder"):
        bifusion.compare(runs=tmp_path / "one", out=tmp_path / "out")


ROOM = Path("room")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bifusion.Segmenter(3), "run: is a int; expected a path"),
        (lambda: bifusion.get_recipe(None), "name: is a NoneType; expected a name"),
        (lambda: bifusion.make_scan(3), "path: is a int; expected a path"),
        (lambda: bifusion.make_scan(ROOM, {"up": "y"}), "options: is a dict; expected ScanOptions"),
        (lambda: bifusion.make_scan(ROOM, None, 3), "telling: is a int; expected a Telling"),
        (lambda: bifusion.prepare_scan(ROOM, 3), "folder: is a int; expected a path"),
        (lambda: bifusion.prepare_scan(3, ROOM), "path: is a int; expected a path"),
        (lambda: bifusion.prepare_scan(ROOM, ROOM, 0), "options: is a int; expected ScanOptions"),
        (lambda: bifusion.open_recording(3), "path: is a int; expected a path"),
        (lambda: bifusion.open_recording(ROOM, {}), "options: is a dict; expected OpenOptions"),
        (lambda: bifusion.fuse("room"), "recording: is a str; expected what open_recording returned"),
        (lambda: bifusion.fuse(ARRAYS, 0.02), "recording: is a dict; expected what open_recording"),
        (lambda: bifusion.segment(ROOM, None), "made: is a PosixPath; expected what make_scan returned"),
        (lambda: bifusion.write_scene(3, **ARRAYS), "path: is a int; expected a path"),
        (lambda: bifusion.make_scene(**ARRAYS, name=3), "name: is a int; expected a name"),
        (lambda: bifusion.LabelSet.of(3, ["a", "b"]), "name: is a int; expected a name"),
        (lambda: bifusion.LabelSet.of("a", "wall"), "class_names: is a str; expected a list of names"),
        (lambda: bifusion.find(3, "a chair"), "scene: is a int; expected a path, or what open_scene"),
        (lambda: bifusion.find(ROOM, 3), "words: is a int; expected text, or a list of it"),
        (lambda: bifusion.find(ROOM, ["a chair", 3]), "words: is a int; expected text"),
    ],
)
def test_so_is_one_of_what_makes_scenes_and_scans(call, message):
    with pytest.raises(InputError, match=f"^{message}"):
        call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "a"}, "scale: found a; expected metres a unit"),
        ({"up": 3}, "up: is a int; expected text like y, -z or 0,0.9,0.1"),
        ({"views": "a"}, "views: found 'a', expected a number; change --views"),
        ({"voxel_size_m": "a"}, "voxel_size_m: found 'a', expected a number; change --voxel-size-m"),
        ({"opening": 3}, "opening: is a int; expected OpenOptions"),
        ({"opening": OpenOptions(depth_scale="a")}, "depth_scale: found a; expected units a metre"),
        ({"opening": OpenOptions(pose_shift=0.5)}, "pose_shift: found 0.5, expected a whole number"),
    ],
)
def test_so_is_an_option_of_a_scan(options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        bifusion.make_scan(ROOM, bifusion.ScanOptions(**options))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"prediction": "predictions"}, "prediction: is a str; expected what a model's predict"),
        ({"tower": 3}, "tower: is a int; expected a name, or a WordTower"),
        ({"weights": 3}, "weights: is a int; expected a path, or an open_clip tag"),
    ],
)
def test_what_is_searched_with_is_named_before_anything_is_loaded(tmp_path, others, message):
    scene = bifusion.open_scene(make_tiny_scene(tmp_path / "room"))
    with pytest.raises(InputError, match=f"^{message}"):
        bifusion.find(scene, "a chair", **others)
