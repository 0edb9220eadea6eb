"""Official weights into our networks: names, layouts, complaints. Numbers: tests/reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bifusion.models import official
from bifusion.models.official import official_models, official_to_ours
from bifusion.models.oneformer3d import OneFormer3D
from bifusion.types import InputError

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
}


@pytest.fixture(scope="module", params=NAMES)
def exported(request) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    """Name, our state dict of random weights, and the same weights as the official file holds them."""
    model = official_models()[request.param]
    ours = OneFormer3D(model.config).state_dict()
    theirs = {}
    for key, value in ours.items():
        official_key, layout = model.official_name(key)
        theirs[official_key] = to_official(value, layout)
    assert len(theirs) == len(ours)
    return request.param, ours, theirs


def to_official(value: Tensor, layout: official.Layout) -> Tensor:
    if layout is official._row:
        return value[None]
    if layout is official._same:
        return value
    volume, channels_in, channels_out = value.shape
    k = round(volume ** (1 / 3))
    if k == 1:
        in_out = value.reshape(channels_in, channels_out)
        return (
            in_out.reshape(channels_out, 1, 1, 1, channels_in) if layout is official._spconv else in_out
        )
    x_y_z = value.view(k, k, k, channels_in, channels_out)
    if layout is official._spconv:
        return x_y_z.permute(4, 0, 1, 2, 3)
    return x_y_z.permute(2, 1, 0, 3, 4).reshape(volume, channels_in, channels_out)


def test_names(exported) -> None:
    name, _, _ = exported
    for ours, theirs in NAMES[name].items():
        assert official_models()[name].official_name(ours)[0] == theirs


def test_every_tensor_arrives(exported) -> None:
    name, ours, theirs = exported
    found = official_to_ours(name, {key: value.numpy() for key, value in theirs.items()})
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
        model = OneFormer3D(official_models()[name].config)
    model.load_state_dict(found, assign=True)


def test_complaints_name_the_tensors(exported) -> None:
    name, _, theirs = exported
    broken = dict(theirs)
    del broken["decoder.out_norm.weight"]
    broken["decoder.out_score.0.weight"] = torch.zeros(1)
    broken["decoder.out_cls.0.weight"] = torch.zeros(7, 256)
    with pytest.raises(InputError) as error:
        official_to_ours(name, broken)
    message = str(error.value)
    assert "1 missing: decoder.out_norm.weight" in message
    assert "1 unexpected: decoder.out_score.0.weight" in message
    assert "decoder.out_cls.0.weight has shape (7, 256), expected (256, 256)" in message


def test_weights_of_another_model_are_refused(exported) -> None:
    name, _, theirs = exported
    other = next(other for other in NAMES if other != name)
    with pytest.raises(InputError, match="missing"):
        official_to_ours(other, theirs)


def test_unknown_model() -> None:
    with pytest.raises(InputError, match="known are oneformer3d_scannet20"):
        official_to_ours("oneformer4d", {})
