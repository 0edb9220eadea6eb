"""Runs that are shared: `push` stores one with its card, `hf://user/name` stands for one to load.

What is stored of a run: weights (safetensors) and configuration of its last checkpoint, its description
and evaluation, checksums, and a card. No training state, no scenes, no paths of the machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bifusion.config.run import Config, config_to_dict, load_config, save_config
from bifusion.errors import InputError
from bifusion.official.cached_runs import cached_run
from bifusion.official.model_card import Shared, model_card
from bifusion.official.shared_files import CARD, DESCRIPTION, EVALUATION, SHARED, read_sums
from bifusion.official.stores import check_licence, check_name, open_store
from bifusion.runs.checkpoint import CONFIG, LAST, SUMS, WEIGHTS, check_intact, find_checkpoint
from bifusion.runs.describe import describe_config
from bifusion.runs.run_folder import RunFolder
from bifusion.storage.checksums import check_sum, sum_of
from bifusion.storage.json_files import write_json
from bifusion.untrusted.json_text import read_json

SCHEME = "hf:"
FETCH_AGAIN = "fetch it again; if it stays so, it was stored damaged: tell its owner"
DIGITS = 16
LAYOUT = 1
"""One more whenever the same files are laid out as another run folder: those in the cache are then made
anew."""

_logger = logging.getLogger("bifusion.official")


def is_shared(path: Path) -> bool:
    """Whether hf://user/name is meant, as text or as a path, which drops one of its slashes."""
    return path.parts[:1] == (SCHEME,) and not path.exists()


def push(run: Path, name: str, *, licence: str, private: bool = False) -> str:
    """Stores the last checkpoint of a run under "user/name" with a card made of it; returns its address.

    Args:
        run: run folder that was trained to its end, or an imported one.
        licence: of the weights, as the hub spells it ("apache-2.0", "other"); data may restrict it.
        private: only its owner sees it (hub only; what is there stays as it is).
    Raises:
        InputError: a name or licence that is none, a checkpoint folder, a run that is not done or
            damaged, a store that refuses.
    """
    check_name(name)
    check_licence(licence)
    run = Path(os.path.abspath(run))  # "." has no name; a link keeps its own, by which reports know it
    checkpoint = find_checkpoint(run)
    if checkpoint != RunFolder(run).checkpoints / LAST:
        raise InputError(
            f"{run}: is a checkpoint, no run folder; expected the folder of its run, whose description "
            "and figures are shared with it"
        )
    status = RunFolder(run).read_status()
    if status is not None and status.state != "completed":
        raise InputError(
            f"{run}: is {status.state}, after {status.epochs_done} epochs; train it to its end"
        )
    check_intact(checkpoint)
    with tempfile.TemporaryDirectory(prefix="bifusion-push-") as place:
        folder = Path(place) / "run"  # itself is closed to others, as what is copied of it would be
        folder.mkdir()
        _fill(folder, run, checkpoint, name, licence)
        return open_store().put(folder, name, private=private)


def _fill(folder: Path, run: Path, checkpoint: Path, name: str, licence: str) -> None:
    shutil.copyfile(checkpoint / WEIGHTS, folder / WEIGHTS)
    stored = load_config(checkpoint / CONFIG)
    config = _without_paths(stored)
    save_config(config, folder / CONFIG)
    described = {key: value for key, value in _read(run / CONFIG).items() if key != "config"}
    if isinstance(described.get("tower"), str):
        described["tower"] = _named(described["tower"], _tower_files(stored))
    evaluation = _read(run / EVALUATION)
    write_json(folder / DESCRIPTION, described)
    write_json(folder / EVALUATION, evaluation)
    write_json(folder / SUMS, {file: sum_of(folder / file) for file in SHARED})
    shared = Shared(name, licence, config, described, evaluation, _read(run.parent / "report.json"))
    (folder / CARD).write_text(model_card(shared, run.name), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """A run's JSON; empty where it has none, as an imported run has no evaluation."""
    if not path.is_file():
        return {}
    value = read_json(path, advice="evaluate the run again")
    return value if isinstance(value, dict) else {}


def _without_paths(config: Config) -> Config:
    """Names of folders and files say where something came from; where they lay is nobody's business."""
    init = config.trainer.init
    trainer = dataclasses.replace(
        config.trainer,
        init=init if init is None or is_shared(init) else Path(init.name),
        tower_cache_dir=None,
    )
    data = dataclasses.replace(config.data, root=Path(Path(config.data.root).name))
    changed = dataclasses.replace(config, trainer=trainer, data=data)
    tower, files = config.model.image_tower, _tower_files(config)
    if tower is not None and files:
        named = dataclasses.replace(tower, **{field: Path(given).name for field, given in files.items()})
        changed.model = changed.model.with_tower(named)
    return changed


def _tower_files(config: Config) -> dict[str, str]:
    """The fields of the image tower that name a file in a folder: weights, an architecture."""
    tower = config.model.image_tower
    given = {field: getattr(tower, field, None) for field in ("pretrained", "architecture")}
    return {field: text for field, text in given.items() if text and Path(text).name != text}


def _named(line: str, files: dict[str, str]) -> str:
    """What a tower says of itself with its files' names in place of their paths."""
    for given in files.values():
        for path in (given, str(Path(given))):  # towers say it as given, or without "./" and "//"
            line = line.replace(path, Path(given).name)
    return line


def pulled(path: Path, say: Callable[[str], None] = _logger.info) -> Path:
    """The run folder in the cache that hf://user/name is fetched into, its checksums compared.

    What was fetched before is found without network, as far as the hub's own cache goes.

    Raises:
        InputError: a name that is none or that the store does not have, no network and nothing cached, a
            file that is missing or not as it was stored.
    """
    name = "/".join(path.parts[1:])
    check_name(name)
    stored = open_store().get(name)
    sums = read_sums(stored, name)
    version = hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:DIGITS]
    run, _ = cached_run(
        "hub",
        f"{name.replace('/', '--')}-{version}-{LAYOUT}",
        partial(_lay_out, stored, sums),
        reading=stored,
    )
    say(f"hf://{name}: {run}")
    return run


def _lay_out(stored: Path, sums: dict[str, dict[str, Any]], run: Path) -> None:
    """A run folder with one checkpoint, of stored files that have the checksums `sums`."""
    for file in sums:
        check_sum(stored / file, sums[file], advice=FETCH_AGAIN)
    config = load_config(stored / CONFIG)
    checkpoint = run / "checkpoints/last"
    checkpoint.mkdir(parents=True)
    for file in (WEIGHTS, CONFIG):
        shutil.copyfile(stored / file, checkpoint / file)
    write_json(checkpoint / SUMS, {file: sums[file] for file in (WEIGHTS, CONFIG)})
    described = _read(stored / DESCRIPTION) if DESCRIPTION in sums else {}
    described |= {**describe_config(config), "config": config_to_dict(config)}
    write_json(run / CONFIG, described)
    if (stored / CARD).is_file():
        shutil.copyfile(stored / CARD, run / CARD)
