"""Features of a frozen image tower, computed once for each view and kept on disk.

An entry is found by what it was computed from, never by a name: the tower's tensors and numbers, the
code of a tower from outside (`code_of.py`), the arithmetic (torch version, device, threads, precision),
and the very pixels and depths that enter. A changed weight, line of code or image therefore finds
nothing and is computed; what is found is bit for bit what computing would give, on a GPU in IEEE float32
whatever `trainer.matmul` says, so that training and validation share entries.
"""

from __future__ import annotations

import hashlib
import re
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


class ViewCache:
    """Feature maps under `folder`/TOWER/VIEW.safetensors, shared by all processes that name it.

    Args:
        folder: made at the first entry.
        limit_bytes: of all entries together. Entries of other towers make room, the longest unused
            tower first; after that nothing is added, but what is there is still found.
    """

    def __init__(self, folder: Path, limit_bytes: int):
        self.folder, self.limit_bytes = Path(folder), limit_bytes
        self.hits = self.misses = 0
        """Views found, and views computed."""
        self.stored = 0
        """Bytes of the entries that were added."""
        self.full = False
        self._size: int | None = None
        """Bytes of all entries, as far as this process knows; None before the first look."""
        self._tower: tuple[tuple, str] | None = None
        """State of the tower when its key was made, and that key."""

    @torch.no_grad()
    def get(self, tower: nn.Module, view: BatchView, compute: Callable[[], Tensor]) -> Tensor:
        """The feature map of `view`: the stored one, or `compute()`, which is then stored.

        An entry that cannot be read (deleted meanwhile, damaged) is computed and written again. A
        folder that cannot be written ends storing, with a warning; training goes on.
        """
        path = self.folder / self._tower_key(tower, view) / f"{view_key(view)}.safetensors"
        try:
            stored = load_file(path)[ENTRY].to(view.image.device)
        except (FileNotFoundError, SafetensorError, KeyError):
            self.misses += 1
            features = compute()
            self._store(path, features)
            return features
        self.hits += 1
        return stored

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
        if self._size is None:
            self._size = bytes_under(self.folder)
        if self._size + size > self.limit_bytes:
            there = [self.folder / name for name in glob("*", root_dir=self.folder)]
            others = [path for path in there if path != own and _is_tower(path)]
            for tower in sorted(others, key=_last_written):
                _remove(tower)
                self._size = bytes_under(self.folder)
                if self._size + size <= self.limit_bytes:
                    break
        self._size += size
        return self._size <= self.limit_bytes

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


def _last_written(folder: Path) -> float:
    """By the system's clock; 0 where another process has removed it."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
