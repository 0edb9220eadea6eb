"""Tiny runs trained once for each recipe, and trainers that go on from there, one for each fault."""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bifusion.config.run import Config
from bifusion.data.batching import Sample
from bifusion.data.dataset import SceneDataset
from bifusion.data.loader import make_loader
from bifusion.runs.check_config import check_config
from bifusion.runs.run_folder import RunFolder
from bifusion.step.runtime import make_fabric
from bifusion.training.train import train
from bifusion.training.trainer import Trainer
from laboratory.faults import Bench, Injection, Site
from laboratory.rows import SceneRows
from laboratory.tiny import (
    BATCH_SIZE,
    HEALTHY_EPOCHS,
    SHORT_RUN,
    STEPS_PER_EPOCH,
    make_tiny_rooms,
    tiny_config,
)
from laboratory.watch import Watch

RESUMED = HEALTHY_EPOCHS * STEPS_PER_EPOCH
"""The step that a run with a fault begins with."""
FAULT_STEP = RESUMED + STEPS_PER_EPOCH
"""After an epoch of good steps, the fault."""


class Workshop:
    """Keeps rooms and healthy runs under `folder`; makes benches from them."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.rooms = make_tiny_rooms(self.folder / "rooms")
        self._bases: dict[str, Path] = {}

    def base(self, recipe: str) -> Path:
        """A run of `recipe` that was interrupted after its healthy epochs."""
        if recipe not in self._bases:
            config = tiny_config(recipe, self.rooms)
            folder = self.folder / "healthy" / recipe
            with hushed():
                train(config, folder, on_epoch=_leave_after(HEALTHY_EPOCHS))
            self._bases[recipe] = folder
        return self._bases[recipe]

    def scenes_of_step(self, recipe: str, step: int) -> list[str]:
        """Names of the scenes that a step of every run of `recipe` gets."""
        config = tiny_config(recipe, self.rooms)
        dataset = SceneDataset(config.data, "train", config.seed, training=True)
        epoch, index = divmod(step, STEPS_PER_EPOCH)
        loader = make_loader(
            dataset, epoch=epoch, batch_size=BATCH_SIZE, workers=0, shuffle=True, seed=config.seed
        )
        return [dataset.names[scene] for scene, _ in loader.batches[index]]

    def bench(
        self,
        recipe: str,
        site: Site,
        injection: Injection,
        folder: Path,
        epochs: int = SHORT_RUN,
    ) -> Bench:
        """A trainer in `folder` that goes on from the healthy run to `epochs`, with `injection` in it.

        Raises InputError where configuration or data are refused.
        """
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(
            self.base(recipe),
            folder / "run",
            symlinks=True,
            ignore=shutil.ignore_patterns("tensorboard"),
        )
        shutil.copytree(self.rooms, folder / "rooms")
        config = tiny_config(recipe, folder / "rooms", epochs)
        injection.edit_scenes(folder / "rooms", site)
        injection.edit_config(config)
        trainer = _trainer(config, folder / "run")
        watch = Watch(trainer, site.step)
        bench = Bench(trainer, site, SceneRows(trainer.model), watch)
        _announce_steps(bench)
        bench.before_step.append(lambda step: watch.end(step - 1))
        injection.attach(bench)
        bench.before_step.append(watch.begin)
        return bench


def _trainer(config: Config, folder: Path) -> Trainer:
    """As `train` makes it, which would refuse a folder whose configuration has changed meanwhile."""
    check_config(config)
    return Trainer(config, RunFolder(folder), make_fabric(config.trainer))


def _announce_steps(bench: Bench) -> None:
    """Calls the bench's listeners before each step, when its first sample is read, and with samples."""
    trainer, read = bench.trainer, bench.trainer.dataset.sample
    announced: set[int] = set()

    def sample(index: int, epoch: int) -> Sample:
        step = trainer.progress.step
        if step not in announced:
            announced.add(step)
            for listener in bench.before_step:
                listener(step)
        result = read(index, epoch)
        for edit in bench.edit_sample:
            edit(result, epoch)
        return result

    trainer.dataset.sample = sample  # type: ignore[method-assign]


def _leave_after(epochs: int) -> Any:
    """An `on_epoch` that asks the run to stop after as many epochs, as the user would."""

    def on_epoch(record: dict[str, Any]) -> None:
        if record["epoch"] + 1 == epochs:
            signal.raise_signal(signal.SIGTERM)

    return on_epoch


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keeps progress lines and warnings of tiny runs off the screen."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
