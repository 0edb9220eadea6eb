"""OneFormer3D, the 3D baseline: sparse U-Net, superpoint pooling, query decoder."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from bifusion.labels.label_set import LabelSet
from bifusion.models.model import Model, ModelConfig
from bifusion.models.pooling import pool_superpoints
from bifusion.models.postprocess import PostprocessConfig
from bifusion.models.query_decoder import DecoderConfig, QueryDecoder, twin_decoder
from bifusion.models.unet import build_unet
from bifusion.sparse.tensor import SparseTensor
from bifusion.types import Batch, FusionControl, Output, Prediction


@dataclass
class OneFormer3DConfig(ModelConfig):
    """Defaults are the published ScanNet network (17,515,048 parameters)."""

    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    results_config = PostprocessConfig

    def build(self, labels: LabelSet, *, load_pretrained: bool = True) -> OneFormer3D:
        return OneFormer3D(self, labels)

    def twin_decoder(self, labels: LabelSet) -> QueryDecoder:
        return twin_decoder(self.decoder, labels)


class OneFormer3D(Model):
    """Kolodiazhnyi et al., CVPR 2024, for ScanNet and ScanNet200."""

    def __init__(self, config: OneFormer3DConfig, labels: LabelSet) -> None:
        super().__init__()
        self.unet = build_unet(config.unet)
        self.decoder = QueryDecoder(
            config.decoder, self.unet.out_channels, labels.num_things, labels.num_classes
        )

    def forward(self, batch: Batch, control: FusionControl | None = None) -> Prediction:
        """Predict a batch from its voxels alone.

        `control` is part of the models' common signature and has no meaning here: nothing is fused.
        In evaluation mode every superpoint is a query, so class and semantic logits have S_b rows
        a scene and mask logits are (S_b, S_b).
        """
        voxels = SparseTensor(batch.voxel_feats, batch.voxel_coords)
        voxel_features = self.unet(voxels)
        superpoint_features = pool_superpoints(voxel_features, batch)
        return self.decoder(superpoint_features, batch)

    def query_superpoints(self, batch: Batch) -> list[Tensor]:
        """As its decoder chooses them."""
        return self.decoder.choose_queries(batch)

    def optional_outputs(self) -> set[Output]:
        """Optional parts of its predictions."""
        return self.decoder.optional_outputs()
