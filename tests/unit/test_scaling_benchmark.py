"""The page on scaling says what was measured and nothing else; what is modelled from it is right."""

from __future__ import annotations

import json

import pytest
from benchmarks import scaling
from benchmarks.scaling_model import Cluster, Rates, exchange_seconds, modelled

RATES = Rates(
    step_seconds=0.2,
    inference_seconds=0.1,
    load_seconds=1.0,
    gradient_bytes=4e8,
    read_bytes=1e7,
    opened_files=10,
    count_seconds=0.1,
)


def test_the_page_is_made_of_what_was_measured():
    measured = json.loads(scaling.RESULT.read_text())
    assert scaling.PAGE.read_text(encoding="utf-8") == scaling.page(measured)
    assert [row["processes"] for row in measured["processes"]] == [1, 2, 4]


def test_loading_that_does_not_keep_up_is_waited_for():
    slow, fast = Cluster(cores_a_gpu=2), Cluster(cores_a_gpu=10)
    assert modelled(RATES, 1, 1200, 300, slow).step_seconds == 0.5
    run = modelled(RATES, 1, 1200, 300, fast)
    assert run.step_seconds == 0.2 and run.cores_a_gpu == 5.0
    assert run.epoch_seconds == pytest.approx(240) and run.validation_seconds == pytest.approx(60)


def test_an_exchange_is_a_ring_within_and_one_between_nodes():
    cluster = Cluster(gpus_a_node=8, node_gb_s=100, network_gb_s=10)
    assert exchange_seconds(4e8, 1, cluster) == 0
    assert exchange_seconds(4e8, 2, cluster) == pytest.approx(4e8 / 100e9)
    assert exchange_seconds(4e8, 16, cluster) == pytest.approx(2 * 7 / 8 * 4e8 / 100e9 + 4e8 / 10e9)
