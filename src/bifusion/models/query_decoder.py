"""Query decoder of OneFormer3D: superpoints ask what they are and which superpoints belong to them.

Kolodiazhnyi et al., "OneFormer3D: One Transformer for Unified Point Cloud Segmentation", CVPR 2024;
settings and tensor names are those of its `query_decoder.py` (iterative prediction, mask attention,
post-norm cross-attention). Scenes differ in size, so each is decoded on its own, unpadded.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from bifusion.bounds import ASCENDING, Layers, MultipleOf, NotNegative, Share, Width
from bifusion.labels.label_set import LabelSet
from bifusion.models.rows import RowsGELU
from bifusion.rng import torch_rng
from bifusion.types import Batch, LayerPrediction, Output, Prediction


@dataclass
class DecoderConfig:
    """Defaults are the published sizes."""

    num_layers: Layers = 6
    """Layers, after each of which predictions are made."""
    dim: Annotated[Width, MultipleOf("heads")] = 256
    """Width of the queries."""
    heads: Width = 8
    """Attention heads."""
    ffn_dim: Width = 1024
    """Width of the feed-forward blocks."""
    dropout: Share = 0.0
    """Share of activations dropped in training."""
    score_head: bool = False
    """Predict the IoU of each mask (off in the published ScanNet models)."""
    semantic_head: bool = True
    """Predict the class of each superpoint."""
    layer_scale: NotNegative = 0.0
    """Where the learned factor of each channel of a block's output starts (`LayerScale`); 0: there is
    none, as in the published models."""
    query_share: Annotated[tuple[Share, Share], ASCENDING] = (0.5, 1.0)
    """In training the share of a scene's superpoints that become queries is uniform in this range."""


def twin_decoder(config: DecoderConfig, label_set: LabelSet) -> QueryDecoder:
    """A decoder with the input width and the heads that all models of these sizes share: an arm's own
    would shift the draws that come after."""
    common = dataclasses.replace(config, score_head=True, semantic_head=True)
    return QueryDecoder(common, common.dim, label_set.num_things, label_set.num_classes)


class LayerScale(nn.Module):
    """A learned factor of each channel of a block's output: started small, every block begins near the
    identity (Touvron et al., "Going deeper with Image Transformers", ICCV 2021, eq. 4)."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        """(Q, dim) to (Q, dim)."""
        return x * self.gamma


def _layer_scale(dim: int, start: float) -> nn.Module:
    return LayerScale(dim, start) if start else nn.Identity()


class CrossAttentionLayer(nn.Module):
    """Queries attend to the superpoints of their current masks."""

    def __init__(self, dim: int, heads: int, dropout: float, layer_scale: float) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.scale = _layer_scale(dim, layer_scale)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.attn.in_proj_weight)
        nn.init.xavier_uniform_(self.attn.out_proj.weight)

    def forward(self, queries: Tensor, keys: Tensor, blocked: Tensor) -> Tensor:
        """(Q, dim) queries, (S, dim) keys, (Q, S) bool, True where attention is not allowed."""
        attended, _ = self.attn(queries, keys, keys, attn_mask=blocked, need_weights=False)
        return self.norm(queries + self.scale(self.dropout(attended)))


class SelfAttentionLayer(nn.Module):
    """The queries of one scene attend to each other."""

    def __init__(self, dim: int, heads: int, dropout: float, layer_scale: float) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.scale = _layer_scale(dim, layer_scale)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor) -> Tensor:
        """(Q, dim) to (Q, dim)."""
        attended, _ = self.attn(queries, queries, queries, need_weights=False)
        return self.norm(queries + self.scale(self.dropout(attended)))


class FeedForward(nn.Module):
    """Position-wise network with a residual, normalised afterwards."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float, layer_scale: float) -> None:
        super().__init__()
        self.scale = _layer_scale(dim, layer_scale)
        self.net = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            RowsGELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, dim),
            nn.Dropout(dropout),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor) -> Tensor:
        """(Q, dim) to (Q, dim)."""
        return self.norm(queries + self.scale(self.net(queries)))


@dataclass
class SceneHeads:
    """What the heads say about the queries of one scene at one depth of the decoder."""

    class_logits: Tensor
    mask_logits: Tensor
    score: Tensor | None


class QueryDecoder(nn.Module):
    """Superpoint features to class, mask, score and semantic predictions of every query.

    `num_things` classes have instances, `num_semantic` is the number of all classes; both heads
    have one more output, "no object" and "unlabelled".
    """

    def __init__(
        self, config: DecoderConfig, in_channels: int, num_things: int, num_semantic: int
    ) -> None:
        super().__init__()
        self.config = config
        dim, depth = config.dim, range(config.num_layers)
        block = (config.dropout, config.layer_scale)
        self.input_proj = nn.Sequential(nn.Linear(in_channels, dim), nn.LayerNorm(dim), nn.ReLU())
        self.query_proj = _two_layers(in_channels, dim, dim)
        self.cross_attn_layers = nn.ModuleList(
            CrossAttentionLayer(dim, config.heads, *block) for _ in depth
        )
        self.self_attn_layers = nn.ModuleList(
            SelfAttentionLayer(dim, config.heads, *block) for _ in depth
        )
        self.ffn_layers = nn.ModuleList(FeedForward(dim, config.ffn_dim, *block) for _ in depth)
        self.out_norm = nn.LayerNorm(dim)
        self.out_cls = _two_layers(dim, dim, num_things + 1)
        self.out_score = _two_layers(dim, dim, 1) if config.score_head else None
        self.x_mask = _two_layers(in_channels, dim, dim)
        self.out_sem = nn.Linear(dim, num_semantic + 1) if config.semantic_head else None

    def forward(self, superpoint_features: Tensor, batch: Batch) -> Prediction:
        """Decode features (S, in_channels) of all superpoints of `batch`.

        Returns a `Prediction` with 1 + num_layers layers: one before the first attention, as
        official, and one after each. In training mode a random part of the superpoints are
        queries, drawn from `batch.seeds`; in evaluation all of them, in order.
        """
        scenes = superpoint_features.split(batch.superpoints_per_scene)
        device = superpoint_features.device
        chosen = [rows.to(device, non_blocking=True) for rows in self.choose_queries(batch)]
        decoded = [self._decode_scene(x, rows) for x, rows in zip(scenes, chosen, strict=True)]
        layers = [_gather_scenes(depth) for depth in zip(*(heads for heads, _ in decoded), strict=True)]
        semantic = [logits for _, logits in decoded if logits is not None]
        return Prediction(
            layers=layers,
            semantic_logits=semantic if self.out_sem is not None else None,
            query_superpoints=chosen,
            superpoint_features=superpoint_features,
        )

    def optional_outputs(self) -> set[Output]:
        """Optional parts of the predictions that it makes."""
        outputs: set[Output] = {"scores"} if self.out_score is not None else set()
        return outputs | ({"semantic_logits"} if self.out_sem is not None else set())

    def recomputable(self) -> list[nn.Module]:
        """The three blocks of each layer."""
        layers = (self.cross_attn_layers, self.self_attn_layers, self.ffn_layers)
        return [layer for kind in layers for layer in kind]

    def shared_weights(self) -> list[nn.Parameter]:
        """The last weights that all loss terms of the decoder depend on: the norm before the heads."""
        return list(self.out_norm.parameters())

    def choose_queries(self, batch: Batch) -> list[Tensor]:
        """B × (Q_b,) int64, on the CPU: superpoints of each scene, counted within it, that become
        queries. The same whenever it is asked for a batch."""
        sizes = batch.superpoints_per_scene
        return [self._choose(size, seed) for size, seed in zip(sizes, batch.seeds, strict=True)]

    def _choose(self, num_superpoints: int, seed: int) -> Tensor:
        """(Q,) superpoints of one scene that become queries; at least one."""
        if not self.training:
            return torch.arange(num_superpoints)
        low, high = self.config.query_share
        generator = torch_rng(seed, "queries")
        share = low + (high - low) * torch.rand(1, generator=generator).item()
        number = max(1, int(share * num_superpoints))
        return torch.randperm(num_superpoints, generator=generator)[:number]

    def _decode_scene(self, features: Tensor, rows: Tensor) -> tuple[list[SceneHeads], Tensor | None]:
        """Heads at every depth and final semantic logits of one scene with (S_b, in) features."""
        keys = self.input_proj(features)
        mask_features = self.x_mask(features)
        queries = self.query_proj(features.index_select(0, rows))
        heads = [self._predict(queries, mask_features)]
        layers = zip(self.cross_attn_layers, self.self_attn_layers, self.ffn_layers, strict=True)
        for cross_attention, self_attention, feed_forward in layers:
            blocked = attention_mask(heads[-1].mask_logits)
            queries = cross_attention(queries, keys, blocked)
            queries = self_attention(queries)
            queries = feed_forward(queries)
            heads.append(self._predict(queries, mask_features))
        semantic = None if self.out_sem is None else self.out_sem(self.out_norm(queries))
        return heads, semantic

    def _predict(self, queries: Tensor, mask_features: Tensor) -> SceneHeads:
        normed = self.out_norm(queries)
        return SceneHeads(
            class_logits=self.out_cls(normed),
            mask_logits=normed @ mask_features.T,
            score=None if self.out_score is None else self.out_score(normed),
        )


def attention_mask(mask_logits: Tensor) -> Tensor:
    """(Q, S) bool, True where a query must not look: outside the mask it has predicted so far.

    A query whose mask is empty would have no key left and softmax would give NaN: it sees all.
    """
    blocked = (mask_logits.detach().sigmoid() < 0.5).contiguous()
    without_key = (
        blocked.view(torch.uint8).amin(dim=1, keepdim=True).bool()
    )  # `all` takes ten times as long
    return blocked & ~without_key


def _two_layers(in_channels: int, dim: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_channels, dim), nn.ReLU(), nn.Linear(dim, out_channels))


def _gather_scenes(scenes: tuple[SceneHeads, ...]) -> LayerPrediction:
    """One decoder output of all scenes."""
    scores = [heads.score for heads in scenes if heads.score is not None]
    return LayerPrediction(
        class_logits=[heads.class_logits for heads in scenes],
        mask_logits=[heads.mask_logits for heads in scenes],
        scores=scores or None,
    )
