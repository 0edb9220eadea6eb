"""Official weights into our networks: names, layouts, complaints. Numbers: tests/reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bifusion.errors import InputError
from bifusion.official import layouts
from bifusion.official.models import convert, official_models

NAMES = {
    "oneformer3d_scannet20": {
        "unet.encoder.2.1.conv2.conv.weight": "unet.u.u.blocks.block1.conv_branch.5.weight",
        "unet.encoder.0.0.conv2.norm.bias": "unet.blocks.block0.conv_branch.3.bias",
        "unet.down.3.conv.weight": "unet.u.u.u.conv.2.weight",
        "unet.up.0.norm.running_var": "unet.deconv.0.running_var",
        "unet.decoder.1.0.shortcut.weight": "unet.u.blocks_tail.block0.i_branch.0.weight",
        "unet.output_norm.weight": "output_layer.0.weight",
        "decoder.out_sem.bias": "decoder.out_sem.bias",
    },
    "oneformer3d_scannet200": {
        "unet.stem.conv.weight": "backbone.conv0p1s1.kernel",
        "unet.down.3.conv.weight": "backbone.conv4p8s2.kernel",
        "unet.up.0.conv.weight": "backbone.convtr4p16s2.kernel",
        "unet.up.3.norm.weight": "backbone.bntr7.bn.weight",
        "unet.encoder.1.0.shortcut.conv.weight": "backbone.block2.0.downsample.0.kernel",
        "unet.decoder.3.1.conv2.norm.running_mean": "backbone.block8.1.norm2.bn.running_mean",
        "unet.final.bias": "backbone.final.bias",
    },
    "mask3d_scannet20": {
        "unet.up.2.conv.weight": "model.backbone.convtr6p4s2.kernel",
        "decoder.mask_features.weight": "model.mask_features_head.kernel",
        "decoder.query_projection.2.weight": "model.query_projection.layers.2.weight",
        "decoder.levels.3.squeeze.bias": "model.lin_squeeze.0.3.bias",
        "decoder.levels.1.cross_attention.out_proj.weight": (
            "model.cross_attention.0.1.multihead_attn.out_proj.weight"
        ),
        "decoder.levels.2.self_norm.weight": "model.self_attention.0.2.norm.weight",
        "decoder.levels.0.linear2.bias": "model.ffn_attention.0.0.linear2.bias",
        "decoder.position_code.gauss_B": "model.pos_enc.gauss_B",
    },
}


@pytest.fixture(scope="module", params=NAMES)
def exported(request) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    """Name, our state dict of random weights, and the same weights as the official file holds them."""
    model = official_models()[request.param]
    ours = model.build().state_dict()
    theirs = {}
    for key, value in ours.items():
        official_key, layout = model.official_name(key)
        theirs[official_key] = to_official(value, layout)
    assert len(theirs) == len(ours)
    return request.param, ours, theirs


def to_official(value: Tensor, layout: layouts.Layout) -> Tensor:
    if layout is layouts.row:
        return value[None]
    if layout is layouts.same:
        return value
    if layout is layouts.pointwise:
        return value[:, :, None]
    if layout is layouts.minkowski_linear:
        return value.T
    volume, channels_in, channels_out = value.shape
    k = round(volume ** (1 / 3))
    if k == 1:
        in_out = value.reshape(channels_in, channels_out)
        return in_out.reshape(channels_out, 1, 1, 1, channels_in) if layout is layouts.spconv else in_out
    x_y_z = value.view(k, k, k, channels_in, channels_out)
    if layout is layouts.spconv:
        return x_y_z.permute(4, 0, 1, 2, 3)
    return x_y_z.permute(2, 1, 0, 3, 4).reshape(volume, channels_in, channels_out)


def test_names(exported) -> None:
    name, _, _ = exported
    for ours, theirs in NAMES[name].items():
        assert official_models()[name].official_name(ours)[0] == theirs


def test_every_tensor_arrives(exported) -> None:
    name, ours, theirs = exported
    converted = convert(name, {key: value.numpy() for key, value in theirs.items()})
    assert converted.complete, converted.problems()
    found = converted.state
    assert found.keys() == ours.keys()
    for key, value in ours.items():
        if name == "oneformer3d_scannet200" and key.startswith("decoder.out_sem."):
            order = [
                0,
                2,
                1,
                *range(3, 201),
            ]  # official: wall, floor, chair; benchmark: wall, chair, floor
            value = value[order]
        assert torch.equal(found[key], value), key
    with torch.device("meta"):
        model = official_models()[name].build()
    model.load_state_dict(found, assign=True)


def test_complaints_name_the_tensors(exported) -> None:
    name, _, theirs = exported
    norm, head, width = ("decoder.out_norm.weight", "decoder.out_cls.0.weight", 256)
    if name.startswith("mask3d"):
        norm, head, width = ("model.decoder_norm.weight", "model.mask_embed_head.0.weight", 128)
    broken = {key: value for key, value in theirs.items() if key != norm}
    broken["decoder.out_score.0.weight"] = torch.zeros(1)
    broken[head] = torch.zeros(7, width)
    message = "\n".join(convert(name, broken).problems())
    assert f"1 missing: {norm}" in message
    assert "1 unexpected: decoder.out_score.0.weight" in message
    assert f"{head} has shape (7, {width}), expected ({width}, {width})" in message


def test_what_is_there_and_fits_is_converted_all_the_same(exported) -> None:
    name, ours, theirs = exported
    some = dict(list(theirs.items())[:7])
    result = convert(name, some)
    assert not result.complete and len(result.state) == 7
    assert len(result.matched) + len(result.converted) == 7
    assert len(result.missing) == len(ours) - 7


@pytest.mark.parametrize("rotation", range(5))
@pytest.mark.parametrize("side", [1, 3])
def test_every_rotation_of_a_spconv_kernel_is_understood(rotation: int, side: int) -> None:
    kernel = torch.randn(8, side, side, side, 6)
    stored = kernel.permute([(axis + rotation) % 5 for axis in range(5)])
    shape = torch.Size((side**3, 6, 8))
    assert torch.equal(layouts.spconv(stored, shape), layouts.spconv(kernel, shape))


def test_equal_channels_leave_no_doubt_about_the_rotation() -> None:
    kernel = torch.randn(8, 3, 3, 3, 8)
    shape = torch.Size((27, 8, 8))
    assert torch.equal(
        layouts.spconv(kernel.permute(1, 2, 3, 4, 0), shape), layouts.spconv(kernel, shape)
    )


def test_both_minkowski_forms_of_a_kernel_of_size_one() -> None:
    kernel = torch.randn(6, 8)
    shape = torch.Size((1, 6, 8))
    assert torch.equal(layouts.minkowski(kernel[None], shape), layouts.minkowski(kernel, shape))
    assert torch.equal(layouts.minkowski_linear(kernel[None], torch.Size((8, 6))), kernel.T)


def test_half_precision_weights_become_ours() -> None:
    found = convert("mask3d_scannet20", {"model.decoder_norm.weight": torch.ones(128).half()})
    assert found.state["decoder.norm.weight"].dtype == torch.float32


def test_the_loss_weights_of_mask3d_are_no_surprise() -> None:
    result = convert("mask3d_scannet20", {"criterion.empty_weight": torch.ones(19)})
    assert result.unexpected == []


def test_weights_of_another_model_are_incomplete(exported) -> None:
    name, _, theirs = exported
    other = next(other for other in NAMES if other != name)
    converted = convert(other, theirs)
    assert not converted.complete and converted.missing


def test_unknown_model() -> None:
    with pytest.raises(InputError, match="known are mask3d_scannet20, oneformer3d_scannet20"):
        convert("oneformer4d", {})
