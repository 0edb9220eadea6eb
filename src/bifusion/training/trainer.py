"""Trains one run: epochs of optimiser steps, validation, checkpoints.

What trains when comes from the stages (`stages.py`), a single step is `step.py`, non-finite numbers
are the guard's business (`guard.py`), figures the monitor's (`monitor.py`), files the recorder's
(`recorder.py`). Only the trainer acts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from bifusion.checkpoint import find_checkpoint, load_training_state, load_weights, save_checkpoint
from bifusion.config import Config, build_model, check_consistent, config_to_dict, load_config
from bifusion.data.dataset import SceneDataset
from bifusion.data.loader import EpochLoader, make_loader
from bifusion.data.scene_folder import SEGMENT_FILES
from bifusion.initial_weights import load_backbone
from bifusion.labels import get_label_set
from bifusion.losses.criterion import Criterion
from bifusion.rng import derive_seed
from bifusion.training.clip_cache import attach_view_cache
from bifusion.training.describe import describe_run
from bifusion.training.display import Display
from bifusion.training.fusion_figures import warn_if_unseen
from bifusion.training.guard import Guard
from bifusion.training.monitor import peak_memory_mb
from bifusion.training.optim import freeze_outside_stage, group_rates, make_optimizer, set_rates
from bifusion.training.recorder import Progress, Recorder
from bifusion.training.run_folder import RunFolder, RunStatus, write_json
from bifusion.training.runtime import StopRequest, deterministic, make_fabric, on_any_process
from bifusion.training.stages import Timeline, unmatched_patterns
from bifusion.training.step import Stepper
from bifusion.training.validation import validate, validation_loader, validation_record
from bifusion.types import InputError

FINISHED = ("completed", "guard_stopped")


def train(
    config: Config,
    run_dir: Path,
    *,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> RunStatus:
    """Trains `config` into `run_dir` and returns how it ended.

    `resume` goes on from the folder's last checkpoint (from the start if there is none); a run that
    is finished is left as it is. `on_epoch` gets every epoch's record. SIGINT and SIGTERM save and
    leave with state "interrupted". Raises InputError if the folder holds another run.
    """
    check_consistent(config)
    folder = RunFolder(run_dir)
    _check_folder(folder, config, resume)
    status = folder.read_status() if resume else None
    if status is not None and status.state in FINISHED:
        return status
    fabric = make_fabric(config.trainer)
    with deterministic(config.trainer.deterministic, fabric.device):
        return Trainer(config, folder, fabric).run(on_epoch)


class Trainer:
    """One run; use `train`."""

    def __init__(self, config: Config, folder: RunFolder, fabric: Fabric):
        self.config, self.folder, self.fabric = config, folder, fabric
        self.progress = Progress()
        self.timeline = Timeline(config.stages, config.trainer.epochs)
        self.dataset = SceneDataset(config.data, "train", config.seed, training=True)
        _check_data(self.dataset, config)
        self.val_loader = validation_loader(config, max_views=config.data.max_views)
        self.batches_per_epoch = len(self._loader()) * fabric.world_size
        """Over all processes; the few at an epoch's end that do not suffice for all are left out."""
        if self.batches_per_epoch == 0:
            raise InputError(
                f"trainer.devices is {fabric.world_size}, more than an epoch has batches: use fewer "
                "devices or a smaller trainer.batch_size"
            )
        self.steps_per_epoch = math.ceil(len(self._loader()) / config.trainer.accumulate)

        self.model = build_model(config)
        attach_view_cache(self.model, config.trainer, folder.root, fabric.device)
        self.groups = self.model.parameter_groups()
        _check_patterns(config, list(self.groups))
        self.base_rates = group_rates(config.optim, list(self.groups))
        fused = config.trainer.precision != "16-mixed"
        self.optimizer = make_optimizer(self.groups, config.optim, fused=fused)
        wrapped_model, wrapped_optimizer = fabric.setup(self.model, self.optimizer)
        self.guard = Guard(self.model, config.trainer.guard_patience)
        criterion = Criterion(config.criterion, get_label_set(config.data.label_set))
        self.take_step = Stepper(
            fabric,
            wrapped_model,
            wrapped_optimizer,
            criterion,
            self.groups,
            self.guard,
            config.optim.clip_norm,
        )

    def run(self, on_epoch: Callable[[dict[str, Any]], None] | None = None) -> RunStatus:
        """Trains from the last checkpoint, or the start, to the end, a stop or an interruption."""
        self._take_up_checkpoint()
        name, first = self.config.name, self.fabric.is_global_zero
        description = self._describe()
        if first:
            self.folder.create()
            write_json(self.folder.config, description)
        display = Display(name, self.config.trainer.epochs, self.steps_per_epoch, quiet=not first)
        recorder = Recorder(self.folder, name, self.progress, display, active=first, on_epoch=on_epoch)
        with recorder as self.recorder, StopRequest() as self.stop:
            tower = f"; {description['clip']}" if description["clip"] else ""
            display.line(f"{name}: {description['parameters']['total']:,} parameters{tower}")
            return self._run_epochs()

    def _run_epochs(self) -> RunStatus:
        self.recorder.status("running", self.guard)
        while self.progress.epoch < self.config.trainer.epochs:
            reason = self._train_epoch()
            if self.guard.exhausted:
                self.progress.close_epoch(complete=False)
                self.recorder.epoch(self._stage_name(), val=None)
                self._save(["last"])
                return self.recorder.status("guard_stopped", self.guard, reason)
            if self.stop.signal_name is not None:
                self._save(["last"])
                return self.recorder.status("interrupted", self.guard, reason)
            self._end_epoch()
        return self.recorder.status("completed", self.guard)

    def _train_epoch(self) -> str | None:
        """Takes the rest of the epoch's steps; says why if it stops before its end."""
        progress, optim, seed = self.progress, self.config.optim, self.config.seed
        total_steps = self.steps_per_epoch * self.config.trainer.epochs
        self.model.train()
        batches = iter(self._loader())
        while progress.batch < self.batches_per_epoch:
            started = time.perf_counter()
            state = self.timeline.at(progress.epoch + progress.batch / self.batches_per_epoch)
            freeze_outside_stage(self.groups, state)
            lr = set_rates(self.optimizer, optim, self.base_rates, state, progress.step, total_steps)
            torch.manual_seed(derive_seed(seed, "step", progress.step))
            of_step = list(islice(batches, self.config.trainer.accumulate))
            outcome = self.take_step(of_step, state)
            seconds = time.perf_counter() - started
            self.recorder.step(outcome, state, lr, seconds, peak_memory_mb(self.fabric.device))
            progress.count_step(outcome, len(of_step) * self.fabric.world_size, seconds)
            if self.guard.exhausted and outcome.event is not None:
                where = ", ".join(outcome.event.where)
                return f"{self.guard.in_a_row} non-finite steps in a row, the last in {where}"
            if on_any_process(self.fabric, self.stop.signal_name is not None):
                self.stop.signal_name = self.stop.signal_name or "a signal in another process"
                return f"received {self.stop.signal_name}"
        return None

    def _end_epoch(self) -> None:
        """Validates where due, records the epoch and saves."""
        progress = self.progress
        metrics = self._validate() if self._validation_due() else None
        progress.close_epoch(complete=True)
        self.recorder.epoch(self._stage_name(), None if metrics is None else validation_record(metrics))
        links = ["last"]
        if metrics is not None:
            if self.config.uses_views and metrics["seen_share"] is not None:
                warn_if_unseen(f"{self.config.name}: validation", metrics["seen_share"])
            metric = metrics["ap"] if metrics["miou"] is None else metrics["miou"]
            if metric > progress.best_metric:
                progress.best_metric = metric
                links.append("best")
        progress.next_epoch()
        self._save(links)
        self.recorder.status("running", self.guard)

    def _validation_due(self) -> bool:
        done = self.progress.epoch + 1
        at_stage_end = any(done == end for _, end in self.timeline.bounds)
        return at_stage_end or done % self.config.trainer.eval_every == 0

    def _validate(self) -> dict[str, Any] | None:
        """Metrics with the fusion as it is at the epoch's end; the first process alone works."""
        metrics = None
        if self.fabric.is_global_zero:
            control = self.timeline.at_end(self.progress.epoch + 1).control
            # Where s is 0 images change nothing, but how well 2D and 3D agree is measured all the same.
            control.run_2d = self.config.uses_views
            outcome = validate(
                self.model, self.val_loader, self.config, control, device=self.fabric.device
            )
            metrics = outcome.metrics
        self.fabric.barrier()
        return metrics

    def _stage_name(self) -> str:
        return self.timeline.stages[self.timeline.index_at(self.progress.epoch)].name

    def _loader(self) -> EpochLoader:
        """What is left of the epoch in progress, for this process."""
        loader = make_loader(
            self.dataset,
            epoch=self.progress.epoch,
            batch_size=self.config.trainer.batch_size,
            workers=self.config.trainer.workers,
            shuffle=True,
            seed=self.config.seed,
            skip_batches=self.progress.batch,
        )
        processes = self.fabric.world_size
        shared = loader.batches[: len(loader.batches) // processes * processes]
        return EpochLoader(self.dataset, shared[self.fabric.global_rank :: processes], loader.workers)

    # ------------------------------------------------------------------------- saving and resuming

    def _save(self, links: list[str]) -> None:
        if self.fabric.is_global_zero:
            state = {
                "optimizer": self.optimizer.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                "guard": self.guard.state_dict(),
                "progress": asdict(self.progress),
                "time": self.progress.epoch + self.progress.batch / self.batches_per_epoch,
            }
            save_checkpoint(
                self.folder.checkpoints,
                self.model,
                self.config,
                state,
                step=self.progress.step,
                links=links,
            )
        self.fabric.barrier()

    def _take_up_checkpoint(self) -> None:
        if not (self.folder.checkpoints / "last").exists():
            if self.config.trainer.init is not None:
                load_backbone(self.model, self.config.trainer.init)
            return
        checkpoint = find_checkpoint(self.folder.root)
        load_weights(self.model, checkpoint)
        state = load_training_state(checkpoint)
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.guard.load_state_dict(state["guard"])
        self.progress = Progress(**state["progress"])

    def _describe(self) -> dict[str, Any]:
        scenes = list(self.dataset.names), list(self.val_loader.dataset.names)
        return describe_run(self.config, self.groups, self.model, *scenes)


def _check_data(dataset: SceneDataset, config: Config) -> None:
    """InputError if no scene has labels, or none the views that the model is trained with.

    Single scenes without labels or views are fine.
    """
    folders = [dataset.folder / name for name in dataset.names]
    file = SEGMENT_FILES[config.data.label_set]
    if not any((folder / file).exists() for folder in folders):
        raise InputError(
            f"{dataset.folder}: no scene has {file}, the labels of {config.data.label_set}; prepare "
            "the scenes with annotation, or choose the label set they have"
        )
    has_views = any((folder / "views" / "cameras.npz").exists() for folder in folders)
    if config.uses_views and not (has_views and config.data.max_views):
        found = "no scene has views" if not has_views else "data.max_views is 0"
        raise InputError(
            f"{dataset.folder}: {found}, but {config.name} is trained with images; prepare the scenes "
            "with views (--posed-images), or train the recipe that ends in _without_views"
        )


def _check_folder(folder: RunFolder, config: Config, resume: bool) -> None:
    """InputError if the folder holds a run that must not be mixed with this one."""
    if not folder.steps.exists():
        return
    if not resume:
        raise InputError(
            f"{folder.root} holds a run already: resume it (--resume), or choose another folder"
        )
    stored, wanted = config_to_dict(load_config(folder.config)), config_to_dict(config)
    changed = [key for key in wanted if stored[key] != wanted[key]]
    if changed:
        raise InputError(
            f"{folder.root} holds a run of another configuration ({', '.join(changed)} differ): "
            "resume it with its own, or choose another folder"
        )


def _check_patterns(config: Config, groups: list[str]) -> None:
    unmatched = unmatched_patterns(config.stages, groups)
    if unmatched:
        raise InputError(
            f"stages: {', '.join(unmatched)} match no parameter group; the model has {', '.join(groups)}"
        )
