"""A Triton that is installed and cannot compute: told with its reason, plain torch in its place."""

from __future__ import annotations

import functools
import logging
import subprocess

import pytest
import torch

import needs
from bifusion.errors import InputError
from bifusion.sparse import reference
from bifusion.sparse.backends import BACKEND_VARIABLE, backend_for

needs.module("triton", "triton")
from triton.runtime.errors import PTXASError  # noqa: E402

from bifusion.sparse import triton  # noqa: E402
from bifusion.sparse.triton import kernels, probe  # noqa: E402

CUDA = torch.device("cuda", 0)

pytestmark = pytest.mark.usefixtures("fresh_backend_choice")


class Broken:
    """A kernel that cannot be compiled, launched or trusted."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def __getitem__(self, grid: tuple[int, ...]):
        def launch(cell: torch.Tensor) -> None:
            if self.error is not None:
                raise self.error

        return launch


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        [subprocess.CalledProcessError(1, ["gcc", "main.c"]), "CalledProcessError, Command"],
        [RuntimeError("Failed to find C compiler."), "RuntimeError, Failed to find C compiler"],
        [AssertionError("libcuda.so cannot found!"), "libcuda.so"],
        [PTXASError("ptxas fatal\n: Value 'sm_999' is not defined"), "ptxas fatal : Value"],
        [None, "computes wrongly here: twice 1 is 1"],
    ],
)
def test_a_triton_that_is_broken_is_told_with_its_reason(
    error: Exception | None, reason: str, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr(kernels, "double", Broken(error))
    monkeypatch.setattr(triton, "check", functools.partial(probe.check, "cpu"))
    assert backend_for(CUDA) is reference
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "triton cannot be used" in warning and reason in warning and "python3-dev" in warning
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    with pytest.raises(InputError, match="found 'triton', which cannot be used .* or set it to torch"):
        backend_for(CUDA)


def test_a_device_without_memory_is_no_broken_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "double", Broken(torch.OutOfMemoryError("CUDA out of memory.")))
    with pytest.raises(torch.OutOfMemoryError):
        probe.check("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton has a driver here")
def test_a_machine_without_a_driver_is_told() -> None:
    with pytest.raises(ImportError, match="it computes nothing here: RuntimeError, 0 active drivers"):
        probe.check("cpu")
