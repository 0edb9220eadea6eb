"""The processes that work on one thing: which of them this one is, and what each gives to all.

They are those of `torch.distributed`, in the order of their ranks; without it there is one.
"""

from __future__ import annotations

import datetime
import os
import pickle
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import distributed, nn

from bifusion.datasets.shards import Shard, launched_shard
from bifusion.errors import InputError

T = TypeVar("T")
PATIENCE = datetime.timedelta(hours=1)
"""How long a process waits for the others where no run's own limit is known yet."""


def number() -> int:
    """Which of the processes this one is, from 0."""
    return distributed.get_rank() if _several() else 0


def count() -> int:
    """How many there are."""
    return distributed.get_world_size() if _several() else 1


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def gather(value: T) -> list[T]:
    """What each process gives, in their order, on all of them. All must call it, as often."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value)
    return values


def first_of(value: T | None) -> T | None:
    """The first that any process gives which is not None, on all of them."""
    return next((given for given in gather(value) if given is not None), None)


def barrier() -> None:
    """Goes on when all processes have come here."""
    gather(None)


def own_share(things: Sequence[T]) -> dict[int, T]:
    """Place → thing: every n-th, from this process's on. Each is in one process's share."""
    return {place: things[place] for place in range(number(), len(things), count())}


class Pieces:
    """What each process made of its share, one piece a place, to be had by all in the order of places.

    They are kept as compressed pickles, as thousands of confusion matrices would take gigabytes.
    """

    def __init__(self) -> None:
        self._packed: dict[int, bytes] = {}

    def add(self, place: int, piece: Any) -> None:
        self._packed[place] = zlib.compress(pickle.dumps(piece), level=1)

    def in_order(self) -> Iterator[Any]:
        """The pieces of all processes by place. All must call it; nothing is left here afterwards."""
        whole: dict[int, bytes] = {}
        for packed in gather(self._packed):
            if twice := sorted(whole.keys() & packed.keys()):
                raise AssertionError(f"two processes gave a piece of place {twice[0]}")
            whole |= packed
        self._packed = {}
        for place in sorted(whole):
            yield pickle.loads(zlib.decompress(whole.pop(place)))


def share_buffers(model: nn.Module) -> None:
    """Gives all processes the first one's buffers (BatchNorm's statistics), which are those that a
    checkpoint holds: models that are the same give the same figures whoever evaluates."""
    if count() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)


@contextmanager
def joined(devices: int = 1) -> Iterator[None]:
    """Joins the processes that this one is to work with in the block, unless it has already.

    They are those that torchrun or srun started with it, or `devices`, started here by the same command
    line.

    Raises InputError: `devices` other than the launcher's, or that are not there.
    """
    launched = launched_shard()
    if _several() or (devices == 1 and launched is None):
        yield
        return
    here, nodes = devices, 1
    if launched is not None:
        here, nodes = _launched_here(launched)
        if devices not in (1, here):
            raise InputError(
                f"devices: found {devices}, but {here} processes were launched on each node"
            )
    try:
        fabric = Fabric(devices=here, num_nodes=nodes, strategy=DDPStrategy(timeout=PATIENCE))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"devices: {here} are not to be had on this machine ({error})") from error
    fabric.launch()
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _launched_here(launched: Shard) -> tuple[int, int]:
    """Processes on each machine, and machines."""
    found = os.environ.get("LOCAL_WORLD_SIZE")
    if found is not None:
        return int(found), launched.count // int(found)
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    return launched.count // nodes, nodes
