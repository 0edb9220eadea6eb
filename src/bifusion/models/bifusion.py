"""BiFusion: OneFormer3D whose voxels also know what an image tower sees at their pixels. Wiring only."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bifusion.errors import InputError
from bifusion.geometry import LiftingConfig, Sightings, find_sightings, lift_features
from bifusion.labels.label_set import LabelSet
from bifusion.models.fusion import Fusion, FusionConfig, scale_gradient, shuffle_seen
from bifusion.models.gate import FUNCTION as GATE
from bifusion.models.geometric_code import geometric_code
from bifusion.models.model import Model, ModelConfig
from bifusion.models.pooling import pool_superpoints
from bifusion.models.postprocess import PostprocessConfig
from bifusion.models.query_decoder import DecoderConfig, QueryDecoder, twin_decoder
from bifusion.models.towers.clip import ClipConfig
from bifusion.models.towers.kinds import AnyTowerConfig
from bifusion.models.towers.outside import FUNCTION as TOWER
from bifusion.models.towers.outside import OutsideTowerConfig
from bifusion.models.towers.tower import ImageTower, TowerConfig, check_maps
from bifusion.models.towers.view_cache import ViewCache
from bifusion.models.training_views import TrainingViewsConfig, used_sightings
from bifusion.models.unet import UNetConfig, build_unet
from bifusion.sparse.tensor import KernelMaps, SparseTensor
from bifusion.types import Batch, FusionControl, Output, Prediction


def _published_unet() -> UNetConfig:
    return UNetConfig(kind="res16", in_channels=3)


def _decoder_with_scores() -> DecoderConfig:
    return DecoderConfig(score_head=True)


@dataclass
class BiFusionConfig(ModelConfig):
    """Defaults are the full size: half of CLIP ViT-B/16, Res16UNet34C, fusion at 256 channels."""

    unet: UNetConfig = field(default_factory=_published_unet)
    decoder: DecoderConfig = field(default_factory=_decoder_with_scores)
    tower: AnyTowerConfig | None = field(default_factory=ClipConfig)
    """What makes features of the images (models/towers/). None (Plan A): no 2D branch is built, the
    decoder sees the 3D head's features."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    lifting: LiftingConfig = field(default_factory=LiftingConfig)
    training_views: TrainingViewsConfig = field(default_factory=TrainingViewsConfig)

    results_config = PostprocessConfig

    def __post_init__(self) -> None:
        if self.tower is None and self.fusion.gate_function:
            raise InputError(
                f"{GATE}: found {self.fusion.gate_function!r}, but without model.tower nothing is "
                "fused; leave it out, or give a tower"
            )

    def build(self, labels: LabelSet, *, load_pretrained: bool = True) -> BiFusion:
        if load_pretrained or self.tower is None:
            return BiFusion(self, labels)
        return BiFusion(self.with_tower(self.tower.with_weights(None)), labels)

    def twin_decoder(self, labels: LabelSet) -> QueryDecoder:
        return twin_decoder(self.decoder, labels)

    @property
    def uses_views(self) -> bool:
        return self.tower is not None

    @property
    def image_tower(self) -> TowerConfig | None:
        return self.tower

    def with_tower(self, tower: TowerConfig) -> BiFusionConfig:
        return dataclasses.replace(self, tower=tower)

    @property
    def outside_parts(self) -> dict[str, str]:
        parts = super().outside_parts
        if isinstance(self.tower, OutsideTowerConfig):
            parts[TOWER] = self.tower.function
        return parts | ({GATE: self.fusion.gate_function} if self.fusion.gate_function else {})

    @property
    def occlusion(self) -> LiftingConfig:
        return self.lifting

    @property
    def fusion_kind(self) -> str:
        return self.fusion.fusion_type


class BiFusion(Model):
    """2D and 3D branch, fused per voxel, decoded as in OneFormer3D."""

    def __init__(self, config: BiFusionConfig, labels: LabelSet) -> None:
        """`labels`: the classes its heads tell apart. Raises InputError for a tower or weights that
        cannot be had."""
        super().__init__()
        self.config = config
        self.unet = build_unet(config.unet)
        self.tower: ImageTower | None = config.tower.build() if config.tower is not None else None
        channels_2d = self.tower.out_channels if self.tower is not None else None
        self.fusion = Fusion(config.fusion, self.unet.out_channels, channels_2d)
        self.decoder = QueryDecoder(
            config.decoder, config.fusion.dim, labels.num_things, labels.num_classes
        )

    def forward(self, batch: Batch, control: FusionControl | None = None) -> Prediction:
        """Predict a batch from its voxels and views.

        `control` says how the fusion acts (default: inference). The trace in the prediction is
        None where the 2D branch does not run: none is built, `run_2d` off, or views withheld.
        A batch without views, or whose views see no voxel, is predicted from 3D features.
        """
        control = control or FusionControl()
        voxels = SparseTensor(batch.voxel_feats, batch.voxel_coords)
        sightings = self._find_sightings(batch, control, voxels.maps)
        f3d_in = self.unet(voxels)
        del voxels  # with the kernel maps, which nothing here needs any more
        if self.tower is None:
            fused, trace = self.fusion.without_2d(f3d_in, code=None), None
        elif control.withhold_views or not control.run_2d:
            fused, trace = self.fusion.without_2d(f3d_in, geometric_code(batch, sightings)), None
        else:
            rows, scene = sightings.seen_rows, batch.voxel_coords[:, 0].long()
            f2d_in = self._lift_views(batch, sightings, rows, control)
            code = geometric_code(batch, sightings)
            fused, trace = self.fusion(
                f3d_in,
                f2d_in,
                sightings.seen,
                scene,
                code,
                control,
                rows=rows,
                num_scenes=len(batch.names),
            )
        prediction = self.decoder(pool_superpoints(fused, batch), batch)
        return dataclasses.replace(prediction, fusion=trace)

    def query_superpoints(self, batch: Batch) -> list[Tensor]:
        """As its decoder chooses them."""
        return self.decoder.choose_queries(batch)

    def optional_outputs(self) -> set[Output]:
        """Optional parts of its predictions; of the alignment in steps that run the 2D branch."""
        aligned = self.tower is not None and self.config.fusion.alignment
        outputs: set[Output] = {"alignment_pairs"} if aligned else set()
        return outputs | self.decoder.optional_outputs()

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the part that owns them, each in one group: "tower.conv1_rgb",
        "tower.conv1_depth", "tower.embed", "tower.block0" …, "head_2d", "head_3d", "film", "gate",
        "align", "backbone", "decoder"; parts that the configuration leaves out have no group."""
        return {
            **(self.tower.parameter_groups() if self.tower is not None else {}),
            **self.fusion.parameter_groups(),
            **super().parameter_groups(),
        }

    def recomputable(self) -> dict[str, list[nn.Module]]:
        """The tower's besides."""
        own = {"tower": self.tower.recomputable()} if self.tower is not None else {}
        return {**super().recomputable(), **own}

    def describe_tower(self) -> str | None:
        """Where the tower's weights come from, or that pixels stand in for it, in one line; None
        without a 2D branch."""
        return self.tower.describe() if self.tower is not None else None

    def feature_dims(self) -> dict[str, int]:
        """The tower's besides."""
        own = {} if self.tower is None else {"f2d_in": self.tower.out_channels}
        return super().feature_dims() | own

    def keep_views(self, cache: ViewCache) -> None:
        """Of a tower whose maps can be kept."""
        if self.tower is not None:
            self.tower.keep_views(cache)

    def _find_sightings(self, batch: Batch, control: FusionControl, maps: KernelMaps) -> Sightings:
        """Of every voxel in every view, in training those that are used; empty where the 2D branch does
        not run. Found before the U-Net runs, so that the host waits for a device only once for them and
        for the voxels' coordinates."""
        runs = self.tower is not None and control.run_2d and not control.withhold_views
        sightings = find_sightings(
            batch.voxel_position_m,
            batch.voxel_coords[:, 0],
            batch.views if runs else [],
            self.config.lifting,
            batch.voxels_per_scene,
            maps.survey,
        )
        if not (self.training and runs):
            return sightings
        return used_sightings(sightings, batch, self.config.training_views)

    def _lift_views(
        self, batch: Batch, sightings: Sightings, rows: Tensor, control: FusionControl
    ) -> Tensor:
        """(K, D2) image features of the seen voxels `rows` (K,); isolated or with scaled gradient."""
        images = self.tower
        assert images is not None
        if not batch.views:
            return batch.voxel_feats.new_zeros(0, images.out_channels)
        isolated = control.tower_gradient_scale == 0
        with torch.no_grad() if isolated else contextlib.nullcontext():
            maps = images.encode_views(batch.views)
            check_maps(maps, batch.views, images)
            maps = scale_gradient(maps, control.tower_gradient_scale)
            lifted = lift_features(maps, batch.views, sightings, rows)
        if control.shuffle_seed is None:
            return lifted
        scene = batch.voxel_coords[:, 0].index_select(0, rows)
        return shuffle_seen(lifted, scene, control.shuffle_seed)
