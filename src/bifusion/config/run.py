"""The complete configuration of a run: plain data, to JSON and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from bifusion.bounds import Count, Minutes, PositiveFloat, PositiveInt, Processes
from bifusion.changes import MAY_CHANGE
from bifusion.config import old_names
from bifusion.config.guard import GuardConfig
from bifusion.config.optim import OptimConfig
from bifusion.config.plain import from_plain, to_plain
from bifusion.config.stages import StagePlan
from bifusion.data.dataset import DataConfig
from bifusion.errors import InputError
from bifusion.labels.label_set import LabelSet
from bifusion.losses.context import CriterionConfig
from bifusion.models.bifusion import BiFusionConfig
from bifusion.models.mask3d import Mask3DConfig
from bifusion.models.model import ModelConfig, ResultsConfig
from bifusion.models.oneformer3d import OneFormer3DConfig
from bifusion.models.postprocess import PostprocessConfig
from bifusion.models.towers.tower import TowerConfig
from bifusion.precision import Matmul
from bifusion.spelling import did_you_mean
from bifusion.storage.json_files import write_json
from bifusion.untrusted.json_text import read_json
from bifusion.untrusted.names import brief

MODEL_KINDS: dict[str, type[ModelConfig]] = {
    "oneformer3d": OneFormer3DConfig,
    "bifusion": BiFusionConfig,
    "mask3d": Mask3DConfig,
}
"""What a stored configuration calls a kind of model -> what describes one."""
Arm = Literal[
    "baseline", "staged", "without_views", "naive", "plan_a", "plan_b", "mask3d",
    "2d_only", "gate_half", "lifted_rgb", "fine_voxels", "random_tower", "ablation",
]  # fmt: skip

RecomputedPart = Literal["backbone", "tower", "decoder"]
"""Of models/parts.py."""
CompiledPart = Literal["tower", "decoder"]
RateRule = Literal["as_given", "sqrt", "linear"]


@dataclass
class TrainerConfig:
    """How the loop runs; what is trained when is the stages' business."""

    init: Path | None = None
    """Checkpoint (ours, hf:// or published) whose 3D network the 3D branch starts from."""
    epochs: int = 128
    """Length of the run; stages and schedules are laid out over it."""
    batch_size: PositiveInt = 4
    """Scenes a batch, of each process."""
    accumulate: PositiveInt = 1
    """Batches that make one optimiser step together. Its loss is that of one batch of all their scenes;
    BatchNorm counts the voxels of each batch."""
    workers: Annotated[Processes, MAY_CHANGE] = 4
    """Processes that load scenes; 0: in the training process."""
    eval_every: PositiveInt = 16
    """Validate every n-th epoch, besides at the end of every stage and of the run."""
    evaluation_views: Annotated[Count, MAY_CHANGE] = 16
    """Views a scene in the final evaluation, to tell points that are seen from those that are not;
    also for models that read no images. 0: no such split."""
    save_every: Annotated[Count, MAY_CHANGE] = 200
    """Optimiser steps between checkpoints within an epoch, besides those at each epoch's end: no more
    than these are lost when a run is killed. Writing a full-size one takes a few seconds, 200 steps
    a minute at least. 0: only at the ends of epochs."""
    save_epochs: Annotated[PositiveInt, MAY_CHANGE] = 1
    """Save at the end of every n-th epoch, besides after each validation and at the run's end. More than
    1 is for runs of seconds, of which a checkpoint takes its share."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """What is done about faulty steps."""
    accelerator: Annotated[Literal["auto", "cpu", "gpu", "cuda", "mps"], MAY_CHANGE] = "auto"
    """Kind of device; auto: a GPU where there is one. Another kind rounds otherwise."""
    devices: PositiveInt = 1
    """Processes of one run on a machine, each with a device of its own."""
    nodes: PositiveInt = 1
    """Machines of one run, each with as many devices; started by torchrun or srun, one for all."""
    sync_batch_norm: bool = True
    """With several processes: BatchNorm counts the voxels of all, as one process would. Off: each counts
    its own, and the first one's running statistics are kept."""
    like_sized: bool = False
    """Make batches of scenes of like size, so that processes with few scenes each wait less for each
    other; other batches than are drawn without it."""
    rate_rule: RateRule = "as_given"
    """What `optim.lr` becomes with several processes: as_given; sqrt, times the root of their number, as
    Adam's rate follows the batch; linear, times their number."""
    hang_minutes: Annotated[Minutes, MAY_CHANGE] = 20.0
    """How long one of several processes may be at the same batch, scene or checkpoint: after that all of
    them end and say where each was."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Arithmetic: float32, or mixed with bfloat16 or float16. On a CPU float16 takes longer and serves
    to see what it does to a training; sparse layers round to it what goes in and out."""
    matmul: Matmul = "ieee"
    """How a GPU multiplies float32 in training: as IEEE has it, or in TF32, several times faster from
    Ampere on, with 10 bits of mantissa. What is validated, evaluated and predicted is IEEE's."""
    recompute: Annotated[tuple[RecomputedPart, ...], MAY_CHANGE] = ()
    """Parts whose activations are computed again in the backward pass instead of being kept for it
    (activation checkpointing): less memory for more time, with the same result to the bit."""
    compile: Annotated[tuple[CompiledPart, ...], MAY_CHANGE] = ()
    """Parts whose blocks torch.compile compiles in the first steps, for a minute or more each. Needs a
    compiler on the machine; rounds otherwise, as another device does."""
    deterministic: bool = True
    """Bit-identical repetition on a CPU and, with the same GPU and versions, on CUDA, where an operation
    without a deterministic form ends the run; on other devices it warns."""
    logger: Annotated[str | None, MAY_CHANGE] = None
    """Another logger beside TensorBoard: "wandb" (extra `wandb`), or "module:function" from outside
    (training/loggers.py)."""
    tower_cache: Annotated[Literal["auto", "on", "off"], MAY_CHANGE] = "auto"
    """Compute a frozen image tower's features of a view once and keep them on disk, with the same
    result to the bit. "auto": where the tower runs on a CPU, which takes it a second a view; a GPU
    takes milliseconds, no more than reading does."""
    tower_cache_gb: Annotated[PositiveFloat, MAY_CHANGE] = 8.0
    """Most that is kept; what does not fit is computed every time."""
    tower_cache_dir: Annotated[Path | None, MAY_CHANGE] = None
    """Where; None: .tower-cache beside the run folder, so that the runs of a comparison share it and
    the data may be read-only."""

    @property
    def processes(self) -> int:
        """Of one run, on all machines."""
        return self.devices * self.nodes

    @property
    def scenes_a_step(self) -> int:
        """The global batch: scenes whose mean loss an optimiser step follows, of all processes."""
        return self.batch_size * self.accumulate * self.processes

    @property
    def rate_factor(self) -> float:
        """What `rate_rule` multiplies all learning rates by."""
        power = {"as_given": 0.0, "sqrt": 0.5, "linear": 1.0}[self.rate_rule]
        return self.processes**power


@dataclass
class Config:
    """Everything a run depends on. `recipes` makes complete ones."""

    name: Annotated[str, MAY_CHANGE]
    """What the run is called: on screen, in its report and in the name of its folder."""
    recipe: str
    """The recipe it was made from."""
    arm: Arm
    """Role in a comparison."""
    model: ModelConfig
    stages: StagePlan
    seed: int = 0
    """All randomness comes from it, by name (rng.py)."""
    data: DataConfig = field(default_factory=DataConfig)
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    postprocess: ResultsConfig = field(default_factory=PostprocessConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    @property
    def model_kind(self) -> str:
        """What MODEL_KINDS calls the model; InputError where Python code has set another object."""
        for kind, described in MODEL_KINDS.items():
            if type(self.model) is described:
                return kind
        expected = ", ".join(described.__name__ for described in MODEL_KINDS.values())
        raise InputError(f"model: is a {type(self.model).__name__}; expected one of {expected}")

    @property
    def outside_code(self) -> dict[str, str]:
        """Field → "module:function" of model parts and loss terms of somebody else's package."""
        terms = {f"criterion.extra.{name}": function for name, function in self.criterion.extra.items()}
        return self.model.outside_parts | terms

    @property
    def labels(self) -> LabelSet:
        """The classes that the model tells apart, which are its data's."""
        return self.data.classes

    @property
    def uses_views(self) -> bool:
        """Some stage lets images into the network."""
        return self.model.uses_views and any(stage.opens_gate for stage in self.stages.stages)

    @property
    def tower_for_weights(self) -> TowerConfig | None:
        """The image tower that trained weights are for; not that of the control with a random one."""
        tower = self.model.image_tower
        is_for = tower is not None and tower.takes_weights and self.arm != "random_tower"
        return tower if is_for else None

    @property
    def has_untrained_tower(self) -> bool:
        """Images are seen by a tower of random weights, though trained ones could be given."""
        tower = self.tower_for_weights
        return self.uses_views and tower is not None and tower.reads is None


def config_to_dict(config: Config) -> dict[str, Any]:
    """The configuration in JSON's types; "model_kind" says which model `model` describes."""
    return {"model_kind": config.model_kind, **to_plain(config)}


def config_from_dict(value: dict[str, Any], where: str = "configuration") -> Config:
    """Inverse of `config_to_dict`. Raises InputError naming `where`, the field and what was expected."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: found {type(value).__name__}, expected a JSON object")
    fields = old_names.update_config(value)
    kind = fields.pop("model_kind", None)
    if not isinstance(kind, str) or kind not in MODEL_KINDS:
        raise InputError(
            f"{where}.model_kind: found {brief(kind)}, expected one of {', '.join(MODEL_KINDS)}"
            f"{did_you_mean(str(kind), MODEL_KINDS)}"
        )
    model = MODEL_KINDS[kind]
    for name, described in (("model", model), ("postprocess", model.results_config)):
        fields[name] = from_plain(described, fields.get(name, {}), f"{where}.{name}")
    return from_plain(Config, fields, where)


def save_config(config: Config, path: Path) -> None:
    """Writes the configuration as JSON."""
    write_json(path, config_to_dict(config))


def load_config(path: Path) -> Config:
    """Reads what `save_config` wrote, or a run's config.json (its "config" is taken).

    Raises InputError if the file is missing, no JSON, or does not describe a configuration.
    """
    missing = "no such file; expected a configuration that a run or `compare` wrote"
    value = read_json(path, missing=missing, advice="write it again")
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"]
    return config_from_dict(value, str(path))
