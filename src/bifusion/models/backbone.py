"""What a 3D network answers, one of ours (`unet.py`) or one from outside the package."""

from __future__ import annotations

from torch import Tensor, nn

from bifusion.errors import InputError
from bifusion.models.outside import check_channels, outside_part, returned
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
    network = outside_part(name, FUNCTION, Backbone, in_channels)
    where = returned(name, FUNCTION, network)
    check_channels(network, where)
    no_blocks = [block for block in network.recomputable() if not isinstance(block, nn.Module)]
    if no_blocks:
        raise InputError(
            f"{where} whose recomputable() names {no_blocks[0]!r}, expected the blocks themselves"
        )
    return network
