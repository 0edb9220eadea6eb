"""Features of a frozen image tower, computed once for each view and kept on disk.

An entry is found by what it was computed from, never by a name: the tower's tensors and numbers, the
code of a tower from outside (`code_of.py`), the arithmetic (torch version, device, threads, precision),
and the very pixels and depths that enter. A changed weight, line of code or image therefore finds
nothing and is computed; what is found is bit for bit what computing would give, on a GPU in IEEE float32
whatever `trainer.matmul` says, so that training and validation share entries.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from glob import glob
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bifusion.models.towers.code_of import code_of
from bifusion.precision import matmul_precision
from bifusion.storage.files import write_tensors
from bifusion.types import BatchView

ENTRY = "map"
KEY_DIGITS = 32
TOLD_EVERY_S = 60
UNCOUNTED = 1 / 32
"""Share of the limit that a process adds before it counts anew what all have added."""


class ViewCache:
    """Feature maps under `folder`/TOWER/VIEW.safetensors, shared by all processes that name it.

    Args:
        folder: made at the first entry.
        limit_bytes: of all entries together. Entries of other towers make room, the longest unused
            tower first, but none that another process has begun to use since this was made; after that
            nothing is added, but what is there is still found. Processes that add at the same time may
            exceed it by `UNCOUNTED` each.
    """

    def __init__(self, folder: Path, limit_bytes: int):
        self.folder, self.limit_bytes = Path(folder), limit_bytes
        self.hits = self.misses = 0
        """Views found, and views computed."""
        self.stored = 0
        """Bytes of the entries that were added."""
        self.full = False
        self._began = time.time()
        self._used: dict[Path, float] = {}
        """Folders of the towers that were asked for, and when they were last told so."""
        self._size = 0
        """Bytes of all entries, as far as this process knows."""
        self._uncounted: int | None = None
        """Bytes added since they were counted, while others may have added too; None before that."""
        self._tower: tuple[tuple, str] | None = None
        """State of the tower when its key was made, and that key."""

    @torch.no_grad()
    def get(self, tower: nn.Module, view: BatchView, compute: Callable[[], Tensor]) -> Tensor:
        """The feature map of `view`: the stored one, or `compute()`, which is then stored.

        An entry that cannot be read (deleted meanwhile, damaged, closed to this user) is computed and
        written again. A folder that cannot be written ends storing, with a warning; training goes on.
        """
        path = self.folder / self._tower_key(tower, view) / f"{view_key(view)}.safetensors"
        try:
            stored = load_file(path)[ENTRY].to(view.image.device)
        except (OSError, SafetensorError, KeyError):
            self.misses += 1
            features = compute()
            self._store(path, features)
            return features
        self.hits += 1
        self._use(path.parent)
        return stored

    def _use(self, folder: Path) -> None:
        """Lets a tower's folder say, now and then, that it is used: reading an entry does not."""
        now = time.time()
        if now - self._used.get(folder, 0.0) > TOLD_EVERY_S:
            self._used[folder] = now
            with suppress(OSError):  # read-only, or removed meanwhile
                os.utime(folder)

    def _store(self, path: Path, features: Tensor) -> None:
        if not bool(torch.isfinite(features).all()):
            return  # a fault, perhaps a passing one: it must not outlive its step
        size = features.numel() * features.element_size()
        if self.full or not self._make_room(size, path.parent):
            self.full = True
            return
        try:
            write_tensors(path, {ENTRY: features.cpu().contiguous()})
            self.stored += size
        except OSError as error:
            self.full = True
            warnings.warn(
                f"{self.folder}: image features cannot be kept here ({error}); they are computed anew",
                stacklevel=2,
            )

    def _make_room(self, size: int, own: Path) -> bool:
        """Whether an entry of `size` bytes fits, perhaps after removing towers other than `own`."""
        self._used.setdefault(own, 0.0)
        if self._uncounted is None or self._uncounted + size > UNCOUNTED * self.limit_bytes:
            self._count()
        if self._size + size > self.limit_bytes:
            there = [self.folder / name for name in glob("*", root_dir=self.folder)]
            others = [path for path in there if path != own and _is_tower(path)]
            for tower in sorted(filter(self._is_idle, others), key=_last_used):
                _remove(tower)
                self._count()
                if self._size + size <= self.limit_bytes:
                    break
        self._size += size
        self._uncounted = (self._uncounted or 0) + size
        return self._size <= self.limit_bytes

    def _count(self) -> None:
        self._size, self._uncounted = bytes_under(self.folder), 0

    def _is_idle(self, tower: Path) -> bool:
        """Whether no other run is at work with it, as far as its folder tells: two that do not fit
        together would remove each other's entries as fast as they compute them."""
        return tower in self._used or _last_used(tower) <= self._began

    def _tower_key(self, tower: nn.Module, view: BatchView) -> str:
        """`tower_key`, hashed anew only where a tensor was written to or replaced, or the arithmetic
        changed."""
        arithmetic = _arithmetic(view.image.device)
        tensors = [*tower.parameters(), *tower.buffers()]
        state = (arithmetic, *((tensor.data_ptr(), tensor._version) for tensor in tensors))
        if self._tower is None or self._tower[0] != state:
            self._tower = state, tower_key(tower, arithmetic)
        return self._tower[1]


def tower_key(tower: nn.Module, arithmetic: str) -> str:
    """Hash of the tower's modules and numbers (as they print), its tensors, those that no checkpoint
    stores among them, its code, and the arithmetic."""
    digest = hashlib.sha256(f"{arithmetic}\n{tower}\n{code_of(tower)}".encode())
    for name, tensor in sorted([*tower.named_parameters(), *tower.named_buffers()]):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_content(tensor))
    return digest.hexdigest()[:KEY_DIGITS]


def view_key(view: BatchView) -> str:
    """Hash of all that a tower reads of a view: pixels and their depth, with sizes."""
    digest = hashlib.sha256()
    for tensor in (view.image, view.image_depth_m):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_content(tensor))
    return digest.hexdigest()[:KEY_DIGITS]


def _content(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _arithmetic(device: torch.device) -> str:
    """What, besides the numbers that enter, decides the bits that come out."""
    precision = torch.float32
    if torch.is_autocast_enabled(device.type):
        precision = torch.get_autocast_dtype(device.type)
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        machine = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return (
        f"bifusion {_version()}, torch {torch.__version__}, {device.type}, {machine}, "
        f"{precision}, {matmul_precision(device)}"
    )


@cache
def _version() -> str:
    """Read once: it takes milliseconds, as long as a small map does."""
    return version("bifusion")


def bytes_under(folder: Path) -> int:
    """Of all entries in a cache's folder, which others may be removing meanwhile."""
    total = 0
    for name in glob("*/*.safetensors", root_dir=folder):  # Path.glob raises where a folder goes
        with suppress(FileNotFoundError):
            total += (folder / name).stat().st_size
    return total


def _is_tower(folder: Path) -> bool:
    """Whether the name is a key; a user may have named a folder in which other things are."""
    return re.fullmatch(f"[0-9a-f]{{{KEY_DIGITS}}}", folder.name) is not None and folder.is_dir()


def _remove(tower: Path) -> None:
    """Removes a tower's entries, as far as they can be, and its folder if nothing else is in it."""
    with suppress(OSError):
        for path in tower.glob("*.safetensors*"):
            path.unlink(missing_ok=True)
        tower.rmdir()


def _last_used(folder: Path) -> float:
    """When an entry was added or, about, found, by the system's clock; 0 where another process has
    removed it."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
