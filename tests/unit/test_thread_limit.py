"""Fewer OpenMP threads than PyTorch counts on make wrong gradients, so they are refused."""

import pytest
import torch

from bifusion.errors import InputError
from bifusion.recipes import get_recipe
from bifusion.step.runtime import check_thread_limit, make_fabric


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def test_a_limit_below_the_threads_is_refused_before_training(two_threads, monkeypatch):
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    with pytest.raises(InputError, match="OMP_THREAD_LIMIT is 1.*counts on 2 threads.*OMP_NUM_THREADS"):
        make_fabric(get_recipe("bifusion_tiny").trainer)


@pytest.mark.parametrize("limit", [None, "", "2", "64", "many"])
def test_a_limit_that_does_not_bind_is_none_of_our_business(two_threads, monkeypatch, limit):
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    if limit is not None:
        monkeypatch.setenv("OMP_THREAD_LIMIT", limit)
    check_thread_limit()
