"""Small valid samples of what runs, predictions and studies leave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import safetensors.torch

import untrained_runs
from bifusion.config.run import config_to_dict
from bifusion.data.scene_sums import FileState
from bifusion.datasets.rooms.config import RoomsConfig
from bifusion.diagnosis.bundle import write_bundle
from bifusion.inference.export import write_result
from bifusion.labels.sets import SCANNET20
from bifusion.models.towers.clip import ClipConfig, ClipEncoder
from bifusion.models.towers.clip_weights import open_clip_name
from bifusion.runs.checkpoint import LAST, SUMS
from bifusion.runs.run_data import RunData, write_data
from bifusion.storage.json_files import write_json
from bifusion.types import SceneResult
from run_factory import FakeRun
from step_factory import tiny_step
from tiny_runs import make_tiny_data, tiny_config

TOWER = ClipConfig(architecture="small", blocks=1, width=16, layers=2, heads=2, image_size=32)


def config(folder: Path) -> Path:
    path = folder / "config.json"
    write_json(path, config_to_dict(untrained_runs.bifusion()))
    return path


def unsummed_checkpoint(folder: Path) -> Path:
    """Without checksums, which no change would get past."""
    path = checkpoint(folder)
    (path / SUMS).unlink()
    return path


def checkpoint(folder: Path) -> Path:
    run = untrained_runs.save_run(folder / "run", untrained_runs.baseline())
    return run / "checkpoints" / LAST


def tower(folder: Path) -> Path:
    """CLIP's image tower by open_clip's names, as .safetensors."""
    tensors = ClipEncoder(TOWER).state_dict()
    named = {f"visual.{open_clip_name(name)}": tensor.clone() for name, tensor in tensors.items()}
    path = folder / "tower.safetensors"
    path.write_bytes(safetensors.torch.save(named, {"description": "from scratch"}))
    return path


def bundle(folder: Path) -> Path:
    """The step of a tiny network, with two views."""
    data = make_tiny_data(folder / "data", train=2, val=1)
    step = tiny_step(tiny_config("bifusion_small", data))
    step.stepper(step.inputs, step.state)
    path = folder / "step.safetensors"
    write_bundle(path, step.stepper, step.config, step.inputs, step.state, [])
    shutil.rmtree(data)
    return path


def records(folder: Path) -> Path:
    """A run folder as a comparison reads it."""
    return FakeRun(epochs=4, steps_per_epoch=3, predictions=True).write(folder)


def prediction(folder: Path) -> Path:
    count = 12
    inside = np.arange(count) < count // 2
    semantic = np.where(inside, 4, 0).astype(np.int16)
    result = SceneResult(
        name="room",
        num_points=count,
        masks=np.packbits(inside[None], axis=1),
        labels=np.array([4], np.int16),
        scores=np.array([0.75], np.float32),
        semantic=semantic,
        panoptic_semantic=semantic,
        panoptic_instance=np.where(inside, 0, -1).astype(np.int32),
    )
    coord = np.random.default_rng(0).uniform(0, 3, (count, 3)).astype(np.float32)
    write_result(folder, result, coord, SCANNET20)
    return folder


def scan_description(folder: Path) -> Path:
    (folder / "scan.json").write_text(json.dumps({"lines": ["a"], "versions": {"format": 1}}))
    (folder / "view.html").write_text("<p>")
    return folder


def rooms_config(folder: Path) -> Path:
    path = folder / "rooms.json"
    write_json(path, RoomsConfig())
    return path


def data_of_run(folder: Path) -> Path:
    """What a run was trained on and with."""
    state = {"coord.npy": FileState(120, "0" * 64, 1), "views": FileState(9, None, 1)}
    versions = {"torch": "2.0", "numpy": "2.0"}
    write_data(folder, RunData("data", {"train/room": state}, 1, versions, [["numpy: was 1"]]))
    return folder
