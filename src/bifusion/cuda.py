"""CUDA: what its libraries read from the environment at their first use in a process, and whether a GPU
that is in the machine can be used."""

from __future__ import annotations

import os
import warnings

import torch

from bifusion.errors import InputError, first_line

CUBLAS_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""cuBLAS repeats itself to the bit with a workspace of fixed size alone. Some versions of torch refuse
to multiply without it where determinism is asked for."""
PLAIN_PRODUCTS = ("DISABLE_ADDMM_CUDA_LT", "1")
"""A linear layer with a bias goes to cuBLAS and an addition. cuBLASLt, which does both in one launch,
looks for its algorithm anew at every call: 170 µs on the host for 90 (an H100, torch 2.11, CUDA 13.0),
which is most of what a network of small layers takes."""


def set_up(repeats: bool = False) -> None:
    """To be called before the first product on a GPU; what a user has set stays. `repeats`: results are
    to be the same to the bit at every run."""
    os.environ.setdefault(*PLAIN_PRODUCTS)
    if repeats:
        os.environ.setdefault(*CUBLAS_WORKSPACE)


def check_usable(instead: str) -> None:
    """InputError where torch cannot use a GPU that is in the machine, mostly for an old driver: the CPU
    in its place would take fifty times as long without a word. `instead`: how to ask for the CPU."""
    if torch.version.cuda is None:  # a build for CPUs
        return
    with warnings.catch_warnings(action="ignore"):  # torch tells here what is told below
        if torch.cuda.is_available() or torch.cuda.device_count() == 0:
            return
        reason = _why_unusable()
    raise InputError(
        f"there is a GPU that torch {torch.__version__} cannot use: {reason}. Update its driver to one "
        f"for CUDA {torch.version.cuda}, install a torch for an older CUDA, or choose the CPU: {instead}"
    )


def _why_unusable() -> str:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error).rstrip(".")
    return "it does not answer"
