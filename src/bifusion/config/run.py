"""The complete configuration of a run, and the model it describes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from bifusion.config.guard import GuardConfig
from bifusion.config.optim import OptimConfig
from bifusion.config.plain import from_plain, to_plain
from bifusion.config.ranges import check_ranges
from bifusion.config.stages import StagePlan
from bifusion.data.dataset import DataConfig
from bifusion.labels.label_set import LabelSet
from bifusion.losses.criterion import CriterionConfig
from bifusion.models.bifusion import BiFusion, BiFusionConfig
from bifusion.models.mask3d import Mask3D, Mask3DConfig
from bifusion.models.oneformer3d import OneFormer3D, OneFormer3DConfig
from bifusion.models.parts import check_groups
from bifusion.models.postprocess import PostprocessConfig
from bifusion.models.postprocess_mask3d import Mask3DPostprocessConfig
from bifusion.models.query_decoder import QueryDecoder
from bifusion.models.unet import build_unet
from bifusion.rng import derive_seed
from bifusion.storage.json_files import write_json
from bifusion.types import InputError

ModelConfig = OneFormer3DConfig | BiFusionConfig | Mask3DConfig
Model = OneFormer3D | BiFusion | Mask3D
MODEL_KINDS: dict[str, type] = {
    "oneformer3d": OneFormer3DConfig,
    "bifusion": BiFusionConfig,
    "mask3d": Mask3DConfig,
}
Arm = Literal[
    "baseline", "staged", "without_views", "naive", "plan_a", "plan_b", "mask3d",
    "2d_only", "lifted_rgb", "fine_voxels", "random_tower", "ablation",
]  # fmt: skip


@dataclass
class TrainerConfig:
    """How the loop runs; what is trained when is the stages' business."""

    init: Path | None = None
    """Checkpoint (ours or a published one) whose 3D network the 3D branch starts from."""
    epochs: int = 128
    batch_size: int = 4
    accumulate: int = 1
    """Batches whose gradients are averaged for one optimiser step."""
    workers: int = 4
    """Processes that load scenes; 0: in the training process."""
    eval_every: int = 16
    """Validate every n-th epoch, besides at the end of every stage and of the run."""
    evaluation_views: int = 16
    """Views a scene in the final evaluation, to tell points that are seen from those that are not;
    also for models that read no images. 0: no such split."""
    save_every: int = 200
    """Optimiser steps between checkpoints within an epoch, besides those at each epoch's end: no more
    than these are lost when a run is killed. Writing a full-size one takes a few seconds, 200 steps
    a minute at least. 0: only at the ends of epochs."""
    save_epochs: int = 1
    """Save at the end of every n-th epoch, besides after each validation and at the run's end. More than
    1 is for runs of seconds, of which a checkpoint takes its share."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """What is done about faulty steps."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    deterministic: bool = True
    """Bit-identical repetition on a CPU and, with the same GPU and versions, on CUDA, where an operation
    without a deterministic form ends the run; on other devices it warns."""
    tower_cache: Literal["auto", "on", "off"] = "auto"
    """Compute a frozen image tower's features of a view once and keep them on disk, with the same
    result to the bit. "auto": where the tower runs on a CPU, which takes it a second a view; a GPU
    takes milliseconds, no more than reading does."""
    tower_cache_gb: float = 8.0
    """Most that is kept; what does not fit is computed every time."""
    tower_cache_dir: Path | None = None
    """Where; None: .tower-cache beside the run folder, so that the runs of a comparison share it and
    the data may be read-only."""


@dataclass
class Config:
    """Everything a run depends on. `recipes` makes complete ones."""

    name: str
    recipe: str
    arm: Arm
    """Role in a comparison."""
    model: ModelConfig
    stages: StagePlan
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    postprocess: PostprocessConfig | Mask3DPostprocessConfig = field(default_factory=PostprocessConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    @property
    def model_kind(self) -> str:
        return next(kind for kind, cls in MODEL_KINDS.items() if type(self.model) is cls)

    @property
    def labels(self) -> LabelSet:
        """The classes that the model tells apart, which are its data's."""
        return self.data.classes

    @property
    def uses_views(self) -> bool:
        """Some stage lets images into the network."""
        if not isinstance(self.model, BiFusionConfig) or not self.model.use_clip:
            return False
        return any(stage.run_2d and stage.fixed_alpha != 0.0 for stage in self.stages.stages)


def check_consistent(config: Config) -> None:
    """InputError where a number makes no sense, or where fields that must agree do not: a network
    and the data it is to read."""
    check_ranges(config_to_dict(config))
    model, data = config.model, config.data
    pairs = [
        (
            "model.unet.in_channels",
            model.unet.in_channels,
            "channels of data.use_xyz",
            data.feature_channels,
        ),
    ]
    if isinstance(model, BiFusionConfig) and config.uses_views and model.tower.architecture == "small":
        pairs.append(
            ("model.tower.patch_size", model.tower.patch_size, "data.patch_size", data.patch_size)
        )
    for ours, value, theirs, other in pairs:
        if value != other:
            raise InputError(
                f"{ours} is {value!r}, but {theirs} is {other!r}: set both to the same value"
            )
    if isinstance(model, Mask3DConfig) != isinstance(config.postprocess, Mask3DPostprocessConfig):
        raise InputError(
            f"postprocess is a {type(config.postprocess).__name__}, which does not belong to a "
            f"{config.model_kind} model: take both from one recipe"
        )


def config_to_dict(config: Config) -> dict[str, Any]:
    """The configuration in JSON's types; "model_kind" says which model `model` describes."""
    return {"model_kind": config.model_kind, **to_plain(config)}


def config_from_dict(value: dict[str, Any], where: str = "configuration") -> Config:
    """Inverse of `config_to_dict`. Raises InputError naming `where`, the field and what was expected."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: found {type(value).__name__}, expected a JSON object")
    fields = dict(value)
    kind = fields.pop("model_kind", None)
    if kind not in MODEL_KINDS:
        raise InputError(f"{where}.model_kind: found {kind!r}, expected one of {', '.join(MODEL_KINDS)}")
    fields["model"] = from_plain(MODEL_KINDS[kind], fields.get("model", {}), f"{where}.model")
    results = Mask3DPostprocessConfig if kind == "mask3d" else PostprocessConfig
    fields["postprocess"] = from_plain(results, fields.get("postprocess", {}), f"{where}.postprocess")
    return from_plain(Config, fields, where)


def save_config(config: Config, path: Path) -> None:
    """Writes the configuration as JSON."""
    write_json(path, config_to_dict(config))


def build_model(config: Config, *, load_pretrained: bool = True) -> Model:
    """The network, with the initial weights that belong to `config.seed`.

    `load_pretrained` False: the image tower's weights are not read, a checkpoint will bring them.
    Backbone and decoder draw from streams of their own, so that arms with the same seed start from
    the same values wherever their shapes agree (runs are compared paired by seed). The global
    generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "init"))
        if isinstance(config.model, BiFusionConfig):
            own = config.model if load_pretrained else _from_scratch(config.model)
            model = BiFusion(own, config.labels)
        elif isinstance(config.model, Mask3DConfig):
            model = Mask3D(config.model, config.labels)
        else:
            model = OneFormer3D(config.model, config.labels)
        if not next(model.parameters()).is_meta:
            _pair_initial_weights(model, config)
    check_groups(model, model.parameter_groups())
    return model


def _from_scratch(model: BiFusionConfig) -> BiFusionConfig:
    return dataclasses.replace(model, tower=dataclasses.replace(model.tower, pretrained=None))


def _pair_initial_weights(model: Model, config: Config) -> None:
    torch.manual_seed(derive_seed(config.seed, "init", "backbone"))
    model.unet.load_state_dict(build_unet(config.model.unet).state_dict())
    if isinstance(config.model, Mask3DConfig):  # its decoder has no counterpart
        return
    torch.manual_seed(derive_seed(config.seed, "init", "decoder"))
    # Input width and heads that all arms share: an arm's own would shift the draws that come after.
    common = dataclasses.replace(config.model.decoder, score_head=True, semantic_head=True)
    twin = QueryDecoder(common, common.dim, config.labels.num_things, config.labels.num_classes)
    own = model.decoder.state_dict()
    shared = {n: t for n, t in twin.state_dict().items() if n in own and own[n].shape == t.shape}
    model.decoder.load_state_dict({**own, **shared})
