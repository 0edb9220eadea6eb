"""Whether a configuration is that of a run that has begun; what differs is told field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NoReturn

from bifusion.changes import Change, changeable, changes
from bifusion.config.run import Config
from bifusion.config.stages import same_start
from bifusion.errors import InputError
from bifusion.labels.label_set import require_same_classes
from bifusion.runs.describe import scene_sources
from bifusion.runs.run_data import RunData, data_of, read_data, scene_changes, version_changes
from bifusion.runs.run_folder import RunFolder, RunStatus

EPOCHS = "trainer.epochs"
NAMED_CHANGES = 20


def check_same_run(
    folder: RunFolder,
    started: Config,
    wanted: Config,
    *,
    advice: str,
    accept: bool = False,
    now: RunData | None = None,
) -> list[str]:
    """InputError, field by field, where going on as `wanted` would not be the run in `folder`.

    Fields that may change (`changes.MAY_CHANGE`) do; data in another place must be the same, as far as
    names, sizes and sums tell. Another length goes on where neither schedule nor stages depend on it in
    what is trained already. Another version of the software matters to a run that is not at its end.

    Args:
        started: as it began.
        advice: what to do, a sentence.
        accept: scenes and versions may be others.
        now: the data of `wanted`; None: as it is on the disk.
    Returns:
        A line for every such change that was accepted.
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
    lines = _changes(folder, wanted, now or data_of(wanted))
    if lines and not accept:
        more = f"\n  and {len(lines) - NAMED_CHANGES} more" if len(lines) > NAMED_CHANGES else ""
        raise InputError(
            f"{wanted.data.root}, or the software, has changed since {folder.root} was begun:\n  "
            + "\n  ".join(lines[:NAMED_CHANGES])
            + f"{more}\n{advice} --accept-changes goes on with what there is now; reports say so."
        )
    return lines


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


def _changes(folder: RunFolder, wanted: Config, now: RunData) -> list[str]:
    """A line for each scene, and each package if it is still to train, that is another than it was."""
    then = read_data(folder.root)
    if then is None:
        return _changed_names(folder, wanted, now)
    status = folder.read_status()
    ended = status is not None and status.is_over and not is_to_go_on(folder, wanted)
    return [*scene_changes(then, now), *([] if ended else version_changes(then, now))]


def _changed_names(folder: RunFolder, wanted: Config, now: RunData) -> list[str]:
    """What a run of earlier versions tells of its data: names, and where the scenes come from."""
    stored = folder.read_scenes()
    if stored is None:
        return []
    then = [f"{split}/{name}" for split in ("train", "val") for name in stored[split]]
    lines = [f"{name}: is gone" for name in then if name not in now.scenes]
    lines += [f"{name}: is new" for name in now.scenes if name not in then]
    if not lines and wanted.data.source is None:
        sources = scene_sources(wanted.data.root, stored["train"], stored["val"])
        if sources != stored["sources"]:
            lines.append(f"scenes: came from {_listed(stored['sources'])}, come from {_listed(sources)}")
    return lines


def _listed(sources: Sequence[str]) -> str:
    return ", ".join(sources) or "nobody knows where"
