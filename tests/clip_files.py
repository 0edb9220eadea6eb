"""Tiny CLIPs of open_clip's own modules, and files of their weights as the libraries write them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bifusion.models.towers.clip import ClipConfig
from bifusion.models.towers.clip_text import clip_tokenizer

SMALL = {"width": 32, "layers": 3, "heads": 2, "patch_size": 8, "image_size": 32}
"""Of the image tower."""


def small_config(**changes) -> ClipConfig:
    return ClipConfig(**{"architecture": "small", "blocks": 2, **SMALL, **changes})


def open_clip_tower(quick_gelu: bool = False, seed: int = 0) -> nn.Module:
    from open_clip.transformer import QuickGELU, VisionTransformer

    torch.manual_seed(seed)
    activation = QuickGELU if quick_gelu else nn.GELU
    return VisionTransformer(**SMALL, mlp_ratio=4.0, output_dim=16, act_layer=activation).eval()


def visual_state(tower: nn.Module) -> dict[str, Tensor]:
    return {f"visual.{name}": tensor.contiguous() for name, tensor in tower.state_dict().items()}


def save_image_tower(tower: nn.Module, folder: Path) -> str:
    path = folder / "clip.safetensors"
    save_file(visual_state(tower), path, metadata={"description": "made by a test"})
    return str(path)


def normalized(images: Tensor) -> Tensor:
    """Images as CLIP's image tower reads them."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)
    return (images - mean) / torch.tensor([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)


def as_transformers(state: dict[str, Tensor], leading: str = "vision_model.") -> dict[str, Tensor]:
    """A tower's tensors by open_clip's names under those of the transformers library's CLIPModel."""
    plain = {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight",
        "token_embedding.weight": "embeddings.token_embedding.weight",
    }
    words = {
        "transformer.resblocks.": "encoder.layers.",
        "ln_pre": "pre_layrnorm", "ln_post": "post_layernorm", "ln_final": "final_layer_norm",
        ".ln_1.": ".layer_norm1.", ".ln_2.": ".layer_norm2.", ".attn.": ".self_attn.",
        ".c_fc.": ".fc1.", ".c_proj.": ".fc2.",
    }  # fmt: skip
    named = {"embeddings.position_ids": torch.arange(5)}
    for name, tensor in state.items():
        theirs = plain.get(name, name)
        for ours, word in words.items():
            theirs = theirs.replace(ours, word)
        if ".in_proj_" in theirs:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                named[theirs.replace("in_proj_", f"{letter}_proj.")] = part.clone()
        else:
            named[theirs] = tensor
    return {leading + name: tensor for name, tensor in named.items()}


WIDTH, SPACE = 8, 4
COLOR_CLIP = {
    "embed_dim": SPACE,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": WIDTH, "patch_size": 8, "head_width": WIDTH},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": WIDTH, "heads": 1, "layers": 1},
}
"""An architecture in open_clip's format."""
RGB_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
RGB_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
CHROMA = torch.tensor([[1.0, -0.5, -0.5], [-0.5, -0.5, 1.0]])
"""Redness and blueness of RGB in [0, 1]; grey has none."""
GREY = 0.3
"""Beside them, so that the length of both tells grey from red and blue."""
AXES = {"red": 0, "blue": 1, "grey": 2}
"""Channel of the space that says it."""


@torch.no_grad()
def write_color_clip(folder: Path) -> tuple[Path, Path]:
    """A CLIP in which a patch's features are its redness and blueness, and the words red, blue and grey
    what they say; other words say nothing. Returns its architecture and its weights, as files."""
    from open_clip.model import CLIP

    model = CLIP(**COLOR_CLIP)
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
    visual = model.visual
    pairs = torch.zeros(WIDTH, 3)  # each axis and its opposite: ln's mean is 0
    pairs[0:4] = torch.cat([CHROMA[:1], -CHROMA[:1], CHROMA[1:], -CHROMA[1:]])
    visual.conv1.weight.copy_((pairs * RGB_STD)[:, :, None, None].expand_as(visual.conv1.weight) / 64)
    visual.positional_embedding[:] = pairs @ RGB_MEAN
    visual.positional_embedding[:, 4:6] = torch.tensor([GREY, -GREY])
    space = torch.zeros(WIDTH, SPACE)
    for axis in AXES.values():
        space[2 * axis : 2 * axis + 2, axis] = torch.tensor([1.0, -1.0])
    visual.proj.copy_(space)
    model.text_projection.copy_(space)
    blocks = (visual.transformer.resblocks[0], model.transformer.resblocks[0])
    for block, likeness in zip(blocks, (4.0, 0.0), strict=True):  # patches look at those like them
        block.attn.in_proj_weight[:WIDTH] = likeness * torch.eye(WIDTH)
        block.attn.in_proj_weight[2 * WIDTH :] = torch.eye(WIDTH)
        block.attn.out_proj.weight.copy_(torch.eye(WIDTH))
    for word, axis in AXES.items():
        (token,) = clip_tokenizer(8).encode(word)
        model.token_embedding.weight[token, 2 * axis : 2 * axis + 2] = torch.tensor([1.0, -1.0])
    folder.mkdir(parents=True, exist_ok=True)
    architecture, weights = folder / "color_clip.json", folder / "color_clip.safetensors"
    architecture.write_text(json.dumps(COLOR_CLIP))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
    return architecture, weights
