"""Which rows of a module's output belong to which scene, so that a fault can strike one scene alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bifusion.sparse.tensor import SparseTensor
from bifusion.types import Batch


class SceneRows:
    """Follows a model's forward passes from outside, by hooks, until `remove`.

    Voxels tell by their coordinates, views by their number, the fusion by what it is called with;
    OneFormer3D's decoder takes one scene after the other. Of Mask3D's decoder nothing is known.
    """

    def __init__(self, model: nn.Module):
        self.samples: list[tuple[str, int]] = []
        """Scenes of the batch in progress, each with its sample's seed, another in every epoch."""
        self._tables: dict[str, dict[int, Tensor]] = {}
        """Part of the model -> number of rows -> scene index of each row."""
        self._decoding = -1
        """Index of the scene that the decoder is at."""
        self._handles = [model.register_forward_pre_hook(self._start)]
        for name, module in model.named_modules():
            if name == "unet" or name.startswith("unet."):
                self._handles.append(module.register_forward_pre_hook(self._note_voxels))
                self._handles.append(module.register_forward_hook(self._note_coarser_voxels))
            if name == "fusion":
                self._handles.append(module.register_forward_pre_hook(self._note_fusion))
            if name == "decoder.input_proj":
                self._handles.append(module.register_forward_pre_hook(self._next_scene))

    def remove(self) -> None:
        """Takes all hooks off."""
        for handle in self._handles:
            handle.remove()

    def of(self, module: str, tensor: Tensor) -> Tensor | None:
        """(rows,) scene index of each row of an output (rows, …) of `module`; None if not known."""
        if module.startswith("decoder."):
            if self._decoding < 0:
                return None
            return torch.full((len(tensor),), self._decoding)
        return self._tables.get(module.split(".")[0], {}).get(len(tensor))

    def _start(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        batch: Batch = args[0]
        self.samples, self._decoding = list(zip(batch.names, batch.seeds, strict=True)), -1
        of_voxels = batch.voxel_coords[:, 0].long().cpu()
        of_views = torch.tensor([view.scene for view in batch.views], dtype=torch.int64)
        self._tables = {
            "unet": {len(of_voxels): of_voxels},
            "tower": {len(of_views): of_views},
            "fusion": {len(batch.names): torch.arange(len(batch.names)), len(of_voxels): of_voxels},
        }

    def _note_voxels(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Levels of the U-Net come to light as its modules are called."""
        if isinstance(args[0], SparseTensor):
            coords = args[0].coords
            self._tables["unet"][len(coords)] = coords[:, 0].long().cpu()

    def _note_coarser_voxels(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._note_voxels(module, (output,))

    def _note_fusion(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Rows of what only seen voxels have."""
        _, _, seen, scene = args[:4]
        of_seen = scene[seen].cpu()
        self._tables["fusion"].setdefault(len(of_seen), of_seen)

    def _next_scene(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._decoding += 1
