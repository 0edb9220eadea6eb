"""Replay bundles: the same bits in a fresh process, and nothing but an error from a bad file."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bifusion import plugins
from bifusion.diagnosis.bundle import KEY, read_bundle, write_bundle
from bifusion.diagnosis.replay import print_report, replay
from bifusion.errors import InputError
from bifusion.models.unet import UNetConfig
from bifusion.step.events import Alarm, Fault
from hostile_pickles import calls
from step_factory import TinyStep, tiny_step
from tiny_runs import make_tiny_data, tiny_config, tiny_mask3d


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=4, val=1)


def _faulty(root: Path) -> TinyStep:
    """BiFusion after two steps, whose third, of two batches, fails in the mask features."""
    step = tiny_step(tiny_config("bifusion_small", root))
    for _ in range(2):
        assert step.stepper(step.inputs, step.state).event is None
    step.inputs.batches.append(step.batch([2, 3]))
    with torch.no_grad():
        for layer in (0, 2):
            step.stepper.model.module.decoder.x_mask[layer].weight.mul_(1e30)
    return step


@pytest.fixture(scope="module")
def bundle(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    step = _faulty(root)
    fault = step.stepper(step.inputs, step.state).event
    assert fault is not None
    path = tmp_path_factory.mktemp("bundles") / "step.safetensors"
    write_bundle(path, step.stepper, step.config, step.inputs, step.state, [fault])
    return path


def test_a_network_that_reads_values_as_it_is_made_is_replayed(root, tmp_path, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "my_rooms")
    config = tiny_config("oneformer3d_small", root)
    config.model.unet = UNetConfig(kind="outside", function="my_rooms.networks:reading")
    step, path = tiny_step(config), tmp_path / "step.safetensors"
    write_bundle(path, step.stepper, config, step.inputs, step.state, [])
    assert replay(path).identical


def test_a_run_in_a_bundle_s_place_is_told_with_its_bundles(tmp_path):
    with pytest.raises(InputError, match="is a folder; expected a bundle .*; it holds none"):
        read_bundle(tmp_path)
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "step-00000007.safetensors").touch()
    with pytest.raises(InputError, match=r"it holds bundles/step-00000007\.safetensors: give one"):
        read_bundle(tmp_path)


def test_all_that_a_step_reads_comes_back(root, bundle):
    step = _faulty(root)
    read = read_bundle(bundle)
    for ours, theirs in zip(step.inputs.batches, read.inputs.batches, strict=True):
        assert ours.names == theirs.names and ours.seeds == theirs.seeds
        assert torch.equal(ours.voxel_feats, theirs.voxel_feats)
        assert torch.equal(ours.targets[1].masks, theirs.targets[1].masks)
        assert [v.name for v in ours.views] == [v.name for v in theirs.views]
        assert torch.equal(ours.views[0].image, theirs.views[0].image)
    assert (read.inputs.step, read.inputs.rates) == (step.inputs.step, step.inputs.rates)
    weight = step.stepper.model.module.decoder.out_cls[0].weight
    moments = step.stepper.optimizer.optimizer.state[weight]
    assert torch.equal(read.optimizer["decoder.out_cls.0.weight"]["exp_avg"], moments["exp_avg"])
    assert read.config == step.config and read.events[0]["kind"] == "nonfinite"


def test_replay_meets_the_same_fault_with_the_same_bits(bundle):
    threads = torch.get_num_threads()
    report = replay(bundle, trace=True)
    assert report.identical and report.notes == []
    assert report.fault is not None and report.fault.phase == "activation"
    assert report.origin is not None and report.origin.module == "decoder.x_mask.2"
    assert torch.get_num_threads() == threads


def test_a_bundle_of_old_names_is_replayed_to_the_bit(bundle, tmp_path):
    """The image tower was called "clip" (config/old_names.py)."""
    with safe_open(bundle, framework="pt") as file:
        content = json.loads(file.metadata()[KEY])
    config = content["config"]
    config["model"]["clip"] = config["model"].pop("tower")
    config["optim"]["clip_layer_decay"] = config["optim"].pop("tower_layer_decay")
    for stage in config["stages"]["stages"]:
        stage["trains"] = {
            name.replace("tower.", "clip."): ramp for name, ramp in stage["trains"].items()
        }
    content["rates"] = {name.replace("tower.", "clip."): r for name, r in content["rates"].items()}
    tensors = {name.replace(".tower.", ".clip."): t for name, t in load_file(bundle).items()}
    old, today = tmp_path / "old.safetensors", read_bundle(bundle)
    save_file(tensors, old, {KEY: json.dumps(content)})
    read = read_bundle(old)
    assert "weight.clip.conv1_rgb.weight" in tensors and read.weights.keys() == today.weights.keys()
    assert read.config == today.config and read.inputs.rates == today.inputs.rates
    assert read.optimizer.keys() == today.optimizer.keys()
    assert replay(old).identical


MODELS = ("oneformer3d_small", "mask3d_small", "bifusion_small")
REPLAY_ALL = """
import sys
from bifusion.cli import COMMANDS
sys.exit(max(COMMANDS["replay"]([path]) for path in sys.argv[1:]))
"""


def test_a_fresh_process_reproduces_every_model(root, tmp_path):
    """One process for all: it has taken part in none of these steps."""
    for name in MODELS:
        config = tiny_mask3d(root) if name == "mask3d_small" else tiny_config(name, root)
        step = tiny_step(config)
        alarm = Alarm("loss_spike", ["loss.total"], ["roomtrain0"], 9.0, 4.0, "a spike")
        path = tmp_path / f"{name}.safetensors"
        write_bundle(path, step.stepper, config, step.inputs, step.state, [alarm])
    command = [sys.executable, "-c", REPLAY_ALL, *sorted(map(str, tmp_path.iterdir()))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    for said in ("bit-identical: losses", "threads set to 1"):
        assert result.stdout.count(said) == len(MODELS), result.stdout


def test_a_spike_is_met_again_in_its_figures(root, tmp_path, capsys):
    """No rule judges a step by itself, but it is as high as it was."""
    config = tiny_config("oneformer3d_small", root)
    step = tiny_step(config)
    total = step.stepper.measure(step.inputs, step.state).total
    step.stepper.discard()
    spike = Fault("loss", ["loss.semantic"], [], rule="loss_spike", heights={"loss.total": total})
    path = tmp_path / "spike.safetensors"
    write_bundle(path, step.stepper, config, step.inputs, step.state, [spike])
    report = replay(path)
    assert report.heights == {"loss.total": (total, total)} and report.identical
    print_report(report, Console())
    assert f"met this time: loss.total {total:.4g} ({total:.4g} recorded)" in capsys.readouterr().out


def test_other_weights_are_not_identical(root, bundle, tmp_path, capsys):
    path = tmp_path / "other.safetensors"

    def nudge(tensors: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
        tensors["weight.unet.input_conv.weight"][0, 0, 0] += 1e-6

    _rewrite(bundle, path, nudge)
    report = replay(path)
    print_report(report, Console())
    assert not report.identical
    assert "not bit-identical" in capsys.readouterr().out


def test_trace_shows_every_module_and_marks_the_first_bad_one(bundle, capsys):
    print_report(replay(bundle, trace=True), Console())
    lines = capsys.readouterr().out.splitlines()
    marked = [line for line in lines if line.strip().startswith(">")]
    assert len(marked) == 1 and "decoder.x_mask.2" in marked[0]
    assert any("unet.input_conv" in line for line in lines)
    assert any("first non-finite" in line for line in lines)


@pytest.fixture(scope="module")
def half_bundle(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step in float16 of which a mask feature overflows: 65,520 and more is infinite in it alone."""
    config = tiny_config("bifusion_small", root)
    config.trainer.precision = "16-mixed"
    step = tiny_step(config)
    with torch.no_grad():
        step.stepper.model.module.decoder.x_mask[2].weight.mul_(1e6)
    fault = step.stepper(step.inputs, step.state).event
    assert fault is not None
    path = tmp_path_factory.mktemp("bundles") / "half.safetensors"
    write_bundle(path, step.stepper, config, step.inputs, step.state, [fault])
    return path


def test_an_overflow_of_float16_comes_back(half_bundle, tmp_path):
    report = replay(half_bundle, trace=True)
    assert report.identical and report.notes == []
    assert report.fault is not None and report.fault.phase == "activation"
    assert report.origin is not None and report.origin.module == "decoder.x_mask.2"

    def in_float32(tensors: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
        content["config"]["trainer"]["precision"] = "32-true"

    _rewrite(half_bundle, tmp_path / "float32.safetensors", in_float32)
    wide = replay(tmp_path / "float32.safetensors")
    assert wide.fault is None or wide.fault.phase != "activation"


def test_a_bundle_of_a_gpu_says_that_bits_may_differ(half_bundle, tmp_path):
    def elsewhere(tensors: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
        content["circumstances"]["device"] = "cuda"
        content["config"]["trainer"]["accelerator"] = "cuda"

    path = tmp_path / "gpu.safetensors"
    _rewrite(half_bundle, path, elsewhere)
    notes = " ".join(replay(path).notes)
    assert "written on cuda, replayed on cpu" in notes and "float16" in notes


@pytest.mark.parametrize("scale", ["x", None, -1.0])
def test_a_damaged_scaler_is_named(half_bundle, tmp_path, scale):
    def damaged(tensors: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
        content["scaler"]["scale"] = scale

    path = tmp_path / "damaged.safetensors"
    _rewrite(half_bundle, path, damaged)
    with pytest.raises(InputError, match="damaged.safetensors.*scale"):
        replay(path)


def _rewrite(
    source: Path, target: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]
) -> None:
    tensors = load_file(source)
    with safe_open(source, framework="pt") as file:
        content = json.loads(file.metadata()[KEY])
    change(tensors, content)
    save_file(tensors, target, {KEY: json.dumps(content)})


def _drop(name: str) -> Callable[[dict, dict], None]:
    return lambda tensors, content: tensors.pop(name)


def _put(name: str, value: torch.Tensor) -> Callable[[dict, dict], None]:
    return lambda tensors, content: tensors.update({name: value})


def _say(**fields: Any) -> Callable[[dict, dict], None]:
    return lambda tensors, content: content.update(fields)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop("weight.unet.input_conv.weight"), "another model"),
        (_drop("batch0.voxel_feats"), "no tensor batch0.voxel_feats"),
        (_drop("batch1.view0.image"), "no tensor batch1.view0.image"),
        (_put("weight.unet.input_conv.weight", torch.zeros(3)), "other shapes"),
        (_put("batch0.voxel_coords", torch.zeros(4, 4)), "batch0.voxel_coords is torch.float32"),
        (_put("batch0.point_to_voxel", torch.tensor([10**9])), "not there"),
        (_put("batch0.target0.labels", torch.tensor([99])), "annotation"),
        (_put("optimizer.unet.nothing.exp_avg", torch.zeros(1)), "fit no parameter"),
        (_put("optimizer.unet.input_conv.weight.exp_avg", torch.zeros(1)), "fit no parameter"),
        (_drop("optimizer.unet.input_conv.weight.exp_avg_sq"), "not all there"),
        (_drop("batch0.target1.masks"), "no tensor batch0.target1.masks"),
        (_put("batch0.view0.image", torch.zeros(3, 0, 0)), "cannot be taken"),
        (_put("batch0.voxel_feats", torch.zeros(7, 6)), "differ in length"),
        (_say(format=99), "format 99"),
        (_say(config=None), "no configuration"),
        (_say(config={"model_kind": "os.system"}), "model_kind"),
        (_say(step="one"), "step"),
        (_say(time=1e9), "epoch 1000000000.0"),
        (_say(batches=[]), "0 batches"),
        (_say(batches=[{"names": "x"}]), "names"),
        (_say(circumstances={"threads": 10**9}), "circumstances"),
        (_say(rates={}), "no learning rate"),
    ],
)  # fmt: skip
def test_a_bundle_that_does_not_fit_itself_is_refused(bundle, tmp_path, change, said):
    path = tmp_path / "bad.safetensors"
    _rewrite(bundle, path, change)
    with pytest.raises(InputError, match="bad.safetensors") as error:
        replay(path)
    assert said in str(error.value)


def test_files_that_are_no_bundles_are_refused(bundle, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(bundle.read_bytes()[:-100])
    foreign = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    text = tmp_path / "text.safetensors"
    save_file({}, text, {KEY: "[" * 100_000})
    for path in (damaged, foreign, text, tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(InputError, match=path.name):
            replay(path)


def test_a_pickle_is_not_executed(tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "step.safetensors"
    for program in calls(f"touch {marker}").values():
        path.write_bytes(program)
        with pytest.raises(InputError):
            replay(path)
    assert not marker.exists()
