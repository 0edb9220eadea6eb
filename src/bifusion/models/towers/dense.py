"""Towers whose map is computed by a network from the whole image: batches of views, and their cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from bifusion.errors import InputError
from bifusion.models.compiled import eager
from bifusion.models.towers.tower import ImageTower
from bifusion.models.towers.view_cache import ViewCache
from bifusion.precision import float32_products
from bifusion.types import BatchView


class DenseTower(ImageTower):
    """Has a `forward`: images (V, 3, H, W) in [0, 1] and depth (V, 1, H, W) in metres, 0 where none, to
    maps (V, H / patch, W / patch, out_channels).

    Whatever its maps depend on must be in its tensors, in how it prints (`extra_repr`), or in the code
    of its classes and what that imports: by these its entries in a cache are found.
    """

    patch: int
    """Pixels of an image that a cell of its map covers along each side."""
    cache: ViewCache | None = None
    """Where a frozen tower keeps its maps."""

    def keep_views(self, cache: ViewCache) -> None:
        """Uses `cache` whenever it is frozen."""
        self.cache = cache

    @property
    def frozen(self) -> bool:
        """No parameter is being trained."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def encode_views(self, views: Sequence[BatchView]) -> list[Tensor]:
        """One map (h, w, out_channels) a view; views of equal size run as one batch.

        A frozen tower takes them one by one, and from `cache` what that has. Alone in any case: the
        last bits of a matrix product depend on what else is in the batch, and a view's map must not.

        Raises:
            InputError: an image that is not cut into whole patches.
        """
        for view in views:
            self._check_size(view)
        if not self.frozen:
            return self._encode_together(views)
        if self.cache is None:
            return [self._encode_alone(view) for view in views]
        cache = self.cache
        ieee = float32_products("ieee", views[0].image.device) if views else nullcontext()
        with eager(self), ieee:  # other runs, and this one's validation, read them too
            return [cache.get(self, view, lambda view=view: self._encode_alone(view)) for view in views]

    def _encode_alone(self, view: BatchView) -> Tensor:
        return self(view.image[None], view.image_depth_m[None])[0]

    def _encode_together(self, views: Sequence[BatchView]) -> list[Tensor]:
        of_size: dict[torch.Size, list[int]] = {}
        for number, view in enumerate(views):
            of_size.setdefault(view.image.shape, []).append(number)
        maps: dict[int, Tensor] = {}
        for numbers in of_size.values():
            images = torch.stack([views[i].image for i in numbers])
            depth_m = torch.stack([views[i].image_depth_m for i in numbers])
            maps.update(zip(numbers, self(images, depth_m), strict=True))
        return [maps[number] for number in range(len(views))]

    def _check_size(self, view: BatchView) -> None:
        height, width = view.image.shape[-2:]
        if height % self.patch or width % self.patch:
            raise InputError(
                f"view {view.name}: its image is {width} × {height}, no multiple of the image tower's "
                f"patch of {self.patch} pixels; set the data's patch size to {self.patch}"
            )
