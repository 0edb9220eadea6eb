"""Bad input through the commands themselves: file or argument, what was found, what was expected and
what to do, exit status 2, no traceback. What `prepare scannet` refuses:
tests/unit/test_scannet_bad_input.py.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bifusion.config.run import load_config, save_config
from bifusion.errors import InputError
from bifusion.inference.evaluate import _target, evaluate_run
from bifusion.inference.segmenter import Segmenter
from bifusion.inference.train_and_evaluate import train_and_evaluate
from bifusion.runs.run_folder import RunFolder
from bifusion.training.train import train
from tiny_runs import make_tiny_data, tiny_config

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=1, val=1)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A complete, evaluated run of BiFusion; its configuration is in run.json."""
    run = tmp_path_factory.mktemp("runs") / "run"
    config = tiny_config("bifusion_small", data)
    train(config, run)
    evaluate_run(run)
    save_config(config, run / "run.json")
    return run


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of the trained run, to be damaged."""
    return shutil.copytree(trained, tmp_path / "run", symlinks=True)


@pytest.fixture
def refused(bifusion) -> Callable[..., str]:
    """Runs a command that has to be refused; its message."""

    def call(*args: object) -> str:
        called = bifusion(*args)
        assert called.status == 2, called.err
        assert "Traceback" not in called.err
        return called.err

    return call


# ------------------------------------------------------------------------------------------- scenes


def change(name: str, alter: Callable[[np.ndarray], np.ndarray | None]) -> Damage:
    """Damages an array: in place, or by what `alter` returns."""

    def damage(scene: Path) -> None:
        array = np.load(scene / name)
        altered = alter(array)
        np.save(scene / name, array if altered is None else altered)

    return damage


def camera(key: str, alter: Callable[[np.ndarray], np.ndarray | None]) -> Damage:
    def damage(scene: Path) -> None:
        file = scene / "views" / "cameras.npz"
        fields = dict(np.load(file))
        altered = alter(fields[key])
        np.savez(file, **(fields if altered is None else {**fields, key: altered}))

    return damage


def cut(name: str, size: int) -> Damage:
    return lambda scene: (scene / name).write_bytes((scene / name).read_bytes()[:size])


def put(where: object, value: object) -> Callable[[np.ndarray], None]:
    return lambda array: array.__setitem__(where, value)


SCENES: dict[str, tuple[Damage, list[str]]] = {
    "missing array": (lambda s: (s / "color.npy").unlink(), ["color.npy: missing", "prepare"]),
    "truncated array": (cut("coord.npy", 400), ["coord.npy: truncated", "copy or prepare it again"]),
    "not an array": (cut("instance.npy", 0), ["instance.npy: truncated or no .npy"]),
    "no point": (change("coord.npy", lambda a: a[:0]), ["coord.npy: holds no point"]),
    "counts that disagree": (
        change("color.npy", lambda a: a[:-5]),
        ["color.npy: has shape", "expected"],
    ),
    "no superpoints": (
        lambda s: (s / "superpoint.npy").unlink(),
        ["superpoint.npy is missing", "prepare superpoints"],
    ),
    "negative superpoint": (change("superpoint.npy", put(3, -1)), ["superpoint.npy", "ids ≥ 0"]),
    "unknown label": (change("segment20.npy", put(3, 999)), ["999", "expected -1"]),
    "colours as text": (change("color.npy", lambda a: a.astype(str)), ["color.npy: holds <U3", "uint8"]),
    "colours of 0 … 1": (change("color.npy", lambda a: a / 255.0), ["color.npy", "multiply"]),
    "NaN coordinate": (change("coord.npy", put((3, 1), np.nan)), ["coord.npy", "not finite", "remove"]),
    "infinite coordinate": (change("coord.npy", put((3, 1), np.inf)), ["coord.npy", "not finite"]),
    "huge coordinate": (change("coord.npy", put((3, 1), 1e11)), ["voxel_size_m", "in metres?"]),
    "coordinate of no scan": (change("coord.npy", put((3, 1), 1e30)), ["coord.npy", "beyond 1e+12"]),
    "damaged description": (cut("scene.json", 9), ["scene.json: not valid JSON", "prepare"]),
    "pose with a scale": (
        camera("color_cam2world", lambda a: a * np.array([2, 2, 2, 1])),
        ["cameras.npz: view 00000", "no rigid transform"],
    ),
    "lost pose": (camera("depth_cam2world", put(0, -np.inf)), ["00000, depth camera", "-inf"]),
    "intrinsics 4×4": (
        camera("color_K", lambda a: np.pad(a, ((0, 0), (0, 1), (0, 1)))),
        ["color_K has shape (2, 4, 4)", "(2, 3, 3)"],
    ),
    "intrinsics of words": (
        camera("depth_K", lambda a: np.full(a.shape, "wide")),
        ["depth_K", "numbers"],
    ),
    "intrinsics of another size": (
        camera("color_K", lambda a: a * np.array([[2], [2], [1]])),
        ["00000, colour camera", "another image size", "scale them"],
    ),
    "two views of one name": (
        camera("names", lambda a: np.array(["00000", "00000"])),
        ["cameras.npz: names are 00000, 00000", "name of its own"],
    ),
    "cameras in one array": (
        lambda s: shutil.copy(s / "coord.npy", s / "views" / "cameras.npz"),
        ["cameras.npz: not a readable .npz", "prepare"],
    ),
    "broken image": (cut("views/00000.jpg", 300), ["00000.jpg: cannot be decoded", "copy it again"]),
    "image of another size": (
        lambda s: Image.new("RGB", (10, 10)).save(s / "views" / "00000.jpg"),
        ["00000.jpg: is 10×10", "64×48"],
    ),
    "no depth": (lambda s: (s / "views" / "00000.png").unlink(), ["00000.png", "no depth"]),
    "depth of 8 bits": (
        lambda s: Image.new("L", (40, 30)).save(s / "views" / "00000.png"),
        ["00000.png", "16-bit"],
    ),
}


@pytest.fixture
def damaged(data, tmp_path) -> Callable[[Damage], Path]:
    """A copy of the data with its training and its validation scene damaged."""

    def make(damage: Damage) -> Path:
        root = shutil.copytree(data, tmp_path / "damaged")
        for scene in (*(root / "train").iterdir(), *(root / "val").iterdir()):
            damage(scene)
        return root

    return make


@pytest.mark.parametrize("case", SCENES)
def test_training_on_a_damaged_scene(trained, damaged, refused, tmp_path, case):
    damage, words = SCENES[case]
    message = refused(
        "train", trained / "run.json", "--data.root", damaged(damage), "--out", tmp_path / "new"
    )
    assert all(word in message for word in words), message


def test_bad_data_is_told_once(trained, damaged, bifusion, tmp_path):
    """Not where the run ends and again as the refusal; nor by each arm of a comparison."""
    root = damaged(SCENES["NaN coordinate"][0])
    fault = "a coordinate that is not finite"
    out, run = ("--out", tmp_path / "out"), trained / "run.json"
    called = bifusion("train", run, "--data.root", root, "--out", tmp_path / "new")
    assert (called.out + called.err).count(fault) == 1
    arms = ["oneformer3d_small", "mask3d_small", "bifusion_small", "bifusion_small_naive"]
    called = bifusion("compare", *arms, "--data", root, *out)
    assert called.status == 2 and "2 of 2 scenes cannot be used" in called.err
    assert (called.out + called.err).count(fault) == 2, "once a scene"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "case", ["truncated array", "NaN coordinate", "intrinsics of another size", "lost pose", "no depth"]
)
def test_prediction_and_evaluation_of_a_damaged_scene(run, damaged, refused, tmp_path, case):
    damage, words = SCENES[case]
    root = damaged(damage)
    scene = next((root / "val").iterdir())
    for message in (
        refused("predict", run, scene, "--out", tmp_path / "out"),
        refused("evaluate", run, "--data", root),
    ):
        assert all(word in message for word in words), message
    assert not (tmp_path / "out").exists()


def test_data_without_any_label_of_the_label_set(trained, damaged, refused, tmp_path):
    root = damaged(lambda scene: (scene / "segment20.npy").unlink())
    message = refused("train", trained / "run.json", "--data.root", root, "--out", tmp_path / "new")
    assert "no scene has segment20.npy" in message and "label set" in message


def test_training_with_images_on_data_without_views(trained, damaged, refused, tmp_path):
    """Else BiFusion would become its own baseline, and nothing would say so."""
    arguments = ["train", trained / "run.json", "--out", tmp_path / "new", "--data.root"]
    root = damaged(lambda scene: None)
    assert "data.max_views is 0" in refused(*arguments, root, "--data.max-views", 0)
    for scene in (root / "train").iterdir():
        shutil.rmtree(scene / "views")
    message = refused(*arguments, root)
    assert "no scene has views" in message and "--posed-images" in message


def test_views_that_see_nothing_are_announced(trained, data, tmp_path, caplog):
    """A pose that is rigid but wrong: it passes every check, so the share of seen points tells."""
    scene = shutil.copytree(next((data / "val").iterdir()), tmp_path / "scene")
    Segmenter(trained).predict(scene).write(tmp_path / "out")
    assert not caplog.records
    for key in ("color_cam2world", "depth_cam2world"):
        camera(key, np.linalg.inv)(scene)
    Segmenter(trained).predict(scene).write(tmp_path / "out")
    assert re.search(r"scene: views see 0\.\d % of the points", caplog.text)
    assert "scene: poses look like world-to-camera: store camera-to-world" in caplog.text


# --------------------------------------------------------------------------- run folders, checkpoints


@pytest.mark.parametrize("content", [b"", b'{"x": 1', b'{"x": 1}', b"[1]", b"\xff\x00\x81"])
@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("evaluate", "config.json"),
        ("evaluate", "checkpoints/last/config.json"),
        ("evaluate", "checkpoints/last/model.safetensors"),
        ("evaluate", "checkpoints/last/training.pt"),
        ("predict", "checkpoints/last/config.json"),
        ("predict", "checkpoints/last/training.pt"),
        ("compare", "config.json"),
        ("compare", "status.json"),
        ("compare", "evaluation.json"),
        ("resume", "status.json"),
        ("train", "run.json"),
    ],
)
def test_damaged_file_of_a_run(run, data, refused, tmp_path, command, file, content):
    (run / file).write_bytes(content)
    scene = next((data / "val").iterdir())
    arguments = {
        "evaluate": ["evaluate", run],
        "predict": ["predict", run, scene, "--out", tmp_path / "out"],
        "compare": ["compare", "--runs", run, "--out", tmp_path / "out"],
        "resume": ["train", run / "run.json", "--out", run, "--resume"],
        "train": ["train", run / "run.json", "--out", tmp_path / "out"],
    }
    message = refused(*arguments[command])
    assert Path(file).name in message or "checkpoint of another model" in message


def test_damaged_line_of_epochs(run, refused):
    with open(run / "epochs.jsonl", "a") as file:
        file.write('{"epoch": \n')
    assert "epochs.jsonl, line 4: not valid JSON" in refused("evaluate", run)


def test_checkpoint_of_another_model(run, data, refused, tmp_path):
    other = tiny_config("oneformer3d_small", data, epochs=1)
    train(other, tmp_path / "other")
    last = Path("checkpoints", "last")
    for name in ("model.safetensors", "sums.json"):
        shutil.copy(tmp_path / "other" / last / name, run / last / name)
    scene = next((data / "val").iterdir())
    for message in (
        refused("predict", run, scene, "--out", tmp_path / "out"),
        refused("evaluate", run),
    ):
        assert "model.safetensors is a checkpoint of another model" in message
        assert "missing: " in message and "Use the checkpoint with the recipe" in message


def test_what_is_no_run(run, data, refused, tmp_path):
    assert "no checkpoint here" in refused("evaluate", data)
    assert "no run folder" in refused("compare", "--runs", data, "--out", tmp_path / "out")
    (run / "config.json").unlink()
    assert "no run folder" in refused("evaluate", run)


# --------------------------------------------------------------------------- options, configurations


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("optim.lr", float("nan"), ["NaN is no JSON number"]),
        ("optim.lr", "fast", ["optim.lr", "'fast'", "a number"]),
        ("optim.rate", 1, ["optim: unknown field rate", "known are lr"]),
        ("optim", 3, ["optim: found 3"]),
        ("trainer.precision", "8-bit", ["trainer.precision", "one of '32-true'"]),
        ("model_kind", "minkunet", ["model_kind: found 'minkunet'", "oneformer3d, bifusion, mask3d"]),
        ("stages", None, ["stages"]),
    ],
)
def test_configuration_file(run, refused, tmp_path, field, value, words):
    config = json.loads((run / "run.json").read_text())
    owner = config
    *parents, name = field.split(".")
    for parent in parents:
        owner = owner[parent]
    owner[name] = value
    (run / "run.json").write_text(json.dumps(config))
    message = refused("train", run / "run.json", "--out", tmp_path / "new")
    assert "run.json" in message or "change --" in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.voxel-size-m", "0"], ["data.voxel_size_m: found 0", "above 0"]),
        (["--data.max-views", "-1"], ["data.max_views: found -1", "0 or more"]),
        (["--trainer.epochs", "2"], ["trainer.epochs is 2", "3 stages"]),
        (["--optim.lr", "nan"], ["optim.lr: found nan", "finite"]),
        (["--trainer.eval-every", "0"], ["trainer.eval_every: found 0"]),
        (["--trainer.accelerator", "mps"], ["trainer.accelerator is 'mps'", "auto"]),
        (["--model.tower.blocks", "9"], ["tower.blocks is 9", "1 … 4"]),
        (["--model.tower.patch-size", "8"], ["patch of model.tower is 8", "data.patch_size is 16"]),
        (["--model.tower.pretrained", "none.pt"], ["there is no file none.pt"]),
        (["--data.label-set", "nyu40"], ["no scene has segment.npy", "nyu40 (40 classes"]),
        (["--trainer.epochs", "many"], ["many"]),
    ],
)
def test_option(trained, refused, tmp_path, options, words):
    message = refused("train", trained / "run.json", "--out", tmp_path / "new", *options)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--epochs", "0"], ["trainer.epochs is 0"]),
        (["--jobs", "-1"], ["--jobs: found -1"]),
        (["--tower-weights", "none.pt"], ["there is no file none.pt"]),
    ],
)
def test_comparison_is_refused_before_a_run_starts(data, refused, tmp_path, options, words):
    out = tmp_path / "out"
    message = refused("compare", "bifusion_small", "--data", data, "--out", out, *options)
    assert all(word in message for word in words), message
    assert not out.exists()
    assert "no such folder" in refused("compare", "bifusion_small", "--data", tmp_path, "--out", out)


def test_output_that_is_a_file(trained, data, refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    scene = next((data / "val").iterdir())
    assert "file: File exists" in refused("predict", trained, scene, "--out", tmp_path / "file")
    assert load_config(trained / "run.json").name == "bifusion_small"


def test_a_run_that_has_ended_is_evaluated_where_its_data_lie_now(run, data, tmp_path):
    """--resume with another --data.root looked for them in the old place, and named an option that
    `train` has not."""
    config = load_config(run / "run.json")
    config.data.root = shutil.copytree(data, tmp_path / "moved")
    found = train_and_evaluate(config, run, resume=True)
    assert found.evaluation is not None and found.evaluation["data"] == "moved"
    assert not list(run.glob("evaluation-*.json"))


def test_data_of_a_relative_path_are_told_with_the_folder_they_were_looked_for_in(run, monkeypatch):
    config = load_config(run / "run.json")
    config.data.root = Path("data/rooms")
    monkeypatch.chdir(run)
    with pytest.raises(
        InputError, match=f"data/rooms .* is not in {run} .*start from where the training"
    ):
        _target(RunFolder(run), run / "checkpoints" / "last", config, None, None)
