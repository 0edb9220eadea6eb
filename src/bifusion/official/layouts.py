"""Layouts in which official files store a tensor, each with a function that brings it into ours.

A layout takes the stored tensor and our shape and returns a tensor of our shape in memory of its own;
ShapeError if the stored one cannot be in that layout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Layout = Callable[[Tensor, torch.Size], Tensor]


class ShapeError(Exception):
    """A tensor has none of the shapes its layout knows; `expected` says the usual one."""

    def __init__(self, expected: tuple[int, ...]) -> None:
        super().__init__(expected)
        self.expected = expected


def _expect(tensor: Tensor, *shape: int) -> None:
    if tuple(tensor.shape) != shape:
        raise ShapeError(shape)


def same(tensor: Tensor, shape: torch.Size) -> Tensor:
    """As we store it."""
    _expect(tensor, *shape)
    return tensor.clone()


def spconv(tensor: Tensor, shape: torch.Size) -> Tensor:
    """spconv's (out, k, k, k, in) or a cyclic rotation of it, to ours (k³, in, out) with z fastest.

    spconv 2 stores (out, k, k, k, in), spconv 1 (k, k, k, in, out), and converted files the other
    rotations. Channels are never 1, 2 or 3, so no two rotations have the same shape.
    """
    volume, channels_in, channels_out = shape
    side = round(volume ** (1 / 3))
    official = (channels_out, side, side, side, channels_in)
    rotations = [tuple((axis + shift) % 5 for axis in range(5)) for shift in range(5)]
    fitting = [axes for axes in rotations if _permuted(tensor, axes) == official]
    if not fitting:
        raise ShapeError(official)
    krsc = tensor.permute(fitting[0]).contiguous()
    if side == 1:
        # spconv 2.3 multiplies with the (out, in) memory reinterpreted as (in, out), not transposed
        return krsc.view(shape).clone()
    return krsc.permute(1, 2, 3, 4, 0).reshape(shape).clone()


def _permuted(tensor: Tensor, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    return tuple(tensor.shape[axis] for axis in axes) if tensor.ndim == len(axes) else None


def minkowski(tensor: Tensor, shape: torch.Size) -> Tensor:
    """MinkowskiEngine's (k³, in, out) with x fastest to ours with z fastest.

    A kernel of size 1 is (in, out), or (1, in, out) in files of MinkowskiEngine 0.4.
    """
    volume, channels_in, channels_out = shape
    side = round(volume ** (1 / 3))
    if side == 1 and tensor.ndim == 2:
        _expect(tensor, channels_in, channels_out)
        return tensor.reshape(shape).clone()
    _expect(tensor, *shape)
    z_y_x = tensor.reshape(side, side, side, channels_in, channels_out)
    return z_y_x.permute(2, 1, 0, 3, 4).reshape(shape).clone()


def minkowski_linear(tensor: Tensor, shape: torch.Size) -> Tensor:
    """MinkowskiEngine's kernel of size 1, (in, out), to a linear layer's (out, in)."""
    channels_out, channels_in = shape
    return minkowski(tensor, torch.Size((1, channels_in, channels_out)))[0].T.contiguous()


def row(tensor: Tensor, shape: torch.Size) -> Tensor:
    """MinkowskiEngine's bias (1, C) to (C,)."""
    _expect(tensor, 1, *shape)
    return tensor.reshape(shape).clone()


def pointwise(tensor: Tensor, shape: torch.Size) -> Tensor:
    """A Conv1d of kernel size 1, (out, in, 1), to a linear layer's (out, in)."""
    _expect(tensor, *shape, 1)
    return tensor.reshape(shape).clone()
