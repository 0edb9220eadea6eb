"""The training batches of an epoch, dealt out among the processes of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice
from typing import Any

from lightning_fabric import Fabric

from bifusion.config.run import Config, TrainerConfig
from bifusion.data.dataset import SceneDataset
from bifusion.data.dealing import deal, like_sized, scene_sizes, waiting_share
from bifusion.data.loader import EpochLoader, SceneRequest, make_loader
from bifusion.types import Batch


class EpochBatches:
    """A batch of the run, of `batch_size` scenes a process, is what one process with batches of that
    size would read; it is dealt out scene by scene (`data/dealing.py`). No scene of an epoch is left
    out: where its last batch has fewer scenes than there are processes, some work on one of another's
    that does not count (`Batch.counts`). Places in an epoch are counted in batches of the run.
    """

    def __init__(self, dataset: SceneDataset, config: Config, fabric: Fabric):
        self.dataset, self.config = dataset, config
        self.process, self.processes = fabric.global_rank, fabric.world_size
        self.batch_size = config.trainer.batch_size * self.processes
        needed = self.processes > 1 or config.trainer.like_sized
        self.sizes = scene_sizes(dataset.scenes) if needed else [1] * len(dataset)

    def left(self, epoch: int, batch: int) -> OwnBatches:
        """What is left of `epoch` after `batch` batches, for this process."""
        return self._own(epoch, batch, self.config.trainer.workers)

    def of_step(self, epoch: int, batch: int) -> list[Batch]:
        """The batches of the step that begins after `batch` batches of `epoch`, loaded again here,
        whatever the worker processes are at."""
        return list(islice(self._own(epoch, batch, workers=0), self.config.trainer.accumulate))

    def waiting_share(self) -> float:
        """`dealing.waiting_share` of the first epoch."""
        batches = [[index for index, _ in batch] for batch in self._of_run(0, 0)]
        return waiting_share(batches, self.sizes, self.processes)

    def _own(self, epoch: int, batch: int, workers: int) -> OwnBatches:
        own, counts = [], []
        for requests in self._of_run(epoch, batch):
            of_batch = [self.sizes[index] for index, _ in requests]
            places = deal(of_batch, self.processes)[self.process]
            counts.append(bool(places))
            own.append([requests[place] for place in places or [of_batch.index(min(of_batch))]])
        return OwnBatches(EpochLoader(self.dataset, own, workers), counts)

    def _of_run(self, epoch: int, batch: int) -> list[list[SceneRequest]]:
        """The batches of all processes that are left of `epoch` after `batch`."""
        size, seed = self.batch_size, self.config.seed
        batches = make_loader(
            self.dataset, epoch=epoch, batch_size=size, workers=0, shuffle=True, seed=seed
        ).batches
        if self.config.trainer.like_sized:
            drawn = [index for requests in batches for index, _ in requests]
            order = like_sized(drawn, self.sizes, size, seed, epoch)
            batches = [
                [(index, epoch) for index in order[start : start + size]]
                for start in range(0, len(order), size)
            ]
        return batches[batch:]


class OwnBatches:
    """Iterates over a process's batches; one iteration at a time for each dataset with workers."""

    def __init__(self, loader: EpochLoader, counts: list[bool]):
        self.loader, self.counts = loader, counts

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch, counts in zip(self.loader, self.counts, strict=True):
            yield batch if counts else dataclasses.replace(batch, counts=False)


def processes_record(trainer: TrainerConfig, batches: EpochBatches) -> dict[str, Any]:
    """What config.json of a run says of its processes."""
    return {
        "processes": trainer.processes,
        "devices": trainer.devices,
        "nodes": trainer.nodes,
        "scenes_a_step": trainer.scenes_a_step,
        "rate_rule": trainer.rate_rule,
        "rate_factor": trainer.rate_factor,
        "sync_batch_norm": trainer.sync_batch_norm and trainer.processes > 1,
        "waiting_share": batches.waiting_share(),
    }
