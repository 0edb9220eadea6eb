"""The two sparse 3D U-Nets of the baselines.

`residual`: OneFormer3D's network for ScanNet (SpConvUNet of its `spconv_unet.py`, with the input
convolution and output norm of `oneformer3d.py`): pre-activation residual blocks.
`res16`: MinkowskiNet Res16UNet34C (`mink_unet.py` of OneFormer3D, `res16unet.py` of Mask3D), used by
OneFormer3D for ScanNet200 and by Mask3D: post-activation residual blocks.
`outside`: somebody else's function makes the network.

Small networks differ from the published ones in numbers only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bifusion.bounds import Kernel, Layers, OptionalWidth, Width
from bifusion.errors import InputError
from bifusion.models.backbone import Backbone, outside_backbone
from bifusion.sparse.modules import BatchNorm, InverseConv3d, StridedConv3d, SubmanifoldConv3d
from bifusion.sparse.tensor import KernelMaps, SparseTensor

_PUBLISHED_PLANES = {"residual": (32, 64, 96, 128, 160), "res16": (32, 64, 128, 256, 256, 128, 96, 96)}
_PUBLISHED_BLOCKS = {"residual": (2, 2, 2, 2, 2), "res16": (2, 3, 4, 6, 2, 2, 2, 2)}

MOST_LEVELS = 32


@dataclass
class UNetConfig:
    """Sizes of a sparse U-Net; the defaults are the published ones of each kind."""

    kind: Literal["residual", "res16", "outside"] = "residual"
    """residual: OneFormer3D's for ScanNet; res16: Res16UNet34C, as in Mask3D; outside: that of
    `function`, for which of what follows `in_channels` alone has a meaning."""
    function: str = ""
    """outside only: "module:function", of a package that you have named as trusted (`plugins.py`), which
    takes `in_channels` and returns a `Backbone` (models/backbone.py)."""
    in_channels: Width = 6
    """Input features of a voxel. Published: 6 (colour, position) for residual, 3 (colour) for res16."""
    planes: tuple[Width, ...] = ()
    """residual: channels of each level, finest first. res16: channels of each encoder stage (strides
    2, 4, …), then of each decoder stage (…, 2, 1), as many. () means the published ones."""
    blocks: tuple[Layers, ...] = ()
    """Residual blocks of each entry of `planes`. () means the published ones where `planes` has the
    published length, else 2 everywhere."""
    stem_planes: Width = 32
    """res16 only: channels of the input convolution."""
    stem_kernel: Kernel = 5
    """res16 only: its kernel size."""
    final_channels: OptionalWidth = 0
    """res16 only: outputs of the last layer, which no model here uses but official files hold.
    0: as many as its inputs (OneFormer3D); Mask3D's has one a class."""
    spconv_min_grid: OptionalWidth = 0
    """residual only. 0: every voxel takes part at every level. n > 0: reproduce spconv's finite grid
    of at least n voxels a side (published: 128), on which a voxel in the last plane of an odd side
    has no coarser voxel. Needs coordinates that start at 0. The grid is the batch's, so that a scene's
    features then depend, slightly, on the size of the others in it, as the published network's do."""

    def __post_init__(self) -> None:
        if self.kind == "outside":
            if not self.function:
                raise InputError("unet.function: found none, expected module:function for 'outside'")
            return
        if self.kind not in _PUBLISHED_PLANES:
            raise InputError(
                f"unet.kind: found {self.kind!r}, expected 'residual', 'res16' or 'outside'"
            )
        if self.function:
            raise InputError(
                f"unet.function: found {self.function!r}, but unet.kind {self.kind!r} calls none; leave "
                "it out, or set 'outside'"
            )
        self.planes = tuple(self.planes) or _PUBLISHED_PLANES[self.kind]
        if not self.blocks:
            published = _PUBLISHED_BLOCKS[self.kind]
            same_length = len(self.planes) == len(published)
            self.blocks = published if same_length else (2,) * len(self.planes)
        self.blocks = tuple(self.blocks)
        if len(self.blocks) != len(self.planes) or min(*self.planes, *self.blocks, self.in_channels) < 1:
            raise InputError(
                f"unet.planes {self.planes}, unet.blocks {self.blocks}, unet.in_channels "
                f"{self.in_channels}: expected as many blocks as planes, all positive"
            )
        if len(self.planes) > MOST_LEVELS:
            raise InputError(f"unet.planes: {len(self.planes)} of them; expected at most {MOST_LEVELS}")
        if self.kind == "res16" and len(self.planes) % 2:
            raise InputError(
                f"unet.planes {self.planes}: res16 has as many decoder as encoder stages; "
                "give an even number"
            )


def build_unet(config: UNetConfig) -> Backbone:
    """The network of `config`, drawn from the global generator. InputError: a function from outside that
    makes none."""
    if config.kind == "outside":
        return outside_backbone(config.function, config.in_channels)
    return ResidualUNet(config) if config.kind == "residual" else Res16UNet(config)


def _blocks_of(*levels: nn.ModuleList) -> list[nn.Module]:
    """The modules of all levels, those in a row one by one."""
    of_level = (module for level in levels for module in level)
    return [
        block
        for module in of_level
        for block in (module if isinstance(module, nn.Sequential) else [module])
    ]


# ------------------------------------------------------------------------- OneFormer3D's, for ScanNet


def _residual_norm(channels: int) -> BatchNorm:
    return BatchNorm(channels, eps=1e-4, momentum=0.1)


class NormReluConv(nn.Module):
    """BatchNorm and ReLU before a convolution."""

    def __init__(self, conv: SubmanifoldConv3d | StridedConv3d | InverseConv3d) -> None:
        super().__init__()
        self.norm = _residual_norm(conv.weight.shape[1])
        self.conv = conv

    def forward(self, x: SparseTensor, *, residual: Tensor | None = None) -> SparseTensor:
        return self.conv(x.replace(self.norm(x.feats, relu=True)), residual=residual)


class PreActivationBlock(nn.Module):
    """x + two 3×3×3 convolutions, each behind norm and ReLU; 1×1×1 shortcut where widths differ."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = NormReluConv(SubmanifoldConv3d(in_channels, out_channels, 3))
        self.conv2 = NormReluConv(SubmanifoldConv3d(out_channels, out_channels, 3))
        self.shortcut = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = SubmanifoldConv3d(in_channels, out_channels, 1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.conv2(self.conv1(x), residual=self.shortcut(x).feats)


def _blocks(
    block: Callable[[int, int], nn.Module], in_channels: int, out_channels: int, count: int
) -> nn.Sequential:
    widths = [in_channels] + [out_channels] * count
    return nn.Sequential(*(block(widths[i], widths[i + 1]) for i in range(count)))


class ResidualUNet(Backbone):
    """OneFormer3D's U-Net for ScanNet. Lists are indexed by level, finest first.

    forward takes a SparseTensor (M, in_channels) of stride 1 and returns (M, planes[0]), ≥ 0.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        planes, blocks = config.planes, config.blocks
        levels = len(planes)
        self.out_channels = planes[0]
        self.spconv_min_grid = config.spconv_min_grid
        self.input_conv = SubmanifoldConv3d(config.in_channels, planes[0], 3)
        self.encoder = nn.ModuleList(
            _blocks(PreActivationBlock, p, p, n) for p, n in zip(planes, blocks, strict=True)
        )
        self.down = nn.ModuleList(
            NormReluConv(StridedConv3d(planes[i], planes[i + 1])) for i in range(levels - 1)
        )
        self.up = nn.ModuleList(
            NormReluConv(InverseConv3d(planes[i + 1], planes[i])) for i in range(levels - 1)
        )
        self.decoder = nn.ModuleList(
            _blocks(PreActivationBlock, 2 * planes[i], planes[i], blocks[i]) for i in range(levels - 1)
        )
        self.output_norm = _residual_norm(planes[0])

    def recomputable(self) -> list[nn.Module]:
        """Its blocks, and the layers between the levels."""
        return _blocks_of(self.encoder, self.down, self.up, self.decoder)

    def forward(self, x: SparseTensor) -> Tensor:
        return self.output_norm(self.pyramid(x)[-1].feats, relu=True)

    def pyramid(self, x: SparseTensor) -> list[SparseTensor]:
        """Features of every decoder level, coarsest first; the last is the input's level."""
        if self.spconv_min_grid:
            x = SparseTensor(x.feats, x.coords, maps=KernelMaps(x.coords, self.spconv_min_grid))
        x = self.input_conv(x)
        skips = []
        for encode, down in zip(self.encoder, self.down, strict=False):
            skips.append(encode(x))
            x = down(skips[-1])
        levels = [self.encoder[-1](x)]
        for skip, up, decode in zip(
            reversed(skips), reversed(self.up), reversed(self.decoder), strict=True
        ):
            x = up(levels[-1])
            levels.append(decode(skip.replace(torch.cat([skip.feats, x.feats], dim=1))))
        return levels


# ------------------------------------------------------------------------ MinkowskiNet Res16UNet34C


class ConvNorm(nn.Module):
    """A convolution and BatchNorm (eps 1e-5)."""

    def __init__(self, conv: SubmanifoldConv3d | StridedConv3d | InverseConv3d, momentum: float) -> None:
        super().__init__()
        self.conv = conv
        self.norm = BatchNorm(conv.weight.shape[2], momentum=momentum)

    def forward(
        self, x: SparseTensor, *, residual: Tensor | None = None, relu: bool = False
    ) -> SparseTensor:
        x = self.conv(x)
        return x.replace(self.norm(x.feats, residual=residual, relu=relu))


# The official code passes its momentum of 0.02 everywhere but into the blocks, which keep 0.1.
_MOMENTUM = 0.02
_BLOCK_MOMENTUM = 0.1


class BasicBlock(nn.Module):
    """ResNet's basic block: two 3×3×3 convolutions, shortcut, ReLU last."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(SubmanifoldConv3d(in_channels, out_channels, 3), _BLOCK_MOMENTUM)
        self.conv2 = ConvNorm(SubmanifoldConv3d(out_channels, out_channels, 3), _BLOCK_MOMENTUM)
        self.shortcut = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = ConvNorm(SubmanifoldConv3d(in_channels, out_channels, 1), _MOMENTUM)

    def forward(self, x: SparseTensor) -> SparseTensor:
        hidden = self.conv1(x, relu=True)
        return self.conv2(hidden, residual=self.shortcut(x).feats, relu=True)


class Res16UNet(Backbone):
    """MinkowskiNet's residual U-Net. Lists are in the order in which a scene passes them.

    forward takes a SparseTensor (M, in_channels) of stride 1 and returns (M, planes[-1]), ≥ 0.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        half = len(config.planes) // 2
        down_planes, up_planes = config.planes[:half], config.planes[half:]
        down_blocks, up_blocks = config.blocks[:half], config.blocks[half:]
        stem = config.stem_planes
        self.out_channels = up_planes[-1]
        self.stem_kernel = config.stem_kernel
        self.level_channels = (down_planes[-1], *up_planes)
        """Of `pyramid`."""
        self.stem = ConvNorm(SubmanifoldConv3d(config.in_channels, stem, config.stem_kernel), _MOMENTUM)

        self.down, self.encoder = nn.ModuleList(), nn.ModuleList()
        width, skip_planes = stem, []
        for planes, count in zip(down_planes, down_blocks, strict=True):
            skip_planes.append(width)
            self.down.append(ConvNorm(StridedConv3d(width, width), _MOMENTUM))
            self.encoder.append(_blocks(BasicBlock, width, planes, count))
            width = planes

        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for planes, count, skip in zip(up_planes, up_blocks, reversed(skip_planes), strict=True):
            self.up.append(ConvNorm(InverseConv3d(width, planes), _MOMENTUM))
            self.decoder.append(_blocks(BasicBlock, planes + skip, planes, count))
            width = planes

        # In the official state dict and parameter count, but no OneFormer3D or Mask3D forward uses it:
        # frozen, so that neither optimiser nor distributed training waits for its gradient.
        final = config.final_channels or self.out_channels
        self.final = SubmanifoldConv3d(self.out_channels, final, 1, bias=True)
        self.final.requires_grad_(False)

    def recomputable(self) -> list[nn.Module]:
        """Its blocks, and the layers between the levels."""
        return [self.stem, *_blocks_of(self.encoder, self.down, self.up, self.decoder)]

    def forward(self, x: SparseTensor) -> Tensor:
        return self.pyramid(x)[-1].feats

    def pyramid(self, x: SparseTensor) -> list[SparseTensor]:
        """Features of every decoder level, coarsest first; the last is the input's level."""
        x = self.stem(x, relu=True)
        if self.stem_kernel != 3 and not torch.is_grad_enabled():
            x.maps.forget_submanifold(1, self.stem_kernel)  # of all maps the largest, and used but once
        skips = []
        for down, encode in zip(self.down, self.encoder, strict=True):
            skips.append(x)
            x = encode(down(x, relu=True))
        levels = [x]
        for up, decode, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            x = up(levels[-1], relu=True)
            levels.append(decode(x.replace(torch.cat([x.feats, skip.feats], dim=1))))
        return levels
