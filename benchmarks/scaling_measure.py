"""What scaling depends on, measured here: a core's work a scene, bytes, pieces of figures, exchange."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks import evaluation
from benchmarks.scenes import real_dataset
from benchmarks.steps import configured
from bifusion.config.run import Config
from bifusion.data.dataset import SceneDataset
from bifusion.datasets.rooms import RoomsConfig, make_rooms
from bifusion.labels.sets import get_label_set
from bifusion.models.build import build_model
from bifusion.runs.run_data import data_of
from bifusion.storage.json_files import json_text
from bifusion.training.processes.group import Pieces
from bifusion.training.validation import Counted

RECIPES = ("oneformer3d_scannet200", "bifusion_scannet200")
TRAINED = "oneformer3d_small"
"""The recipe whose steps several processes of this machine take."""
PROCESSES = (1, 2, 4)
MASKS = 100
POINTS = 150_000
REPEATS = 3
EXCHANGES = 5


def measure(work: Path, steps: int) -> dict[str, Any]:
    """All of it; `work` is a folder for what is made on the way, `steps` those of each training."""
    scan = real_dataset(_emptied(work / "scan"))
    found: dict[str, Any] = {"pieces": pieces()}
    if scan is not None:
        found["prepare"] = preparing(work / "prepared")
        found["disk"] = disk(scan)
        found["start"] = starting(scan)
        found["recipes"] = {recipe: of_recipe(recipe, scan) for recipe in RECIPES}
    rooms = work / "rooms"
    make_rooms(rooms, RoomsConfig(train_rooms=4 * steps, val_rooms=1), None)
    found["processes"] = [
        {"processes": count, **training(rooms, work / f"run-{count}", count, steps)}
        for count in PROCESSES
    ]
    return found


def preparing(out: Path) -> dict[str, float]:
    """Processor seconds from the released files of the real scan, with its views, to a scene folder."""
    seconds = _processor_seconds(lambda: real_dataset(_emptied(out)), repeats=1)
    return {"seconds_a_scene": seconds}


def disk(scan: Path) -> dict[str, float]:
    """Bytes and files of the real scan's folder; of its views, a view."""
    (folder,) = (scan / "train").iterdir()
    files = [path for path in folder.rglob("*") if path.is_file()]
    pictures = [path for path in files if path.suffix in (".jpg", ".png")]
    views = max(len(pictures) // 2, 1)
    return {
        "bytes_without_views": sum(path.stat().st_size for path in files if path not in pictures),
        "bytes_a_view": sum(path.stat().st_size for path in pictures) / views,
        "files_without_views": len(files) - len(pictures),
    }


def starting(scan: Path) -> dict[str, float]:
    """What each process spends on a scene as a run starts: it looks at all files, tells their sums."""
    config = configured(RECIPES[0], scan)
    with suppress(FileExistsError):
        (scan / "val").symlink_to("train")
    scenes = len(data_of(config).scenes)
    seconds = _processor_seconds(lambda: data_of(config))
    size = len(json_text(data_of(config).scenes).encode())
    return {"seconds_a_scene": seconds / scenes, "bytes_a_scene": size / scenes}


def of_recipe(recipe: str, scan: Path) -> dict[str, float]:
    """Processor seconds to load a scene, augmented, cached by the system alone; gradients' bytes."""
    config = configured(recipe, scan)
    config.data.cache_mb = 0
    dataset = SceneDataset(config.data, "train", config.seed, training=True)
    epochs = iter(range(1000))
    seconds = _processor_seconds(lambda: dataset.sample(0, next(epochs)))
    views = len(dataset.sample(0, 0).views)
    return {"load_seconds": seconds, "views": views, "gradient_bytes": _gradient_bytes(config)}


def pieces() -> dict[str, float]:
    """Bytes that a validated scene adds to what processes give each other, with 200 classes."""
    setting = evaluation.Setting(points=POINTS, masks=MASKS, label_set="scannet200")
    config = configured(RECIPES[0], Path())
    config.data.labels = get_label_set("scannet200")
    scene, counted, packed = evaluation.draw_scene(setting, config.labels, 0), Counted(config), Pieces()
    counted.evaluator.add(evaluation.spread(scene), scene.truth)
    started = time.process_time()
    packed.add(0, counted)
    seconds = time.process_time() - started
    return {"bytes_a_scene": sum(map(len, packed._packed.values())), "pack_seconds": seconds}


def training(rooms: Path, run: Path, processes: int, steps: int) -> dict[str, float]:
    """Median seconds of a step of `TRAINED`, one scene a process, and of a gradients' exchange."""
    shutil.rmtree(run, ignore_errors=True)
    command = [
        "-m", "bifusion", "train", TRAINED, "--data.root", str(rooms), "--out", str(run),
        "--trainer.epochs", "1", "--trainer.batch-size", "1", "--trainer.workers", "0",
        "--trainer.accelerator", "cpu", "--trainer.devices", str(processes),
    ]  # fmt: skip
    _run(processes, command)
    lines = (run / "steps.jsonl").read_text().splitlines()[1:steps]  # the first one fills caches
    told = _run(processes, ["-m", "benchmarks.scaling_exchange", str(EXCHANGES)])
    return {
        "step_seconds": statistics.median(json.loads(line)["seconds"] for line in lines),
        "steps": len(lines),
        **json.loads(told.splitlines()[-1]),
    }


def _run(processes: int, command: list[str]) -> str:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    whole = [sys.executable, *(launcher if processes > 1 else ()), *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(whole, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _gradient_bytes(config: Config) -> int:
    model = build_model(config.model, config.seed, config.labels)
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def _processor_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """The least of some repetitions, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = []
        for _ in range(repeats):
            started = time.process_time()
            work()
            seconds.append(time.process_time() - started)
        return min(seconds)
    finally:
        torch.set_num_threads(threads)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder
