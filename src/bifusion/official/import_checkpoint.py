"""Checkpoints of other projects, and ours, into a run folder of ours.

Understood are the published OneFormer3D (ScanNet, ScanNet200) and Mask3D networks as .pth, .pt or
.ckpt (zip or legacy), or their tensors as .safetensors, and our own checkpoints. Files are read by
`torch_files`, which runs nothing that stands in them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bifusion.config.run import Config, load_config
from bifusion.errors import InputError
from bifusion.models.build import build_bare, build_model
from bifusion.models.towers.weight_files import IN_PARTS, in_parts
from bifusion.official.hub import is_shared, pulled
from bifusion.official.models import Conversion, convert, official_models
from bifusion.official.recognition import recognise
from bifusion.recipes import get_recipe
from bifusion.runs.check_config import check_config
from bifusion.runs.checkpoint import (
    CONFIG,
    WEIGHTS,
    find_checkpoint,
    load_checked_weights,
    save_checkpoint,
    trained_epochs,
)
from bifusion.runs.describe import describe_run
from bifusion.runs.run_folder import RunFolder
from bifusion.storage.folders import folder_written_beside
from bifusion.storage.json_files import write_json
from bifusion.torch_files.files import is_safetensors, open_torch_file
from bifusion.torch_files.state_dicts import (
    StateDict,
    find_state_dict,
    found_instead,
    is_averaged,
    unwrapped,
)
from bifusion.untrusted.files import check_regular

_SHOWN = 6
_SHOWN_PROBLEMS = 1000


@dataclass
class Imported:
    """A checkpoint read and converted, complete or not."""

    source: Path
    kind: str
    """Published model's name, or "bifusion" for a checkpoint of ours."""
    config: Config
    conversion: Conversion
    notes: list[str] = dataclasses.field(default_factory=list)
    """Which of several sets of weights were taken."""
    trained_epochs: float | None = None
    """After which a checkpoint of ours was saved; None: a published one, trained to its end."""


def read_checkpoint(path: Path, weights: str | None = None) -> Imported:
    """The checkpoint in `path`: a file, a run or checkpoint folder of ours, or hf://user/name.

    Args:
        path: names in it may carry what wrappers and Lightning put before them.
        weights: which of the state dicts in a file, by the keys that lead to it ("ema_state_dict");
            None: the weights as trained, averages where there is nothing else.

    Raises InputError if it cannot be read, is damaged, holds no network that is known here, or one of
    weights that are not finite; for `weights` where there is only one set of them.
    """
    path = Path(path)
    if is_shared(path):
        path = pulled(path)
    if path.is_dir() or (path.name == WEIGHTS and (path.parent / CONFIG).is_file()):
        _refuse_choice(path, weights)
        return _read_own(path)
    _refuse_file_of_run(path)
    with _open_tensors(path, weights) as (tensors, notes):
        tensors = tensors.renamed({short: name for name, short in unwrapped(tensors).items()})
        found = recognise(list(tensors), path)
        conversion = convert(found.kind, tensors.renamed(found.places))
    _require_finite(path, conversion)
    config, official = get_recipe(found.kind), official_models()[found.kind]
    data = dataclasses.replace(config.data, label_set=official.labels.name, labels=official.labels)
    config = dataclasses.replace(config, model=official.config, data=data)
    return Imported(path, found.kind, config, conversion, [*notes, *found.notes])


def _refuse_file_of_run(path: Path) -> None:
    """InputError for what lies beside the weights in a folder of ours, given in the folder's place."""
    within = (path.parent / "checkpoints").is_dir() or (path.parent / WEIGHTS).is_file()
    if path.suffix in (".json", ".jsonl") and within and path.is_file():
        raise InputError(
            f"{path}: is a file of a run, without weights; expected the run's folder, {path.parent}, or "
            "a checkpoint file of another project"
        )


def write_imported(imported: Imported, out: Path, *, partial: bool = False) -> Path:
    """Writes the run folder `out` with one checkpoint, for predict, evaluate and `train --init`.

    With `partial`, what the file lacks or has in another shape keeps its initial value. import.json
    beside it lists every tensor. The folder appears complete or not at all. Returns `out`.

    Raises:
        InputError: `out` holds something already; the file is incomplete and `partial` is False.
        DiskFullError: no room.
    """
    conversion = imported.conversion
    if not conversion.complete and not partial:
        raise InputError(
            f"{imported.source}: not all of {imported.kind}:\n  "
            + "\n  ".join(conversion.problems())
            + "\n--partial takes what fits and leaves the rest at its initial value"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something already: choose a folder that is new or empty")
    with folder_written_beside(out.resolve(), lambda folder: ()) as beside:
        fill_run_folder(imported, beside)
    return out


def fill_run_folder(imported: Imported, out: Path) -> None:
    """Writes the files of a run with one checkpoint into a folder that is there."""
    conversion, config, folder = imported.conversion, imported.config, RunFolder(out)
    model = build_model(config.model, config.seed, config.labels, load_pretrained=False)
    model.load_state_dict({**model.state_dict(), **conversion.state})
    save_checkpoint(
        folder.checkpoints, model, config, None, step=0, links=["last"], epochs=imported.trained_epochs
    )
    write_json(folder.config, describe_run(config, model.parameter_groups(), model, [], []))
    record = {f.name: getattr(conversion, f.name) for f in dataclasses.fields(conversion)}
    record["state"] = sorted(conversion.state)
    write_json(out / "import.json", {"source": imported.source, "kind": imported.kind, **record})


def print_conversion(imported: Imported, console: Console) -> None:
    """Prints what became of the tensors, kind by kind; of those that are no problem the first few."""
    conversion = imported.conversion
    title = f"{escape(imported.source.name)}: {imported.kind}"
    table = Table("tensors", "number", "which", title=title)
    table.columns[1].justify = "right"
    rows: list[tuple[str, Iterable[str], bool]] = [
        ("matched", conversion.matched, False),
        ("converted", conversion.converted, False),
        ("missing", conversion.missing, True),
        ("wrong shape", [f"{n} {s}" for n, s in conversion.misshapen.items()], True),
        ("unexpected", conversion.unexpected, True),
    ]
    for what, names, is_problem in rows:
        listed = list(names)
        limit = _SHOWN_PROBLEMS if is_problem else _SHOWN
        more = [f"… and {len(listed) - limit} more"] if len(listed) > limit else []
        color = "red" if is_problem and listed else "green" if listed else "dim"
        which = escape("\n".join(listed[:limit] + more))
        table.add_row(f"[{color}]{what}[/{color}]", str(len(listed)), which)
    console.print(table)
    for note in imported.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def _require_finite(path: Path, conversion: Conversion) -> None:
    """InputError for weights that would make every prediction nothing, without a word."""
    broken = [name for name, tensor in conversion.state.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(
            f"{path}: {len(broken)} of {len(conversion.state)} tensors hold numbers that are not finite "
            f"(first: {broken[0]}): the training that wrote it had failed; take an earlier checkpoint"
        )


def _refuse_choice(path: Path, weights: str | None) -> None:
    """InputError where one of several sets of weights is asked for and there is but one."""
    if weights is not None:
        raise InputError(
            f"{path}: has one set of weights, found --weights {weights!r}, which chooses among those of "
            "a .pth, .pt or .ckpt file: leave --weights out"
        )


# ------------------------------------------------------------------------------------------ sources


def _read_own(path: Path) -> Imported:
    """A checkpoint of ours; every tensor is compared with its configuration's network."""
    folder = find_checkpoint(path)
    config = load_config(folder / CONFIG)
    check_config(config)
    wanted = build_bare(config.model, config.seed, config.labels).state_dict()
    result, stored = Conversion(state={}), load_checked_weights(folder)
    for name in wanted:
        if name not in stored:
            result.missing[name] = name
        elif (tensor := stored[name]).shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}"
            result.misshapen[name] = f"has shape {shapes}"
        else:
            result.state[name] = tensor
            result.matched[name] = name
    result.unexpected = sorted(set(stored) - set(wanted))
    _require_finite(path, result)
    return Imported(path, "bifusion", config, result, trained_epochs=trained_epochs(folder, config))


class _LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, read from their file when asked for."""

    def __init__(self, places: dict[str, Any], read: Callable[[Any], Tensor]) -> None:
        self._places, self._read = places, read

    def renamed(self, names: Mapping[str, str]) -> _LazyTensors:
        """Those of the tensors that `names`, new → present name, has."""
        return _LazyTensors({new: self._places[old] for new, old in names.items()}, self._read)

    def __getitem__(self, name: str) -> Tensor:
        return self._read(self._places[name])

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@contextmanager
def _open_tensors(path: Path, weights: str | None = None) -> Iterator[tuple[_LazyTensors, list[str]]]:
    """The tensors of a file, by the names in it, and which of several sets were taken.

    InputError if it has none, or none at `weights`, or is a part of several.
    """
    if in_parts(path):
        raise InputError(f"{path} {IN_PARTS}")
    check_regular(path, missing="there is no such file; give a checkpoint", advice="give a checkpoint")
    with ExitStack() as resources:
        if is_safetensors(path):
            _refuse_choice(path, weights)
            try:
                tensors = resources.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError, MemoryError) as error:
                raise InputError(
                    f"{path} is no readable safetensors file: {error}; copy it again"
                ) from error
            yield _LazyTensors({name: name for name in tensors.keys()}, tensors.get_tensor), []  # noqa: SIM118
            return
        file = resources.enter_context(open_torch_file(path))
        found = find_state_dict(file.content, weights)
        if found is None and (there := find_state_dict(file.content)):
            places = ", ".join(repr(place) for place in (there.place, *there.others))
            raise InputError(f"{path}: has no weights at {weights!r}; it has some at {places}")
        if found is None:
            raise InputError(
                f"{path}: holds no tensors by name, but {found_instead(file.content)}; expected a state "
                "dict, or a checkpoint with one: torch.save(model.state_dict(), FILE), not of the model "
                "itself"
            )
        yield _LazyTensors(found.tensors, file.tensor), taken_notes(found)


def taken_notes(found: StateDict) -> list[str]:
    """A line on which weights were taken where that is not plain."""
    if not found.others and not is_averaged(found.place):
        return []
    kind = "averaged weights" if is_averaged(found.place) else "weights"
    others = ", ".join(repr(place) for place in found.others)
    command = "`bifusion import-checkpoint FILE RUN --weights NAME`"
    more = f"; it also has {others}, which {command} takes instead" if others else ""
    return [f"{kind} taken from {found.place or 'the top'!r} of the file{more}"]
