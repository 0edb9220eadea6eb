"""The GPU engine's kernels, compiled ahead of time for chips that are not here."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

import needs

needs.module("triton", "triton")
if version("triton").startswith(("3.0", "3.1", "3.2")):
    pytest.skip("Triton compiles for another chip in this way from 3.3 on", allow_module_level=True)
from bifusion.sparse.triton.configurations import (  # noqa: E402
    CONVOLVE,
    WEIGHT_GRADIENT,
    Configuration,
    choose_convolve,
    choose_weight_gradient,
)
from triton_ahead import CHIPS, KERNELS, PRECISIONS, SHARED_MEMORY, faults_of, needs_of  # noqa: E402

CANDIDATES = {"convolve": CONVOLVE, "weight_gradient": WEIGHT_GRADIENT}


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(
    ("kernel", "precision", "chosen"),
    [
        ("convolve", "float32", choose_convolve(32, 32, "ieee")),
        ("convolve", "bfloat16", choose_convolve(64, 64, "narrow")),
        ("weight_gradient", "tf32", choose_weight_gradient(32, 32, "tf32")),
    ],
)
def test_the_rules_choice_fits(
    kernel: str, precision: str, chosen: Configuration, chip: int, tmp_path: Path
) -> None:
    """With all that may follow a convolution."""
    assert not faults_of(kernel, precision, chosen, chip, tmp_path, finished=True)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name not in CANDIDATES])
@pytest.mark.parametrize("chip", (75, 90))
def test_small_kernels_fit(kernel: str, chip: int, tmp_path: Path) -> None:
    assert not faults_of(kernel, "float16", None, chip, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kernel", CANDIDATES)
def test_every_candidate_fits(kernel: str, precision: str, chip: int, tmp_path: Path) -> None:
    candidates = CANDIDATES[kernel][PRECISIONS[precision].products]
    faults = [
        fault
        for chosen in candidates
        for even in (True, False)
        for fault in faults_of(kernel, precision, chosen, chip, tmp_path, even)
    ]
    assert not faults


def test_a_candidate_that_spills_is_seen(tmp_path: Path) -> None:
    greedy = Configuration(128, 32, 16, 1, 2)
    assert needs_of("convolve", "float32", greedy, 90, tmp_path).spilled > 0
    assert any("spills" in fault for fault in faults_of("convolve", "float32", greedy, 90, tmp_path))


def test_a_candidate_that_wants_more_shared_memory_than_there_is_is_seen(tmp_path: Path) -> None:
    greedy = Configuration(128, 128, 64, 8, 7)
    assert needs_of("convolve", "tf32", greedy, 80, tmp_path).shared > SHARED_MEMORY[80]
    assert any("shared" in fault for fault in faults_of("convolve", "tf32", greedy, 80, tmp_path))
