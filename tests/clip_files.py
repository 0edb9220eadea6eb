"""Tiny CLIPs of open_clip's own modules, and files of their weights as the libraries write them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bifusion.models.towers.clip import ClipConfig

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
