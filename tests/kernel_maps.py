"""Kernel maps by name, as tests of several backends ask for them."""

from torch import Tensor

from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.tensor import KernelMaps


def kernel_map_of(coords: Tensor, name: str) -> KernelMap:
    """Of voxels `coords` (M, 4): "kernel 3", "strided 2" (by two), "inverse 2", its way back."""
    kind, size = name.split()
    maps = KernelMaps(coords)
    if kind == "kernel":
        return maps.submanifold(1, int(size))
    down = maps.strided(1, int(size), 2)
    return down if kind == "strided" else down.transposed
