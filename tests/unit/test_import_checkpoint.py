"""Importing checkpoints: recognition, refusals, our own; `train --init`. Numbers: tests/reference."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

import bifusion
import untrained_runs
from bifusion.cli import main
from bifusion.config.run import Config
from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20
from bifusion.models.build import build_model
from bifusion.official.import_checkpoint import (
    Imported,
    print_conversion,
    read_checkpoint,
    write_imported,
)
from bifusion.official.initial_weights import load_backbone
from bifusion.official.models import official_models
from bifusion.official.recognition import recognise
from bifusion.runs.checkpoint import find_checkpoint, save_checkpoint, trained_epochs
from bifusion.runs.trained_model import load_model
from scene_factory import make_tiny_scene
from tiny_runs import tiny_config

KIND = "mask3d_scannet20"


@cache
def official_names(kind: str) -> dict[str, str]:
    """Official name → ours."""
    model = official_models()[kind]
    with torch.device("meta"):
        return {model.official_name(ours)[0]: ours for ours in model.build().state_dict()}


def some_tensors() -> dict[str, Tensor]:
    """A part of an official Mask3D file."""
    return {
        "model.decoder_norm.weight": torch.randn(128),
        "model.mask_features_head.kernel": torch.randn(96, 128),
        "model.backbone.bn0.bn.running_var": torch.rand(32),
        "criterion.empty_weight": torch.ones(19),
    }


def saved(tensors: dict[str, Tensor], folder: Path, **more) -> Path:
    path = folder / "model.ckpt"
    torch.save({"state_dict": tensors, **more}, path)
    return path


# ----------------------------------------------------------------------------------- what is in a file


@pytest.mark.parametrize("kind", official_models())
def test_every_published_model_is_recognised(kind: str):
    names = list(official_names(kind))
    found = recognise(names, Path("x"))
    assert found.kind == kind and found.places == {name: name for name in names} and not found.notes


@pytest.mark.parametrize("kind", official_models())
@pytest.mark.parametrize(
    "leading",
    ["", "model.", "net.", "model.module.", "ema_model.module.", "student.", "a.segmentor.net."],
)
def test_every_published_model_is_recognised_behind_any_attribute(kind: str, leading: str):
    names = {name: leading + name.removeprefix("model.") for name in official_names(kind)}
    found = recognise([*names.values(), "n_averaged"], Path("x"))
    assert found.kind == kind and found.places == names and not found.notes


def test_of_two_copies_the_average_is_left_out_and_named():
    names = list(official_names(KIND))
    copies = [f"ema.{name}" for name in names]
    found = recognise([*copies, *names, "extra.weight"], Path("x"))
    assert found.places == {**{name: name for name in names}, "extra.weight": "extra.weight"}
    assert found.notes == ["weights under 'model.' taken, not those under 'ema.model.'"]


def test_of_ema_pytorchs_copies_the_trained_one_is_taken():
    names = [name.removeprefix("model.") for name in official_names(KIND)]
    found = recognise(
        [f"{copy}.{n}" for n in names for copy in ("ema_model", "online_model")] + ["initted"], Path("x")
    )
    assert set(found.places.values()) == {f"online_model.{name}" for name in names}
    assert found.notes == ["weights under 'online_model.' taken, not those under 'ema_model.'"]


WRAPPED = {
    "compiled": lambda state: {"state_dict": prefixed("_orig_mod.", state)},
    "compiled and parallel": lambda state: {"state_dict": prefixed("module._orig_mod.", state)},
    "Lightning": lambda state: {"state_dict": prefixed("model.", state)},
    "Lightning, compiled": lambda state: {"state_dict": prefixed("model._orig_mod.", state)},
    "averages": lambda state: {
        "ema_state_dict": {**prefixed("module.", state), "steps": torch.tensor(5)}
    },
    "averages, nested": lambda state: {"ema": {"module": state, "updates": 7}, "epoch": 3},
}


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrapped_files_convert_as_plain_ones(how: str, tmp_path: Path):
    tensors = {name: tensor for name, tensor in some_tensors().items() if name.startswith("model.")}
    plain = read_checkpoint(saved(tensors, tmp_path)).conversion
    torch.save(WRAPPED[how](tensors), tmp_path / "wrapped.pth")
    found = read_checkpoint(tmp_path / "wrapped.pth")
    assert found.conversion.state.keys() == plain.state.keys() and not found.conversion.unexpected
    assert all(torch.equal(found.conversion.state[name], plain.state[name]) for name in plain.state)
    assert any("averaged weights taken" in note for note in found.notes) == how.startswith("averages")


def test_command_says_which_weights_it_took(tmp_path: Path, monkeypatch, capsys):
    tensors = some_tensors()
    wrapped = prefixed("module._orig_mod.", tensors)
    path = saved(wrapped, tmp_path, model_ema=prefixed("module.", tensors))
    for options, words in (
        ([], "weights taken from 'state_dict' of the file; it also has 'model_ema'"),
        (["--weights", "model_ema"], "averaged weights taken from 'model_ema'"),
    ):
        out = tmp_path / f"run{len(options)}"
        command = ["bifusion", "import-checkpoint", str(path), str(out), "--partial", *options]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit, match="0"):
            main()
        assert words in " ".join(capsys.readouterr().out.split())
        record = json.loads((out / "import.json").read_text())
        assert len(record["state"]) == 3 and record["unexpected"] == []


def test_the_weights_that_are_asked_for_are_taken(tmp_path: Path):
    tensors = some_tensors()
    averages = {name: tensor + 1 for name, tensor in tensors.items()}
    path = saved(tensors, tmp_path, state_dict_ema=averages)
    imported = read_checkpoint(path)
    assert imported.notes == [
        "weights taken from 'state_dict' of the file; it also has 'state_dict_ema', which `bifusion "
        "import-checkpoint FILE RUN --weights NAME` takes instead"
    ]
    norm = "decoder.norm.weight"
    of_average = read_checkpoint(path, "state_dict_ema").conversion.state[norm]
    assert torch.equal(of_average, imported.conversion.state[norm] + 1)
    with pytest.raises(
        InputError, match="no weights at 'swa'; it has some at 'state_dict', 'state_dict_ema'"
    ):
        read_checkpoint(path, "swa")


def test_tensors_of_nothing_known(tmp_path: Path):
    path = saved({"layer1.weight": torch.ones(2)}, tmp_path)
    with pytest.raises(InputError, match="layer1.weight; known are .*mask3d_scannet20"):
        read_checkpoint(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path):
    tensors = some_tensors()
    name = next(name for name in tensors if name.endswith("decoder_norm.weight"))
    tensors[name] = tensors[name] * torch.nan
    with pytest.raises(
        InputError, match="1 of 3 tensors hold .* not finite .first: decoder.norm.weight"
    ):
        read_checkpoint(saved(tensors, tmp_path))


def test_file_without_tensors(tmp_path: Path):
    path = tmp_path / "x.pt"
    torch.save({"epoch": 3}, path)
    with pytest.raises(InputError, match="no tensors by name"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"state_dict": {"a.weight": np.ones(2, np.float32)}}, "arrays of numpy at 'state_dict', which"),
        (
            {"ema": {"shadow_params": [torch.ones(2), torch.ones(3)]}},
            "2 tensors without names at 'ema.sh",
        ),
        (
            {"optimizer": {"state": {0: {"x": torch.ones(1)}}}, "epoch": 3},
            "the keys 'optimizer', 'epoch'",
        ),
        (torch.ones(3), "one tensor; expected a state dict"),
        ({}, "an empty dict; expected"),
    ],
)
def test_what_a_file_holds_instead_of_tensors_by_name_is_told(tmp_path: Path, content, told: str):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(InputError, match=re.escape(f"holds no tensors by name, but {told}")):
        read_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json"])
def test_a_part_of_a_checkpoint_is_told_as_that(tmp_path: Path, name: str):
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=f"{name} is of weights saved in several parts; save them in"):
        read_checkpoint(tmp_path / name)


def test_what_fits_is_converted(tmp_path: Path):
    tensors = some_tensors()
    imported = read_checkpoint(saved(tensors, tmp_path, hyper_parameters={"config": Path("x")}))
    assert imported.kind == KIND and imported.config.recipe == KIND
    state = imported.conversion.state
    assert torch.equal(
        state["decoder.mask_features.weight"], tensors["model.mask_features_head.kernel"].T
    )
    assert torch.equal(state["unet.stem.norm.running_var"], tensors["model.backbone.bn0.bn.running_var"])
    assert list(imported.conversion.converted) == ["model.mask_features_head.kernel"]
    assert len(imported.conversion.matched) == 2 and imported.conversion.unexpected == []


def test_safetensors_of_official_names(tmp_path: Path):
    save_file(some_tensors(), tmp_path / "mask3d.safetensors")
    assert len(read_checkpoint(tmp_path / "mask3d.safetensors").conversion.state) == 3


# ------------------------------------------------------------------------------------- complete or not


def broken(folder: Path) -> Imported:
    tensors = some_tensors()
    tensors["model.decoder_norm.weight"] = torch.ones(7)
    tensors["model.level_embed.weight"] = torch.ones(4, 128)
    return read_checkpoint(saved(tensors, folder))


def test_incomplete_file_is_an_error_that_lists_it(tmp_path: Path):
    with pytest.raises(InputError) as error:
        write_imported(broken(tmp_path), tmp_path / "out")
    message = str(error.value)
    assert f"{len(official_names(KIND)) - 3} missing: model." in message
    assert "1 unexpected: model.level_embed.weight" in message
    assert "model.decoder_norm.weight has shape (7,), expected (128,)" in message
    assert "--partial" in message and not (tmp_path / "out").exists()


def test_table_names_every_problem(tmp_path: Path):
    console = Console(record=True, width=150)
    print_conversion(broken(tmp_path), console)
    text = console.export_text()
    for expected in (
        "model.level_embed.weight",
        "model.decoder_norm.weight has shape (7,)",
        "model.class_embed_head.bias",
    ):
        assert expected in text


def test_partial_import_keeps_initial_values(tmp_path: Path):
    imported = broken(tmp_path)
    out = write_imported(imported, tmp_path / "out", partial=True)
    model, config = load_model(out)
    initial = build_model(config.model, config.seed, config.labels).state_dict()
    found = model.state_dict()
    assert torch.equal(
        found["unet.stem.norm.running_var"], imported.conversion.state["unet.stem.norm.running_var"]
    )
    assert torch.equal(found["decoder.norm.weight"], initial["decoder.norm.weight"])
    record = json.loads((out / "import.json").read_text())
    assert record["kind"] == KIND and "model.level_embed.weight" in record["unexpected"]
    assert json.loads((out / "config.json").read_text())["model_kind"] == "mask3d"


def test_folder_that_holds_something_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="holds something already"):
        write_imported(broken(tmp_path), tmp_path, partial=True)


# -------------------------------------------------------------------------------- our own, and --init


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, Config]:
    """A checkpoint folder of a tiny OneFormer3D."""
    config = tiny_config("oneformer3d_small", tmp_path)
    folder = save_checkpoint(
        tmp_path / "run" / "checkpoints",
        build_model(config.model, config.seed, config.labels),
        config,
        None,
        step=0,
        links=["last"],
    )
    return folder, config


@pytest.mark.parametrize("given", ["run folder", "checkpoint folder", "file"])
def test_own_checkpoint_is_copied(given: str, own, tmp_path: Path):
    folder, config = own
    path = {
        "run folder": tmp_path / "run",
        "checkpoint folder": folder,
        "file": folder / "model.safetensors",
    }[given]
    imported = read_checkpoint(path)
    assert imported.kind == "bifusion" and imported.conversion.complete
    copy, stored = load_model(write_imported(imported, tmp_path / "copy"))
    original = load_model(folder)[0].state_dict()
    assert stored == config
    assert all(torch.equal(tensor, original[name]) for name, tensor in copy.state_dict().items())


def test_init_fills_the_backbone_and_nothing_else(own, tmp_path: Path):
    folder, _ = own
    config = tiny_config("bifusion_small", tmp_path)
    config.seed = 5
    model = build_model(config.model, config.seed, config.labels)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_backbone(model, folder)
    source = load_model(folder)[0].state_dict()
    for name, tensor in model.state_dict().items():
        expected = source[name] if name.startswith("unet.") else before[name]
        assert torch.equal(tensor, expected), name


def test_init_from_a_published_file_of_another_network(tmp_path: Path):
    with pytest.raises(InputError) as error:
        model = build_model(tiny_config("oneformer3d_small", tmp_path).model, 0, SCANNET20)
        load_backbone(model, saved(some_tensors(), tmp_path))
    assert "another 3D network" in str(error.value)
    assert "unet.input_conv.weight is missing" in str(error.value)


def test_init_from_another_size_lists_the_shapes(own, tmp_path: Path):
    folder, _ = own
    config = tiny_config("oneformer3d_small", tmp_path)
    config.model.unet = dataclasses.replace(config.model.unet, planes=(8, 16))
    with pytest.raises(InputError) as error:
        load_backbone(build_model(config.model, config.seed, config.labels), folder)
    message = str(error.value)
    assert "has shape (27, 12, 12), expected (27, 16, 16)" in message
    assert "--model.unet" in message


def test_what_is_damaged_is_not_taken(own, tmp_path: Path):
    folder, config = own
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-2] ^= 0x40
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="checksum differs"):
        read_checkpoint(folder)
    with pytest.raises(InputError, match="checksum differs"):
        load_backbone(build_model(config.model, config.seed, config.labels), tmp_path / "run")


def test_own_weights_that_are_not_finite_are_refused(own, tmp_path: Path):
    _, config = own
    model = build_model(config.model, config.seed, config.labels)
    next(model.parameters()).data[:] = torch.nan
    save_checkpoint(tmp_path / "run/checkpoints", model, config, None, step=1, links=["last"])
    with pytest.raises(InputError, match="tensors hold numbers that are not finite"):
        read_checkpoint(tmp_path / "run")


def test_a_choice_where_there_is_none(own, tmp_path: Path):
    folder, _ = own
    save_file(some_tensors(), tmp_path / "mask3d.safetensors")
    for path in (tmp_path / "run", folder / "model.safetensors", tmp_path / "mask3d.safetensors"):
        with pytest.raises(InputError, match="one set of weights, found --weights 'ema_state_dict'"):
            read_checkpoint(path, "ema_state_dict")


def test_what_was_saved_in_mid_training_is_run_as_that(tmp_path: Path):
    config = untrained_runs.bifusion()
    run = untrained_runs.save_run(tmp_path / "run", config, epoch=1.5)  # of four, in two stages
    copy = write_imported(read_checkpoint(run), tmp_path / "copy")
    assert [trained_epochs(find_checkpoint(one), config) for one in (run, copy)] == [1.5, 1.5]
    scene = make_tiny_scene(tmp_path / "scene")
    before, after = (bifusion.load(one).predict(scene) for one in (run, copy))
    assert np.array_equal(before.semantic, after.semantic)
    assert np.array_equal(before.scores, after.scores)


@pytest.mark.parametrize("epochs", [float("nan"), 4.5, -1.0])
def test_an_epoch_that_is_none_of_the_run(tmp_path: Path, epochs: float):
    run = untrained_runs.save_run(tmp_path / "run", untrained_runs.baseline(), epoch=epochs)
    with pytest.raises(InputError, match="saved after .* epochs; expected 0 to 4"):
        bifusion.load(run)
