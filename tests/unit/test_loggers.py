"""Curves go to a logger beside TensorBoard: one from outside, or wandb, kept offline here."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.loggers.csv_logs import CSVLogger

import untrained_runs
from bifusion import plugins
from bifusion.config.run import Config
from bifusion.errors import InputError
from bifusion.training.loggers import ID_FILE, WandbLogger, open_logger
from bifusion.training.train import train
from tiny_runs import make_tiny_data, tiny_config


class Kept(CSVLogger):
    """Remembers what it got."""

    def __init__(self, name: str, folder: Path, config: dict[str, Any]):
        super().__init__(folder, name="csv")
        self.run, self.config = name, config
        self.got: list[tuple[str, int | None]] = []
        self.ended: list[str] = []
        MADE.append(self)

    def log_metrics(self, metrics, step=None):
        self.got += [(name, step) for name in metrics]

    def finalize(self, status):
        self.ended.append(status)


MADE: list[Kept] = []


def not_a_logger(*_: object) -> int:
    return 3


def _config(logger: str) -> Config:
    config = untrained_runs.baseline()
    config.trainer.logger = logger
    return config


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "my_loggers", sys.modules[__name__])
    monkeypatch.setenv(plugins.VARIABLE, "my_loggers")
    MADE.clear()


def test_a_training_tells_a_logger_from_outside(tmp_path: Path):
    config = tiny_config("oneformer3d_small", make_tiny_data(tmp_path / "data", 2, 1), epochs=1)
    config.trainer.logger = "my_loggers:Kept"
    assert train(config, tmp_path / "run").state == "completed"
    (kept,) = MADE
    assert kept.run == config.name and kept.config["trainer"]["epochs"] == 1
    assert {("loss/total", 0), ("gradient/backbone", 0), ("val/miou", 1)} <= set(kept.got)
    assert kept.ended == ["success"]


def test_an_interrupted_command_closes_it_as_failed(tmp_path: Path):
    config = tiny_config("oneformer3d_small", make_tiny_data(tmp_path / "data", 2, 1), epochs=1)
    config.trainer.logger = "my_loggers:Kept"

    def stop(_: object) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train(config, tmp_path / "run", on_epoch=stop)
    assert MADE[0].ended == ["failed"]


@pytest.mark.parametrize(
    ("logger", "said"),
    [
        ("wandB", "did you mean 'wandb'"),
        ("my_loggers:not_a_logger", "returned a int, expected a lightning_fabric.loggers.logger.Logger"),
        ("elsewhere:Logger", "if you trust it"),
    ],
)
def test_what_is_no_logger_is_refused(tmp_path: Path, logger: str, said: str):
    with pytest.raises(InputError, match=said):
        open_logger(_config(logger), tmp_path)


def test_none_is_wanted(tmp_path: Path):
    assert open_logger(untrained_runs.baseline(), tmp_path) is None


def test_without_wandb_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"pip install 'bifusion\[wandb\]'"):
        open_logger(_config("wandb"), tmp_path)


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed (extra wandb)")
@pytest.mark.filterwarnings("default")
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The real one, without network: curves lie in the run folder, and a resumed run has the same id."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    versions = []
    for step in range(2):
        logger = open_logger(_config("wandb"), tmp_path)
        assert isinstance(logger, WandbLogger)
        logger.log_metrics({"loss/total": 1.5}, step)
        logger.finalize("success")
        versions.append(logger.version)
    assert versions[0] == versions[1] == (tmp_path / ID_FILE).read_text().strip()
    files = [path for path in (tmp_path / "wandb").rglob("run-*.wandb") if path.stat().st_size > 100]
    assert len(files) == 2
