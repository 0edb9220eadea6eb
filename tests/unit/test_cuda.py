"""A GPU that is in the machine and cannot be used, as with an old driver."""

from __future__ import annotations

import pytest
import torch

from bifusion import cuda
from bifusion.config.run import TrainerConfig
from bifusion.errors import InputError
from bifusion.inference.device import usable_device
from bifusion.step.runtime import make_fabric

TOLD = "The NVIDIA driver on your system is too old (found version 11040)."


def machine(
    monkeypatch: pytest.MonkeyPatch, *, usable: bool, devices: int, told: str | None = TOLD
) -> None:
    """As if the machine had so many GPUs, of which torch says `told` when it begins to use them."""

    def init() -> None:
        if told is not None:
            raise RuntimeError(f"{told}\nPlease update your GPU driver.")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "init", init)


def test_a_driver_that_is_too_old_is_no_reason_to_train_on_the_cpu_in_silence(monkeypatch) -> None:
    machine(monkeypatch, usable=False, devices=1)
    with pytest.raises(
        InputError, match=r"found version 11040\)\. Update its driver .* CUDA 13\.0"
    ) as told:
        make_fabric(TrainerConfig())
    assert str(told.value).endswith("choose the CPU: --trainer.accelerator cpu")
    with pytest.raises(InputError, match="too old .* device='cpu'"):
        usable_device(None)


def test_who_asks_for_the_cpu_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, usable=False, devices=1)
    assert make_fabric(TrainerConfig(accelerator="cpu")).device.type == "cpu"
    assert usable_device("cpu") == torch.device("cpu")


def test_a_machine_without_a_gpu_or_with_a_usable_one_is_left_alone(monkeypatch) -> None:
    machine(monkeypatch, usable=False, devices=0)
    assert usable_device(None) == torch.device("cpu")
    machine(monkeypatch, usable=True, devices=1)
    cuda.check_usable("-")
    machine(monkeypatch, usable=False, devices=2)
    monkeypatch.setattr(torch.version, "cuda", None)
    cuda.check_usable("-")


def test_a_gpu_that_does_not_answer_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, usable=False, devices=1, told=None)
    with pytest.raises(InputError, match="cannot use: it does not answer"):
        cuda.check_usable("-")
