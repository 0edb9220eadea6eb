"""Mask decoder of Mask3D: queries placed in the scene look for their object in ever finer features.

Schult et al., "Mask3D: Mask Transformer for 3D Semantic Instance Segmentation", ICRA 2023; settings
are those of its `conf/model/mask3d.yaml`, the steps those of `models/mask3d.py` with masks on
segments. Scenes differ in size, so each is decoded on its own, unpadded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bifusion.bounds import Layers, MultipleOf, PositiveInt, Share, Width
from bifusion.errors import InputError
from bifusion.models.pooling import pool_superpoints
from bifusion.models.pyramid_geometry import (
    LevelSize,
    SceneLevel,
    is_first_of_voxel,
    level_sizes,
    scene_levels,
)
from bifusion.models.query_decoder import attention_mask
from bifusion.models.rows import by_blocks
from bifusion.rng import numpy_rng, torch_rng
from bifusion.sparse.tensor import SparseTensor
from bifusion.types import Batch, LayerPrediction, Prediction


@dataclass
class MaskDecoderConfig:
    """Defaults are the published sizes."""

    dim: Annotated[Width, MultipleOf("heads")] = 128
    """Width of the queries."""
    heads: Width = 8
    """Attention heads."""
    ffn_dim: Width = 1024
    """Width of the feed-forward blocks."""
    dropout: Share = 0.0
    """Share of activations dropped in training."""
    rounds: Layers = 3
    """Passes over the levels, with the same weights."""
    num_queries: Width = 100
    """In training."""
    eval_queries: Width = 150
    """In the published validation."""
    key_samples: tuple[PositiveInt, ...] = (200, 800, 3200, 12800)
    """For each pyramid level that a round visits, coarsest first, the most of its voxels that a query
    attends to in training. In evaluation it attends to all."""


class FourierCode(nn.Module):
    """sin and cos of random projections of positions (Tancik et al. 2020), (K, 3) to (K, dim).

    The projections are no parameters but belong to the model: official files bring their own.
    """

    gauss_B: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        projections = numpy_rng(0, "fourier code").standard_normal((3, dim // 2))
        self.register_buffer("gauss_B", torch.from_numpy(projections).float())

    @torch.no_grad()
    def forward(self, position_m: Tensor, low_m: Tensor, high_m: Tensor) -> Tensor:
        """`low_m`, `high_m` (3,): the box that becomes the unit cube; a flat side becomes 0."""
        extent = high_m - low_m
        unit = (position_m - low_m) / torch.where(extent > 0, extent, 1.0)
        with torch.autocast(unit.device.type, enabled=False):
            phase = (2 * math.pi * unit) @ self.gauss_B
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class Refinement(nn.Module):
    """One step: queries look at the voxels of their masks, at each other, and think (post-norm)."""

    def __init__(self, config: MaskDecoderConfig, in_channels: int) -> None:
        super().__init__()
        dim = config.dim
        self.squeeze = nn.Linear(in_channels, dim)
        self.cross_attention = _attention(config)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = _attention(config)
        self.self_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.ffn_dim)
        self.linear2 = nn.Linear(config.ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self, queries: Tensor, query_code: Tensor, feats: Tensor, key_code: Tensor, blocked: Tensor
    ) -> Tensor:
        """(Q, dim) queries and their position code; (K, C) voxel features, their (K, dim) code, and
        (Q, K) bool, True where attention is not allowed. Returns the next (Q, dim) queries."""
        values = self.squeeze(feats)
        found, _ = self.cross_attention(
            queries + query_code, values + key_code, values, attn_mask=blocked, need_weights=False
        )
        return self._refined(queries, query_code, found)

    def keys_and_values(self, feats: Tensor, key_code: Tensor) -> tuple[Tensor, Tensor]:
        """Of voxel features (K, C) and their code (K, dim), for `look`: (heads, K, dim / heads) each."""
        made = by_blocks(self._keys_and_values, feats, key_code)
        return made[0], made[1]

    def _keys_and_values(self, feats: Tensor, key_code: Tensor) -> Tensor:
        """(2, heads, K, dim / heads)."""
        values = self.squeeze(feats)
        _, (weight_k, bias_k), (weight_v, bias_v) = self._projections()
        keys = F.linear(values + key_code, weight_k, bias_k)
        return torch.stack([self._by_head(keys), self._by_head(F.linear(values, weight_v, bias_v))])

    def look(
        self, queries: Tensor, query_code: Tensor, keys: Tensor, values: Tensor, blocked: Tensor
    ) -> Tensor:
        """`forward` with keys and values that serve every round, as where all voxels are keys."""
        weight, bias = self._projections()[0]
        asked = self._by_head(F.linear(queries + query_code, weight, bias))
        # Softmax makes 0 of it where attention is not allowed; on a CPU a fifth of filling it in.
        added = blocked.to(asked.dtype).mul_(torch.finfo(asked.dtype).min)
        found = F.scaled_dot_product_attention(asked[None], keys[None], values[None], added)
        found = self.cross_attention.out_proj(found[0].transpose(0, 1).flatten(1))
        return self._refined(queries, query_code, found)

    def _projections(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias for the queries, keys and values of the attention to voxels."""
        attention = self.cross_attention
        return list(zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True))

    def _by_head(self, rows: Tensor) -> Tensor:
        """(R, dim) to (heads, R, dim / heads), head by head in memory, which halves the attention."""
        return rows.unflatten(1, (self.cross_attention.num_heads, -1)).transpose(0, 1).contiguous()

    def _refined(self, queries: Tensor, query_code: Tensor, found: Tensor) -> Tensor:
        """The next queries, of what they found (Q, dim) among the voxels."""
        queries = self.cross_norm(queries + self.dropout(found))
        placed = queries + query_code
        found, _ = self.self_attention(placed, placed, queries, need_weights=False)
        queries = self.self_norm(queries + self.dropout(found))
        thought = self.linear2(self.dropout(F.relu(self.linear1(queries))))
        return self.ffn_norm(queries + self.dropout(thought))


class MaskDecoder(nn.Module):
    """Pyramid features to classes and superpoint masks of every query.

    `level_channels` are those of all pyramid levels, coarsest first; `num_things` classes have
    instances, and the class head has one more output, "no object".

    Raises InputError if `config.key_samples` names more levels than there are.
    """

    def __init__(
        self, config: MaskDecoderConfig, level_channels: tuple[int, ...], num_things: int
    ) -> None:
        super().__init__()
        if not 0 < len(config.key_samples) <= len(level_channels):
            raise InputError(
                f"decoder.key_samples: {len(config.key_samples)} numbers; the network has "
                f"{len(level_channels)} levels: give one number for each level to visit, coarsest first"
            )
        self.config = config
        dim = config.dim
        self.mask_features = nn.Linear(level_channels[-1], dim)
        self.position_code = FourierCode(dim)
        self.query_projection = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU()
        )
        visited = level_channels[: len(config.key_samples)]
        self.levels = nn.ModuleList(Refinement(config, channels) for channels in visited)
        self.norm = nn.LayerNorm(dim)
        self.mask_embed = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.class_head = nn.Linear(dim, num_things + 1)

    def forward(
        self, pyramid: list[SparseTensor], batch: Batch, sizes: Sequence[LevelSize] | None = None
    ) -> Prediction:
        """Decode the levels of `pyramid`, coarsest first, the last of stride 1; `sizes` are those of
        `level_sizes`, where they are known.

        Returns a `Prediction` with one layer before each refinement and one after the last, 13 in
        the published sizes, without semantic head; its superpoint features are the mask features.
        A voxel is of its first point's superpoint: mask logits are dot products with the mean mask
        feature of the voxels of a superpoint (of its points where it has no voxel), and a voxel has
        those of its superpoint. Positions are the augmented ones where the batch has them, as
        official, so that the code turns with the scene.
        """
        mask_features = self.mask_features(pyramid[-1].feats)
        superpoint_features = pool_superpoints(mask_features, batch, is_first_of_voxel(batch))
        position_m = batch.voxel_position_m
        if batch.voxel_augmented_m is not None:
            position_m = batch.voxel_augmented_m
        if sizes is None:
            sizes = level_sizes(batch, [x.stride for x in pyramid])
        levels = scene_levels(pyramid, batch, position_m, sizes)
        masks = superpoint_features.split(batch.superpoints_per_scene)
        decoded = [
            self._decode_scene([level[b] for level in levels], masks[b], rows, batch.seeds[b])
            for b, rows in enumerate(self.choose_queries(batch))
        ]
        layers = [
            LayerPrediction(
                class_logits=[classes for classes, _ in depth],
                mask_logits=[mask for _, mask in depth],
            )
            for depth in zip(*decoded, strict=True)
        ]
        return Prediction(
            layers=layers,
            semantic_logits=None,
            query_superpoints=None,
            superpoint_features=superpoint_features,
        )

    def recomputable(self) -> list[nn.Module]:
        """Its refinements."""
        return list(self.levels)

    def shared_weights(self) -> list[nn.Parameter]:
        """The last weights that all loss terms of the decoder depend on: the norm before both heads."""
        return list(self.norm.parameters())

    def choose_queries(self, batch: Batch) -> list[Tensor]:
        """(Q,) int64 voxel of each scene, counted within it, that each query starts from."""
        number = self.config.num_queries if self.training else self.config.eval_queries
        scenes = batch.voxel_coords[:, 1:].split(batch.voxels_per_scene)
        return [furthest_voxels(coords, number) for coords in scenes]

    def _decode_scene(
        self, levels: list[SceneLevel], masks: Tensor, rows: Tensor, seed: int
    ) -> list[tuple[Tensor, Tensor]]:
        """(Q, T+1) class and (Q, S_b) mask logits at every depth of one scene."""
        position_m = levels[-1].position_m
        low_m, high_m = position_m.amin(0), position_m.amax(0)
        code = self.position_code(position_m.index_select(0, rows), low_m, high_m)
        query_code = self.query_projection(code)
        visited: list[tuple[SceneLevel, Any]] = list(zip(levels, self.levels, strict=False))
        codes = [self._code_of(level) for level, _ in visited] if self.training else []
        known = [] if self.training else [self._keys_and_values(*each) for each in visited]
        queries = torch.zeros_like(query_code)
        heads = [self._predict(queries, masks)]
        for step in range(self.config.rounds * len(visited)):
            index = step % len(visited)
            level, refine = visited[index]
            logits = level.spread(heads[-1][1].detach().float().T)
            if self.training:
                among = level.feats, codes[index], logits
                if len(logits) > self.config.key_samples[index]:
                    keys = _sample(len(logits), self.config.key_samples[index], seed, step)
                    keys = keys.to(rows.device, non_blocking=True)
                    among = tuple(of_voxels.index_select(0, keys) for of_voxels in among)
                feats, key_code, logits = among
                queries = refine(queries, query_code, feats, key_code, attention_mask(logits.T))
            else:
                queries = refine.look(queries, query_code, *known[index], attention_mask(logits.T))
            heads.append(self._predict(queries, masks))
        return heads

    def _keys_and_values(self, level: SceneLevel, refine: Any) -> tuple[Tensor, Tensor]:
        """What a refinement sees of a level of which all voxels are keys, whatever the round."""
        return refine.keys_and_values(level.feats, self._code_of(level))

    def _code_of(self, level: SceneLevel) -> Tensor:
        """(K, dim) position code of a level's voxels, in their own box."""
        return self.position_code(level.position_m, level.position_m.amin(0), level.position_m.amax(0))

    def _predict(self, queries: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.norm(queries)
        return self.class_head(normed), self.mask_embed(normed) @ masks.T


@torch.no_grad()
def furthest_voxels(coords: Tensor, number: int) -> Tensor:
    """(number,) int64 rows of (M, 3) integer coordinates, each furthest from those before it.

    Starts at row 0; of equally far voxels the first is taken. With fewer than `number` voxels, row
    0 fills the rest.
    """
    xyz = coords.T.float().contiguous()  # squares of up to 2^24 are exact: 2,300 voxels a side
    chosen = [torch.zeros(1, dtype=torch.int64, device=coords.device)]
    distance = torch.full((len(coords),), torch.inf, device=coords.device)
    for _ in range(1, number):  # by tensors alone: the host runs ahead of a GPU
        away = (xyz - xyz.index_select(1, chosen[-1])).square_().sum(0)
        distance = torch.minimum(distance, away, out=distance)
        chosen.append(distance.max(dim=0, keepdim=True).indices)  # on a CPU faster than argmax
    return torch.cat(chosen)


def _sample(size: int, number: int, seed: int, step: int) -> Tensor:
    """(number,) different rows of `size`, from the scene's stream."""
    return torch.randperm(size, generator=torch_rng(seed, "keys", step))[:number]


def _attention(config: MaskDecoderConfig) -> nn.MultiheadAttention:
    layer = nn.MultiheadAttention(config.dim, config.heads, config.dropout, batch_first=True)
    nn.init.xavier_uniform_(layer.in_proj_weight)
    nn.init.xavier_uniform_(layer.out_proj.weight)
    return layer
