"""Mask3D, the second 3D baseline: sparse U-Net with feature pyramid, mask decoder. Wiring only."""

from __future__ import annotations

from dataclasses import dataclass, field

from bifusion.errors import InputError
from bifusion.labels.label_set import LabelSet
from bifusion.models.mask_decoder import MaskDecoder, MaskDecoderConfig
from bifusion.models.model import Model, ModelConfig
from bifusion.models.postprocess_mask3d import Mask3DPostprocessConfig
from bifusion.models.pyramid_geometry import level_sizes
from bifusion.models.unet import Res16UNet, UNetConfig
from bifusion.sparse.tensor import SparseTensor
from bifusion.types import Batch, FusionControl, Prediction


def _published_unet() -> UNetConfig:
    return UNetConfig(kind="res16", in_channels=3, final_channels=20)


@dataclass
class Mask3DConfig(ModelConfig):
    """Defaults are the published ScanNet network (39,616,583 parameters)."""

    unet: UNetConfig = field(default_factory=_published_unet)
    decoder: MaskDecoderConfig = field(default_factory=MaskDecoderConfig)

    results_config = Mask3DPostprocessConfig

    def __post_init__(self) -> None:
        if self.unet.kind != "res16":
            raise InputError(
                f"model.unet.kind: found {self.unet.kind!r}; Mask3D reads the feature pyramid of 'res16'"
            )

    def build(self, labels: LabelSet, *, load_pretrained: bool = True) -> Mask3D:
        return Mask3D(self, labels)


class Mask3D(Model):
    """Schult et al., ICRA 2023: instances only; walls and floors are no classes of it."""

    def __init__(self, config: Mask3DConfig, labels: LabelSet) -> None:
        super().__init__()
        self.unet = Res16UNet(config.unet)
        self.decoder = MaskDecoder(config.decoder, self.unet.level_channels, labels.num_things)

    def forward(self, batch: Batch, control: FusionControl | None = None) -> Prediction:
        """Predict a batch from its voxels alone.

        `control` is part of the models' common signature and has no meaning here: nothing is fused.
        Queries are no superpoints and there is no semantic head: `query_superpoints` and
        `semantic_logits` are None.
        """
        voxels = SparseTensor(batch.voxel_feats, batch.voxel_coords)
        strides = [2**level for level in reversed(range(len(self.unet.level_channels)))]
        # with the voxels' coordinates, so that the host waits for a device once for both
        sizes = level_sizes(batch, strides, voxels.maps.survey)
        return self.decoder(self.unet.pyramid(voxels), batch, sizes)
