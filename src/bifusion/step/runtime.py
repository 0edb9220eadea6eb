"""The process a run trains in: devices and determinism."""

from __future__ import annotations

import dataclasses
import datetime
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from lightning_fabric import Fabric, wrappers
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from bifusion import cuda
from bifusion.config.run import TrainerConfig
from bifusion.errors import InputError
from bifusion.sparse.backends import backend_for


class OneAverageAStep(DDPStrategy):
    """Processes with a copy of the model each, which average gradients by `gradients.py`.

    DDP's own wrapper expects every output of the model in the loss and much the same parameters in
    every step. Stages change both, and a scene that no view sees does on one process alone.
    """

    def setup_module(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, module: nn.Module
    ) -> nn.Module:
        return module


class AutocastAlone(MixedPrecision):
    """Mixed precision that leaves a model's inputs as they are.

    Fabric's own rounds every number of a batch to 16 bits first: positions in metres and cameras would
    be off by centimetres, and a voxel would find another pixel.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def on_any_process(fabric: Fabric, flag: bool) -> bool:
    """True on every process if it is on one: all must leave a step, or the run, together."""
    if fabric.world_size == 1:
        return flag
    flags = torch.tensor(float(flag), device=fabric.device)
    torch.distributed.all_reduce(flags)  # Fabric's own waits at a barrier first
    return bool(flags > 0)


def as_launched(trainer: TrainerConfig) -> TrainerConfig:
    """`trainer` with the devices and nodes that torchrun has started processes for, where it gives none.

    InputError where it gives others.
    """
    if not TorchElasticEnvironment.detect():
        return trainer
    world, local = (int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    started, given = (local, world // local), (trainer.devices, trainer.nodes)
    if given == (1, 1):
        return dataclasses.replace(trainer, devices=started[0], nodes=started[1])
    if given != started:
        raise InputError(
            f"trainer.devices is {given[0]} and trainer.nodes {given[1]}, but torchrun started {local} "
            f"processes on each of {started[1]} nodes; leave both out, or give torchrun "
            f"--nproc-per-node {given[0]} --nnodes {given[1]}"
        )
    return trainer


def check_thread_limit() -> None:
    """InputError where OMP_THREAD_LIMIT lets OpenMP start fewer threads than PyTorch shares work out to.

    oneDNN's convolutions then leave out a part of a gradient, or add what lay in memory, in silence:
    torch 2.14 on two cores gave 0.7 of a gradient's norm, or 10^17 (limit 1, two threads).
    """
    limit, threads = os.environ.get("OMP_THREAD_LIMIT", ""), torch.get_num_threads()
    if limit.isdigit() and 0 < int(limit) < threads:
        raise InputError(
            f"OMP_THREAD_LIMIT is {limit}, but PyTorch counts on {threads} threads: its convolutions "
            "would give wrong gradients; unset it, and limit threads by OMP_NUM_THREADS"
        )


def make_fabric(trainer: TrainerConfig) -> Fabric:
    """Devices, precision and, with several devices, a process each, launched; memory that a step frees
    stays for the next.

    Raises InputError for devices that are not there, for a GPU that torch cannot use, and for fewer
    OpenMP threads than PyTorch counts on.
    """
    check_thread_limit()
    if trainer.accelerator == "auto":
        cuda.check_usable("--trainer.accelerator cpu")
    # Longer than the watch (training/processes/watch.py), which says who hangs, and where.
    timeout = datetime.timedelta(minutes=trainer.hang_minutes + 2)
    strategy = OneAverageAStep(timeout=timeout) if trainer.processes > 1 else "auto"
    precision, plugin = trainer.precision, None
    if precision != "32-true":
        precision, plugin = None, AutocastAlone(precision, _device_type(trainer))
    try:
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.nodes,
            strategy=strategy,
            precision=precision,
            plugins=plugin,
        )
    except (ValueError, RuntimeError, ModuleNotFoundError) as error:
        raise InputError(
            f"trainer.accelerator is {trainer.accelerator!r} with {trainer.devices} devices, which this "
            f"machine does not have ({error}); leave --trainer.accelerator auto, or use fewer devices"
        ) from error
    fabric.launch()
    backend_for(fabric.device).keep_freed_memory()
    return fabric


def _device_type(trainer: TrainerConfig) -> str:
    """What `trainer.accelerator` will mean on this machine."""
    if trainer.accelerator == "cpu" or not torch.accelerator.is_available():
        return "cpu"
    accelerator = torch.accelerator.current_accelerator()  # where there is none, torch 2.6 raises
    return "cpu" if accelerator is None else accelerator.type


_TRAINING = threading.Lock()


@contextmanager
def alone_in_process() -> Iterator[None]:
    """InputError where another thread of this process is in such a block: runs would draw each other's
    random numbers and end each other's settings, and none would repeat."""
    if not _TRAINING.acquire(blocking=False):
        raise InputError(
            "train: another run trains in this process; runs share torch's random numbers and settings, "
            "so let them follow each other, or give each a process (bifusion.compare, jobs=2)"
        )
    try:
        yield
    finally:
        _TRAINING.release()


@contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Deterministic algorithms during the run; the process's own settings afterwards.

    On a CPU and on CUDA strictly: an operation without a deterministic form raises RuntimeError. With
    warnings alone CUDA's attention keeps its backward pass that differs from run to run.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    debugging: Any = torch.utils.deterministic
    filled = debugging.fill_uninitialized_memory
    torch.use_deterministic_algorithms(wanted, warn_only=device.type not in ("cpu", "cuda"))
    if device.type == "cuda":
        cuda.set_up(repeats=wanted)
    debugging.fill_uninitialized_memory = False  # an aid to find bugs, it costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        debugging.fill_uninitialized_memory = filled


@contextmanager
def gradients_by_hand() -> Iterator[None]:
    """Allows `torch.autograd.grad` on a wrapped model's output: under mixed precision Fabric refuses any
    gradient that `fabric.backward` did not ask for, but a measurement wants no scaler in it."""
    before = wrappers._in_fabric_backward
    wrappers._in_fabric_backward = True
    try:
        yield
    finally:
        wrappers._in_fabric_backward = before
