"""Norms folded into weights: the same logits for every recipe and backend, and no checkpoint changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import needs
from bifusion.inference.segmenter import Segmenter
from bifusion.models.backbone import Backbone
from bifusion.models.build import build_model
from bifusion.models.folding import FoldedBlock, for_inference
from bifusion.models.unet import ConvNorm, PreActivationBlock, UNetConfig, build_unet
from bifusion.recipes import RECIPES, get_recipe
from bifusion.sparse.backends import BACKEND_VARIABLE
from bifusion.sparse.modules import BatchNorm, SubmanifoldConv3d
from bifusion.sparse.tensor import SparseTensor
from bifusion.types import FusionControl
from scene_factory import make_tiny_scene
from untrained_runs import baseline, bifusion, save_run

NETWORKS: dict[str, UNetConfig] = {}
"""Each 3D network of the recipes once, by the first recipe that has it."""
for _name in RECIPES:
    _unet = get_recipe(_name).model.unet
    if _unet not in NETWORKS.values():
        NETWORKS[_name] = _unet


def as_trained(model: nn.Module) -> nn.Module:
    """Every norm with statistics and weights that are not those of a new one."""
    generator = torch.Generator().manual_seed(5)
    for norm in (m for m in model.modules() if isinstance(m, BatchNorm)):
        assert norm.running_mean is not None and norm.running_var is not None
        with torch.no_grad():
            for values, low, high in (
                (norm.running_mean, -0.2, 0.2),
                (norm.running_var, 0.5, 2.0),
                (norm.weight, 0.7, 1.3),
                (norm.bias, -0.2, 0.2),
            ):
                values.uniform_(low, high, generator=generator)
    return model.eval()


def room(channels: int) -> SparseTensor:
    generator = torch.Generator().manual_seed(1)
    coords = (torch.rand(1, 10, 10, 10, generator=generator) < 0.2).nonzero().int()
    return SparseTensor(torch.randn(len(coords), channels, generator=generator), coords)


def close(found: Tensor, expected: Tensor, share: float = 2e-5) -> None:
    scale = expected.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(found, expected, rtol=share, atol=share * scale)


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("recipe", NETWORKS)
@torch.no_grad()
def test_every_network_of_the_recipes_gives_the_same(recipe, backend, monkeypatch):
    if backend == "native":
        needs.module("engine", "bifusion.sparse.native")
    monkeypatch.setenv(BACKEND_VARIABLE, backend)
    config = NETWORKS[recipe]
    unet = build_unet(config)
    as_trained(unet)
    levels = [level.feats for level in unet.pyramid(room(config.in_channels))]
    folded = for_inference(unet)
    norms = [m for m in folded.modules() if isinstance(m, BatchNorm)]
    assert not norms if config.kind == "res16" else norms
    for level, before in zip(folded.pyramid(room(config.in_channels)), levels, strict=True):
        close(level.feats, before)


@pytest.mark.parametrize("recipe", ["oneformer3d_small", "mask3d_tiny", "bifusion_tiny"])
@torch.no_grad()
def test_logits_of_whole_models(recipe, tmp_path):
    from bifusion.data.batching import collate
    from bifusion.inference.segmenter import dataset_of

    config = get_recipe(recipe)
    torch.manual_seed(0)
    model = as_trained(build_model(config.model, 0, config.labels, load_pretrained=False))
    dataset, index = dataset_of(make_tiny_scene(tmp_path / "val" / "room"), config.data)
    batch = collate([dataset.sample(index, 0)])
    before = model(batch, FusionControl())
    after = for_inference(model)(batch, FusionControl())
    for one, other in zip(after.layers, before.layers, strict=True):
        close(one.class_logits[0], other.class_logits[0], 1e-4)
        close(one.mask_logits[0], other.mask_logits[0], 1e-4)


@pytest.mark.parametrize("recipe", ["oneformer3d_small", "mask3d_tiny", "bifusion_tiny"])
@torch.no_grad()
def test_weights_kept_narrow_give_what_autocast_gives(recipe, tmp_path, monkeypatch):
    from bifusion.data.batching import collate
    from bifusion.inference.segmenter import dataset_of

    config = get_recipe(recipe)
    torch.manual_seed(0)
    model = as_trained(build_model(config.model, 0, config.labels, load_pretrained=False))
    dataset, index = dataset_of(make_tiny_scene(tmp_path / "val" / "room"), config.data)
    batch = collate([dataset.sample(index, 0)])
    monkeypatch.setenv(BACKEND_VARIABLE, "torch")  # the engine's sparse convolutions may be in bfloat16
    narrow = for_inference(copy.deepcopy(model), torch.bfloat16)
    # a way through attention that CPUs take where nothing is left to convert; it rounds elsewhere
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    assert any(values.dtype == torch.bfloat16 for values in narrow.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        expected = for_inference(model)(batch, FusionControl()).layers[-1]
        found = narrow(batch, FusionControl()).layers[-1]
    assert torch.equal(found.class_logits[0], expected.class_logits[0])
    assert torch.equal(found.mask_logits[0], expected.mask_logits[0])


def test_folding_twice_changes_nothing_and_nothing_asks_for_a_gradient():
    model = as_trained(build_unet(NETWORKS["oneformer3d_small"]))
    once = for_inference(model).state_dict()
    kept = {name: value.clone() for name, value in once.items()}
    again = for_inference(model).state_dict()
    assert kept.keys() == again.keys() and all(torch.equal(kept[n], again[n]) for n in kept)
    assert not any(p.requires_grad for p in model.parameters())
    assert any(isinstance(m, FoldedBlock) for m in model.modules())


class OwnBlocks(Backbone):
    """A network of somebody else's on parts of ours: a block with a forward of its own, a block in two
    places, a convolution with two norms, one whose weights are computed, one with another norm."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        convs = [SubmanifoldConv3d(8, 8, 3) for _ in range(4)]
        nn.utils.parametrize.register_parametrization(convs[2], "weight", Halved())
        self.block = Scaled(8, 8)
        once = ConvNorm(convs[0], 0.1)
        self.layers = nn.Sequential(once, once)
        self.again = nn.ModuleList([once, ConvNorm(convs[1], 0.1), ConvNorm(convs[1], 0.1)])
        self.computed = nn.ModuleList([ConvNorm(convs[2], 0.1), ConvNorm(convs[3], 0.1)])
        self.computed[1].norm = Doubling(8)
        self.dense = nn.Linear(8, 8)

    def forward(self, x: SparseTensor) -> Tensor:
        x = self.layers(self.block(x))
        for layer in (*self.again, *self.computed):
            x = layer(x, relu=True)
        with torch.autocast(x.feats.device.type, enabled=False):
            return self.dense(x.feats.float())


class Doubling(BatchNorm):
    def forward(self, input: Tensor, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        return 2 * super().forward(input, residual=residual, relu=relu)


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class Scaled(PreActivationBlock):
    def forward(self, x: SparseTensor) -> SparseTensor:
        x = super().forward(x)
        return x.replace(3 * x.feats)


@torch.no_grad()
def test_parts_of_ours_in_a_network_of_others_do_what_they_did():
    torch.manual_seed(0)
    model = as_trained(OwnBlocks())
    before = model(room(8))
    close(for_inference(copy.deepcopy(model))(room(8)), before)
    narrow = for_inference(model, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert narrow(room(8)).dtype == torch.float32  # where it switched autocast off, it is off


def test_the_model_that_is_folded_shares_no_weight_with_a_copy_of_it():
    model = as_trained(build_unet(NETWORKS["oneformer3d_small"]))
    other = copy.deepcopy(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for_inference(other)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("config", [baseline, bifusion])
def test_predicting_changes_no_checkpoint(config, tmp_path):
    run = save_run(tmp_path / "run", config())
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    segmenter = Segmenter(run, device="cpu")
    assert any(isinstance(m, FoldedBlock) for m in segmenter.model.modules())
    segmenter.predict(make_tiny_scene(tmp_path / "room"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files
