"""What a 3D network answers, one of ours (`unet.py`) or one from outside the package."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bifusion import plugins
from bifusion.errors import InputError
from bifusion.sparse.tensor import SparseTensor

FUNCTION = "model.unet.function"


class Backbone(nn.Module):
    """Makes features of voxels; base of all 3D networks.

    In evaluation a scene's features must depend on that scene alone, not on those beside it in a batch.
    """

    out_channels: int
    """Channels of what it makes."""

    def forward(self, x: SparseTensor) -> Tensor:
        """(M, out_channels) of `x.feats` (M, in_channels) at `x.coords` (M, 4), int: scene in the batch,
        then x, y, z in voxels; rows stay in their order. `x` is left as it is; the result is of the type
        of `x.feats`, float32, where no autocast acts."""
        raise NotImplementedError

    def recomputable(self) -> list[nn.Module]:
        """Its blocks, where a backward pass can compute them again (`models/recompute.py`): each a
        function of what it is called with, its weights and random numbers. None: it keeps all."""
        return []


def outside_backbone(name: str, in_channels: int) -> Backbone:
    """The network that the function `name`, "module:function" of a package that you have named as
    trusted (`plugins.py`), makes for voxels of `in_channels` features. Raises InputError where it makes
    none."""
    network = plugins.load(name, FUNCTION)(in_channels)
    where = f"{FUNCTION}: {name} returned a {type(network).__name__}"
    if not isinstance(network, Backbone):
        raise InputError(f"{where}, expected a bifusion.models.backbone.Backbone")
    channels = getattr(network, "out_channels", None)
    if not isinstance(channels, int) or channels < 1:
        raise InputError(f"{where} whose out_channels is {channels!r}, expected a number above 0")
    no_blocks = [block for block in network.recomputable() if not isinstance(block, nn.Module)]
    if no_blocks:
        raise InputError(
            f"{where} whose recomputable() names {no_blocks[0]!r}, expected the blocks themselves"
        )
    check_shapes_known(network, where)
    return network


def check_shapes_known(part: nn.Module, where: str) -> None:
    """InputError for parameters whose shape a first call decides (nn.LazyLinear): they are counted,
    grouped and loaded before."""
    tensors = (*part.named_parameters(), *part.named_buffers())
    lazy = [name for name, tensor in tensors if is_lazy(tensor)]
    if lazy:
        raise InputError(
            f"{where} with {', '.join(lazy)} of no shape yet; expected layers that know theirs "
            "(nn.Linear for nn.LazyLinear)"
        )
