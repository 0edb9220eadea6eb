"""Checkpoints: weights as safetensors, training state as plain tensors and numbers, written durably.

`checkpoints/` holds one folder a saved step: `model.safetensors`, `training.pt`, `config.json`, and
`sums.json` with the checksums of the others. Where a rollback would go back to another state than the
checkpoint's own, that is `healthy.pt`, a file that checkpoints share. `last`, `previous` and `best` are
links to the folders, switched in one step each after everything is on disk and has been read back.
Nothing is unpickled when loading.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from bifusion.config import old_names
from bifusion.config.run import Config, save_config
from bifusion.errors import InputError, listing
from bifusion.storage.cache import cache_folder
from bifusion.storage.checksums import (
    NEEDS_OTHER_DISK,
    WrittenFile,
    check_sum,
    forget_cached,
    is_sum,
    write_summed,
)
from bifusion.storage.files import flush, hard_link
from bifusion.storage.folders import check_links, folder_written_beside, remove_folder, switch_link
from bifusion.storage.json_files import write_json
from bifusion.torch_files.files import open_torch_file
from bifusion.untrusted.files import check_regular
from bifusion.untrusted.json_text import read_json

WEIGHTS = "model.safetensors"
TRAINING_STATE = "training.pt"
HEALTHY = "healthy.pt"
CONFIG = "config.json"
SUMS = "sums.json"
SUMMED = (WEIGHTS, TRAINING_STATE, HEALTHY)
FILES = (TRAINING_STATE, HEALTHY, CONFIG, SUMS, WEIGHTS)
TIME = "epochs"
"""Key, in the header of the weights, of the epochs after which they were saved."""
NAMED = 5
"""Of what is wrong, in a message."""
LAST, PREVIOUS = "last", "previous"
TRAIN_AGAIN = (
    "copy it again, use another checkpoint of the run, or resume the run (--resume, resume=True)"
)
MADE_AGAIN = "delete {folder}: the next call makes it again"
"""What to do where a run in the cache is damaged."""


def save_checkpoint(
    checkpoints: Path,
    model: nn.Module,
    config: Config,
    training_state: dict[str, Any] | None,
    *,
    step: int,
    links: Iterable[str],
    from_disk: bool = True,
    linked: Mapping[str, Callable[[], WrittenFile]] = MappingProxyType({}),
    epochs: float | None = None,
) -> Path:
    """Writes a checkpoint folder and points `links` ("last", "best") at it.

    It is written beside, flushed, read back from the disk and renamed, so that a link never points
    at half a checkpoint. What "last" pointed at becomes "previous"; folders that no link points at
    any more are removed, after all that. `training_state` holds tensors, numbers, strings, lists and
    dicts only; None where there is nothing to resume. `from_disk` False reads back what the system
    still holds in memory: half the time, where a signal leaves only seconds. `linked`: further files of
    the folder, asked for last, which are on disk already and stay as they are. `epochs`, where there is
    no training state, which knows: those after which the weights were what they are; None: those of the
    configuration. Returns the folder.

    Raises:
        DiskFullError: no room. InputError: what is read back is not what was written, or links are
            refused there. Links and the folders they point at are then as before, and nothing
            half-written is left.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    check_links(checkpoints)
    weights = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    needed = sum(tensor.nbytes for tensor in _tensors([weights, training_state]))
    folder = _free_name(checkpoints, step)
    with folder_written_beside(folder, checkpoint_files, needed=needed) as beside:
        time = epochs if training_state is None else training_state["time"]
        header = None if time is None else {TIME: repr(float(time))}
        content = safetensors.torch.save(weights, header)
        sums = {WEIGHTS: write_summed(beside / WEIGHTS, lambda file: file.write(content))}
        if training_state is not None:
            sums[TRAINING_STATE] = write_summed(
                beside / TRAINING_STATE, lambda file: torch.save(training_state, file)
            )
        for name in sums:
            flush(beside / name)
            if from_disk:
                forget_cached(beside / name)
            check_sum(beside / name, sums[name], advice=NEEDS_OTHER_DISK)
        for name, written in linked.items():
            file = written()
            hard_link(file.path, beside / name)
            if not os.path.samefile(file.path, beside / name):
                check_sum(beside / name, file.sum, advice=NEEDS_OTHER_DISK)
            sums[name] = file.sum
        write_json(beside / SUMS, sums)
        save_config(config, beside / CONFIG)
    _point(checkpoints, links, folder)
    remove_unlinked(checkpoints)
    return folder


def check_intact(checkpoint: Path, *, but: Collection[str] = ()) -> None:
    """InputError unless all files, `but` some, are to the bit what was saved.

    Without checksums (an imported checkpoint) nothing but their reading can show damage.
    """
    sums = _sums(checkpoint)
    if sums is None:
        _read_weights(checkpoint / WEIGHTS)
        load_training_state(checkpoint)
        return
    for name in sums.keys() - set(but):
        check_sum(checkpoint / name, sums[name], advice=_advice(checkpoint))


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder meant by a run folder (its last one), a checkpoint folder or its weights."""
    path = Path(path)
    folders = [path.parent] if path.name == WEIGHTS else [path, path / "checkpoints" / "last"]
    for folder in folders:
        if (folder / WEIGHTS).is_file():
            return folder
    runs = sorted(weights.parents[2].name for weights in path.glob(f"[!.]*/checkpoints/last/{WEIGHTS}"))
    there = f"; it holds the runs {listing(runs, 4)}: give one of them" if runs else ""
    raise InputError(
        f"{path}: no checkpoint here; expected a run folder with checkpoints/last, "
        f"or a checkpoint folder with {WEIGHTS} and {CONFIG}{there}"
    )


def load_checked_weights(checkpoint: Path) -> dict[str, Tensor]:
    """A checkpoint folder's weights, mapped, under today's names; InputError for a damaged file."""
    path = checkpoint / WEIGHTS
    _check_sum(path)
    return _read_weights(path)


def load_training_state(checkpoint: Path) -> dict[str, Any]:
    """The training state saved with a checkpoint, on the CPU; InputError if it cannot be read."""
    path = checkpoint / TRAINING_STATE
    if not path.is_file():
        raise InputError(f"{path}: no such file; this checkpoint can be evaluated but not resumed")
    state = _read_tensors(path)
    if not isinstance(state, dict) or "time" not in state:
        raise InputError(f"{path}: holds no training state of ours; {TRAIN_AGAIN}")
    return old_names.TRAINING_STATE.updated(state)


def load_healthy_state(checkpoint: Path) -> dict[str, Any]:
    """The healthy state saved with a checkpoint, on the CPU; InputError if it cannot be read."""
    state = _read_tensors(checkpoint / HEALTHY)
    return {**state, "model": old_names.update_tensor_names(state["model"])}


def trained_epochs(checkpoint: Path, config: Config) -> float:
    """Epochs (fractional) after which a checkpoint was saved.

    A checkpoint folder that does not say, imported from another project, counts as one of the end of its
    run. InputError for a number that is none of this run.
    """
    time, state = _time_with_weights(checkpoint / WEIGHTS), checkpoint / TRAINING_STATE
    if not state.is_file():
        time = config.trainer.epochs if time is None else time
    elif time is None:  # of a former version
        time = load_training_state(checkpoint)["time"]
    else:
        _check_sum(state)  # not needed here, but damage is better told before it spreads
    if not 0 <= time <= config.trainer.epochs:
        raise InputError(
            f"{checkpoint / WEIGHTS}: says that it was saved after {time} epochs; expected 0 to "
            f"{config.trainer.epochs}, the length of its run; {_advice(checkpoint)}"
        )
    return time


def checkpoint_files(folder: Path) -> list[str]:
    """The files in a checkpoint folder that `save_checkpoint` writes; none where it holds none."""
    return list(FILES) if any((folder / name).exists() for name in FILES) else []


def remove_unlinked(checkpoints: Path, *, spared: Iterable[Path] = ()) -> None:
    """Removes the checkpoints that no link points at, but for those `spared`.

    A folder in which a user keeps something of their own stays, with that alone.
    """
    linked = {path.resolve() for path in checkpoints.iterdir() if path.is_symlink()}
    linked |= {path.resolve() for path in spared}
    for path in checkpoints.glob("step-*"):
        if path.resolve() not in linked:
            remove_folder(path, checkpoint_files)


def _advice(checkpoint: Path) -> str:
    """What to do about a damaged checkpoint folder."""
    if not checkpoint.is_relative_to(cache_folder()):
        return TRAIN_AGAIN
    return MADE_AGAIN.format(folder=checkpoint.parents[1])  # RUN/checkpoints/last


def _time_with_weights(path: Path) -> float | None:
    """What the header of the weights says; the training state, which is twice as large, has it too."""
    advice = _advice(path.parent)
    check_regular(path, advice=advice)
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get(TIME)
        return None if said is None else float(said)
    except (SafetensorError, OSError, MemoryError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {advice}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    advice = _advice(path.parent)
    check_regular(path, advice=advice)
    try:
        return old_names.update_tensor_names(load_file(path))
    except (SafetensorError, OSError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {advice}") from error


def _read_tensors(path: Path) -> Any:
    """Nested tensors and numbers of a .pt file, nothing in which is executed."""
    _check_sum(path)
    try:
        with open_torch_file(path) as file:
            return file.loaded()
    except InputError as error:
        raise InputError(f"{error}; {TRAIN_AGAIN}") from error


def _check_sum(path: Path) -> None:
    """InputError where the checkpoint has a checksum of this file, and the file another."""
    expected = (_sums(path.parent) or {}).get(path.name)
    if expected is not None:
        check_sum(path, expected, advice=_advice(path.parent))


def _sums(checkpoint: Path) -> dict[str, dict[str, Any]] | None:
    """{file name: {"bytes", "sha256"}}; None for a checkpoint that was saved without."""
    path = checkpoint / SUMS
    if not path.is_file():
        return None
    advice = _advice(checkpoint)
    sums = read_json(path, advice=advice)
    if not isinstance(sums, dict) or not all(map(is_sum, sums.values())):
        raise InputError(f"{path}: holds no checksums, though they were saved; {advice}")
    if unknown := sorted(set(sums) - set(FILES)):
        raise InputError(f"{path}: names {listing(unknown, NAMED)}, no file of a checkpoint; {advice}")
    unsummed = [name for name in SUMMED if name not in sums and (checkpoint / name).exists()]
    if unsummed or WEIGHTS not in sums:
        lacking = ", ".join(unsummed or [WEIGHTS])
        raise InputError(f"{path}: has no checksum of {lacking}, which nothing vouches for; {advice}")
    return sums


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _free_name(checkpoints: Path, step: int) -> Path:
    """A folder name for the step that is not taken: a step may be saved again after a resume."""
    folder, again = checkpoints / f"step-{step:08d}", 1
    while folder.exists():
        again += 1
        folder = checkpoints / f"step-{step:08d}-{again}"
    return folder


def _point(checkpoints: Path, links: Iterable[str], folder: Path) -> None:
    """Switches the links, the newest last: until then a resume finds what it found before."""
    names = sorted(links, key=lambda name: name == LAST)
    last = checkpoints / LAST
    if LAST in names and last.is_symlink() and last.is_dir():
        switch_link(checkpoints / PREVIOUS, last.resolve().name, checkpoint_files)
    for name in names:
        switch_link(checkpoints / name, folder.name, checkpoint_files)
    flush(checkpoints)
