"""config.json of a run: what was trained, on what, with what, for readers that build no model."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from bifusion.config.run import Config, config_to_dict
from bifusion.config.stages import Timeline
from bifusion.data.scene_folder import read_description
from bifusion.models.model import Model

PACKAGES = ("bifusion", "torch", "lightning-fabric", "open_clip_torch", "timm", "numpy")


def describe_run(
    config: Config,
    groups: dict[str, list[nn.Parameter]],
    model: Model,
    train_scenes: list[str],
    val_scenes: list[str],
) -> dict[str, Any]:
    """Content of config.json."""
    counts = {name: sum(p.numel() for p in parameters) for name, parameters in groups.items()}
    return {
        **describe_config(config),
        "parameters": {**counts, "total": sum(counts.values())},
        "train_scenes": train_scenes,
        "val_scenes": val_scenes,
        "sources": [config.data.source]
        if config.data.source
        else scene_sources(config.data.root, train_scenes, val_scenes),
        "tower": model.describe_tower(),
        "feature_dims": model.feature_dims(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "config": config_to_dict(config),
    }


def describe_config(config: Config) -> dict[str, Any]:
    """What config.json says that follows from the configuration, without the configuration itself."""
    bounds = Timeline(config.stages, config.trainer.epochs).bounds
    return {
        "name": config.name,
        "recipe": config.recipe,
        "arm": config.arm,
        "model_kind": config.model_kind,
        "seed": config.seed,
        "label_set": config.labels.name,
        "epochs": config.trainer.epochs,
        "stages": [
            {"name": stage.name, "first_epoch": first, "end_epoch": end}
            for stage, (first, end) in zip(config.stages.stages, bounds, strict=True)
        ],
        "views_used": config.uses_views,
        "fusion_type": config.model.fusion_kind,
        "class_names": list(config.labels.class_names),
    }


def scene_sources(root: Path, train_scenes: list[str], val_scenes: list[str]) -> list[str]:
    """What the scenes' scene.json say of their origin, each once: names alone do not tell rooms with
    textures from the same rooms without. Foreign folders without a scene.json say nothing."""
    folders = [root / "train" / name for name in train_scenes]
    folders += [root / "val" / name for name in val_scenes]
    sources = [read_description(folder).get("source") for folder in folders]
    return sorted({str(source) for source in sources if source})
