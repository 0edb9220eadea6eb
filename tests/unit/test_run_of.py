"""A published checkpoint file where a run is expected; a small network stands for the published one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import bifusion
from bifusion.cli import main
from bifusion.errors import InputError
from bifusion.models.folding import for_inference
from bifusion.models.oneformer3d import OneFormer3DConfig
from bifusion.models.query_decoder import DecoderConfig
from bifusion.models.unet import UNetConfig
from bifusion.official import import_checkpoint, models, recognition
from bifusion.official.layouts import spconv
from bifusion.official.models import OfficialModel
from bifusion.official.run_of import run_of
from bifusion.storage.cache import cache_folder
from scene_factory import make_tiny_scene
from tiny_runs import make_tiny_data
from untrained_runs import baseline, save_run

KIND = "oneformer3d_scannet20"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BIFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def official(monkeypatch) -> Iterator[OfficialModel]:
    """The published model's names and layouts, on a network of a few thousand parameters."""
    config = OneFormer3DConfig(
        unet=UNetConfig(kind="residual", in_channels=6, planes=(8, 16)),
        decoder=DecoderConfig(num_layers=1, dim=16, heads=2, ffn_dim=16),
    )
    small = dataclasses.replace(models.official_models()[KIND], config=config)
    for module in (models, import_checkpoint, recognition):
        monkeypatch.setattr(module, "official_models", lambda: {KIND: small})
    recognition._official_cores.cache_clear()
    yield small
    recognition._official_cores.cache_clear()  # other tests know the models as they are


def save_official(model: OfficialModel, path: Path, *, without: str = "") -> Path:
    """As the project's trainer saves it."""
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for ours, tensor in model.build().state_dict().items():
        name, layout = model.official_name(ours)
        tensors[name] = _as_spconv(tensor) if layout is spconv else tensor
    tensors.pop(without, None)
    torch.save({"state_dict": tensors, "meta": {"epoch": 512}}, path)
    return path


def _as_spconv(tensor: Tensor) -> Tensor:
    volume, channels_in, channels_out = tensor.shape
    side = round(volume ** (1 / 3))
    if side == 1:
        return tensor.reshape(channels_out, 1, 1, 1, channels_in)
    return (
        tensor.reshape(side, side, side, channels_in, channels_out).permute(4, 0, 1, 2, 3).contiguous()
    )


def test_file_is_converted_once(cache, official, tmp_path, monkeypatch):
    file = save_official(official, tmp_path / "epoch_512.pth")
    said: list[str] = []
    run = run_of(file, said.append)
    assert run.parent == cache / "checkpoints" and len(said) == 1
    assert said[0].startswith(f"epoch_512.pth: {KIND}, converted into {run}")
    monkeypatch.setattr("bifusion.official.run_of.read_checkpoint", None)  # is not asked again
    copy = tmp_path / "another name.pth"
    copy.write_bytes(file.read_bytes())
    assert run_of(copy, said.append) == run and "converted earlier" in said[1]
    assert [path.name for path in (cache / "checkpoints").iterdir() if path.is_dir()] == [run.name]


def test_half_gone_conversion_and_one_of_another_version_are_made_again(
    cache, official, tmp_path, monkeypatch
):
    file = save_official(official, tmp_path / "epoch_512.pth")
    run = run_of(file)
    weights = run / "checkpoints" / "last" / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    assert run_of(file) == run and weights.read_bytes() == before
    bifusion.load(run, device="cpu")
    monkeypatch.setattr("bifusion.official.run_of.CONVERSION", 2)
    assert run_of(file) != run


def test_cache_that_cannot_be_written_is_named(official, tmp_path, monkeypatch):
    file = save_official(official, tmp_path / "epoch_512.pth")
    (tmp_path / "taken").touch()
    monkeypatch.setenv("BIFUSION_CACHE", str(tmp_path / "taken"))
    with pytest.raises(InputError, match="taken: the cache cannot be written .*BIFUSION_CACHE"):
        run_of(file)


def test_file_is_taken_where_a_run_is(cache, official, tmp_path, monkeypatch, capsys):
    file = save_official(official, tmp_path / "epoch_512.pth")
    room = make_tiny_scene(tmp_path / "data" / "room")
    found = bifusion.load(file, device="cpu").predict(room)
    torch.manual_seed(0)
    original = for_inference(official.build()).state_dict()  # as it was saved
    taken = bifusion.load(file, device="cpu").model.state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in taken.items())
    monkeypatch.setattr("sys.argv", ["bifusion", "predict", str(file), str(room), "--out",
                                     str(tmp_path / "out")])  # fmt: skip
    with pytest.raises(SystemExit, match="0"):
        main()
    printed = capsys.readouterr()
    assert printed.err.count("epoch_512.pth: converted earlier, taken from") == 1
    again = found.write(tmp_path / "again")
    assert [(tmp_path / "out" / path.name).read_bytes() for path in again] == [
        path.read_bytes() for path in again
    ]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_published_checkpoint_is_evaluated_on_the_data_given(cache, official, tmp_path, monkeypatch):
    file = save_official(official, tmp_path / "epoch_512.pth")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="comes without.*data="):
        bifusion.evaluate(file, device="cpu")
    data = make_tiny_data(tmp_path / "rooms", train=0, val=1)
    figures = bifusion.evaluate(file, data=data, device="cpu")
    assert 0 <= figures["full"]["miou"] <= 1


def test_what_is_not_all_of_a_network_is_refused(cache, official, tmp_path):
    file = save_official(official, tmp_path / "part.pth", without="decoder.out_norm.weight")
    with pytest.raises(
        InputError, match=r"not all of .*\n.*1 missing: decoder.out_norm.weight\n.*--partial"
    ):
        bifusion.load(file)
    (tmp_path / "room.txt").write_text("no checkpoint")
    with pytest.raises(InputError, match="room.txt"):
        bifusion.load(tmp_path / "room.txt")
    assert not [path for path in (cache / "checkpoints").iterdir() if path.is_dir()]


def test_what_a_killed_conversion_left_is_swept_up(cache, official, tmp_path):
    left = cache / "checkpoints" / ".0123.writing-1"
    left.mkdir(parents=True)
    (left / "half").touch()
    run_of(save_official(official, tmp_path / "epoch_512.pth"))
    assert not left.exists()


def test_runs_are_taken_as_they_are(cache, tmp_path):
    run = save_run(tmp_path / "run", baseline())
    checkpoint = run / "checkpoints" / "last"
    for path in (run, checkpoint, checkpoint / "model.safetensors", tmp_path / "nothing"):
        assert run_of(path) == path
    assert not cache.exists()


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.delenv("BIFUSION_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "bifusion"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "bifusion"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == tmp_path / "home" / "Library" / "Caches" / "bifusion"


def test_a_scan_in_the_place_of_the_run_is_named(tmp_path, capsys):
    mesh = tmp_path / "room.ply"
    mesh.write_bytes(b"ply\n")
    with pytest.raises(SystemExit):
        main(["predict", str(mesh), str(save_run(tmp_path / "run", baseline()))])
    said = "is a mesh or cloud; expected a run here, which comes first: `bifusion predict RUN room.ply`"
    assert said in " ".join(capsys.readouterr().err.split())
    scene = make_tiny_scene(tmp_path / "data" / "room", num_views=0)
    with pytest.raises(InputError, match="is a scene folder; expected a run here"):
        run_of(scene)


@pytest.mark.parametrize("file", ["config.json", "checkpoints/last/config.json"])
def test_a_file_of_a_run_is_told_with_the_folder_to_give(file, tmp_path, cache):
    run = save_run(tmp_path / "run", baseline())
    (run / "config.json").write_text("{}")
    told = f"is a file of a run.*expected the run's folder, {(run / file).parent},"
    with pytest.raises(InputError, match=told):
        run_of(run / file)
