"""Seconds of an all-reduce of a small network's gradients over the processes that torchrun started.

Run as `python -m benchmarks.scaling_exchange REPEATS`; the first process prints JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

import torch
from torch import distributed

from bifusion.models.build import build_model
from bifusion.recipes import get_recipe

RECIPE = "oneformer3d_small"


def main(repeats: int) -> None:
    config = get_recipe(RECIPE)
    model = build_model(config.model, config.seed, config.labels)
    gradients = torch.zeros(sum(parameter.numel() for parameter in model.parameters()))
    processes, seconds = 1, [0.0]
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
        processes = distributed.get_world_size()
        distributed.all_reduce(gradients)
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            distributed.all_reduce(gradients)
            seconds.append(time.perf_counter() - started)
        distributed.barrier()
    if os.environ.get("RANK", "0") == "0":
        size = gradients.nbytes
        sent = 2 * (processes - 1) / processes * size  # a ring's, each way
        told = {
            "gradient_bytes": size,
            "sent_bytes": sent,
            "exchange_seconds": statistics.median(seconds),
        }
        print(json.dumps(told))
    if "RANK" in os.environ:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]))
