"""The training batches of an epoch, shared out among the processes of a run."""

from __future__ import annotations

from itertools import islice

from lightning_fabric import Fabric

from bifusion.config.run import Config
from bifusion.data.dataset import SceneDataset
from bifusion.data.loader import EpochLoader, make_loader
from bifusion.types import Batch


class EpochBatches:
    """Every process takes each n-th batch; the few at an epoch's end that do not suffice for all are
    left out. Places in an epoch are counted in batches of all processes together."""

    def __init__(self, dataset: SceneDataset, config: Config, fabric: Fabric):
        self.dataset, self.config, self.fabric = dataset, config, fabric

    def left(self, epoch: int, batch: int) -> EpochLoader:
        """What is left of `epoch` after `batch` batches, for this process."""
        return self._loader(epoch, batch, self.config.trainer.workers)

    def of_step(self, epoch: int, batch: int) -> list[Batch]:
        """The batches of the step that begins after `batch` batches of `epoch`, loaded again here,
        whatever the worker processes are at."""
        return list(islice(self._loader(epoch, batch, workers=0), self.config.trainer.accumulate))

    def _loader(self, epoch: int, batch: int, workers: int) -> EpochLoader:
        loader = make_loader(
            self.dataset,
            epoch=epoch,
            batch_size=self.config.trainer.batch_size,
            workers=workers,
            shuffle=True,
            seed=self.config.seed,
            skip_batches=batch,
        )
        processes = self.fabric.world_size
        shared = loader.batches[: len(loader.batches) // processes * processes]
        return EpochLoader(self.dataset, shared[self.fabric.global_rank :: processes], loader.workers)
