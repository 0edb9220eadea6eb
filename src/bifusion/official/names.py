"""Names of the official state dicts, asked for by our names: one rule a kind of layer.

Names are translated from ours to official, so that every tensor of our network asks for exactly one
official tensor. A function here gives, for our name, the official one and its layout.
"""

from __future__ import annotations

import re

from bifusion.official.layouts import (
    Layout,
    minkowski,
    minkowski_linear,
    pointwise,
    row,
    same,
    spconv,
)

Rule = tuple[str, str, Layout]
"""Pattern of our names, template of the official name, layout there."""

_CONV_IN_BRANCH = {"1": "2", "2": "5"}  # position of our conv1, conv2 in the official conv_branch
_NORM_IN_BRANCH = {"1": "0", "2": "3"}


def oneformer3d_scannet20(ours: str) -> tuple[str, Layout]:
    """The official U-Net nests each level in the one above as `u`; decoder names are the same."""
    if ours.startswith("decoder."):
        return ours, same
    rules: list[Rule] = [
        (r"unet\.input_conv\.weight", "input_conv.0.weight", spconv),
        (r"unet\.output_norm\.(\w+)", r"output_layer.0.\1", same),
    ]
    for part, official in (("down", "conv"), ("up", "deconv")):
        rules.append((rf"unet\.{part}\.(?P<level>\d+)\.norm\.(\w+)", rf"LEVEL{official}.0.\2", same))
        rules.append(
            (rf"unet\.{part}\.(?P<level>\d+)\.conv\.weight", f"LEVEL{official}.2.weight", spconv)
        )
    for part, official in (("encoder", "blocks"), ("decoder", "blocks_tail")):
        block = rf"unet\.{part}\.(?P<level>\d+)\.(\d+)\."
        target = rf"LEVEL{official}.block\2."
        for conv in "12":
            norm_index, conv_index = _NORM_IN_BRANCH[conv], _CONV_IN_BRANCH[conv]
            rules.append(
                (rf"{block}conv{conv}\.norm\.(\w+)", rf"{target}conv_branch.{norm_index}.\3", same)
            )
            rules.append(
                (rf"{block}conv{conv}\.conv\.weight", f"{target}conv_branch.{conv_index}.weight", spconv)
            )
        rules.append((rf"{block}shortcut\.weight", f"{target}i_branch.0.weight", spconv))
    return _apply(rules, ours)


def oneformer3d_scannet200(ours: str) -> tuple[str, Layout]:
    """Res16UNet34C under `backbone`; decoder names are the same."""
    if ours.startswith("decoder."):
        return ours, same
    return _apply(_res16_rules("backbone."), ours)


def mask3d(ours: str) -> tuple[str, Layout]:
    """Everything under `model`: the Lightning module's names."""
    layer = r"decoder\.levels\.(\d+)\."
    rules: list[Rule] = [
        *_res16_rules("model.backbone."),
        (r"decoder\.mask_features\.weight", "model.mask_features_head.kernel", minkowski_linear),
        (r"decoder\.mask_features\.bias", "model.mask_features_head.bias", row),
        (r"decoder\.position_code\.gauss_B", "model.pos_enc.gauss_B", same),
        (
            r"decoder\.query_projection\.(\d)\.weight",
            r"model.query_projection.layers.\1.weight",
            pointwise,
        ),
        (r"decoder\.query_projection\.(\d)\.bias", r"model.query_projection.layers.\1.bias", same),
        (layer + r"squeeze\.(\w+)", r"model.lin_squeeze.0.\1.\2", same),
        (layer + r"cross_attention\.(.+)", r"model.cross_attention.0.\1.multihead_attn.\2", same),
        (layer + r"cross_norm\.(\w+)", r"model.cross_attention.0.\1.norm.\2", same),
        (layer + r"self_attention\.(.+)", r"model.self_attention.0.\1.self_attn.\2", same),
        (layer + r"self_norm\.(\w+)", r"model.self_attention.0.\1.norm.\2", same),
        (layer + r"linear(\d)\.(\w+)", r"model.ffn_attention.0.\1.linear\2.\3", same),
        (layer + r"ffn_norm\.(\w+)", r"model.ffn_attention.0.\1.norm.\2", same),
        (r"decoder\.norm\.(\w+)", r"model.decoder_norm.\1", same),
        (r"decoder\.mask_embed\.(\d)\.(\w+)", r"model.mask_embed_head.\1.\2", same),
        (r"decoder\.class_head\.(\w+)", r"model.class_embed_head.\1", same),
    ]
    return _apply(rules, ours)


def _res16_rules(prefix: str) -> list[Rule]:
    """Res16UNet34C: stages numbered 1–4 down and 4–7 (blocks 5–8) up."""
    rules: list[Rule] = [
        (r"unet\.stem\.conv\.weight", f"{prefix}conv0p1s1.kernel", minkowski),
        (r"unet\.stem\.norm\.(\w+)", rf"{prefix}bn0.bn.\1", same),
        (r"unet\.final\.weight", f"{prefix}final.kernel", minkowski),
        (r"unet\.final\.bias", f"{prefix}final.bias", row),
    ]
    for stage in range(4):
        fine, coarse = 2**stage, 2 ** (4 - stage)
        down = ("down", f"conv{stage + 1}p{fine}s2", f"bn{stage + 1}")
        up = ("up", f"convtr{stage + 4}p{coarse}s2", f"bntr{stage + 4}")
        for part, conv, norm in (down, up):
            rules.append((rf"unet\.{part}\.{stage}\.conv\.weight", f"{prefix}{conv}.kernel", minkowski))
            rules.append((rf"unet\.{part}\.{stage}\.norm\.(\w+)", rf"{prefix}{norm}.bn.\1", same))
        for part, number in (("encoder", stage + 1), ("decoder", stage + 5)):
            block, target = rf"unet\.{part}\.{stage}\.(\d+)\.", rf"{prefix}block{number}.\1."
            for conv in "12":
                rules.append(
                    (rf"{block}conv{conv}\.conv\.weight", f"{target}conv{conv}.kernel", minkowski)
                )
                rules.append((rf"{block}conv{conv}\.norm\.(\w+)", rf"{target}norm{conv}.bn.\2", same))
            rules.append((rf"{block}shortcut\.conv\.weight", f"{target}downsample.0.kernel", minkowski))
            rules.append((rf"{block}shortcut\.norm\.(\w+)", rf"{target}downsample.1.bn.\2", same))
    return rules


def _apply(rules: list[Rule], ours: str) -> tuple[str, Layout]:
    for pattern, template, layout in rules:
        match = re.fullmatch(pattern, ours)
        if match:
            level = int(match.groupdict().get("level") or 0)
            return match.expand(template).replace("LEVEL", "unet." + "u." * level), layout
    raise KeyError(f"no official counterpart of {ours}")
