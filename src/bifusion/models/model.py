"""What all models are to those who build, train and evaluate them: nobody asks which one it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from bifusion.geometry import LiftingConfig
from bifusion.labels.label_set import LabelSet
from bifusion.models.backbone import FUNCTION
from bifusion.models.towers.tower import TowerConfig
from bifusion.models.towers.view_cache import ViewCache
from bifusion.models.unet import UNetConfig
from bifusion.types import Batch, Output, Prediction, SceneResult


class Model(nn.Module):
    """A 3D network `unet` and a `decoder`, and whatever else its kind has: `Batch` → `Prediction`."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the group they are in (`parts.py`), each in one."""
        return {
            "backbone": list(self.get_submodule("unet").parameters()),
            "decoder": list(self.get_submodule("decoder").parameters()),
        }

    def optional_outputs(self) -> set[Output]:
        """Parts of its predictions that not every model gives."""
        return set()

    def query_superpoints(self, batch: Batch) -> list[Tensor] | None:
        """`Prediction.query_superpoints` of `batch`, on the CPU, before it is predicted."""
        return None

    def recomputable(self) -> dict[str, list[nn.Module]]:
        """By part (`parts.py`) the blocks that a backward pass can compute again (`recompute.py`): each
        a function of what it is called with, its weights and random numbers."""
        modules: dict[str, Any] = {"backbone": self.unet, "decoder": self.decoder}
        return {part: module.recomputable() for part, module in modules.items()}

    def describe_tower(self) -> str | None:
        """Where the image tower's weights come from, in one line; None without one."""
        return None

    def feature_dims(self) -> dict[str, int]:
        """Channels of features, by the names of `FusionTrace`: that of the 3D network's, which no
        configuration tells of one from outside."""
        network: Any = self.unet
        return {"f3d_in": network.out_channels}

    def keep_views(self, cache: ViewCache) -> None:
        """Looks the maps of views up in `cache`, if it has an image tower whose maps can be kept."""


@dataclass
class ResultsConfig(ABC):
    """How a prediction becomes instances and labels at the points of a scene."""

    @property
    @abstractmethod
    def min_score(self) -> float:
        """Score above which a candidate may become an object."""

    @abstractmethod
    def with_min_score(self, least: float) -> ResultsConfig:
        """The same configuration with `least` for `min_score`."""

    @abstractmethod
    def results(self, prediction: Prediction, batch: Batch, label_set: LabelSet) -> list[SceneResult]:
        """One `SceneResult` a scene from a prediction in evaluation mode."""


@dataclass
class ModelConfig(ABC):
    """What a model is built from; it answers for its kind."""

    unet: UNetConfig = field(default_factory=UNetConfig)

    results_config: ClassVar[type[ResultsConfig]]
    """Kind of `Config.postprocess` that reads its predictions."""

    @abstractmethod
    def build(self, labels: LabelSet, *, load_pretrained: bool = True) -> Model:
        """The network, its weights drawn from the global generator.

        `labels`: the classes that its heads tell apart. `load_pretrained` False: weights of an image
        tower are not read, a checkpoint will bring them.
        """

    def twin_decoder(self, labels: LabelSet) -> nn.Module | None:
        """A decoder drawn as in every model that has this one's kind, whatever this one adds to it or
        leaves out; None where no other model has it."""
        return None

    @property
    def uses_views(self) -> bool:
        """It has a branch that reads images."""
        return False

    @property
    def image_tower(self) -> TowerConfig | None:
        """What its image tower is built from; None where it has none."""
        return None

    def with_tower(self, tower: TowerConfig) -> ModelConfig:
        """The same with another image tower; itself where it has none."""
        return self

    @property
    def outside_parts(self) -> dict[str, str]:
        """Field → "module:function" of each part that somebody else's package makes."""
        return {FUNCTION: self.unet.function} if self.unet.kind == "outside" else {}

    @property
    def occlusion(self) -> LiftingConfig:
        """When a point counts as seen by a view, also in figures of models that read none."""
        return LiftingConfig()

    @property
    def fusion_kind(self) -> str | None:
        """How 2D and 3D are fused; None where they are not."""
        return None
