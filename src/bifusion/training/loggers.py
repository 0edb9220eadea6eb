"""A logger beside TensorBoard, through lightning-fabric's interface: wandb, or one from outside."""

from __future__ import annotations

import os
import uuid
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import Logger

from bifusion import plugins
from bifusion.config.run import Config, config_to_dict
from bifusion.errors import InputError
from bifusion.spelling import did_you_mean
from bifusion.storage.files import write_text

FIELD = "trainer.logger"
WANDB = "wandb"
PROJECT = "bifusion"
"""What wandb files runs under, unless WANDB_PROJECT says otherwise."""
ID_FILE = "wandb-id.txt"
"""In the run folder: a resumed run goes on with the same curves."""


def open_logger(config: Config, folder: Path) -> Logger | None:
    """The logger that `config.trainer.logger` names; None where it names none.

    "module:function" from outside is called with the run's name, its folder and its configuration in
    JSON's types, and returns a lightning_fabric `Logger`.

    Raises:
        InputError: a name that is neither, wandb not installed or not able to start, something else than
            a logger.
    """
    wanted = config.trainer.logger
    if wanted is None:
        return None
    if wanted == WANDB:
        return WandbLogger(config.name, folder, config_to_dict(config))
    if not plugins.is_outside(wanted):
        raise InputError(
            f"{FIELD}: found {wanted!r}{did_you_mean(wanted, [WANDB])}; expected "
            "wandb or module:function"
        )
    return plugins.make(wanted, FIELD, Logger, config.name, folder, config_to_dict(config))


class WandbLogger(Logger):
    """Curves in Weights & Biases. WANDB_MODE=offline keeps them in the run folder, for `wandb sync`."""

    def __init__(self, name: str, folder: Path, config: dict[str, Any]):
        try:
            wandb: Any = import_module("wandb")  # of the extra: not there where types are checked
        except ImportError as error:
            raise InputError(
                f"{FIELD} is {WANDB!r}, which cannot be imported ({error}): pip install "
                "'bifusion[wandb]', or leave the option out"
            ) from error
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=name,
                dir=str(folder),
                id=_run_id(folder),
                resume="allow",
                config=config,
            )
        except wandb.Error as error:
            raise InputError(
                f"{FIELD}: wandb cannot start ({error}); log in with `wandb login`, or keep the curves "
                "here with WANDB_MODE=offline"
            ) from error
        self._run.define_metric("*", step_metric="step")

    @property
    def name(self) -> str:
        return str(self._run.project)

    @property
    def version(self) -> str:
        return str(self._run.id)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """`step` is a figure of its own: wandb's count only rises, a resumed run repeats steps."""
        self._run.log({**metrics, "step": step})

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        values = vars(params) if isinstance(params, Namespace) else params
        self._run.config.update(values, allow_val_change=True)

    def finalize(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "success" else 1)


def _run_id(folder: Path) -> str:
    """What wandb knows the run by, made once a run folder; nothing that is trained depends on it."""
    path = folder / ID_FILE
    if not path.is_file():
        write_text(path, uuid.uuid4().hex[:12] + "\n")
    return path.read_text(encoding="utf-8").strip()
