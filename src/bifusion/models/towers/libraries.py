"""Libraries that image towers are taken from; imported when first needed, as they take seconds."""

from __future__ import annotations

import importlib
from typing import Any

import torch


def library(name: str) -> Any:
    """The module `name`, imported on the CPU whatever the default device is.

    It may be first needed while a network is built on the meta device. timm and open_clip import
    torchvision, that imports `torch._dynamo`, and torch 2.6's reads values of tensors as it is imported:
    on the meta device there are none.
    """
    with torch.device("cpu"):
        return importlib.import_module(name)
