"""The process a run trains in: what determinism sets, and that it is put back."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext

import pytest
import torch

from bifusion.cuda import CUBLAS_WORKSPACE
from bifusion.errors import InputError
from bifusion.step import step as steps
from bifusion.step.runtime import deterministic
from bifusion.training.train import train
from step_factory import tiny_step
from tiny_runs import make_tiny_data, tiny_config


def settings() -> tuple[bool, bool]:
    """Deterministic algorithms are wanted; their lack only warns."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


@pytest.mark.parametrize(("kind", "warns"), [("cpu", False), ("cuda", False), ("mps", True)])
def test_determinism_is_strict_where_every_operation_has_it(kind, warns, monkeypatch):
    """CUDA's attention repeats itself in the strict setting alone; with warnings it does not."""
    monkeypatch.delenv(CUBLAS_WORKSPACE[0], raising=False)
    before = settings()
    with deterministic(True, torch.device(kind)):
        assert settings() == (True, warns)
        assert (CUBLAS_WORKSPACE[0] in os.environ) == (kind == "cuda")
    assert settings() == before


def test_no_determinism_where_it_is_not_wanted(monkeypatch):
    monkeypatch.delenv(CUBLAS_WORKSPACE[0], raising=False)
    with deterministic(False, torch.device("cuda")):
        assert not settings()[0]
        assert CUBLAS_WORKSPACE[0] not in os.environ


def test_a_workspace_set_by_the_user_stays(monkeypatch):
    monkeypatch.setenv(CUBLAS_WORKSPACE[0], ":16:8")
    with deterministic(True, torch.device("cuda")):
        assert os.environ[CUBLAS_WORKSPACE[0]] == ":16:8"


def test_two_runs_at_once_in_a_process_are_refused(tmp_path):
    """They would draw each other's random numbers."""
    config, told = tiny_config("oneformer3d_small", make_tiny_data(tmp_path, train=2, val=1)), []

    def another(_record):
        with pytest.raises(InputError, match="another run trains in this process") as error:
            train(config, tmp_path / "second")
        told.append(error)

    def in_a_thread(record):
        thread = threading.Thread(target=another, args=(record,))
        thread.start()
        thread.join()

    train(config, tmp_path / "first", on_epoch=in_a_thread)
    assert len(told) == config.trainer.epochs and not (tmp_path / "second").exists()
    assert train(config, tmp_path / "second").state == "completed"


def test_a_step_multiplies_as_its_configuration_says(tmp_path, monkeypatch):
    config, asked = tiny_config("oneformer3d_small", make_tiny_data(tmp_path, train=2, val=1)), []
    assert config.trainer.matmul == "ieee"
    config.trainer.matmul = "tf32"
    step = tiny_step(config)

    def noted(matmul, device):
        asked.append((matmul, device.type))
        return nullcontext()

    monkeypatch.setattr(steps, "float32_products", noted)
    assert step.stepper(step.inputs, step.state).event is None
    assert asked == [("tf32", "cpu")]
