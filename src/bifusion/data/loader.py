"""Batches of one epoch in an order that follows from seed and epoch alone, with worker processes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from bifusion.data.batching import Sample, collate
from bifusion.data.dataset import SceneDataset
from bifusion.data.workers import (
    WorkerEndedError,
    batches_from_workers,
    end_with_process,
    heed_the_parent_alone,
)
from bifusion.errors import InputError
from bifusion.rng import derive_seed, numpy_rng
from bifusion.types import Batch

SceneRequest = tuple[int, int]
"""(scene index, epoch): all that a worker needs to make a sample."""

PREFETCH = 2
"""Batches that each worker has been given ahead; they take turns."""


def make_loader(
    dataset: SceneDataset,
    *,
    epoch: int,
    batch_size: int,
    workers: int,
    shuffle: bool,
    seed: int,
) -> EpochLoader:
    """The batches of `epoch`; `len()` counts those it will give.

    Args:
        dataset: scenes; its worker processes and their caches live on from epoch to epoch.
        epoch: names the random streams of order and samples.
        batch_size: scenes a batch; the last one may be smaller.
        workers: processes that load; 0 loads in this process. The batches are the same.
        shuffle: order drawn from (seed, "order", epoch), else by name.
        seed: run seed of the order.
    Raises:
        InputError: an option out of range; while iterating, as it arose in a worker.
        WorkerEndedError: while iterating, a worker process that came to an end.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise InputError(f"{name}: found {value}; expected at least {least}")
    order = list(range(len(dataset)))
    if shuffle:
        order = numpy_rng(seed, "order", epoch).permutation(len(dataset)).tolist()
    batches = [
        [(index, epoch) for index in order[start : start + batch_size]]
        for start in range(0, len(order), batch_size)
    ]
    return EpochLoader(dataset, batches, workers)


class EpochLoader:
    """Iterates over given batches; one iteration at a time for each dataset with workers."""

    def __init__(self, dataset: SceneDataset, batches: list[list[SceneRequest]], workers: int):
        self.dataset, self.batches, self.workers = dataset, batches, workers

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if self.workers == 0:
            for batch in self.batches:
                yield collate([self.dataset.sample(*request) for request in batch])
            return
        loader, plan = _workers_of(self.dataset, self.workers)
        plan.batches = self.batches
        try:
            for samples in batches_from_workers(loader, len(self), self._waiting_at):
                if isinstance(samples, InputError):
                    raise samples
                yield collate(samples)
        except WorkerEndedError:
            del _LOADERS[self.dataset]  # the next epoch starts new ones
            raise

    def _waiting_at(self, worker: int, taken: int) -> list[str]:
        """Scenes that a worker has been given and that have not been taken with the first batches."""
        ahead = range(taken, min(taken + PREFETCH * self.workers, len(self.batches)))
        mine = [self.batches[i] for i in ahead if i % self.workers == worker]
        return [self.dataset.names[index] for batch in mine for index, _ in batch]


class _Plan(Sampler[list[SceneRequest]]):
    """Batches the worker processes are to make next; replaced for every epoch."""

    batches: list[list[SceneRequest]]

    def __iter__(self) -> Iterator[list[SceneRequest]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Samples(Dataset):
    """The dataset as torch's loader wants it."""

    def __init__(self, dataset: SceneDataset):
        self.dataset = dataset

    def __getitems__(self, requests: list[SceneRequest]) -> list[Sample] | InputError:
        # Torch would wrap the error's message in the worker's traceback; as a value it stays itself.
        try:
            return [self.dataset.sample(*request) for request in requests]
        except InputError as error:
            return error


def _as_it_is(samples: list[Sample] | InputError) -> list[Sample] | InputError:
    return samples


_LOADERS: WeakKeyDictionary[SceneDataset, tuple[int, DataLoader, _Plan]] = WeakKeyDictionary()
"""Running worker processes of each dataset: starting them and filling their caches is slow."""


def _workers_of(dataset: SceneDataset, workers: int) -> tuple[DataLoader, _Plan]:
    """The persistent loader of `dataset` with `workers` processes, started at its first use."""
    running = _LOADERS.get(dataset)
    if running and running[0] == workers:
        return running[1], running[2]
    plan = _Plan()
    plan.batches = []
    loader = DataLoader(
        _Samples(copy.copy(dataset)),  # not the key itself, which could then never be collected
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=_as_it_is,
        persistent_workers=True,
        prefetch_factor=PREFETCH,
        worker_init_fn=heed_the_parent_alone,
        # Its own generator: iterating must not draw from the global one.
        generator=torch.Generator().manual_seed(derive_seed(dataset.seed, "loader")),
    )
    end_with_process(loader)
    _LOADERS[dataset] = (workers, loader, plan)
    return loader, plan
