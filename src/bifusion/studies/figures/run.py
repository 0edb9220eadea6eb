"""Reading one run folder (its format: CONVENTIONS.md, "A run on disk").

A run that is still training reads as far as it got: files that are not there yet count as empty and
a last line that is still being written is left out. A file that is damaged is an `InputError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bifusion.config import old_names
from bifusion.errors import InputError
from bifusion.labels.files import label_set_from_json
from bifusion.labels.label_set import LabelSet
from bifusion.labels.sets import get_label_set
from bifusion.runs.run_data import RunData, read_data
from bifusion.runs.run_folder import StageSpan, is_of_before
from bifusion.studies.figures.shapes import CONFIG, EPOCH, EVALUATION, STATUS, STEP, check_shape
from bifusion.untrusted.files import check_inside, read_bytes
from bifusion.untrusted.json_text import parse_json

Record = dict[str, Any]
COPY_AGAIN = "the file is damaged, copy it again"
MOST_BYTES = 1 << 30
"""Of a run's records."""
State = Literal["completed", "guard_stopped", "interrupted", "running"]
STATES: tuple[State, ...] = ("completed", "guard_stopped", "interrupted", "running")

CONFIG_KEYS: Mapping[str, type] = {
    "name": str,
    "recipe": str,
    "arm": str,
    "model_kind": str,
    "seed": int,
    "label_set": str,
    "epochs": int,
    "parameters": dict,
    "train_scenes": list,
    "val_scenes": list,
    "stages": list,
    "class_names": list,
}
STEP_KEYS: Mapping[str, type] = {"step": int, "epoch": int, "losses": dict, "grad_norm": dict}
READ = ("config.json", "status.json", "steps.jsonl", "epochs.jsonl", "evaluation.json", "data.json")
EPOCH_KEYS: Mapping[str, type] = {"epoch": int, "train": dict}


@dataclass(frozen=True)
class Run:
    """One run as its folder tells it. Numbers that were non-finite are None in the records."""

    folder: Path
    name: str
    recipe: str
    arm: str
    """Role in a comparison: baseline, staged, without_views, naive, plan_a, plan_b, mask3d, or one of
    the controls, fine_voxels, 2d_only, gate_half, lifted_rgb, random_tower."""
    model_kind: str
    seed: int
    label_set: str
    epochs: int
    """Epochs planned."""
    parameters: dict[str, int]
    """Parameters per group, and "total"."""
    train_scenes: list[str]
    val_scenes: list[str]
    stages: list[StageSpan]
    class_names: list[str]
    views_used: bool
    fusion_type: str | None
    tower: str | None
    """Where the weights of the image tower come from."""
    config: Record
    """The whole of config.json."""
    state: State
    stop_reason: str | None
    accepted_changes: list[str]
    """What of its data and software changed while it trained, a line each, as data.json tells."""
    scene_sums: dict[str, dict[str, str]] = field(repr=False)
    """ "SPLIT/NAME" → file → SHA-256 of its bytes, for files of which data.json has one."""
    status: Record
    steps: list[Record] = field(repr=False)
    epoch_records: list[Record] = field(repr=False)
    evaluation: Record | None = field(repr=False)
    """The last checkpoint on the validation split; None until it was made, and again once the run goes
    on from it."""
    prediction_files: list[Path] = field(repr=False)

    @property
    def epochs_done(self) -> int:
        """Epochs that came to their end. The one in which its guard stopped a run has a record too."""
        recorded, told = len({r["epoch"] for r in self.epoch_records}), self.status.get("epochs_done")
        if self.state == "guard_stopped" and isinstance(told, int):
            return min(recorded, told)
        return recorded

    @property
    def settings(self) -> Record:
        """The complete configuration the run was started with, as nested dictionaries."""
        return self.config.get("config") or {}

    @property
    def labels(self) -> LabelSet:
        """The classes it was trained on, as it stored them."""
        stored = (old_names.with_whole_labels(self.settings).get("data") or {}).get("labels")
        if stored is None:
            return get_label_set(self.label_set)
        return label_set_from_json(stored, f"{self.folder / 'config.json'}: config.data.labels")

    @property
    def fixed_alpha(self) -> float | None:
        """α of seen points if the last stage holds it fixed to its end; None where it is learned."""
        stages = (self.settings.get("stages") or {}).get("stages")
        last = stages[-1] if stages else {}
        return last.get("fixed_alpha") if last.get("fixed_alpha_until", 1.0) >= 1 else None

    @property
    def own_gate(self) -> str:
        """The function from outside that makes its gate; empty where it is ours, or there is none."""
        return self._outside("fusion", "gate_function")

    @property
    def own_network(self) -> str:
        """The function from outside that makes its 3D network; empty where that is ours."""
        return self._outside("unet", "function")

    def _outside(self, part: str, field: str) -> str:
        return ((self.settings.get("model") or {}).get(part) or {}).get(field) or ""


def load_run(folder: Path) -> Run:
    """The run in `folder`.

    Raises `InputError` where config.json is missing, or a file holds something else than the format
    says: the message names the file and the line.
    """
    folder = Path(folder)
    predictions = sorted((folder / "predictions").glob("*.npz"))
    for path in (*(folder / name for name in READ), *predictions):
        check_inside(path, folder)
    config = read_json(folder / "config.json", CONFIG_KEYS)
    if config is None:
        raise InputError(
            f"{folder} is no run folder: it has no config.json; name a folder that a run wrote"
        )
    config = old_names.update_description(config)
    status = read_json(folder / "status.json", {"state": str}) or {"state": "running"}
    if status["state"] not in STATES:
        found = status["state"]
        raise InputError(
            f"{folder / 'status.json'}: state is {found!r}, expected one of {', '.join(STATES)}"
        )
    evaluation = read_json(folder / "evaluation.json", {"full": dict})
    for name, record, shape in (
        ("config", config, CONFIG), ("status", status, STATUS), ("evaluation", evaluation, EVALUATION)
    ):  # fmt: skip
        check_shape(record, shape, str(folder / f"{name}.json"))
    if evaluation is not None and is_of_before(evaluation, status.get("epochs_done")):
        evaluation = None
    data = read_data(folder)
    growing = status["state"] in ("running", "interrupted")
    return Run(
        folder=folder,
        **{key: config[key] for key in CONFIG_KEYS if key != "stages"},
        stages=_stages(config["stages"], folder / "config.json"),
        views_used=bool(config.get("views_used", False)),
        fusion_type=config.get("fusion_type"),
        tower=config.get("tower"),
        config=config,
        state=status["state"],
        stop_reason=status.get("reason"),
        accepted_changes=[line for lines in (data.accepted if data else []) for line in lines],
        scene_sums=_scene_sums(data) if data else {},
        status=status,
        steps=_records(folder / "steps.jsonl", STEP_KEYS, growing, STEP),
        epoch_records=_records(folder / "epochs.jsonl", EPOCH_KEYS, growing, EPOCH),
        evaluation=evaluation,
        prediction_files=predictions,
    )


def _records(path: Path, keys: Mapping[str, type], growing: bool, shape: Any) -> list[Record]:
    records = [old_names.RECORD.updated(record) for record in read_jsonl(path, keys, growing=growing)]
    for record in records:
        check_shape(record, shape, str(path))
    return records


def _scene_sums(data: RunData) -> dict[str, dict[str, str]]:
    return {
        scene: {file: state.sha256 for file, state in files.items() if state.sha256 is not None}
        for scene, files in data.scenes.items()
    }


def read_json(path: Path, keys: Mapping[str, type]) -> Record | None:
    """The object in `path` with at least `keys`; None where there is no such file."""
    if not path.is_file():
        return None
    return _record(read_bytes(path, advice=COPY_AGAIN), path, None, keys)


def read_jsonl(path: Path, keys: Mapping[str, type], *, growing: bool) -> list[Record]:
    """One object a line. `growing`: the file may end within a line, which is then left out."""
    if not path.is_file():
        return []
    lines = read_bytes(path, most_bytes=MOST_BYTES, advice=COPY_AGAIN).split(b"\n")
    unfinished = lines.pop()  # empty where the file ends with a newline, as a finished file does
    if unfinished.strip() and not growing:
        lines.append(unfinished)
    return [
        _record(line, path, number, keys) for number, line in enumerate(lines, start=1) if line.strip()
    ]


def _record(content: bytes, path: Path, line: int | None, keys: Mapping[str, type]) -> Record:
    where = str(path) if line is None else f"{path}, line {line}"
    value = parse_json(content, where, advice=COPY_AGAIN)
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(value).__name__}")
    for key, kind in keys.items():
        if key not in value:
            raise InputError(
                f"{where}: the key {key!r} is missing; found {', '.join(value) or 'nothing'}"
            )
        if not isinstance(value[key], kind):
            found = type(value[key]).__name__
            raise InputError(f"{where}: {key!r} is of type {found}, expected {kind.__name__}")
    for key in ("losses", "grad_norm"):
        numbers = value.get(key, {})
        for name, number in numbers.items() if isinstance(numbers, dict) else ():
            if number is not None and not isinstance(number, int | float):
                raise InputError(f"{where}: {key}.{name} is {number!r}, expected a number or null")
    return value


def _stages(entries: list[Any], path: Path) -> list[StageSpan]:
    spans = []
    for entry in entries:
        try:
            spans.append(
                StageSpan(str(entry["name"]), int(entry["first_epoch"]), int(entry["end_epoch"]))
            )
        except (KeyError, TypeError, ValueError) as error:
            expected = '{"name", "first_epoch", "end_epoch"}'
            raise InputError(f"{path}: a stage is {entry!r}, expected {expected}") from error
    return spans
