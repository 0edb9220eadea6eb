"""Which backend serves which device, and how a wrong wish is answered."""

from __future__ import annotations

import builtins
import logging

import pytest
import torch

from bifusion.errors import InputError
from bifusion.sparse import reference
from bifusion.sparse.backends import BACKEND_VARIABLE, backend_for, describe_backend

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

pytestmark = pytest.mark.usefixtures("fresh_backend_choice")


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """As if `module` of bifusion.sparse were not installed."""
    real = builtins.__import__

    def fake(name, globals=None, locals=None, fromlist=(), level=0):
        if name == "bifusion.sparse" and fromlist and module in fromlist:
            raise ImportError(f"No module named {module}")
        return real(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", fake)


def test_variable_forces_a_backend_and_can_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BACKEND_VARIABLE, "torch")
    assert backend_for(CPU) is reference
    monkeypatch.delenv(BACKEND_VARIABLE)
    assert describe_backend(CPU).startswith("sparse operations on cpu: ")


@pytest.mark.parametrize(("name", "device"), [("cuda", CPU), ("triton", CPU), ("native", CUDA)])
def test_misfit_names_are_refused(name: str, device: torch.device, monkeypatch) -> None:
    monkeypatch.setenv(BACKEND_VARIABLE, name)
    with pytest.raises(InputError, match=f"{BACKEND_VARIABLE}: found '{name}'; expected one of torch, "):
        backend_for(device)


def test_forced_backend_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "native")
    monkeypatch.setenv(BACKEND_VARIABLE, "native")
    with pytest.raises(InputError, match="cannot be used .* install a C\\+\\+ compiler"):
        backend_for(CPU)


@pytest.mark.parametrize(("module", "device"), [("native", CPU), ("triton", CUDA)])
def test_fallback_is_announced_once(module, device, monkeypatch, caplog) -> None:
    without(monkeypatch, module)
    with caplog.at_level(logging.INFO, logger="bifusion.sparse"):
        assert backend_for(device) is reference
        assert backend_for(device) is reference
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "plain torch" in warnings[0]
    assert "To get it: " in warnings[0]


def test_choice_is_announced_once(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="bifusion.sparse"):
        backend_for(CPU)
        backend_for(CPU)
    assert len(caplog.messages) == 1


def test_a_device_without_a_backend_of_its_own_runs_on_plain_torch() -> None:
    assert backend_for(torch.device("mps")) is reference
