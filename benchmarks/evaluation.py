"""Time and memory of evaluating a whole validation split: ScanNet's 312 scenes unless told otherwise.

    python benchmarks/evaluation.py                         # 312 scenes × 150,000 points × 600 masks
    python benchmarks/evaluation.py --scenes 20 --save      # shorter; JSON under benchmarks/results

Scenes are generated one at a time from a seed: a walk along the points makes superpoints, runs of
superpoints the annotated instances, and predictions are noisy copies of instances on superpoints,
spread over points as the models' post-processing does it. Only what lies between a model's output
and the metrics is timed. "Beyond one scene" is how much the process's peak memory grew after the
first scene was made, packed and counted: what the evaluator keeps of all the others.
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from bifusion.device_memory import most_resident_mb
from bifusion.evaluation.evaluator import Evaluator
from bifusion.labels.label_set import LabelSet
from bifusion.labels.sets import get_label_set
from bifusion.models.postprocess import pack_point_masks
from bifusion.rng import numpy_rng
from bifusion.types import SceneResult, SceneTruth

RESULTS = Path(__file__).parent / "results"
SUPERPOINT_POINTS = 100
INSTANCE_SUPERPOINTS = 25
FLIPPED_SHARE = 0.003
"""Superpoints of the scene that a predicted mask has wrong."""


@dataclass
class Setting:
    """What is generated and evaluated."""

    scenes: int = 312
    points: int = 150_000
    masks: int = 600
    label_set: str = "scannet20"
    seed: int = 0
    save: bool = False
    """Write benchmarks/results/evaluation.json."""


@dataclass
class Seconds:
    """Time by part, over all scenes."""

    spread_masks: float = 0.0
    """Superpoint masks to packed point masks."""
    count: float = 0.0
    """`Evaluator.add`."""
    compute: float = 0.0
    """`Evaluator.compute`, once."""


@dataclass
class Drawn:
    """A generated scene before its masks are spread over points."""

    superpoint: np.ndarray
    truth: SceneTruth
    masks: np.ndarray
    """(P, S) bool."""
    labels: np.ndarray
    scores: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray


def draw_scene(setting: Setting, label_set: LabelSet, index: int) -> Drawn:
    """Scene `index` of the split."""
    rng = numpy_rng(setting.seed, "evaluation benchmark", index)
    count = max(setting.points // SUPERPOINT_POINTS, 1)
    superpoint = np.sort(rng.integers(0, count, setting.points))
    object_of = np.arange(count) // INSTANCE_SUPERPOINTS
    things = np.array(label_set.thing_classes)
    class_of = rng.choice(label_set.num_classes, object_of.max() + 1)
    is_thing = np.isin(class_of, things)
    semantic = class_of[object_of]
    instance = np.where(is_thing[object_of], object_of, -1)

    aimed = rng.choice(object_of.max() + 1, setting.masks)
    masks = (object_of[None] == aimed[:, None]) ^ (rng.random((setting.masks, count)) < FLIPPED_SHARE)
    labels = np.where(is_thing[aimed], class_of[aimed], rng.choice(things, setting.masks))
    guessed = np.where(rng.random(count) < FLIPPED_SHARE, rng.choice(things, count), semantic)
    return Drawn(
        superpoint=superpoint,
        truth=SceneTruth(f"scene{index:04d}_00", semantic[superpoint], instance[superpoint]),
        masks=masks,
        labels=labels.astype(np.int16),
        scores=np.sort(rng.random(setting.masks).astype(np.float32))[::-1].copy(),
        semantic=guessed[superpoint].astype(np.int16),
        instance=instance[superpoint].astype(np.int32),
    )


def spread(scene: Drawn) -> SceneResult:
    """The scene's result at its points."""
    return SceneResult(
        name=scene.truth.name,
        num_points=len(scene.superpoint),
        masks=pack_point_masks(torch.from_numpy(scene.masks), torch.from_numpy(scene.superpoint)),
        labels=scene.labels,
        scores=scene.scores,
        semantic=scene.semantic,
        panoptic_semantic=scene.semantic,
        panoptic_instance=scene.instance,
    )


def run(setting: Setting) -> dict:
    """Evaluates all scenes; times, memory and a few of the metrics."""
    label_set = get_label_set(setting.label_set)
    evaluator, seconds, after_one = Evaluator(label_set), Seconds(), 0.0
    for index in range(setting.scenes):
        scene = draw_scene(setting, label_set, index)
        started = time.perf_counter()
        result = spread(scene)
        spread_at = time.perf_counter()
        evaluator.add(result, scene.truth)
        seconds.spread_masks += spread_at - started
        seconds.count += time.perf_counter() - spread_at
        after_one = after_one or most_resident_mb()
    started = time.perf_counter()
    metrics = evaluator.compute()
    seconds.compute = time.perf_counter() - started
    return {
        "setting": asdict(setting),
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "seconds": asdict(seconds),
        "seconds_per_scene": (seconds.spread_masks + seconds.count) / max(setting.scenes, 1),
        "peak_memory_mb": most_resident_mb(),
        "beyond_one_scene_mb": most_resident_mb() - after_one,
        "metrics": {key: metrics[key] for key in ("miou", "ap", "ap50", "ap25", "pq")},
    }


def main(setting: Setting) -> None:
    """Runs the benchmark and prints its table."""
    outcome = run(setting)
    title = f"{setting.scenes} scenes × {setting.points:,} points × {setting.masks} masks"
    table = Table("figure", "value", title=title)
    for part, value in outcome["seconds"].items():
        table.add_row(f"{part.replace('_', ' ')} (s)", f"{value:.1f}")
    table.add_row("a scene (s)", f"{outcome['seconds_per_scene']:.3f}")
    table.add_row("peak memory (MB)", f"{outcome['peak_memory_mb']:.0f}")
    table.add_row("… beyond one scene (MB)", f"{outcome['beyond_one_scene_mb']:.0f}")
    for name, value in outcome["metrics"].items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)
    if setting.save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / "evaluation.json"
        path.write_text(json.dumps(outcome, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main(tyro.cli(Setting, description=__doc__))
