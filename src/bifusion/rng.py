"""Named random streams: everything random derives from one seed, by name.

A stream is addressed by what it is for (run seed, epoch, scene, purpose), never by when it is
drawn, so that a run can be resumed anywhere and a single step repeated.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` of the run seed `seed`.

    The same arguments give the same number on every machine and Python version (SHA-256 of
    their text), and different ones independent numbers.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(seed: int, *names: str | int) -> np.random.Generator:
    """NumPy generator of the stream called `names`."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))


def torch_rng(seed: int, *names: str | int) -> torch.Generator:
    """Torch generator, on the CPU, of the stream called `names`."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def seed_cpu(seed: int, *names: str | int) -> None:
    """The CPU's global generator goes on with the stream called `names`; those of other devices, which
    `torch.manual_seed` begins anew as well, go on as they were."""
    torch.default_generator.manual_seed(derive_seed(seed, *names))
