"""Trains one run: epochs of optimiser steps, validation, checkpoints.

What trains when comes from the stages (`stages.py`), a single step is `step/step.py`, what follows one
`diagnosis/response.py`, what stays of it `saving.py` and `recorder.py`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

from lightning_fabric import Fabric

from bifusion.config.optim import freeze_outside_stage, group_rates, set_rates
from bifusion.config.run import Config
from bifusion.config.stages import StageState, Timeline
from bifusion.data.dataset import SceneDataset
from bifusion.device_memory import peak_memory_mb
from bifusion.diagnosis.response import Response
from bifusion.diagnosis.summary import stop_reason
from bifusion.errors import InputError
from bifusion.evaluation.fusion_figures import warn_if_unseen
from bifusion.models.build import build_model
from bifusion.precision import float32_products
from bifusion.runs.checkpoint import LAST
from bifusion.runs.describe import describe_run
from bifusion.runs.healthy_file import HealthyFile
from bifusion.runs.run_data import RunData, data_of, write_data
from bifusion.runs.run_folder import RunFolder, RunStatus
from bifusion.step.assembly import make_stepper
from bifusion.step.events import Fault
from bifusion.step.outcome import StepInputs, StepOutcome
from bifusion.step.runtime import on_any_process
from bifusion.storage.files import DiskFullError, locked
from bifusion.storage.json_files import to_json, write_json
from bifusion.training.batches import EpochBatches, processes_record
from bifusion.training.display import Display
from bifusion.training.loggers import open_logger
from bifusion.training.memory import measured, room_for_update
from bifusion.training.own_parts import check_own_parts
from bifusion.training.preconditions import (
    check_data,
    check_devices,
    check_stages,
    warn_of_data,
    warn_of_leaks,
    warn_of_warmup,
)
from bifusion.training.processes import group
from bifusion.training.processes.agreement import model_facts, require_agreement
from bifusion.training.processes.watch import Watch
from bifusion.training.recorder import Progress, Recorder
from bifusion.training.saving import Saving
from bifusion.training.signals import Interrupted, StopRequest
from bifusion.training.tower_cache import attach_view_cache
from bifusion.training.validation import count_share, validation_loader, validation_record
from bifusion.types import Batch

OnEpoch = Callable[[dict[str, Any]], None]
"""What gets the record of each epoch, as it stands in epochs.jsonl."""


class Trainer:
    """One run; use `train` (`train.py`)."""

    def __init__(self, config: Config, folder: RunFolder, fabric: Fabric, data: RunData | None = None):
        """`data`: what the folder will say of the data; None: as it is on the disk."""
        self.config, self.folder, self.fabric = config, folder, fabric
        self.data = data or data_of(config)
        self.progress = Progress()
        self.several = fabric.world_size > 1
        self.timeline = Timeline(config.stages, config.trainer.epochs)
        self.dataset = SceneDataset(config.data, "train", config.seed, training=True)
        check_data(self.dataset, config)
        self.batches = EpochBatches(self.dataset, config, fabric)
        self.val_loader = validation_loader(config, max_views=config.data.max_views)
        if fabric.is_global_zero:
            warn_of_data(self.dataset, self.val_loader.dataset)
            warn_of_leaks(self.data)
        check_devices(len(self.dataset), fabric.world_size)
        self.batches_per_epoch = len(self.batches.left(0, 0))
        """Of the run; all processes have a share of each."""
        self.steps_per_epoch = math.ceil(self.batches_per_epoch / config.trainer.accumulate)
        if fabric.is_global_zero:
            warn_of_warmup(config, self.steps_per_epoch * config.trainer.epochs)

        self.model = build_model(config.model, config.seed, config.labels)
        check_own_parts(self.model, config, fabric.device)
        attach_view_cache(self.model, config.trainer, folder.root, fabric.device)
        self.groups = self.model.parameter_groups()
        factor = config.trainer.rate_factor
        rates = group_rates(config.optim, list(self.groups))
        self.base_rates = {name: rate * factor for name, rate in rates.items()}
        self.take_step = make_stepper(config, fabric, self.model)
        check_stages(config, self.model, self.take_step.criterion)
        self.guard, self.optimizer = self.take_step.guard, self.take_step.optimizer.optimizer
        self.stop, healthy_file = StopRequest(), HealthyFile(folder.checkpoints)
        self.watch = Watch(60 * config.trainer.hang_minutes, before_leaving=self._note_end)
        self.response = Response(
            config,
            folder,
            self.take_step,
            self.batches.of_step,
            before_copy=healthy_file.let_go,
        )
        self.saving = Saving(config, folder, self.take_step, self.response, healthy_file)

    def run(self, on_epoch: OnEpoch | None = None) -> RunStatus:
        """Trains from the last checkpoint, or the start, to the end, a stop or an interruption."""
        self.on_epoch = on_epoch
        lock = locked(self.folder.root) if self.fabric.is_global_zero else nullcontext()
        with self.watch, lock:
            return self._run()

    def _run(self) -> RunStatus:
        self.progress = self.saving.take_up()
        here = partial(model_facts, self.model, asdict(self.progress))
        require_agreement(here, "state to go on from")
        name, first = self.config.name, self.fabric.is_global_zero
        description = self._describe()
        if first:
            self.folder.create()
            write_json(self.folder.config, description)
            write_data(self.folder.root, self.data)
        display = Display(name, self.config.trainer.epochs, self.steps_per_epoch, quiet=not first)
        logger = open_logger(self.config, self.folder.root) if first else None
        recorder = Recorder(self.folder, name, self.progress, display, active=first, logger=logger)
        with recorder as self.recorder, self.stop:
            tower = f"; {description['tower']}" if description["tower"] else ""
            size = f"{description['parameters']['total']:,} parameters"
            display.line(f"{name}: {size}, {self.config.labels.describe()}{tower}")
            for where, function in self.config.outside_code.items():
                display.line(f"{name}: {where} {function}, from outside")
            if self.config.has_untrained_tower:
                display.line(
                    f"{name}: its image tower is trained from random weights; --model.tower.pretrained "
                    "FILE (in Python tower_weights) starts from trained ones"
                )
            try:
                return self._run_epochs()
            finally:
                self.saving.close()

    def _run_epochs(self) -> RunStatus:
        self.recorder.status("running", self.guard.counts)
        try:
            return self._run_to_end()
        except InputError as error:  # a full disk, or a checkpoint that does not read back, among others
            if self.recorder.state == "running":
                with suppress(DiskFullError):  # there may be room for a few bytes, or there may not
                    self.recorder.status("interrupted", self.guard.counts, str(error), told=False)
            raise

    def _run_to_end(self) -> RunStatus:
        """Epochs up to the last, a stop by the guard, or a signal, after which the run is saved."""
        try:
            while self.progress.epoch < self.config.trainer.epochs:
                final = self._train_epoch()
                if final is not None:
                    return self._guard_stopped(final)
                self._end_epoch()
        except Interrupted:
            return self._leave(f"received {group.first_of(self.stop.own_signal)}")
        return self.recorder.status("completed", self.guard.counts)

    @contextmanager
    def _restartable(self) -> Iterator[None]:
        """For what changes nothing that lasts: a signal ends it at once, and after bad data or the death
        of a data worker the run is saved as it was before."""
        with self._saved_where_wrong(), self.stop.at_once(not self.several):
            yield

    @contextmanager
    def _saved_where_wrong(self) -> Iterator[None]:
        """Saves the run where bad input ends the block. Of several processes, which would have to do so
        together, the watch ends the others."""
        try:
            yield
        except InputError as error:
            if not self.several:
                self._leave(str(error), told=False)
            raise

    def _note_end(self, reason: str) -> None:
        """Leaves in the records why the run ends with another process."""
        status = self.folder.read_status() if self.fabric.is_global_zero else None
        if status is not None:
            ended = dataclasses.replace(status, state="interrupted", reason=reason)
            write_json(self.folder.status, ended)

    def _leave(self, reason: str, *, told: bool = True) -> RunStatus:
        """Saves, unless that has just been done, and ends the run for now; not `told`: the reason goes
        on as an exception."""
        if not self.saving.is_saved(self.progress):
            self._save([LAST], from_disk=False)
        return self.recorder.status("interrupted", self.guard.counts, reason, told=told)

    def _heed_signals(self) -> None:
        """Raises Interrupted, on all processes, if one of them has received a signal."""
        self.stop.heed(partial(on_any_process, self.fabric))

    def _train_epoch(self) -> Fault | None:
        """Takes the rest of the epoch's steps, up to a fault that ends the run; that is returned."""
        progress, trainer = self.progress, self.config.trainer
        self.model.train()
        batches = iter(self.batches.left(progress.epoch, progress.batch))
        while progress.batch < self.batches_per_epoch:
            started = time.perf_counter()
            place = (progress.epoch, progress.batch)
            self.watch.at(f"loading the batches of step {progress.step}")
            with self._restartable():
                of_step = list(islice(batches, trainer.accumulate))
            inputs, state = self._prepare(of_step)
            self.watch.at(f"step {progress.step}")
            outcome = self._step(inputs, state)
            self.response.after(outcome, inputs, state, place)
            self.saving.follow()
            seconds = time.perf_counter() - started
            memory = peak_memory_mb(self.fabric.device)
            self.recorder.step(outcome, state, inputs.rates, seconds, memory)
            progress.count_step(outcome, len(inputs.batches), seconds)
            if outcome.event is not None and outcome.event.action == "stop":
                return outcome.event
            self._heed_signals()
            within = progress.batch < self.batches_per_epoch  # else the epoch's end saves
            if within and trainer.save_every and progress.step % trainer.save_every == 0:
                self._save([LAST])
        return None

    def _step(self, inputs: StepInputs, state: StageState) -> StepOutcome:
        """One step, or none; for want of memory the run ends: saved as it was before, or, where the
        update has begun, as it was last saved."""
        with self._saved_where_wrong():
            at_once = self.stop.at_once(not self.several)
            outcome = measured(self.take_step, inputs, state, at_once, self.config)
        with room_for_update(self.config, inputs):
            self.take_step.act(outcome, inputs, state)
        return outcome

    def _prepare(self, batches: list[Batch]) -> tuple[StepInputs, StageState]:
        """Sets what trains and how fast in the next step, which reads `batches`."""
        progress, total_steps = self.progress, self.steps_per_epoch * self.config.trainer.epochs
        at = self._epochs_done()
        state = self.timeline.at(at)
        freeze_outside_stage(self.take_step.may_train, state)
        rates = set_rates(
            self.optimizer,
            self.config.optim,
            self.base_rates,
            state,
            progress.step,
            total_steps,
            ramp=self.guard.rate_factor(progress.step),
        )
        return StepInputs(progress.step, at, self.config.seed, batches, rates), state

    def _guard_stopped(self, fault: Fault) -> RunStatus:
        """Ends a run whose faults do not end."""
        self.progress.close_epoch(complete=False)
        record = self.recorder.epoch(self._stage_name(), val=None)
        self._save([LAST])
        self._tell(record)
        reason, summary = stop_reason(fault, self.guard), self.response.summary(fault)
        return self.recorder.status("guard_stopped", self.guard.counts, reason, summary)

    def _end_epoch(self) -> None:
        """Validates where due, records the epoch and saves."""
        progress = self.progress
        self.saving.rest()
        metrics = self._validate() if self._validation_due() else None
        progress.close_epoch(complete=True)
        val = None if metrics is None else validation_record(metrics)
        record = self.recorder.epoch(self._stage_name(), val)
        links = [LAST]
        if metrics is not None:
            if self.config.uses_views and metrics["seen_share"] is not None:
                warn_if_unseen(f"{self.config.name}: validation", metrics["seen_share"])
            metric = metrics["ap"] if metrics["miou"] is None else metrics["miou"]
            if metric > progress.best_metric:
                progress.best_metric = metric
                links.append("best")
        progress.next_epoch()
        self.response.keep_healthy(progress.step)
        if metrics is not None or progress.epoch % self.config.trainer.save_epochs == 0:
            self._save(links)
        self.recorder.status("running", self.guard.counts)
        self._tell(record)

    def _tell(self, record: dict[str, Any]) -> None:
        """Gives an epoch's record to `on_epoch`; where that raises the run is saved first."""
        if self.on_epoch is None:
            return
        heard = False
        try:
            self.on_epoch(to_json(record))
            heard = True
        finally:
            if not heard and not self.several:
                self._leave("on_epoch raised an error", told=False)

    def _validation_due(self) -> bool:
        done = self.progress.epoch + 1
        at_stage_end = any(done == end for _, end in self.timeline.bounds)
        return at_stage_end or done % self.config.trainer.eval_every == 0

    def _validate(self) -> dict[str, Any]:
        """Metrics with the fusion as it is at the epoch's end; every process counts its share of the
        scenes, and all have the figures."""
        control = self.timeline.at_end(self.progress.epoch + 1).control
        # Where s is 0 images change nothing, but how well 2D and 3D agree is measured all the same.
        control.run_2d = self.config.uses_views
        group.share_buffers(self.model)
        counted, wrong = None, None
        try:
            products = float32_products("ieee", self.fabric.device)
            with suppress(Interrupted), self.stop.at_once(), products:
                counted = count_share(
                    self.model,
                    self.val_loader,
                    self.config,
                    control,
                    device=self.fabric.device,
                    at=self.watch.at,
                )
        except InputError as error:
            wrong = error
        self.watch.at("adding up the validation")
        wrong = group.first_of(wrong)
        if wrong is not None:  # in any process: all of them save the run as it is
            self._leave(str(wrong), told=False)
            raise wrong
        self._heed_signals()
        assert counted is not None, "what is interrupted is heeded"
        return counted.outcome().metrics

    def _epochs_done(self) -> float:
        """With the share of the one that goes on."""
        return self.progress.epoch + self.progress.batch / self.batches_per_epoch

    def _stage_name(self) -> str:
        return self.timeline.stages[self.timeline.index_at(self.progress.epoch)].name

    def _save(self, links: list[str], *, from_disk: bool = True) -> None:
        progress = self.progress
        self.watch.at(f"saving after step {progress.step}")
        self.saving.save(progress, self._epochs_done(), links, from_disk=from_disk)

    def _describe(self) -> dict[str, Any]:
        scenes = list(self.dataset.names), list(self.val_loader.dataset.names)
        described = describe_run(self.config, self.groups, self.model, *scenes)
        return described | {"processes": processes_record(self.config.trainer, self.batches)}
