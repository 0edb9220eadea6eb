"""What CLIP's last block gives for every patch, in the space of words and not only for the whole image.

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

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from bifusion.errors import InputError
from bifusion.models.towers.clip_architecture import TowerSize

Dense = Literal["tokens", "values", "self_attention"]


class ValuesBlock(nn.Module):
    """MaskCLIP's last block: a block whose tokens attend to themselves alone."""

    attn: nn.MultiheadAttention

    def __init__(self, block: Any) -> None:
        """`block`: open_clip's, whose parts it takes over, by their names."""
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = block.ln_1, block.attn, block.ln_2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        """(V, L, D) to (V, L, D)."""
        *_, values = _queries_keys_values(self.attn, self.ln_1(x))
        x = x + self.attn.out_proj(values)
        return x + self.mlp(self.ln_2(x))


class SelfAttentionBlock(nn.Module):
    """ClearCLIP's last block: what queries that look at queries gather, and nothing else."""

    attn: nn.MultiheadAttention

    def __init__(self, block: Any) -> None:
        """`block`: open_clip's, whose first half it takes over, by its names."""
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


def last_block(dense: Dense, block: nn.Module) -> nn.Module:
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
