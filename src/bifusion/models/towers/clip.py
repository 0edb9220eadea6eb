"""CLIP's image tower as a dense feature map: conv1, positions and the first transformer blocks.

Modules and numbers are those of open_clip's `VisionTransformer` (Radford et al., "Learning Transferable
Visual Models From Natural Language Supervision", 2021); the forward takes images of any size that is a
multiple of the patch, adds depth as a fourth channel, and ends with the patch tokens before ln_post or,
by choice and of the whole tower, with what says of each patch what words say (clip_parts.py).
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from bifusion.bounds import Layers, MultipleOf, Pixels, PositiveFloat, Width
from bifusion.errors import InputError
from bifusion.models.towers.clip_architecture import TowerSize, image_tower_size
from bifusion.models.towers.clip_parts import (
    Block,
    Dense,
    LayerNorm,
    check_dense,
    last_block,
    resize_positions,
)
from bifusion.models.towers.clip_registers import check_neurons, use_registers, with_register
from bifusion.models.towers.clip_weights import (
    fit_tensors,
    locate_weights,
    open_clip_name,
    read_image_tower,
    trained_pixels,
)
from bifusion.models.towers.dense import DenseTower
from bifusion.models.towers.tower import DEPTH_UNIT_M, TowerConfig
from bifusion.models.towers.weight_files import is_file

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

UNUSED_DIM = 512
"""Width of a projection that is made and dropped: the random numbers behind depend on it."""


@dataclass
class ClipConfig(TowerConfig):
    """CLIP's image tower, OpenAI's or another of open_clip's, or a small one of the same form."""

    kind: ClassVar[str] = "clip"

    architecture: str = "ViT-B-16-quickgelu"
    """A ViT of open_clip's table ("ViT-B-16" computes GELU, "ViT-B-16-quickgelu" OpenAI's
    QuickGELU), a .json file in open_clip's format, or "small": the numbers below, with GELU."""
    pretrained: str | None = None
    """open_clip tag ("openai"), a local .safetensors / .pt / .bin file, or None: from scratch."""
    blocks: int = 6
    """Transformer blocks used; the others are not built."""
    depth_channel: bool = True
    """Give the tower a view's depth as a fourth channel."""
    dense: Dense = "tokens"
    """tokens: as they leave the last block used; of the whole tower and in the space of words, values
    (MaskCLIP) or self_attention (ClearCLIP): see clip_parts.py."""
    register_neurons: tuple[tuple[int, int], ...] = ()
    """Test-time registers: block and hidden unit of the neurons whose outliers a token of its own takes
    (clip_registers.py); none: as CLIP was trained."""
    width: Annotated[Width, MultipleOf("heads")] = 128
    """small: channels of its tokens."""
    layers: Layers = 4
    """small: transformer blocks that it has in all."""
    heads: Width = 4
    """small: attention heads."""
    patch_size: Pixels = 16
    """small: side of a patch in pixels."""
    image_size: Pixels = 224
    """small: side in pixels of the images that its position embeddings are made for."""
    embed_dim: Width = 128
    """small: channels of the space of words, where `dense` leads there."""
    mean: tuple[float, float, float] = CLIP_MEAN
    """Of RGB in [0, 1], by which images are normalised as they were when the weights were trained:
    OpenAI's, which all but a few of open_clip's weights share."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = CLIP_STD
    """The standard deviation that belongs to it."""

    def build(self) -> ClipEncoder:
        return ClipEncoder(self)

    def with_weights(self, pretrained: str | None) -> ClipConfig:
        """The same with the weights of another file or tag, and the mean and std that they were trained
        with where these are known; with None its own, with which a checkpoint's were trained."""
        known = None if pretrained is None else trained_pixels(self.architecture, pretrained)
        mean, std = known or (self.mean, self.std)
        return dataclasses.replace(self, pretrained=pretrained, mean=mean, std=std)

    def check_weights(self) -> None:
        """InputError for a file that is not there, or weights trained on images normalised otherwise;
        nothing is downloaded."""
        super().check_weights()
        if (told := self.other_pixels()) is not None:
            raise InputError(f"tower.pretrained: {told}")

    def other_pixels(self) -> str | None:
        """What is to be told where the weights were trained on images normalised otherwise; None: they
        were not, as far as is known."""
        known = None if self.pretrained is None else trained_pixels(self.architecture, self.pretrained)
        if known is None or known == (self.mean, self.std):
            return None
        mean, std = (" ".join(map(repr, numbers)) for numbers in known)
        return (
            f"{self.pretrained!r} was trained on images normalised by mean {mean}, std {std}; the "
            f"tower's are {self.mean}, {self.std}; use --model.tower.mean {mean} --model.tower.std {std}"
        )

    @property
    def patch(self) -> int:
        return tower_size(self).patch_size


def tower_size(config: ClipConfig) -> TowerSize:
    """Looks the architecture up in open_clip's table, or takes the numbers of "small".

    Raises:
        InputError: unknown architecture or one that is no plain ViT; more blocks than layers; dense
            features or registers that a tower of so many blocks cannot give.
    """
    if config.architecture == "small":
        numbers = (config.width, config.layers, config.heads, config.patch_size, config.image_size)
        size = TowerSize(*numbers, quick_gelu=False, embed_dim=config.embed_dim)
    else:
        size = image_tower_size(config.architecture)
    if not 1 <= config.blocks <= size.layers:
        raise InputError(
            f"tower.blocks is {config.blocks}; {config.architecture} allows 1 … {size.layers} blocks"
        )
    check_dense(config.dense, config.blocks, size)
    last = config.blocks - (2 if config.dense == "self_attention" else 1)
    check_neurons(config.register_neurons, last, size)
    return size


class ClipEncoder(DenseTower):
    """Images (V, 3, H, W) and their depth to patch tokens (V, H/p, W/p, width) before ln_post, or to
    dense features (V, H/p, W/p, embed_dim) in the space of words, as `config.dense` says.

    Depth has a convolution of its own, `conv1_depth`, without bias and starting at zero. As
    convolution is linear in its input channels, conv1_rgb(rgb) + conv1_depth(depth) is exactly a
    4-channel conv1; apart, the pretrained and the new weights can be trained and watched apart.
    """

    mean: Tensor
    std: Tensor
    conv1_depth: nn.Conv2d | None

    def __init__(self, config: ClipConfig) -> None:
        """Raises InputError for an unknown architecture or weights that cannot be had or do not fit.

        On the meta device nothing is loaded: there are shapes only.
        """
        super().__init__()
        size = tower_size(config)
        projected = config.dense != "tokens"
        width, scale = size.width, size.width**-0.5
        self.config, self.size = config, size
        self.out_channels = size.embed_dim if projected else width
        self.patch = size.patch_size
        # made in open_clip's order: the same random numbers give the same tower
        self.conv1_rgb = _patch_conv(3, size)
        self.register_module("conv1_depth", None)
        self.class_embedding = nn.Parameter(_drawn(scale, width))
        positions = 1 + (size.image_size // size.patch_size) ** 2
        self.positional_embedding = nn.Parameter(_drawn(scale, positions, width))
        self.ln_pre = LayerNorm(width)
        blocks = [Block(width, size.heads, size.quick_gelu) for _ in range(config.blocks)]
        for block in blocks:
            block.attn.register_forward_pre_hook(_in_one_kernel)
        use_registers(blocks, config.register_neurons)
        self.blocks = nn.ModuleList([*blocks[:-1], last_block(config.dense, blocks[-1])])
        proj = _drawn(scale, width, size.embed_dim if projected else UNUSED_DIM)
        self.ln_post = LayerNorm(width) if projected else None
        self.proj = nn.Parameter(proj) if projected else None
        if config.depth_channel:
            self.conv1_depth = _patch_conv(1, size)
            nn.init.zeros_(self.conv1_depth.weight)
        for name, numbers in (("mean", config.mean), ("std", config.std)):
            of_channels = torch.tensor(numbers, device="cpu").reshape(3, 1, 1)
            self.register_buffer(name, of_channels, persistent=False)
        self.weights_from = "from scratch"
        if config.pretrained is not None and not self.class_embedding.is_meta:
            if (told := config.other_pixels()) is not None:  # a run that began so goes on so
                warnings.warn(told, stacklevel=2)
            self.weights_from = self._load(config.pretrained)

    def describe(self) -> str:
        """One line: architecture, size, and where the weights come from."""
        millions = sum(p.numel() for p in self.parameters()) / 1e6
        kind = {"tokens": "", "values": "last-layer values, ", "self_attention": "self-self attention, "}
        registers = f"{len(self.config.register_neurons)} register neurons, "
        mean, std = self.config.mean, self.config.std
        pixels = "" if (mean, std) == (CLIP_MEAN, CLIP_STD) else f"images of mean {mean}, std {std}, "
        return (
            f"CLIP image tower {self.config.architecture}, "
            f"{self.config.blocks} of {self.size.layers} blocks, width {self.size.width}, "
            f"patch {self.size.patch_size}, {kind[self.config.dense]}"
            f"{registers if self.config.register_neurons else ''}{pixels}"
            f"{millions:.2f} M parameters, weights: {self.weights_from}"
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """ "tower.conv1_rgb", "tower.conv1_depth", "tower.embed", "tower.block0" … in order of depth;
        that of the last block has what projects it into the space of words."""
        groups = {"tower.conv1_rgb": list(self.conv1_rgb.parameters())}
        if self.conv1_depth is not None:
            groups["tower.conv1_depth"] = list(self.conv1_depth.parameters())
        groups["tower.embed"] = [
            self.class_embedding, self.positional_embedding, *self.ln_pre.parameters()
        ]  # fmt: skip
        groups |= {f"tower.block{i}": list(block.parameters()) for i, block in enumerate(self.blocks)}
        if self.ln_post is not None and self.proj is not None:
            groups[f"tower.block{len(self.blocks) - 1}"] += [*self.ln_post.parameters(), self.proj]
        return groups

    def recomputable(self) -> list[nn.Module]:
        """The transformer's blocks."""
        return list(self.blocks)

    def open_clip_state(self) -> dict[str, Tensor]:
        """The tower's tensors by open_clip's names, without the depth channel, which CLIP lacks."""
        state = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        state.pop("conv1_depth.weight", None)
        return {f"visual.{open_clip_name(name)}": tensor for name, tensor in state.items()}

    def extra_repr(self) -> str:
        """The tower's numbers; those that no tensor's shape shows as well."""
        return str(self.size)

    def forward(self, images: Tensor, depth_m: Tensor) -> Tensor:
        """Patch tokens after the last used block, or their dense features in the space of words.

        Args:
            images: (V, 3, H, W) RGB in [0, 1]; H and W multiples of the patch size.
            depth_m: (V, 1, H, W) metres at the images' pixels, 0 where none.

        Returns:
            (V, H / patch, W / patch, width), or, unless `dense` is "tokens", (…, embed_dim).
        """
        rows, columns = self._grid(images)
        patches = self.tokens(images, depth_m)[:, 1 : 1 + rows * columns]
        if self.ln_post is not None:
            patches = self.ln_post(patches) @ self.proj
        return patches.unflatten(1, (rows, columns))

    def tokens(self, images: Tensor, depth_m: Tensor) -> Tensor:
        """(V, 1 + h·w, width): the class token and the patch tokens after the last used block; behind
        them the register, where there are register neurons."""
        patches = self.conv1_rgb((images - self.mean) / self.std)
        if self.conv1_depth is not None:
            patches = patches + self.conv1_depth(depth_m / DEPTH_UNIT_M)
        tokens = patches.flatten(2).transpose(1, 2)
        class_token = self.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
        positions = resize_positions(self.positional_embedding, self._grid(images))
        tokens = torch.cat([class_token, tokens], dim=1) + positions.to(tokens.dtype)
        if self.config.register_neurons:
            tokens = with_register(tokens)
        tokens = self.ln_pre(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def _grid(self, images: Tensor) -> tuple[int, int]:
        return images.shape[-2] // self.size.patch_size, images.shape[-1] // self.size.patch_size

    def _load(self, pretrained: str) -> str:
        """Loads the used part of a pretrained tower; returns where it came from."""
        architecture, quick_gelu = self.config.architecture, self.size.quick_gelu
        path = locate_weights(architecture, pretrained, quick_gelu)
        tower, note = read_image_tower(path, architecture, quick_gelu)
        own = self.state_dict()
        own.pop("conv1_depth.weight", None)
        self.load_state_dict(fit_tensors(own, tower, path, architecture), strict=False)
        source = str(path) if is_file(pretrained) else f"open_clip tag {pretrained!r} ({path.name})"
        return f"{source}: {note}" if note else source


def _in_one_kernel(attention: nn.Module, args: tuple[Tensor, Tensor, Tensor]) -> Any:
    """Another tensor object for keys and values, in use on a CPU: where all three are one, PyTorch keeps
    the weights of all pairs of tokens, and a tower takes a fifth longer."""
    queries, keys, _ = args
    if attention.training or torch.is_grad_enabled() or queries.device.type != "cpu":
        return args
    keys = keys.view_as(keys)
    return queries, keys, keys


def _drawn(scale: float, *shape: int) -> Tensor:
    numbers = torch.randn(shape)
    return numbers if numbers.is_meta else scale * numbers  # a shape's arithmetic is slow to start


def _patch_conv(channels: int, size: TowerSize) -> nn.Conv2d:
    return nn.Conv2d(channels, size.width, size.patch_size, stride=size.patch_size, bias=False)
