"""A training step in one file, to be taken again anywhere: a replay bundle.

A .safetensors file holds the batches as they were fed, weights, buffers and the optimiser's moments;
its metadata, one JSON text, all else. Nothing in it can be executed. The random numbers of a step
follow from the run's seed and the step's number, so the two stand for the generator's state.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bifusion.config import old_names
from bifusion.config.old_names import update_tensor_names
from bifusion.config.plain import from_plain
from bifusion.config.run import Config, config_from_dict, config_to_dict
from bifusion.config.stages import StageState
from bifusion.diagnosis.batch_tensors import batch_from_tensors, batch_to_tensors
from bifusion.diagnosis.rerun import run_again
from bifusion.errors import InputError, listing
from bifusion.models.build import build_bare
from bifusion.precision import matmul_precision
from bifusion.runs.check_config import check_config
from bifusion.runs.trained_model import check_same_tensors
from bifusion.sparse.backends import describe_backend
from bifusion.step.events import Alarm, Fault
from bifusion.step.outcome import StepInputs
from bifusion.step.step import Stepper
from bifusion.storage.files import write_tensors
from bifusion.storage.json_files import to_json
from bifusion.untrusted.files import check_regular
from bifusion.untrusted.json_text import parse_json

FORMAT = 1
ADAM = ("step", "exp_avg", "exp_avg_sq")
"""What the optimiser keeps of a parameter."""
KEY = "bifusion_replay"
"""Of the JSON text in the file's metadata."""
AGAIN = "copy the file again, or take another bundle"


@dataclass
class Circumstances:
    """What, besides the numbers that enter, decides the bits that come out."""

    device: str
    threads: int
    cpu: str
    """Machine and widest vector instructions in use."""
    sparse: str
    """What computes the sparse operations."""
    matmul_precision: str
    versions: dict[str, str]

    @classmethod
    def here(cls, device: torch.device) -> Circumstances:
        """Those of this process."""
        names = ("bifusion", "torch", "numpy", "scipy")
        return cls(
            device=device.type,
            threads=torch.get_num_threads(),
            cpu=f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
            sparse=describe_backend(device),
            matmul_precision=matmul_precision(device),
            versions={"python": platform.python_version(), **{name: version(name) for name in names}},
        )


@dataclass
class Bundle:
    """A step as read from a file, on the CPU."""

    path: Path
    config: Config
    inputs: StepInputs
    weights: dict[str, Tensor]
    """The model's `state_dict`."""
    optimizer: dict[str, dict[str, Tensor]]
    """Parameter -> its moments."""
    scaler: dict[str, Any]
    circumstances: Circumstances
    events: list[dict[str, Any]]
    """Records of the fault or alarms for which it was written."""
    fingerprint: str
    losses: dict[str, float | None]
    """Of the step when the bundle was written; None where not finite."""


def write_bundle(
    path: Path,
    stepper: Stepper,
    config: Config,
    inputs: StepInputs,
    state: StageState,
    events: Sequence[Fault | Alarm],
) -> None:
    """Writes the step as it would be taken now; to be called between steps, after one was dropped.

    The step runs once more, without effect, for the fingerprint that a replay must reproduce. The file
    appears whole or not at all. Raises DiskFullError where there is no room.
    """
    rerun = run_again(stepper, inputs, state)
    model, optimizer = stepper.model.module, stepper.optimizer.optimizer
    tensors = {f"weight.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        moments = optimizer.state.get(parameter) or {}
        tensors |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
    batches = []
    for index, batch in enumerate(inputs.batches):
        of_batch, plain = batch_to_tensors(batch, f"batch{index}")
        tensors |= of_batch
        batches.append(plain)
    content = {
        "format": FORMAT,
        "config": config_to_dict(config),
        "step": inputs.step,
        "time": inputs.time,
        "seed": inputs.seed,
        "rates": inputs.rates,
        "batches": batches,
        "scaler": stepper.fabric.strategy.precision.state_dict(),
        "circumstances": Circumstances.here(stepper.fabric.device),
        "events": [event.record() for event in events],
        "fingerprint": rerun.fingerprint,
        "losses": rerun.outcome.losses,
    }
    text = json.dumps(to_json(content), allow_nan=False)
    # a copy each: safetensors takes no tensors that share memory, as parts of a batch may
    plain_tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_tensors(path, plain_tensors, {KEY: text})


def read_bundle(path: Path) -> Bundle:
    """Reads what `write_bundle` wrote.

    Raises InputError for a file that is missing, damaged, or no bundle of this format, and for one
    whose parts do not fit each other. A network is only built once its tensors are known to be there.
    """
    metadata, tensors = _read_file(path)
    content = _content(path, metadata)
    config = config_from_dict(content["config"], f"{path}: config")
    check_config(config)
    weights = update_tensor_names(_under(tensors, "weight."))
    wanted = build_bare(config.model, config.seed, config.labels)
    check_same_tensors(wanted.state_dict(), weights, path)
    shapes = {name: parameter.shape for name, parameter in wanted.named_parameters()}
    where = str(path)
    plain_batches = _field(content, "batches", list[Any], where)
    batches = [
        batch_from_tensors(tensors, plain, f"batch{index}", config.labels, where)
        for index, plain in enumerate(plain_batches)
    ]
    inputs = StepInputs(
        step=_field(content, "step", int, where),
        time=_field(content, "time", float, where),
        seed=_field(content, "seed", int, where),
        batches=batches,
        rates=_field(content, "rates", dict[str, float], where),
    )
    if not batches or not 0 <= inputs.time < config.trainer.epochs:
        raise InputError(
            f"{path}: {len(batches)} batches at epoch {inputs.time} of {config.trainer.epochs}; {AGAIN}"
        )
    return Bundle(
        path=path,
        config=config,
        inputs=inputs,
        weights=weights,
        optimizer=_moments(tensors, shapes, path),
        scaler=_field(content, "scaler", dict[str, Any], where),
        circumstances=_field(content, "circumstances", Circumstances, where),
        events=_field(content, "events", list[dict[str, Any]], where),
        fingerprint=_field(content, "fingerprint", str, where),
        losses=_field(content, "losses", dict[str, float | None], where),
    )


def _read_file(path: Path) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    """A bundle's metadata and tensors, whatever they say."""
    if path.is_dir():
        there = sorted(path.glob("bundles/*.safetensors")) or sorted(path.glob("step-*.safetensors"))
        names = [str(bundle.relative_to(path)) for bundle in there]
        raise InputError(
            f"{path}: is a folder; expected a bundle that a run wrote (RUN/bundles/step-N.safetensors); "
            + (f"it holds {listing(names, 3)}: give one" if names else "it holds none")
        )
    missing = "no such file; expected a bundle that a run wrote (RUN/bundles)"
    check_regular(path, missing=missing, advice=AGAIN)
    try:
        with safe_open(path, framework="pt") as file:
            # a copy each, in memory aligned as torch's own: products depend on it to the bit
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except (SafetensorError, OSError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read as a bundle of a run ({error}); {AGAIN}") from error


def _content(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if KEY not in metadata:
        raise InputError(
            f"{path}: holds no step of a run; expected a bundle (RUN/bundles/step-N.safetensors), not "
            "a checkpoint or another file of tensors"
        )
    content = parse_json(metadata[KEY], f"{path}: its description", advice=AGAIN)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"{path}: format {found!r}, but this version of bifusion reads format {FORMAT}; "
            "replay it with the version that wrote it"
        )
    if not isinstance(content.get("config"), dict):
        raise InputError(f"{path}: has no configuration; {AGAIN}")
    return old_names.BUNDLE.updated(content)


def _field(content: dict[str, Any], name: str, kind: Any, where: str) -> Any:
    return from_plain(kind, content.get(name), f"{where}: {name}")


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _moments(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], path: Path
) -> dict[str, dict[str, Tensor]]:
    """Adam's state by parameter: moments of its shape, and the count of its steps."""
    moments: dict[str, dict[str, Tensor]] = {}
    for full, tensor in update_tensor_names(_under(tensors, "optimizer.")).items():
        name, _, key = full.rpartition(".")
        shape = torch.Size([]) if key == "step" else shapes.get(name)
        if name not in shapes or key not in ADAM or tensor.shape != shape:
            raise InputError(f"{path}: moments {full} {tuple(tensor.shape)} fit no parameter; {AGAIN}")
        moments.setdefault(name, {})[key] = tensor
    incomplete = next((name for name, found in moments.items() if set(found) != set(ADAM)), None)
    if incomplete is not None:
        raise InputError(f"{path}: moments of {incomplete} are not all there; {AGAIN}")
    return moments
