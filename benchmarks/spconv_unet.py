"""OneFormer3D's U-Net in spconv: the same layers as models/unet.py's ResidualUNet."""

from __future__ import annotations

import spconv.pytorch as spconv
import torch
from torch import nn


def build_unet(planes: tuple[int, ...] = (32, 64, 96, 128, 160), in_channels: int = 6) -> nn.Module:
    """forward(SparseConvTensor) -> SparseConvTensor of planes[0] channels; offsets' maps are shared."""
    native = spconv.ConvAlgo.Native

    def norm_relu(width: int) -> list[nn.Module]:
        return [nn.BatchNorm1d(width, eps=1e-4), nn.ReLU()]

    class Block(spconv.SparseModule):
        def __init__(self, width_in: int, width: int, key: str):
            super().__init__()
            subm = {"bias": False, "indice_key": key, "algo": native}
            self.branch = spconv.SparseSequential(
                *norm_relu(width_in), spconv.SubMConv3d(width_in, width, 3, **subm),
                *norm_relu(width), spconv.SubMConv3d(width, width, 3, **subm),
            )  # fmt: skip
            self.shortcut = (
                nn.Linear(width_in, width, bias=False) if width_in != width else nn.Identity()
            )

        def forward(self, x):
            out = self.branch(spconv.SparseConvTensor(
                x.features, x.indices, x.spatial_shape, x.batch_size, indice_dict=x.indice_dict
            ))  # fmt: skip
            return out.replace_feature(out.features + self.shortcut(x.features))

    class Level(spconv.SparseModule):
        def __init__(self, level: int):
            super().__init__()
            here, key = planes[level], f"level{level}"
            self.encode = nn.Sequential(Block(here, here, key), Block(here, here, key))
            self.deeper = None
            if level + 1 < len(planes):
                there = planes[level + 1]
                edge = {"bias": False, "indice_key": f"edge{level}", "algo": native}
                self.down = spconv.SparseSequential(
                    *norm_relu(here), spconv.SparseConv3d(here, there, 2, 2, **edge)
                )
                self.deeper = Level(level + 1)
                self.up = spconv.SparseSequential(
                    *norm_relu(there), spconv.SparseInverseConv3d(there, here, 2, **edge)
                )
                self.decode = nn.Sequential(Block(2 * here, here, key), Block(here, here, key))

        def forward(self, x):
            x = self.encode(x)
            if self.deeper is None:
                return x
            skip = x.features
            x = self.up(self.deeper(self.down(x)))
            return self.decode(x.replace_feature(torch.cat([skip, x.features], dim=1)))

    first = spconv.SubMConv3d(in_channels, planes[0], 3, bias=False, indice_key="level0", algo=native)
    return nn.Sequential(first, Level(0))
