"""Runs are shared and come back as they were: a folder in the hub's place, and the hub's refusals."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors

import bifusion as package
import untrained_runs
from bifusion.errors import InputError
from bifusion.models.build import build_model
from bifusion.models.towers.clip import ClipConfig
from bifusion.models.unet import UNetConfig
from bifusion.official.hub import pulled, push
from bifusion.official.import_checkpoint import read_checkpoint, write_imported
from bifusion.official.initial_weights import load_backbone
from bifusion.official.shared_files import CARD
from bifusion.official.stores import VARIABLE, HubStore, check_licence
from bifusion.plugins import VARIABLE as PLUGINS
from bifusion.runs.checkpoint import CONFIG, SUMS, WEIGHTS
from bifusion.runs.run_folder import RunStatus
from bifusion.storage.cache import VARIABLE as CACHE
from bifusion.storage.files import DiskFullError
from bifusion.storage.json_files import write_json
from clip_files import write_color_clip
from documents import ROOT
from scene_factory import make_tiny_scene
from tiny_runs import make_tiny_data

NAME = "ada/workshop"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "hub"))
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "hub"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a comparison whose report is there; it was trained on a path of this machine."""
    config = untrained_runs.bifusion()
    config.data.root = Path("/home/ada/secret/rooms")
    config.trainer.init = Path("/home/ada/start.pth")
    run = untrained_runs.save_run(tmp_path / "runs/staged-seed0", config)
    described = {"sources": ["synthetic rooms"], "train_scenes": ["a", "b"], "val_scenes": ["c"]}
    write_json(run / "config.json", {**described, "config": {"data": {"root": "/home/ada"}}})
    write_json(run / "evaluation.json", {"full": {"miou": 0.5871, "ap": 0.25}})
    shutil.copy(ROOT / "tests/unit/stored_reports/report.json", run.parent / "report.json")
    return run


def plain_run(root: Path) -> Path:
    """A run folder of a model without images."""
    config = untrained_runs.baseline()
    config.trainer.workers = 0
    return untrained_runs.save_run(root, config)


def test_a_pushed_run_predicts_the_same(hub: Path, run: Path, tmp_path: Path, bifusion: Callable):
    called = bifusion("push", run, NAME, "--licence", "cc-by-nc-4.0")
    assert called.status == 0 and str(hub / NAME) in called.out
    scene = make_tiny_scene(tmp_path / "scene")
    here, shared = (package.load(place).predict(scene) for place in (run, f"hf://{NAME}"))
    assert np.array_equal(here.semantic, shared.semantic)
    assert np.array_equal(here.scores, shared.scores)
    called = bifusion("predict", f"hf://{NAME}", scene, "--no-view", "--out", tmp_path / "out")
    assert called.status == 0, called.err
    assert (tmp_path / "out/instances.json").is_file()


@pytest.mark.parametrize("licence", ["apache-2.0", "openrail++", "other", "cc0-1.0"])
def test_names_of_licences(licence: str):
    check_licence(licence)


@pytest.mark.parametrize(
    ("licence", "told"),
    [
        ("Apache 2.0", "did you mean 'apache-2.0'"),
        ("MIT", "did you mean 'mit'"),
        ("mit\ntags: x", "as the hub spells it"),
        ("", "or other"),
    ],
)
def test_what_is_no_name_of_a_licence_is_refused(hub: Path, run: Path, licence: str, told: str):
    with pytest.raises(InputError, match=told):
        push(run, NAME, licence=licence)
    assert not hub.exists() or not any(hub.iterdir())


def test_a_shared_folder_is_open_to_those_whom_the_umask_lets_in(hub: Path, run: Path):
    before = os.umask(0o022)
    try:
        push(run, "me/open", licence="mit")
    finally:
        os.umask(before)
    assert (hub / "me" / "open").stat().st_mode & 0o777 == 0o755


def test_no_path_of_the_machine_leaves_it(hub: Path, run: Path):
    push(run, NAME, licence="other")
    for path in (hub / NAME).rglob("*"):
        assert b"/home/ada" not in path.read_bytes(), path.name
    assert {path.name for path in (hub / NAME).iterdir()} == {
        "model.safetensors", "config.json", "run.json", "evaluation.json", "sums.json", "README.md",
    }  # fmt: skip


def test_no_path_of_a_tower_s_files_leaves_it(hub: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = untrained_runs.bifusion()
    architecture, weights = write_color_clip(tmp_path / "home/ada")
    config.data.patch_size = 8
    config.model.tower = ClipConfig(str(architecture), f"./{weights.relative_to(tmp_path)}", blocks=1)
    told = build_model(config.model, 0, config.labels).describe_tower()
    assert "home/ada/color_clip.safetensors" in told and "home/ada/color_clip.json" in told
    run = untrained_runs.save_run(tmp_path / "runs/own", config)
    write_json(run / "config.json", {"tower": told})
    push(run, NAME, licence="other")
    for path in (hub / NAME).rglob("*"):
        assert b"home/ada" not in path.read_bytes(), path.name
    card = (hub / NAME / CARD).read_text()
    assert "image tower color_clip.json, " in card and "weights: color_clip.safetensors" in card
    with pytest.raises(InputError, match="color_clip.json"):
        package.load(f"hf://{NAME}")
    shutil.copy(architecture, tmp_path)
    package.load(f"hf://{NAME}")


def test_the_card_says_what_was_measured(hub: Path, run: Path):
    push(run, NAME, licence="cc-by-nc-4.0")
    card = (hub / NAME / CARD).read_text()
    assert card.startswith("---\nlicense: cc-by-nc-4.0\n")
    for said in (
        'bifusion.load("hf://ada/workshop")', "| mIoU | 0.587 |", "| AP50 | — |", "generated rooms",
        "2 scenes to train on, 1 to validate on", "wall, floor", "**stability: indicative pass.**",
        "What it is not for",
    ):  # fmt: skip
        assert said in card, said


def test_the_card_names_the_code_that_it_needs(hub: Path, run: Path, tmp_path: Path, monkeypatch):
    push(run, NAME, licence="other")
    assert "## Needs" not in (hub / NAME / CARD).read_text()
    monkeypatch.setenv(PLUGINS, "my_rooms")
    config = untrained_runs.bifusion()
    config.model.unet = UNetConfig(kind="outside", function="my_rooms.networks:two_layers")
    config.model.fusion.gate_function = "my_rooms.networks:cosine"
    push(untrained_runs.save_run(tmp_path / "own", config), NAME, licence="other")
    card = (hub / NAME / CARD).read_text()
    for said in (
        "Without my_rooms installed, and named as trusted (`BIFUSION_PLUGINS=my_rooms`)",
        "- model.unet.function: `my_rooms.networks:two_layers`",
        "- model.fusion.gate_function: `my_rooms.networks:cosine`",
    ):
        assert said in card


def test_a_run_without_comparison_claims_nothing(hub: Path, run: Path):
    (run.parent / "report.json").unlink()
    push(run, NAME, licence="other")
    assert "It was part of no comparison" in (hub / NAME / CARD).read_text()


def test_a_new_push_is_what_is_loaded_next(hub: Path, run: Path, tmp_path: Path):
    push(run, NAME, licence="other")
    first = package.load(f"hf://{NAME}")
    config = untrained_runs.bifusion()
    config.seed = 5
    push(untrained_runs.save_run(tmp_path / "other", config), NAME, licence="other")
    assert (first.config.seed, package.load(f"hf://{NAME}").config.seed) == (0, 5)


def test_what_is_half_gone_from_the_cache_is_fetched_again(hub: Path, run: Path):
    push(run, NAME, licence="other")
    fetched = pulled(Path("hf:") / NAME)
    (fetched / "checkpoints" / "last" / WEIGHTS).unlink()
    assert pulled(Path("hf:") / NAME) == fetched
    package.load(fetched)


def test_a_cache_that_cannot_be_written_is_named(hub: Path, run: Path, tmp_path: Path, monkeypatch):
    push(run, NAME, licence="other")
    (tmp_path / "taken").touch()
    monkeypatch.setenv(CACHE, str(tmp_path / "taken"))
    with pytest.raises(InputError, match=f"taken: the cache cannot be written .*{CACHE}"):
        package.load(f"hf://{NAME}")


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_a_wrong_sum_is_refused(hub: Path, run: Path, file: str):
    push(run, NAME, licence="other")
    content = bytearray((hub / NAME / file).read_bytes())
    content[-1] ^= 1
    (hub / NAME / file).write_bytes(content)
    with pytest.raises(InputError, match="checksum differs.*fetch it again"):
        package.load(f"hf://{NAME}")


@pytest.mark.parametrize(
    "sums",
    [
        {CONFIG: 3},
        {WEIGHTS: {}, CONFIG: {}},
        {WEIGHTS: {"bytes": 1, "sha256": ""}},
        {**dict.fromkeys((WEIGHTS, CONFIG), {"bytes": 1, "sha256": ""}), "run.json": None},
        [],
    ],
)
def test_what_is_not_ours_is_refused(hub: Path, run: Path, sums: object):
    push(run, NAME, licence="other")
    (hub / NAME / SUMS).write_text(json.dumps(sums))
    with pytest.raises(InputError, match="was not stored by `bifusion push`"):
        package.load(f"hf://{NAME}")


def test_a_place_of_others_is_left_alone(hub: Path, run: Path):
    (hub / NAME / "chapters").mkdir(parents=True)
    (hub / NAME / "chapters/one.tex").write_text("precious")
    (hub / NAME / SUMS).write_text("{}")
    with pytest.raises(InputError, match="nothing tells that bifusion wrote it"):
        push(run, NAME, licence="other")
    assert (hub / NAME / "chapters/one.tex").read_text() == "precious"
    assert {path.name for path in (hub / NAME).iterdir()} == {"chapters", SUMS}


def test_a_note_beside_an_older_push_stays(hub: Path, run: Path):
    push(run, NAME, licence="other")
    (hub / NAME / "note.txt").write_text("mine")
    push(run, NAME, licence="cc-by-nc-4.0")
    assert (hub / NAME / "note.txt").read_text() == "mine"
    assert "license: cc-by-nc-4.0" in (hub / NAME / CARD).read_text()


def test_a_shared_run_is_evaluated(hub: Path, run: Path, tmp_path: Path):
    data = make_tiny_data(tmp_path / "rooms", train=1, val=1)
    push(plain_run(tmp_path / "plain"), NAME, licence="other")
    assert "miou" in package.evaluate(f"hf://{NAME}", data=data)["full"]
    described = json.loads((pulled(Path("hf:") / NAME) / CONFIG).read_text())
    assert described["config"]["model_kind"] == "oneformer3d"


def test_a_training_starts_from_a_shared_run(hub: Path, run: Path):
    push(run, NAME, licence="other")
    config = untrained_runs.bifusion()
    config.seed = 5
    model = build_model(config.model, config.seed, config.labels)
    load_backbone(model, Path(f"hf://{NAME}"))
    shared = read_checkpoint(run).conversion.state
    unet = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("unet.")}
    assert unet and all(tensor.equal(shared[name]) for name, tensor in unet.items())


def test_a_bit_that_flips_in_the_cache(hub: Path, run: Path):
    push(run, NAME, licence="other")
    fetched = pulled(Path("hf:") / NAME)
    weights = fetched / "checkpoints/last" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-2] ^= 0x40
    weights.write_bytes(content)
    with pytest.raises(InputError, match=f"checksum differs.*; delete {fetched}: the next call makes"):
        package.load(f"hf://{NAME}")
    shutil.rmtree(fetched)
    package.load(f"hf://{NAME}")


def test_a_run_is_named_by_its_folder_from_within(hub: Path, run: Path, monkeypatch):
    monkeypatch.chdir(run)
    push(Path(), NAME, licence="other")
    assert "**stability: indicative pass.**" in (hub / NAME / CARD).read_text()


def test_a_checkpoint_folder_is_not_shared(hub: Path, run: Path):
    with pytest.raises(InputError, match="is a checkpoint, no run folder"):
        push(run / "checkpoints/last", NAME, licence="other")


def test_the_card_of_an_imported_run_says_whose_figures_it_has(hub: Path, run: Path, tmp_path: Path):
    data = make_tiny_data(tmp_path / "rooms", train=1, val=1)
    imported = write_imported(read_checkpoint(plain_run(tmp_path / "plain")), tmp_path / "imported")
    package.evaluate(imported, data=data)
    push(imported, NAME, licence="other")
    card = (hub / NAME / CARD).read_text()
    assert "On the validation scenes of `rooms`" in card and "imported" in card
    assert "0 scenes" not in card and "not recorded" not in card


@pytest.mark.parametrize(
    "name", ["workshop", "ada/../up", "ada/b/c", "ada/a--b", "ada/", "/etc/passwd", ""]
)
def test_a_name_that_is_none(hub: Path, run: Path, name: str):
    with pytest.raises(InputError, match="expected user/name"):
        push(run, name, licence="other")


@pytest.mark.parametrize("name", ["workshop", "ada/../up", "../up", "ada/b/c"])
def test_a_name_to_load_that_is_none(hub: Path, name: str):
    with pytest.raises(InputError, match="expected user/name"):
        package.load(f"hf://{name}")


def test_a_misspelt_name(hub: Path, run: Path):
    push(run, NAME, licence="other")
    with pytest.raises(InputError, match="did you mean 'ada/workshop'"):
        package.load("hf://ada/workshp")


def test_a_run_that_is_not_done(hub: Path, run: Path):
    write_json(run / "status.json", RunStatus(state="interrupted", epochs_done=2))
    with pytest.raises(InputError, match="is interrupted, after 2 epochs; train it to its end"):
        push(run, NAME, licence="other")
    assert not hub.exists()


def _hub_error(kind: type[Exception]) -> Exception:
    if issubclass(kind, errors.HfHubHTTPError):
        error = kind.__new__(kind)
        Exception.__init__(error, "no such thing")
        return error
    return kind("no route")


def _no_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(siblings=[])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: told)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _no_file_is_large(monkeypatch)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(DiskFullError, match="the disk is full"):
        HubStore().get(NAME)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (errors.RepositoryNotFoundError, "no such name, or it is private"),
        (errors.GatedRepoError, "ask there"),
        (errors.LocalEntryNotFoundError, "cache does not have it"),
        (errors.LocalTokenNotFoundError, "nobody is logged in"),
        (errors.HfHubHTTPError.__bases__[0], "cannot be reached"),
    ],
)
def test_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, kind: type[Exception], said: str):
    def refuse(*_: object, **__: object) -> str:
        raise _hub_error(kind)

    _no_file_is_large(monkeypatch)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=said):
        HubStore().get(NAME)
