"""Checkpoints of other projects, and ours, into a run folder of ours.

Understood are the published OneFormer3D (ScanNet, ScanNet200) and Mask3D networks as .pth, .pt or
.ckpt (zip or legacy), or their tensors as .safetensors, and our own checkpoints. Files are read by
`torch_files`, which runs nothing that stands in them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bifusion.config.old_names import update_tensor_names
from bifusion.config.run import Config, load_config
from bifusion.models.build import build_model
from bifusion.official.models import Conversion, convert, official_models
from bifusion.recipes import get_recipe
from bifusion.runs.checkpoint import CONFIG, WEIGHTS, find_checkpoint, save_checkpoint
from bifusion.runs.describe import describe_run
from bifusion.runs.run_folder import RunFolder
from bifusion.storage.json_files import write_json
from bifusion.torch_files.files import open_torch_file
from bifusion.torch_files.state_dicts import find_tensors
from bifusion.types import InputError

LIGHTNING_PREFIX = "model."
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


def read_checkpoint(path: Path) -> Imported:
    """The checkpoint in `path`: a file, or a run or checkpoint folder of ours.

    Raises InputError if it cannot be read or holds no network that is known here.
    """
    path = Path(path)
    if path.is_dir() or (path.name == WEIGHTS and (path.parent / CONFIG).is_file()):
        return _read_own(path)
    with _open_tensors(path) as tensors:
        kind, prefix = recognise(list(tensors), path)
        conversion = convert(kind, tensors.renamed(prefix, official_models()[kind].ignored))
    config, official = get_recipe(kind), official_models()[kind]
    data = dataclasses.replace(config.data, label_set=official.labels.name, labels=official.labels)
    config = dataclasses.replace(config, model=official.config, data=data)
    return Imported(path, kind, config, conversion)


def recognise(names: Sequence[str], path: Path) -> tuple[str, str]:
    """Which published model has most of these names, and what they lack in front.

    Mask3D's are also found without the "model." that Lightning puts before them. Raises InputError if
    no name is known.
    """
    best, found = 0, None
    for kind, model in official_models().items():
        with torch.device("meta"):
            wanted = {model.official_name(ours)[0] for ours in model.build().state_dict()}
        for prefix in ("", LIGHTNING_PREFIX):
            hits = sum(prefix + name in wanted for name in names)
            if hits > best:
                best, found = hits, (kind, prefix)
    if found is None:
        raise InputError(
            f"{path}: holds no network known here; its {len(names)} tensors begin with "
            f"{', '.join(names[:3]) or 'none'}; known are {', '.join(official_models())} and "
            "checkpoints of bifusion"
        )
    return found


def write_imported(imported: Imported, out: Path, *, partial: bool = False) -> Path:
    """Writes the run folder `out` with one checkpoint, for predict, evaluate and `train --init`.

    With `partial`, what the file lacks or has in another shape keeps its initial value. import.json
    beside it lists every tensor. Returns `out`.

    Raises:
        InputError: `out` holds something already; the file is incomplete and `partial` is False.
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
    config = imported.config
    model = build_model(config.model, config.seed, config.labels, load_pretrained=False)
    model.load_state_dict({**model.state_dict(), **conversion.state})
    folder = RunFolder(out)
    folder.root.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder.checkpoints, model, config, None, step=0, links=["last"])
    write_json(folder.config, describe_run(config, model.parameter_groups(), model, [], []))
    record = {f.name: getattr(conversion, f.name) for f in dataclasses.fields(conversion)}
    record["state"] = sorted(conversion.state)
    write_json(out / "import.json", {"source": imported.source, "kind": imported.kind, **record})
    return out


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


# ------------------------------------------------------------------------------------------ sources


def _read_own(path: Path) -> Imported:
    """A checkpoint of ours; every tensor is compared with its configuration's network."""
    folder = find_checkpoint(path)
    config = load_config(folder / CONFIG)
    with torch.device("meta"):
        model = build_model(config.model, config.seed, config.labels, load_pretrained=False)
    wanted = model.state_dict()
    result = Conversion(state={})
    with _open_tensors(folder / WEIGHTS) as stored:
        names = update_tensor_names({name: name for name in stored})
        for name in wanted:
            if name not in names:
                result.missing[name] = name
            elif (tensor := stored[names[name]]).shape != wanted[name].shape:
                shapes = f"{tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}"
                result.misshapen[name] = f"has shape {shapes}"
            else:
                result.state[name] = tensor
                result.matched[name] = name
        result.unexpected = sorted(set(names) - set(wanted))
    return Imported(path, "bifusion", config, result)


class _LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, read from their file when asked for."""

    def __init__(self, places: dict[str, Any], read: Callable[[Any], Tensor]) -> None:
        self._places, self._read = places, read

    def renamed(self, prefix: str, kept: Sequence[str]) -> _LazyTensors:
        """The same tensors with `prefix` before their names, save those that are `kept`."""
        places = {n if n in kept else prefix + n: at for n, at in self._places.items()}
        return _LazyTensors(places, self._read)

    def __getitem__(self, name: str) -> Tensor:
        return self._read(self._places[name])

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@contextmanager
def _open_tensors(path: Path) -> Iterator[_LazyTensors]:
    """The tensors of a file, by the names in it; InputError if it has none."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give a checkpoint")
    with ExitStack() as resources:
        if path.suffix == ".safetensors":
            try:
                tensors = resources.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise InputError(
                    f"{path} is no readable safetensors file: {error}; copy it again"
                ) from error
            yield _LazyTensors({name: name for name in tensors.keys()}, tensors.get_tensor)  # noqa: SIM118
            return
        file = resources.enter_context(open_torch_file(path))
        stored = find_tensors(file.content)
        if not stored:
            raise InputError(f"{path}: holds no tensors by name; expected a state dict, or a checkpoint")
        yield _LazyTensors(stored, file.tensor)
