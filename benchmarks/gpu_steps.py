"""A full-size training step and an inference on a GPU: time by phase, memory, what the host waits for.

Run as `python -m benchmarks.gpu_steps RECIPE DATA PRECISION`; prints JSON. The sparse backend is that of
the environment (BIFUSION_SPARSE_BACKEND).
"""

from __future__ import annotations

import json
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import steps
from benchmarks.gpu_timing import wall
from bifusion.config.run import Config
from bifusion.data.batching import collate
from bifusion.data.dataset import SceneDataset
from bifusion.inference.device import AUTOCAST
from bifusion.models.build import build_model
from bifusion.models.folding import for_inference
from bifusion.models.model import Model
from bifusion.step.runtime import deterministic
from bifusion.types import Batch, FusionControl

STEPS = 10
INFERENCES = 10


def run(recipe: str, data: Path, precision: str) -> dict[str, Any]:
    """Steps in the middle of the recipe's last stage on the real scan, then its inference."""
    config = steps.configured(recipe, data)
    config.trainer.accelerator = "cuda"
    config.trainer.precision = precision  # pyright: ignore[reportAttributeAccessIssue]
    torch.manual_seed(0)
    model = build_model(config.model, config.seed, config.labels)
    take_step, prepare = steps.middle_of_last_stage(config, model)
    dataset = SceneDataset(config.data, "train", config.seed, training=True)
    batches = [steps.make_batch(dataset, 1, index) for index in range(3)]
    taken = iter(range(10**6))

    def step() -> None:
        index = next(taken)
        take_step(*prepare(index, batches[index % len(batches)]))

    with deterministic(config.trainer.deterministic, torch.device("cuda")):
        torch.cuda.reset_peak_memory_stats()
        seconds = wall(step, STEPS, warmup=3)
        peak = torch.cuda.max_memory_allocated() / 2**20
        found = {
            "recipe": recipe,
            "precision": precision,
            "voxels": len(batches[0].voxel_coords),
            "views": len(batches[0].views),
            "step": seconds.as_dict(),
            "peak_memory_mb": peak,
            "parts": phases(step, model),
            "stalls": stalls(step),
            "device": device_work(step),
        }
    return {**found, "inference": inference(model, config, precision)}


def phases(step: Callable[[], None], model: Model, repeats: int = 3) -> dict[str, float]:
    """Seconds by phase, the device waited for at the ends of each, so that their sum exceeds a step."""
    parts: dict[str, float] = defaultdict(float)
    own_clock, steps.clock = steps.clock, _synchronised
    try:
        for _ in range(repeats):
            with steps.observed(model, parts):
                step()
    finally:
        steps.clock = own_clock
    return {name: seconds / repeats for name, seconds in parts.items()}


def _synchronised() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def stalls(function: Callable[[], None]) -> dict[str, Any]:
    """How often, and on which lines of the product, the host waits for the device during `function`."""
    places: Counter[str] = Counter()

    def note(message: Warning | str, *where: Any, **more: Any) -> None:
        if "synchroniz" in str(message):
            stack = traceback.extract_stack()[:-1]
            frame = ([f for f in stack if "/bifusion/" in f.filename] or stack)[-1]
            places[f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"count": places.total(), "places": dict(places.most_common())}


def device_work(function: Callable[[], None], named: int = 12) -> dict[str, Any]:
    """Milliseconds in which the device computes, launches, and the kernels that take longest."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        function()
        torch.cuda.synchronize()
    kernels = [e for e in profile.key_averages() if str(e.device_type).endswith("CUDA")]
    kernels = [e for e in kernels if not e.key.startswith("Optimizer.")]  # a range, not a kernel
    kernels.sort(key=lambda event: -event.self_device_time_total)
    return {
        "busy_ms": sum(event.self_device_time_total for event in kernels) / 1000,
        "kernels": sum(event.count for event in kernels),
        "longest": [
            [event.key[:80], event.count, event.self_device_time_total / 1000]
            for event in kernels[:named]
        ],
    }


def inference(model: Model, config: Config, precision: str) -> dict[str, Any]:
    """The whole scan, from voxels on the device to masks and classes of its points on the host, as
    `Segmenter` has it: norms folded, weights kept in the precision."""
    dataset = SceneDataset(config.data, "train", config.seed, training=False)
    batch: Batch = collate([dataset.sample(0, 0)]).to("cuda")
    dtype = AUTOCAST[precision]

    def forward() -> Any:
        with torch.autocast("cuda", dtype or torch.bfloat16, enabled=dtype is not None):
            return model(batch, FusionControl())

    def whole() -> None:
        config.postprocess.results(forward(), batch, config.labels)

    model = for_inference(model, dtype)
    with torch.inference_mode():
        return {
            "voxels": len(batch.voxel_coords),
            "forward": wall(forward, INFERENCES).as_dict(),
            "whole": wall(whole, INFERENCES).as_dict(),
            "stalls": stalls(whole),
            "device": device_work(forward),
        }


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))
