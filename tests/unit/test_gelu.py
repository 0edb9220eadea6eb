"""GELU of rows, and that no network has anything compiled for the number of its voxels or queries."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from bifusion.models.rows import RowsGELU
from step_factory import tiny_step
from tiny_runs import make_tiny_data, tiny_config, tiny_mask3d

mkldnn = torch.backends.mkldnn
COMPILED = re.compile(r"^onednn_verbose.*create:cache_miss,.*$", re.MULTILINE)
needs_onednn = pytest.mark.skipif(not mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=3, val=1)


@pytest.mark.parametrize("shape", [(7, 5), (1, 8), (0, 4), (2, 3, 16)])
def test_it_is_torchs(shape):
    x = torch.linspace(-6, 6, 60).repeat(2)[: torch.Size(shape).numel()].reshape(shape)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    y, expected = RowsGELU()(ours), nn.GELU()(theirs)
    assert y.is_contiguous()
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-6)
    weights = torch.arange(x.numel()).reshape(shape) / 10
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-6)


@needs_onednn
@pytest.mark.parametrize(
    ("recipe", "epoch"), [("bifusion_small", 1), ("oneformer3d_small", 2), ("mask3d_small", 3)]
)
def test_a_step_of_another_size_compiles_nothing(recipe, epoch, data, capfd):
    """`epoch`: each recipe meets sizes that no other has met in this process."""
    config = tiny_mask3d(data) if recipe == "mask3d_small" else tiny_config(recipe, data)
    step = tiny_step(config, scenes=(0,))
    for scene in (0, 1):  # whatever is of one size: images, learned queries
        step.inputs.batches = [step.batch([scene])]
        step.stepper(step.inputs, step.state)
    step.inputs.batches = [step.batch([2], epoch=epoch)]
    with mkldnn.verbose(mkldnn.VERBOSE_ON_CREATION):
        capfd.readouterr()
        outcome = step.stepper(step.inputs, step.state)
        compiled = COMPILED.findall(capfd.readouterr().out)
        nn.GELU()(torch.zeros(len(step.inputs.batches[0].voxel_coords), 3))
        assert "eltwise" in capfd.readouterr().out, "oneDNN does not tell what it does"
    assert outcome.event is None and compiled == []
