"""Time and memory to segment one scan, in a process of its own (on Linux: /proc tells the memory).

Run as `python -m benchmarks.segment_cell RUN SCAN VIEWS`, or `… superpoints SCAN`; prints JSON. With a
fourth argument, a number of rounds, float32 and bfloat16 in turn instead, by part of the network.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.operations import gflop_of
from benchmarks.timing import clock, dense_gflops, machine
from bifusion.data.scene_folder import load_points
from bifusion.datasets.superpoints.normals import estimate_normals
from bifusion.datasets.superpoints.surface import surface_superpoints
from bifusion.device_memory import most_resident_mb, peak_memory_mb
from bifusion.inference.device import keep_freed_memory
from bifusion.inference.segmentation import Segmentation
from bifusion.inference.segmenter import Segmenter
from bifusion.types import Batch, FusionControl, Prediction

SUPERPOINTS = "superpoints"
ONCE_S = 60.0
"""A first call longer than this is not repeated."""
OBJECT_SHARE = 1 / 40
"""Of a scan's superpoints, in each mask that is put in the place of an untrained network's."""
PART_METHODS = {"unet": "pyramid", "tower": "encode_views"}
"""What of a network's part is called, where that is not `forward`."""
SURE = 4.0
"""Its logit, inside and, negative, outside."""


class ObservedModel:
    """The network, timed; its masks, which are of nothing as it is untrained, become those of objects.

    The result then has as many instances as the published settings keep: the most that post-processing
    has to do.
    """

    def __init__(self, model: torch.nn.Module):
        self.model, self.seconds = model, 0.0
        self.before = 0.0
        """When the network began: what came before is reading and voxelising."""
        self.voxels = self.views = self.superpoints = 0

    def __call__(self, batch: Batch, control: FusionControl) -> Prediction:
        self.before = time.perf_counter()
        prediction = self.model(batch, control)
        if batch.voxel_coords.is_cuda:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.before
        self.voxels, self.views = len(batch.voxel_coords), len(batch.views)
        self.superpoints = batch.num_superpoints
        return with_objects(prediction)


def with_objects(prediction: Prediction) -> Prediction:
    """The prediction with masks of runs of superpoints, of all classes, in its last layer."""
    last = prediction.layers[-1]
    masks, logits = [], []
    for mask, classes in zip(last.mask_logits, last.class_logits, strict=True):
        queries, superpoints = mask.shape
        middle = torch.arange(queries, device=mask.device)[:, None] * superpoints // max(queries, 1)
        distance = (torch.arange(superpoints, device=mask.device) - middle).abs()
        masks.append(torch.where(distance <= superpoints * OBJECT_SHARE / 2, SURE, -SURE))
        generator = torch.Generator().manual_seed(0)
        logits.append(torch.randn(classes.shape, generator=generator).to(classes.device))
    layers = [*prediction.layers[:-1], replace(last, mask_logits=masks, class_logits=logits)]
    return replace(prediction, layers=layers)


def segment(run: Path, scan: Path, views: int) -> dict[str, Any]:
    """Loads the run and segments the scan, twice where that takes no minute."""
    imported_mb = resident_mb()
    began = time.perf_counter()
    segmenter = Segmenter(run)
    load_s = time.perf_counter() - began
    segmenter.config.data.max_views = views
    observed = ObservedModel(segmenter.model)
    segmenter.model = observed  # pyright: ignore[reportAttributeAccessIssue]
    first, found = _call(segmenter, observed, scan)
    last = first
    if first["seconds"] < ONCE_S:
        last, found = _call(segmenter, observed, scan)
    peak_mb = most_resident_mb()  # before the product that the rest is held against takes memory
    dense = dense_gflops()
    gflop = gflop_of(observed.model, lambda: segmenter.predict(scan))
    return {
        "gflop": gflop,
        "dense_gflops": dense,
        "of_dense_time": last["seconds"] * dense / gflop,
        "voxels": observed.voxels,
        "points": len(found.points),
        "superpoints": observed.superpoints,
        "views": observed.views,
        "image_size": segmenter.config.data.image_size if views else None,
        "instances": len(found.scores),
        "load_s": load_s,
        "first": first,
        **last,
        "imported_mb": imported_mb,
        "peak_mb": peak_mb,
        "gpu_peak_mb": peak_memory_mb(segmenter.device) if segmenter.device.type == "cuda" else None,
    }


def _call(
    segmenter: Segmenter, observed: ObservedModel, scan: Path
) -> tuple[dict[str, float], Segmentation]:
    """Seconds of one call, in all and by part, and what it gave."""
    began = time.perf_counter()
    found = segmenter.predict(scan)
    seconds = time.perf_counter() - began
    parts = {
        "reading_s": observed.before - began,
        "network_s": observed.seconds,
        "results_s": began + seconds - observed.before - observed.seconds,
    }
    return {"seconds": seconds, **parts}, found


def precisions(run: Path, scan: Path, views: int, rounds: int) -> dict[str, Any]:
    """Median seconds of each part in float32 and in bfloat16, and of the ratios between them."""
    parts: list[dict[str, float]] = [{}, {}]
    segmenters = [Segmenter(run, precision=precision) for precision in ("32-true", "bf16-mixed")]
    for segmenter, own in zip(segmenters, parts, strict=True):
        segmenter.config.data.max_views = views
        for name, module in segmenter.model.named_children():
            method = PART_METHODS.get(name, "forward")
            setattr(module, method, _timed(getattr(module, method), name, own))
    taken: list[list[dict[str, float]]] = [[], []]
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            began = clock()
            parts[which].clear()
            segmenters[which].predict(scan)
            taken[which].append({**parts[which], "all": clock() - began})
    wide, narrow = (runs[1:] for runs in taken)  # the first round is not counted
    names = list(wide[0])
    return {
        "float32_s": {name: statistics.median(one[name] for one in wide) for name in names},
        "bfloat16_s": {name: statistics.median(one[name] for one in narrow) for name in names},
        "ratio": {
            name: statistics.median(a[name] / b[name] for a, b in zip(wide, narrow, strict=True))
            for name in names
        },
    }


def _timed(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = clock()
        result = function(*args, **kwargs)
        seconds[name] = seconds.get(name, 0.0) + clock() - began
        return result

    return timed


def superpoints(scan: Path) -> dict[str, Any]:
    """What a cloud that comes without superpoints takes before: normals and superpoints."""
    imported_mb = resident_mb()
    coord, _, _ = load_points(scan)
    began = time.perf_counter()
    found = surface_superpoints(coord, estimate_normals(coord), coord[:0, :].astype(int))
    seconds = time.perf_counter() - began
    return {
        "points": len(coord),
        "superpoints": int(found.max()) + 1,
        "seconds": seconds,
        "imported_mb": imported_mb,
        "peak_mb": most_resident_mb(),
    }


def resident_mb() -> float:
    """Resident memory now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 2**10


def main() -> None:
    warnings.simplefilter("ignore")
    # where memory runs out, this process goes and no other
    Path("/proc/self/oom_score_adj").write_text("1000")
    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "2")))
    keep_freed_memory()  # as the commands do
    run, scan = sys.argv[1], Path(sys.argv[2])
    if run == SUPERPOINTS:
        record = superpoints(scan)
    elif len(sys.argv) > 4:
        record = precisions(Path(run), scan, int(sys.argv[3]), int(sys.argv[4]))
    else:
        record = segment(Path(run), scan, int(sys.argv[3]))
    print(json.dumps({**record, "machine": machine()}))


if __name__ == "__main__":
    main()
