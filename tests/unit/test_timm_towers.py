"""Towers of the timm library against timm's own features, their weights files, and their refusals.

Weights are made by the tests and saved as the libraries save them; nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models._builder import build_model_with_cfg
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from bifusion.bounds import check_bounds
from bifusion.config.plain import from_plain, to_plain
from bifusion.errors import InputError
from bifusion.models.parts import check_groups
from bifusion.models.towers.kinds import AnyTowerConfig
from bifusion.models.towers.timm_cnn import TimmCnnConfig
from bifusion.models.towers.timm_vit import TimmVitConfig
from bifusion.models.towers.view_cache import ViewCache, tower_key
from bifusion.types import BatchView

SIZE = (84, 56)
"""Height and width: 6 × 4 patches of 14."""


def _tiny_vit(**settings: Any) -> nn.Module:
    shared = {"embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_ratio": 2}
    cfg = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "first_conv": "patch_embed.proj"}
    settings |= {"pretrained_cfg": cfg}
    return build_model_with_cfg(
        VisionTransformer,
        settings.pop("variant"),
        settings.pop("pretrained", False),
        pretrained_filter_fn=checkpoint_filter_fn,
        **(shared | settings),
    )


@register_model
def tiny_dinov2_of_a_test(pretrained: bool = False, **settings: Any) -> nn.Module:
    """As `vit_small_patch14_dinov2`, in small: positions of a class token and 37 × 37 patches."""
    own = {"patch_size": 14, "img_size": 518, "init_values": 1e-5}
    return _tiny_vit(variant="tiny_dinov2_of_a_test", **(own | settings))


@register_model
def tiny_registers_of_a_test(pretrained: bool = False, **settings: Any) -> nn.Module:
    """As `vit_small_patch14_reg4_dinov2`: four registers, positions of patches alone."""
    own = {"patch_size": 14, "img_size": 518, "init_values": 1e-5, "reg_tokens": 4}
    return _tiny_vit(variant="tiny_registers_of_a_test", **(own | {"no_embed_class": True} | settings))


@register_model
def tiny_siglip_of_a_test(pretrained: bool = False, **settings: Any) -> nn.Module:
    """As `vit_base_patch16_siglip_224`: no class token, attention pooling behind the tokens."""
    own = {"patch_size": 14, "img_size": 224, "class_token": False, "global_pool": "map"}
    return _tiny_vit(variant="tiny_siglip_of_a_test", **(own | settings))


VITS = ("tiny_dinov2_of_a_test", "tiny_registers_of_a_test", "tiny_siglip_of_a_test")
CNNS = (("test_efficientnet", 16), ("test_resnet", 8), ("test_convnext", 16))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def images(count: int = 2, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand(count, 3, *size)


def normalized(net: nn.Module, rgb: Tensor) -> Tensor:
    cfg: Any = net.pretrained_cfg
    mean, std = (torch.tensor(cfg[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    return (rgb - mean) / std


def shaken(net: nn.Module) -> nn.Module:
    """Every tensor of the network other than it starts, statistics of norms included."""
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    return net.eval()


def saved(net: nn.Module, path: Path) -> str:
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, path)
    return str(path)


def view(size: tuple[int, int] = SIZE) -> BatchView:
    eye, depth = torch.eye(4), torch.ones(1, *size)
    return BatchView(0, "v", torch.rand(3, *size), depth, eye[:3, :3], eye, depth[0], eye[:3, :3], eye)


# ------------------------------------------------------------------ the library's own features


@torch.no_grad()
@pytest.mark.parametrize("architecture", VITS)
@pytest.mark.parametrize(("blocks", "norm"), [(None, True), (2, False)])
def test_a_vit_computes_what_timm_computes(architecture, blocks, norm, tmp_path) -> None:
    """From the whole network's file, classifier and all; with depth, whose weights are zero."""
    net = shaken(timm.create_model(architecture, dynamic_img_size=True))
    config = TimmVitConfig(architecture, saved(net, tmp_path / "model.safetensors"), blocks, norm)
    ours, rgb = config.build().train(), images()
    last = (blocks or 3) - 1
    (expected,) = net.forward_intermediates(
        normalized(net, rgb), indices=[last], norm=norm, intermediates_only=True
    )
    found = ours(rgb, 3 * torch.rand(2, 1, *SIZE))
    assert found.shape == (2, 6, 4, 32)
    assert torch.equal(found.permute(0, 3, 1, 2), expected)
    assert ours.out_channels == 32 and ours.patch == config.patch == 14


@torch.no_grad()
@pytest.mark.parametrize(("architecture", "reduction"), CNNS)
def test_a_cnn_computes_what_features_only_computes(architecture, reduction, tmp_path) -> None:
    net = shaken(timm.create_model(architecture))
    path = saved(net, tmp_path / "model.safetensors")
    config = TimmCnnConfig(architecture, path, reduction)
    ours, rgb = config.build().train(), images(size=(64, 96))
    level = [info["reduction"] for info in net.feature_info].index(reduction)
    settings: Any = {"features_only": True, "out_indices": (level,)}
    theirs = timm.create_model(
        architecture, pretrained=True, pretrained_cfg_overlay={"file": path}, **settings
    ).eval()
    found = ours(rgb, torch.rand(2, 1, 64, 96))
    assert torch.equal(found.permute(0, 3, 1, 2), theirs(normalized(net, rgb))[0])
    assert found.shape == (2, 64 // reduction, 96 // reduction, ours.out_channels)


@torch.no_grad()
def test_dinov3_computes_what_timm_computes(tmp_path) -> None:
    """Rotary positions, four registers, patches of 16: the real ViT-S/16, cut after a block."""
    name = "vit_small_patch16_dinov3.lvd1689m"
    net = timm.create_model(name, dynamic_img_size=True, num_classes=0).eval()
    config = TimmVitConfig(name, saved(net, tmp_path / "model.safetensors"), blocks=2)
    ours, rgb = config.build(), images(1, (48, 80))
    (expected,) = net.forward_intermediates(
        normalized(net, rgb), indices=[1], norm=True, intermediates_only=True
    )
    found = ours(rgb, torch.ones(1, 1, 48, 80))
    assert torch.equal(found.permute(0, 3, 1, 2), expected)
    assert found.shape == (1, 3, 5, 384)


@torch.no_grad()
@pytest.mark.parametrize("architecture", VITS[:2])
def test_files_of_dinov2_s_authors_are_understood(architecture, tmp_path) -> None:
    """A .pth with their names: `mask_token`, `register_tokens`, positions with the class token's."""
    net = shaken(timm.create_model(architecture, dynamic_img_size=True, num_classes=0))
    theirs = dict(net.state_dict())
    if "reg_token" in theirs:
        theirs["register_tokens"] = theirs.pop("reg_token")
        class_position = torch.rand(1, 1, 32)
        theirs["pos_embed"] = torch.cat([class_position, theirs["pos_embed"]], dim=1)
        theirs["cls_token"] = theirs["cls_token"] - class_position
    theirs["mask_token"] = torch.rand(1, 32)
    torch.save(theirs, tmp_path / "dinov2.pth")
    ours, rgb = TimmVitConfig(architecture, str(tmp_path / "dinov2.pth")).build(), images()
    (expected,) = net.forward_intermediates(
        normalized(net, rgb), indices=[2], norm=True, intermediates_only=True
    )
    assert torch.allclose(ours(rgb, images()[:, :1]).permute(0, 3, 1, 2), expected, atol=1e-5)


# --------------------------------------------------------------------------- depth, groups, use

CONFIGS = [TimmVitConfig(VITS[1]), TimmCnnConfig(*CNNS[0][:1]), TimmCnnConfig(CNNS[1][0], reduction=8)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.architecture)
def test_depth_gets_a_gradient_though_its_weights_are_zero(config) -> None:
    tower, rgb = config.build(), images(size=(112, 112))
    depth = torch.rand(2, 1, 112, 112)
    before = tower(rgb, depth)
    before.square().mean().backward()
    groups = tower.parameter_groups()
    (weight,) = groups["tower.conv1_depth"]
    assert not weight.any() and weight.grad.any()
    with torch.no_grad():
        weight -= weight.grad / weight.grad.norm()
        assert not torch.equal(tower(rgb, depth), before)
        assert torch.equal(tower(rgb, 0 * depth), before), "where nothing is measured nothing is added"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.architecture)
def test_groups_and_description(config) -> None:
    tower = config.build()
    check_groups(tower, groups := tower.parameter_groups())
    blocks = [name for name in groups if name.startswith("tower.block")]
    assert blocks == [f"tower.block{i}" for i in range(len(blocks))] and len(blocks) >= 2
    assert {"tower.conv1_rgb", "tower.conv1_depth", "tower.embed"} == set(groups) - set(blocks)
    assert config.architecture in tower.describe() and "from scratch" in tower.describe()
    assert "CLIP" not in tower.describe()
    without = dataclasses.replace(config, depth_channel=False).build()
    assert "tower.conv1_depth" not in without.parameter_groups()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.architecture)
def test_a_frozen_tower_keeps_its_maps(config, tmp_path) -> None:
    tower, one = config.build().requires_grad_(False), view((112, 112))
    plain = tower.encode_views([one])[0]
    tower.keep_views(ViewCache(tmp_path, 2**30))
    tower.train()
    again = [tower.encode_views([one])[0] for _ in range(2)]
    assert all(torch.equal(plain, kept) for kept in again)
    assert (tower.cache.hits, tower.cache.misses) == (1, 1)


def test_numbers_that_no_tensor_shows_are_part_of_the_key() -> None:
    whole = TimmVitConfig(VITS[0]).build()
    keys = {tower_key(whole, "")}
    whole.index = 0
    keys.add(tower_key(whole, ""))
    assert len(keys) == 2


def test_statistics_of_a_cnn_stay() -> None:
    tower = TimmCnnConfig("test_efficientnet").build().train()
    before = {name: tensor.clone() for name, tensor in tower.named_buffers()}
    tower(images(size=(64, 64)), torch.zeros(2, 1, 64, 64)).sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in tower.named_buffers())


def test_a_map_does_not_depend_on_the_other_views() -> None:
    tower = TimmCnnConfig("test_efficientnet").build().train()
    first, other = view((64, 96)), view((64, 96))
    together = tower.encode_views([first, other])[0]
    assert torch.allclose(together, tower.encode_views([first])[0], atol=1e-5)


@pytest.mark.parametrize("config", [*CONFIGS, TimmVitConfig("x", "hub", 3, False, False)])
def test_a_configuration_survives_json(config) -> None:
    stored = to_plain(config)
    assert stored["kind"] == config.kind
    assert from_plain(AnyTowerConfig | None, stored, "tower") == config
    check_bounds(config)


def test_on_the_meta_device_nothing_is_read() -> None:
    with torch.device("meta"):
        tower = TimmVitConfig("vit_base_patch14_dinov2.lvd142m", "hub", depth_channel=False).build()
    assert sum(p.numel() for p in tower.parameters()) == 86_579_712


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            TimmVitConfig("vit_base_patch14_dino2"),
            "no model of timm.*did you mean 'vit_base",
        ),
        (TimmVitConfig("test_resnet"), "'test_resnet' cannot be used|no ViT of square patches"),
        (TimmVitConfig(VITS[0], blocks=4), "tower.blocks is 4; .* allows 1 … 3 blocks"),
        (TimmVitConfig(VITS[0], "none.pth"), "there is no file none.pth"),
        (TimmVitConfig(VITS[0], "openai"), "'openai' is neither a weights file .* nor 'hub'"),
        (TimmVitConfig(VITS[0], "hub"), "timm names no weights for tiny_dinov2_of_a_test"),
        (TimmCnnConfig("test_efficientnet", reduction=12), "has features at strides 2, 4, 8, 16, 32"),
        (TimmCnnConfig("test_vit"), "at strides none: it is no convolutional network"),
        (
            TimmCnnConfig(pretrained="package:others"),
            "expected package:efficientnet-lite0",
        ),
    ],
)
def test_what_is_wrong_with_a_configuration_is_told(config, message) -> None:
    with pytest.raises(InputError, match=message):
        config.build()


def test_files_that_do_not_fit_are_told(tmp_path) -> None:
    small, path = timm.create_model(VITS[0], depth=2), tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="does not fit .*: missing are blocks.2.norm1.weight"):
        TimmVitConfig(VITS[0], saved(small, path)).build()
    large = timm.create_model(VITS[0], depth=4)
    with pytest.raises(
        InputError, match="blocks.3.attn.proj.bias, .*weight, .*qkv.bias and 11 more; choose the file's"
    ):
        TimmVitConfig(VITS[0], saved(large, path)).build()
    wide = timm.create_model(VITS[0], embed_dim=64)
    with pytest.raises(InputError, match="of another shape are blocks.0.attn"):
        TimmVitConfig(VITS[0], saved(wide, path)).build()
    save_file({"lonely.weight": torch.ones(2)}, path)
    with pytest.raises(InputError, match="does not fit"):
        TimmCnnConfig("test_resnet", str(path)).build()
    tensors = timm.create_model(VITS[0]).state_dict()
    save_file(tensors | {"pos_embed": torch.ones(3)}, path)
    with pytest.raises(InputError, match="are not of a VisionTransformer: .*; give a file of the same"):
        TimmVitConfig(VITS[0], str(path)).build()


def test_weights_that_are_not_finite_are_refused(tmp_path) -> None:
    net = timm.create_model(VITS[0])
    net.blocks[0].norm1.weight.data[3] = torch.nan
    path = saved(net, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="'blocks.0.norm1.weight' in .* numbers that are not finite"):
        TimmVitConfig(VITS[0], path).build()


def test_an_image_of_no_whole_patches_is_refused() -> None:
    with pytest.raises(InputError, match="56 × 80, no multiple .* patch of 14.* patch size to 14"):
        TimmVitConfig(VITS[0]).build().encode_views([view((80, 56))])


def test_weights_that_cannot_be_downloaded(monkeypatch) -> None:
    """Address, licence, and what to do instead."""

    def offline(repository: str, name: str) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand more")

    monkeypatch.setattr("bifusion.models.towers.timm_weights.require_hub", lambda: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    told = (
        r"cannot be downloaded \(no network\).*fetch https://.*/timm/vit_small_patch14_dinov2.lvd142m/"
        r"resolve/main/model.safetensors \(licence: apache-2.0\).*--model.tower.pretrained PATH"
    )
    with pytest.raises(InputError, match=told):
        TimmVitConfig("vit_small_patch14_dinov2.lvd142m", "hub").build()
