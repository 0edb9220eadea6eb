"""Segment all scenes of a split or a data set, resumably, in shards: a folder of predictions each."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bifusion.data.scene_folder import SPLITS
from bifusion.data.scene_sums import read_state, scene_files_state
from bifusion.datasets.shards import WHOLE, Shard, locked_shard
from bifusion.errors import FAILURES, InputError, failure
from bifusion.inference.export import MADE_OF, VIEW
from bifusion.inference.segmenter import Segmenter, check_min_score
from bifusion.runs.checkpoint import WEIGHTS, find_checkpoint
from bifusion.storage.checksums import sha256_of
from bifusion.storage.folders import folder_written_beside, tidy
from bifusion.storage.json_files import write_json
from bifusion.untrusted.json_text import read_json

FILES = ("semantic.ply", "instance.ply", "instances.json", VIEW, MADE_OF)
OTHERS = {
    "weights": "other weights",
    "scene": "the scene as it was before it changed",
    "precision": "another precision",
    "min_score": "another min_score",
}
Show = Callable[[Path, Path], None]
"""Adds a page to a prediction's folder, given the scene's."""


@dataclass
class PredictedScenes:
    """What became of each scene, by its name, which is SPLIT/NAME in a whole data set."""

    written: dict[str, str] = field(default_factory=dict)
    """Name → a few words on what was found."""
    kept: list[str] = field(default_factory=list)
    """Those that were there already."""
    failed: dict[str, str] = field(default_factory=dict)
    """Name → what is wrong."""


def scenes_below(path: Path) -> dict[str, Path]:
    """Name → scene folder, of a split or of a data set; none where `path` is a scene, or holds none."""
    if (path / "coord.npy").is_file():
        return {}
    found = _scenes_in(path)
    if not found:
        found = {
            f"{split}/{name}": scene
            for split in SPLITS
            for name, scene in _scenes_in(path / split).items()
        }
    return found


def predict_scenes(
    run: Path,
    scenes: dict[str, Path],
    out: Path,
    *,
    shard: Shard = WHOLE,
    overwrite: bool = False,
    show: Show | None = None,
    device: torch.device | str | None = None,
    precision: str | None = None,
    min_score: float | None = None,
    done: Callable[[str, PredictedScenes, int], None] | None = None,
) -> PredictedScenes:
    """Writes out/NAME of every scene, each whole or not at all. One that fails does not stop the others.

    Args:
        run: run folder (its last checkpoint is taken) or checkpoint folder.
        scenes: of `scenes_below`.
        shard: i of n: every n-th scene, from the i-th on; all give the same scenes and the same n.
        precision: as of `Segmenter`; recorded where it is given, as is `min_score`, of
            `Segmenter.predict`.
        overwrite: predict complete ones again; one that is there, of other weights or of a scene that
            has changed since, fails otherwise.
        done: called after each with its name, what became of all so far, and how many there are.
    Raises:
        InputError: no checkpoint; another process writes the same shard, or one of another number of
            shards.
    """
    check_min_score(min_score)
    mine = dict(shard.of(list(scenes.items())))
    options = {"precision": precision, "min_score": min_score}
    asked = {option: value for option, value in options.items() if value is not None}
    predicted = PredictedScenes()
    with locked_shard(out, shard):
        weights = sha256_of(find_checkpoint(run) / WEIGHTS)
        _tidy(out, mine)
        wanted = overwrite or not all(prediction_files(out / name) for name in mine)
        segmenter = Segmenter(run, device=device, precision=precision) if wanted else None
        for name, scene in mine.items():
            folder = out / name
            try:
                made_of: dict[str, Any] = {"weights": weights, "scene": _scene_digest(scene)}
                made_of |= asked
                if segmenter is None or (prediction_files(folder) and not overwrite):
                    _require_same(folder, made_of)
                    predicted.kept.append(name)
                else:
                    predicted.written[name] = _predict(segmenter, scene, folder, made_of, show)
            except FAILURES as error:
                predicted.failed[name] = failure(error, scene)
            if done:
                done(name, predicted, len(mine))
    return predicted


def prediction_files(folder: Path) -> list[str]:
    """What `predict_scenes` wrote into a folder, what it is made of last; nothing in other folders."""
    return list(FILES) if (folder / MADE_OF).is_file() else []


def _tidy(out: Path, names: dict[str, Path]) -> None:
    """Takes up what killed processes left of these predictions."""
    by_parent: dict[Path, set[str]] = {}
    for name in names:
        place = out / name
        by_parent.setdefault(place.parent, set()).add(place.name)
    for parent, only in by_parent.items():
        if parent.is_dir():
            tidy(parent, prediction_files, only=only)


def _scenes_in(folder: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(folder.glob("[!.]*/coord.npy"))}


def _predict(
    segmenter: Segmenter, scene: Path, folder: Path, made_of: dict[str, Any], show: Show | None
) -> str:
    """Writes one prediction, whole or not at all; a few words on what was found."""
    started = time.perf_counter()
    found = segmenter.predict(scene, min_score=made_of.get("min_score"))
    with folder_written_beside(folder, prediction_files) as beside:
        found.write(beside)
        if show is not None:
            show(beside, scene)
        write_json(beside / MADE_OF, made_of)
    seconds = time.perf_counter() - started
    objects = found.describe_objects("--min-score")
    return f"{len(found.points):,} points, {seconds:.1f} s, {objects}"


def _require_same(folder: Path, made_of: dict[str, Any]) -> None:
    """InputError where the prediction that is there is made of something else."""
    stored = read_json(folder / MADE_OF, advice="--overwrite predicts the scene again")
    for what, other in OTHERS.items():
        if not isinstance(stored, dict) or stored.get(what) != made_of.get(what):
            raise InputError(
                f"{folder}: is there already, of {other}; nothing was changed. "
                "--overwrite predicts it again, another --out leaves it"
            )


def _scene_digest(scene: Path) -> str:
    """Of sizes and sums of the scene's files; of which nobody has a sum are read for it."""
    state = scene_files_state(scene)
    read = {name: read_state(scene, name) for name, one in state.items() if one.sha256 is None}
    states = sorted({**state, **read}.items())
    text = "".join(f"{name} {one.bytes} {one.sha256}\n" for name, one in states)
    return hashlib.sha256(text.encode()).hexdigest()
