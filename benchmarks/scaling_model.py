"""What measured rates say for more GPUs and more scans than are at hand.

Nothing here is measured: every figure follows from those of `scaling_measure`, the GPU's from
`make gpu`, and what is assumed of a cluster, all of which the page shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

SCANS, VALIDATION_SCANS = 1201, 312
"""ScanNet's."""
KEPT_VIEWS = 100
"""Views of a scan on disk; a step reads as many of them as the recipe says."""


@dataclass(frozen=True)
class Cluster:
    """What is assumed."""

    gpus_a_node: int = 8
    cores_a_gpu: int = 12
    disk_gb_s: float = 10.0
    """That all nodes together read from the shared file system."""
    opens_s: float = 20_000.0
    """Files that it opens or looks at in a second."""
    node_gb_s: float = 150.0
    """Between the GPUs of a node, each way."""
    network_gb_s: float = 40.0
    """Between nodes, of each node, each way."""
    memory_gb: float = 1500.0
    """Of a node, for the pages of its files."""


@dataclass(frozen=True)
class Rates:
    """Of one recipe."""

    step_seconds: float
    """On a GPU, one scene."""
    inference_seconds: float
    load_seconds: float
    """Of one core."""
    gradient_bytes: float
    read_bytes: float
    """Of a scene, a step."""
    opened_files: float
    """Of a scene, a step."""
    count_seconds: float
    """Of one core, to count a predicted scene."""


@dataclass(frozen=True)
class Run:
    """What a run takes."""

    gpus: int
    step_seconds: float
    """Computing, or waiting for data, and the exchange."""
    exchange_seconds: float
    cores_a_gpu: float
    """That loading needs."""
    epoch_seconds: float
    validation_seconds: float
    disk_gb_s: float


def rates_of(measured: dict[str, Any], recipe: str, gpu: dict[str, Any], count_seconds: float) -> Rates:
    """Those of one recipe. `gpu`: its step in benchmarks/results/gpu-NAME.json, which may have had more
    views than the real scan: each costs what those of the scan do."""
    own, disk, views = measured["recipes"][recipe], measured["disk"], gpu["views"]
    without = min(one["load_seconds"] for one in measured["recipes"].values() if not one["views"])
    a_view = (own["load_seconds"] - without) / own["views"] if own["views"] else 0.0
    return Rates(
        step_seconds=gpu["step"]["seconds"],
        inference_seconds=gpu["inference"]["whole"]["seconds"],
        load_seconds=own["load_seconds"] + (views - own["views"]) * a_view,
        gradient_bytes=own["gradient_bytes"],
        read_bytes=disk["bytes_without_views"] + views * disk["bytes_a_view"],
        opened_files=disk["files_without_views"] + 2 * views,
        count_seconds=count_seconds,
    )


def modelled(rates: Rates, gpus: int, scans: int, validated: int, cluster: Cluster) -> Run:
    """A run with one scene a GPU and step."""
    loading = rates.load_seconds / cluster.cores_a_gpu
    exchange = exchange_seconds(rates.gradient_bytes, gpus, cluster)
    step = max(rates.step_seconds, loading) + exchange
    scene = max(rates.inference_seconds, loading) + rates.count_seconds
    return Run(
        gpus=gpus,
        step_seconds=step,
        exchange_seconds=exchange,
        cores_a_gpu=rates.load_seconds / rates.step_seconds,
        epoch_seconds=scans // gpus * step,
        validation_seconds=math.ceil(validated / gpus) * scene,
        disk_gb_s=gpus / step * rates.read_bytes / 1e9,
    )


def exchange_seconds(gradient_bytes: float, gpus: int, cluster: Cluster) -> float:
    """A ring over the GPUs of a node, and one over the nodes, none of it hidden behind computing."""
    within = min(gpus, cluster.gpus_a_node)
    nodes = math.ceil(gpus / cluster.gpus_a_node)
    seconds = 2 * (within - 1) / within * gradient_bytes / (cluster.node_gb_s * 1e9)
    return seconds + 2 * (nodes - 1) / nodes * gradient_bytes / (cluster.network_gb_s * 1e9)


def limits(
    rates: Rates, measured: dict[str, Any], gpus: int, scans: int, cluster: Cluster
) -> list[dict[str, Any]]:
    """What a large run asks of each part against what there is, the tightest first.

    A `share` above 1 is more than there is; of start and evaluation, more than a tenth of an epoch.
    """
    validated = scans // 10
    run = modelled(rates, gpus, scans, validated, cluster)
    scenes_s = gpus / rates.step_seconds
    nodes = math.ceil(gpus / cluster.gpus_a_node)
    start = measured["start"]
    stored_gb = (
        scans
        * (measured["disk"]["bytes_without_views"] + KEPT_VIEWS * measured["disk"]["bytes_a_view"])
        / 1e9
    )
    looked_at = gpus * scans * measured["disk"]["files_without_views"] / cluster.opens_s
    start_seconds = max(scans * start["seconds_a_scene"], looked_at)
    memory_gb = cluster.memory_gb / cluster.gpus_a_node / 4
    gathered_gb = validated * measured["pieces"]["bytes_a_scene"] / 1e9
    tenth = run.epoch_seconds / 10
    found = [
        ("loading", "cores a GPU", run.cores_a_gpu, cluster.cores_a_gpu),
        ("disk, bytes", "GB a second", scenes_s * rates.read_bytes / 1e9, cluster.disk_gb_s),
        ("disk, files", "opened a second", scenes_s * rates.opened_files, cluster.opens_s),
        ("exchange", "s a step", run.exchange_seconds, rates.step_seconds),
        ("evaluation", "s a validation", run.validation_seconds, tenth),
        ("figures gathered", "GB in each process", gathered_gb, memory_gb),
        ("start", "s until all have looked at the data", start_seconds, tenth),
        ("data on disk", "GB, against the nodes' memory", stored_gb, nodes * cluster.memory_gb),
    ]  # fmt: skip
    rows = [
        {"part": part, "unit": unit, "asked": asked, "there": there, "share": asked / there}
        for part, unit, asked, there in found
    ]
    return sorted(rows, key=lambda row: -row["share"])
