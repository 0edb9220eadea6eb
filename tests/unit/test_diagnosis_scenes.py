"""Scenes taken out of a batch for a diagnosis, and paths of modules."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from bifusion.data.batching import collate, select_scenes, split_scenes
from bifusion.diagnosis.calls import path_of
from bifusion.diagnosis.experiments import without_scenes
from bifusion.types import Batch
from step_factory import TinyStep, tiny_step
from tiny_runs import make_tiny_data, tiny_config


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=4, val=1)


@pytest.fixture
def fused(root) -> TinyStep:
    return tiny_step(tiny_config("bifusion_small", root))


def _same(first: Batch, second: Batch, equal: Callable = torch.equal) -> None:
    for field in dataclasses.fields(Batch):
        if field.name not in ("targets", "views"):
            a, b = getattr(first, field.name), getattr(second, field.name)
            assert equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name
    for a, b in zip(first.targets, second.targets, strict=True):
        assert torch.equal(a.masks, b.masks) and torch.equal(a.semantic, b.semantic)
    assert [(v.scene, v.name) for v in first.views] == [(v.scene, v.name) for v in second.views]


def test_scenes_taken_out_of_a_batch_are_those_that_went_in(fused):
    samples = [fused.dataset.sample(index, 0) for index in range(4)]
    whole = collate(samples)
    for alone, sample in zip(split_scenes(whole), samples, strict=True):
        _same(alone, collate([sample]))
    _same(select_scenes(whole, [1, 3]), collate([samples[1], samples[3]]))
    _same(select_scenes(whole, [0, 1, 2, 3]), whole)


def test_batches_without_scenes_vanish(fused):
    batches = [fused.batch([0, 1]), fused.batch([2])]
    assert [b.names for b in without_scenes(batches, ["roomtrain0", "roomtrain2"])] == [["roomtrain1"]]


@pytest.mark.parametrize(
    ("module", "path"),
    [
        ("tower.blocks.0", "2d"), ("fusion.head_2d.0", "2d"),
        ("unet.input_conv", "3d"), ("fusion.head_3d", "3d"),
        ("fusion.gate.mlp", "fusion"), ("fusion.mix", "fusion"), ("lifting", "fusion"),
        ("decoder.x_mask", "decoder"), ("pooling", "decoder"), ("model", None), (None, None),
    ],
)  # fmt: skip
def test_path_of_a_module(module, path):
    assert path_of(module) == path
    assert path_of(None, "alignment") == "fusion" and path_of(None, "mask_bce") == "decoder"
