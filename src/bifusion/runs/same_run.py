"""Whether a configuration is that of a run that has begun; what differs is told field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NoReturn

from bifusion.changes import Change, changeable, changes
from bifusion.config.run import Config
from bifusion.config.stages import same_start
from bifusion.data.dataset import open_scenes
from bifusion.errors import InputError
from bifusion.labels.label_set import require_same_classes
from bifusion.runs.describe import scene_sources
from bifusion.runs.run_folder import RunFolder, RunStatus

SPLITS = ("train", "val")
EPOCHS = "trainer.epochs"
NAMED_SCENES = 5


def check_same_run(folder: RunFolder, started: Config, wanted: Config, *, advice: str) -> None:
    """InputError, field by field, where going on as `wanted` would not be the run in `folder`.

    Fields that may change (`changes.MAY_CHANGE`) do; data in another place must have the same scenes,
    as far as names and scene.json tell. Another length goes on where neither schedule nor stages
    depend on it in what is trained already.

    Args:
        started: as it began.
        advice: what to do, a sentence.
    """
    place = str(wanted.data.root)
    require_same_classes(started.labels, str(folder.root), wanted.labels, place, advice)
    # Colours and groups may have changed since; they change nothing that is trained.
    same = dataclasses.replace(wanted, data=dataclasses.replace(wanted.data, labels=started.data.labels))
    found = list(changes(started, same))
    longer = {EPOCHS: why} if (why := _why_of_one_length(folder, started, wanted)) else {}
    found = [change for change in found if change.path != EPOCHS or longer]
    if found:
        _refuse(folder, wanted, found, longer, advice)
    _check_scenes(folder, wanted, advice)


def is_to_go_on(folder: RunFolder, wanted: Config) -> bool:
    """Whether a run that came to its end is wanted longer."""
    status = folder.read_status()
    if status is None or status.state != "completed":
        return False
    return status.epochs_done < wanted.trainer.epochs


def _why_of_one_length(folder: RunFolder, started: Config, wanted: Config) -> str | None:
    """Why the run cannot get the length that is wanted; None where it can, or has it."""
    then, now = started.trainer.epochs, wanted.trainer.epochs
    if then == now:
        return None
    status = folder.read_status() or RunStatus()
    done = status.epochs_done + (status.state != "completed")  # one may have begun
    if now < done:
        return f"{done} epochs are trained already, or begun"
    if started.optim.schedule != "constant":
        return f"optim.schedule {started.optim.schedule!r} is laid out over the whole run"
    if not same_start(started.stages, then, now, min(done, then)):
        return "its stages are shares of the whole run"
    return None


def _refuse(
    folder: RunFolder,
    wanted: Config,
    found: Sequence[Change],
    reasons: dict[str, str],
    advice: str,
) -> NoReturn:
    lines = [
        f"  {change}" + (f" ({reasons[change.path]})" if change.path in reasons else "")
        for change in found
    ]
    if EPOCHS in reasons:
        advice += f" For a longer run that starts from this one's 3D network: --init {folder.root}."
    raise InputError(
        f"{folder.root} holds a run of another configuration:\n"
        + "\n".join(lines)
        + f"\n{advice} May change: {', '.join(changeable(wanted))}."
    )


def _check_scenes(folder: RunFolder, wanted: Config, advice: str) -> None:
    """InputError where the data has not the scenes that the run is trained on."""
    stored = folder.read_scenes()
    if stored is None:
        return
    scenes = {split: list(open_scenes(wanted.data, split).names) for split in SPLITS}
    for split in SPLITS:
        missing = sorted(set(stored[split]) - set(scenes[split]))
        new = sorted(set(scenes[split]) - set(stored[split]))
        if missing or new:
            told = [
                f"{len(one)} {what} ({_some(one)})"
                for one, what in ((missing, "missing"), (new, "new"))
                if one
            ]
            raise InputError(
                f"{wanted.data.root}: its scenes in {split} are not those that {folder.root} is trained "
                f"with: {', '.join(told)}. {advice}"
            )
    if wanted.data.source is None:
        sources = scene_sources(wanted.data.root, scenes["train"], scenes["val"])
        if sources != stored["sources"]:
            raise InputError(
                f"{wanted.data.root}: its scenes come from {_some(sources)}, those that {folder.root} "
                f"is trained with from {_some(stored['sources'])}. {advice}"
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_SCENES} more" if len(names) > NAMED_SCENES else ""
    return (", ".join(names[:NAMED_SCENES]) or "nothing said") + more
