"""What CUDA's libraries read from the environment, at their first use in a process."""

from __future__ import annotations

import os

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
