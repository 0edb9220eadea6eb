"""What CLIP's image tower is made of, by open_clip's names: positions on any grid of patches, blocks,
and two in place of the last that give every patch, and not only the whole image, in the space of words.

`Block` is that of Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", 2021, and equals open_clip's `ResidualAttentionBlock` to the bit. It is written here as
importing open_clip brings torchvision and torch's compiler along, which was most of the time that a
command with a CLIP tower took to start.

CLIP learns that its class token says what words say; its patch tokens were never asked. Two ways without
training let them say it too, by another last block, ln_post and the projection:

- values (Zhou et al., "Extract Free Dense Labels from CLIP", arXiv 2112.01071, "MaskCLIP"): each token
  attends to itself alone, y = x + out(v), x' = y + mlp(ln_2(y)) with v the values of ln_1(x). Residuals
  and feed-forward stay, as in the authors' mmseg/models/backbones/vit.py.
- self-self attention (Lan et al., "ClearCLIP", arXiv 2407.12442): x' = out(softmax(q qᵀ / √d) v), d the
  channels of a head, without residual and feed-forward, as `custom_attn` of the authors'
  open_clip/transformer.py.

Letters in shapes: V views, L tokens, D channels.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifusion.errors import InputError
from bifusion.models.towers.clip_architecture import TowerSize

Dense = Literal["tokens", "values", "self_attention"]
MLP_RATIO = 4
"""Hidden units of the feed-forward layer for each channel."""


class LayerNorm(nn.LayerNorm):
    """Gives back the dtype that comes in, under autocast too."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).to(input.dtype)


class QuickGELU(nn.Module):
    """OpenAI's activation, x · sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """x + attention(ln_1(x)), then + mlp(ln_2(·))."""

    def __init__(self, width: int, heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, MLP_RATIO * width),
                gelu=QuickGELU() if quick_gelu else nn.GELU(),
                c_proj=nn.Linear(MLP_RATIO * width, width),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(V, L, D) to (V, L, D)."""
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ValuesBlock(nn.Module):
    """MaskCLIP's last block: a block whose tokens attend to themselves alone."""

    def __init__(self, block: Block) -> None:
        """`block`: whose parts it takes over."""
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = block.ln_1, block.attn, block.ln_2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        """(V, L, D) to (V, L, D)."""
        *_, values = _queries_keys_values(self.attn, self.ln_1(x))
        x = x + self.attn.out_proj(values)
        return x + self.mlp(self.ln_2(x))


class SelfAttentionBlock(nn.Module):
    """ClearCLIP's last block: what queries that look at queries gather, and nothing else."""

    def __init__(self, block: Block) -> None:
        """`block`: whose first half it takes over."""
        super().__init__()
        self.ln_1, self.attn = block.ln_1, block.attn

    def forward(self, x: Tensor) -> Tensor:
        """(V, L, D) to (V, L, D)."""
        queries, _, values = (
            part.unflatten(2, (self.attn.num_heads, -1)).transpose(1, 2)
            for part in _queries_keys_values(self.attn, self.ln_1(x))
        )
        gathered = F.scaled_dot_product_attention(queries, queries, values)
        return self.attn.out_proj(gathered.transpose(1, 2).flatten(2))


def last_block(dense: Dense, block: Block) -> nn.Module:
    """The last block of a tower that gives dense features of that kind."""
    kinds = {"values": ValuesBlock, "self_attention": SelfAttentionBlock}
    return kinds[dense](block) if dense in kinds else block


def check_dense(dense: Dense, blocks: int, size: TowerSize) -> None:
    """InputError where a tower is cut off before its end, as only the end is in the space of words."""
    if dense != "tokens" and blocks != size.layers:
        raise InputError(
            f"tower.dense is {dense!r}, which is of CLIP's last block, but tower.blocks is {blocks} of "
            f"{size.layers}; use --model.tower.blocks {size.layers}, or dense 'tokens'"
        )


def _queries_keys_values(attn: nn.MultiheadAttention, x: Tensor) -> tuple[Tensor, ...]:
    """Three (V, L, D)."""
    return F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Learned positions of a square grid, (1 + n·n, D), resampled to a grid (h, w): (1 + h·w, D).

    Bicubic with antialiasing, as open_clip's `resize_pos_embed`. Resampling is linear and separable,
    so it is done as two matrix products: repeatable on every device, forwards and backwards.
    """
    side = round((len(positions) - 1) ** 0.5)
    if (side, side) == grid:
        return positions
    rows, columns = (_resampling_matrix(side, length, positions) for length in grid)
    with torch.autocast(positions.device.type, enabled=False):
        patches = positions[1:].unflatten(0, (side, side))
        resampled = torch.einsum("yi,ijd,xj->yxd", rows, patches, columns)
    return torch.cat([positions[:1], resampled.flatten(0, 1)])


def _resampling_matrix(old: int, new: int, like: Tensor) -> Tensor:
    """(new, old) matrix of a bicubic, antialiased 1-D resampling: the images of the unit vectors."""
    unit = torch.eye(old, device=like.device, dtype=like.dtype)[None, None]
    return F.interpolate(unit, size=(new, old), mode="bicubic", antialias=True, align_corners=False)[
        0, 0
    ]
