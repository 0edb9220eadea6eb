"""Runs that are shared: `push` stores one with its card, `hf://user/name` stands for one to load.

What is stored of a run: weights (safetensors) and configuration of its last checkpoint, its description
and evaluation, checksums, and a card. No training state, no scenes, no paths of the machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bifusion.config.run import Config, load_config, save_config
from bifusion.errors import InputError
from bifusion.official.cached_runs import cached_run
from bifusion.official.model_card import Shared, model_card
from bifusion.official.stores import check_name, open_store
from bifusion.runs.checkpoint import CONFIG, SUMS, WEIGHTS, check_intact, find_checkpoint
from bifusion.runs.run_folder import RunFolder
from bifusion.storage.checksums import check_sum, sum_of
from bifusion.storage.json_files import write_json
from bifusion.untrusted.json_text import read_json

SCHEME = "hf:"
DESCRIPTION, EVALUATION, CARD = "run.json", "evaluation.json", "README.md"
SHARED = (WEIGHTS, CONFIG, DESCRIPTION, EVALUATION)
"""Files whose checksums are stored with them."""
FETCH_AGAIN = "fetch it again; if it stays so, it was stored damaged: tell its owner"
DIGITS = 16

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
        InputError: a name that is none, a run that is not done or damaged, a store that refuses.
    """
    check_name(name)
    checkpoint = find_checkpoint(run)
    status = RunFolder(run).read_status()
    if status is not None and status.state != "completed":
        raise InputError(
            f"{run}: is {status.state}, after {status.epochs_done} epochs; train it to its end"
        )
    check_intact(checkpoint)
    with tempfile.TemporaryDirectory(prefix="bifusion-push-") as place:
        folder = Path(place)
        _fill(folder, run, checkpoint, name, licence)
        return open_store().put(folder, name, private=private)


def _fill(folder: Path, run: Path, checkpoint: Path, name: str, licence: str) -> None:
    shutil.copyfile(checkpoint / WEIGHTS, folder / WEIGHTS)
    config = _without_paths(load_config(checkpoint / CONFIG))
    save_config(config, folder / CONFIG)
    described = {key: value for key, value in _read(run / CONFIG).items() if key != "config"}
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
    trainer = dataclasses.replace(
        config.trainer,
        init=None if config.trainer.init is None else Path(config.trainer.init.name),
        tower_cache_dir=None,
    )
    data = dataclasses.replace(config.data, root=Path(Path(config.data.root).name))
    changed = dataclasses.replace(config, trainer=trainer, data=data)
    tower = getattr(changed.model, "tower", None)
    given = getattr(tower, "pretrained", None)
    if tower is not None and given is not None and Path(given).name != str(given):
        named = dataclasses.replace(tower, pretrained=Path(given).name)
        changed.model = dataclasses.replace(changed.model, tower=named)
    return changed


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
    sums = _read(stored / SUMS)
    if not all(isinstance(sums.get(file), dict) for file in (WEIGHTS, CONFIG)):
        raise InputError(
            f"hf://{name}: was not stored by `bifusion push`: {SUMS} does not list its files"
        )
    version = hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:DIGITS]
    run, _ = cached_run(
        "hub",
        f"{name.replace('/', '--')}-{version}",
        partial(_lay_out, stored, sums),
        reading=stored,
    )
    say(f"hf://{name}: {run}")
    return run


def _lay_out(stored: Path, sums: dict[str, Any], run: Path) -> None:
    """A run folder with one checkpoint, of stored files that have the checksums `sums`."""
    for file in sums.keys() & set(SHARED):
        check_sum(stored / file, sums[file], advice=FETCH_AGAIN)
    checkpoint = run / "checkpoints/last"
    checkpoint.mkdir(parents=True)
    for file in (WEIGHTS, CONFIG):
        shutil.copyfile(stored / file, checkpoint / file)
    if (stored / CARD).is_file():
        shutil.copyfile(stored / CARD, run / CARD)
