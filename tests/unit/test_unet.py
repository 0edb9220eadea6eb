"""The sparse U-Nets: sizes, levels, and scenes so small that a level has one voxel or none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bifusion.errors import InputError
from bifusion.models.unet import Res16UNet, ResidualUNet, UNetConfig, build_unet
from bifusion.sparse.modules import BatchNorm
from bifusion.sparse.tensor import SparseTensor

SMALL = {
    "residual": UNetConfig(kind="residual", in_channels=4, planes=(4, 6, 8)),
    "res16": UNetConfig(
        kind="res16", in_channels=4, planes=(4, 6, 6, 5), blocks=(1, 2, 1, 1), stem_planes=4
    ),
}


def scene_of(coords: Tensor, channels: int = 4) -> SparseTensor:
    feats = torch.randn(len(coords), channels, generator=torch.Generator().manual_seed(0))
    return SparseTensor(feats, coords.int())


def random_scene() -> SparseTensor:
    occupied = torch.rand(2, 9, 9, 9, generator=torch.Generator().manual_seed(1)) < 0.2
    return scene_of(occupied.nonzero())


def test_published_parameter_counts() -> None:
    """Of the official state dicts, without the decoder."""
    with torch.device("meta"):
        residual = build_unet(UNetConfig())
        res16 = build_unet(UNetConfig(kind="res16", in_channels=3))
    assert sum(p.numel() for p in residual.parameters()) == 10_960_384
    assert residual.out_channels == 32
    assert sum(p.numel() for p in res16.parameters()) == 37_863_424
    assert res16.out_channels == 96


@pytest.mark.parametrize("kind", SMALL)
def test_forward_and_backward(kind: str) -> None:
    torch.manual_seed(0)
    unet = build_unet(SMALL[kind])
    x = random_scene()
    out = unet(x)
    assert out.shape == (len(x.coords), unet.out_channels)
    out.square().sum().backward()
    without = {
        name for name, p in unet.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    }
    assert without == ({"final.weight", "final.bias"} if kind == "res16" else set())


@pytest.mark.parametrize("kind", SMALL)
def test_scenes_of_a_batch_do_not_influence_each_other(kind: str) -> None:
    unet = build_unet(SMALL[kind]).eval()
    x = random_scene()
    rows = x.coords[:, 0] == 1
    torch.testing.assert_close(unet(x)[rows], unet(SparseTensor(x.feats[rows], x.coords[rows])))


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("voxels", [0, 1, 2])
def test_hardly_any_voxel(kind: str, training: bool, voxels: int) -> None:
    coords = torch.tensor([[0, -5, 2, 1], [0, -5, 2, 2]])[:voxels]
    unet = build_unet(SMALL[kind]).train(training)
    out = unet(scene_of(coords))
    out.sum().backward()
    assert out.shape == (voxels, unet.out_channels)
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in unet.parameters() if p.grad is not None)


def test_batch_norm_of_one_row_uses_running_statistics_and_leaves_them() -> None:
    norm = BatchNorm(3)
    norm(torch.randn(20, 3) * 4 + 2)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    row = torch.randn(1, 3)
    expected = (row - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(norm(row), expected * norm.weight + norm.bias)
    for key, value in norm.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_batch_norm_of_many_rows_is_torchs() -> None:
    ours, theirs = BatchNorm(3), torch.nn.BatchNorm1d(3)
    rows = torch.randn(5, 3)
    torch.testing.assert_close(ours(rows), theirs(rows))
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_residual_pyramid_goes_from_coarse_to_fine() -> None:
    unet = build_unet(SMALL["residual"])
    assert isinstance(unet, ResidualUNet)
    levels = unet.pyramid(random_scene())
    assert [level.stride for level in levels] == [4, 2, 1]
    assert [level.feats.shape[1] for level in levels] == [8, 6, 4]


def test_res16_pyramid_has_the_levels_mask3d_needs() -> None:
    unet = build_unet(UNetConfig(kind="res16", in_channels=4, blocks=(1,) * 8))
    assert isinstance(unet, Res16UNet)
    with torch.no_grad():
        levels = unet.eval().pyramid(random_scene())
    assert [level.stride for level in levels] == [16, 8, 4, 2, 1]
    assert [level.feats.shape[1] for level in levels] == [256, 256, 128, 96, 96]
    assert all(len(level.feats) == len(level.coords) for level in levels)


def test_spconv_grid_changes_a_scene_with_an_odd_side_only() -> None:
    """With a side of 9, even at no level, the border loses its coarse context; at 16 nothing does."""
    x = random_scene()
    torch.manual_seed(0)
    plain = build_unet(SMALL["residual"]).eval()
    outputs = {}
    for side in (9, 16):
        config = UNetConfig(kind="residual", in_channels=4, planes=(4, 6, 8), spconv_min_grid=side)
        unet = build_unet(config).eval()
        unet.load_state_dict(plain.state_dict())
        outputs[side] = unet(x)
    torch.testing.assert_close(outputs[16], plain(x))
    assert not torch.allclose(outputs[9], plain(x))


@pytest.mark.parametrize("side", [0, 128])
def test_no_voxels_have_no_features(side: int) -> None:
    unet = build_unet(UNetConfig(in_channels=4, planes=(4, 6), spconv_min_grid=side))
    assert unet(scene_of(torch.zeros(0, 4))).shape == (0, 4)


def test_spconv_grid_refuses_negative_coordinates() -> None:
    unet = build_unet(UNetConfig(in_channels=4, planes=(4, 6), spconv_min_grid=8))
    with pytest.raises(InputError, match="start at 0"):
        unet(scene_of(torch.tensor([[0, -1, 0, 0]])))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param(
            {"kind": "resnet"},
            "expected 'residual', 'res16' or 'outside'",
            marks=pytest.mark.wrong_types,
        ),
        ({"planes": (8, 8), "blocks": (1,)}, "as many blocks"),
        ({"planes": (8, 0)}, "all positive"),
        ({"in_channels": 0}, "all positive"),
        ({"kind": "res16", "planes": (8, 8, 8)}, "even number"),
    ],
)
def test_bad_config(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        UNetConfig(**fields)
