"""What happens where a device has no room: the allocation that fails is a real one."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from bifusion.device_memory import is_full
from bifusion.errors import InputError
from bifusion.inference.evaluate import evaluate_run
from bifusion.inference.segmenter import Segmenter
from bifusion.models.query_decoder import QueryDecoder
from bifusion.models.unet import ResidualUNet
from bifusion.runs.trained_model import load_model
from bifusion.training.train import train
from equality import same
from tiny_runs import make_tiny_data, tiny_config, without_ramps

MUCH = 10**14
FAILING_STEP = 3


class TooMuch(torch.autograd.Function):
    """Passes on what it gets; wants more memory than there is on the way back."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, *gradients):
        torch.empty(MUCH)


def in_training(monkeypatch, module, place):
    """The module has no room in step FAILING_STEP, and whenever that is computed again: at its
    beginning, its end, or in its backward pass."""
    forward, calls = module.forward, []

    def full(self, x, *args):
        calls.append(self.training)
        fails = self.training and sum(calls) > FAILING_STEP
        if fails and place == "begin":
            torch.empty(MUCH)
        result = forward(self, TooMuch.apply(x) if fails and place == "backward" else x, *args)
        if fails and place == "end":
            torch.empty(MUCH)
        return result

    monkeypatch.setattr(module, "forward", full)


def no_room(*args, **options):
    torch.empty(MUCH)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"))


def config_of(data, recipe="bifusion_small"):
    config = tiny_config(recipe, data, epochs=3)
    return dataclasses.replace(config, stages=without_ramps(config.stages))


@pytest.fixture(scope="module")
def whole_run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert train(config_of(data), folder).state == "completed"
    return folder


@pytest.mark.parametrize(
    ("module", "place", "where"),
    [
        [QueryDecoder, "begin", "in decoder"],
        [ResidualUNet, "end", "in unet"],
        [QueryDecoder, "backward", "in the backward pass"],
    ],
)
def test_a_step_without_room_ends_the_run_which_then_goes_on(
    module, place, where, whole_run, data, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        in_training(patch, module, place)
        with pytest.raises(InputError) as error:
            train(config_of(data), tmp_path)
    told = str(error.value)
    assert f"step {FAILING_STEP} takes more memory than there is, {where}" in told
    assert "can't allocate memory" in told and "400000000000000 bytes" in told
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "interrupted" and status["steps"] == FAILING_STEP
    assert status["reason"] == told
    assert train(config_of(data), tmp_path, resume=True).state == "completed"
    ours, theirs = (load_model(run)[0].state_dict() for run in (tmp_path, whole_run))
    assert same(ours, theirs)


def mebibytes(part, told):
    return float(re.search(rf"{part} ([\d.]+) MiB", told)[1])


def test_the_largest_part_and_what_would_lower_it_are_told(data, tmp_path, monkeypatch):
    in_training(monkeypatch, QueryDecoder, "backward")
    wide = config_of(data, "bifusion_small_naive")
    wide.data = dataclasses.replace(wide.data, image_size=320)
    with pytest.raises(InputError) as of_tower:
        train(wide, tmp_path / "tower")
    kept = str(of_tower.value).split("For the backward pass are kept: ")[1]
    assert kept.startswith("image tower ") and "3D backbone " in kept and "losses " in kept
    remedies = str(of_tower.value).split("What takes less: ")[1]
    assert remedies.startswith(
        "--trainer.recompute tower, slower and with the same result; --data.max-views below 2; --data.im"
    )
    assert "All but --trainer.recompute make another run of it; with that, or where" in remedies
    wide.trainer.recompute = ("backbone", "decoder", "tower")
    with pytest.raises(InputError) as of_less:
        train(wide, tmp_path / "tower", resume=True)
    less = str(of_less.value).split("For the backward pass are kept: ")[1]
    assert mebibytes("image tower", less) < 0.6 * mebibytes("image tower", kept)
    assert mebibytes("3D backbone", less) < mebibytes("3D backbone", kept)
    remedies = str(of_less.value).split("What takes less: ")[1]
    assert "recompute" not in remedies and "These make another run of it; where" in remedies
    with pytest.raises(InputError) as of_points:
        train(config_of(data, "oneformer3d_small"), tmp_path / "points")
    remedies = str(of_points.value).split("What takes less: ")[1]
    assert remedies.startswith(
        "--trainer.recompute backbone, slower and with the same result; --trainer.b"
    )
    assert "image tower" not in str(of_points.value) and "--data.max-views" not in remedies


def test_an_update_without_room_ends_the_run_as_it_was_saved(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "_init_group", no_room)
        with pytest.raises(InputError, match="step 0 has no memory for the optimiser's update"):
            train(config_of(data), tmp_path)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "interrupted"
    assert train(config_of(data), tmp_path, resume=True).state == "completed"


def test_a_scene_without_room_is_named(whole_run, data, monkeypatch):
    segmenter, scene = Segmenter(whole_run), data / "val" / "roomval1"
    before = segmenter.predict(scene)
    with monkeypatch.context() as patch:
        patch.setattr(ResidualUNet, "forward", no_room)
        with pytest.raises(InputError, match=r"roomval1: takes more memory than there is \(.* voxels,"):
            segmenter.predict(scene)
        with pytest.raises(InputError, match="roomval0: takes more memory than there is"):
            evaluate_run(whole_run)
    assert np.array_equal(segmenter.predict(scene).semantic, before.semantic)


def test_other_errors_are_none_of_it(data, tmp_path, monkeypatch):
    def broken(self, *args):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(QueryDecoder, "forward", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train(config_of(data), tmp_path)
    assert not is_full(ValueError("out of memory")) and is_full(MemoryError())
    assert is_full(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_full(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"))
