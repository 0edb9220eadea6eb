"""Segment one scene with a trained model and write the result as files."""

from __future__ import annotations

from pathlib import Path

import torch

from bifusion.inference.segmenter import Segmenter


def predict_scene(
    run: Path,
    scene_folder: Path,
    out_dir: Path,
    *,
    device: torch.device | str | None = None,
    precision: str | None = None,
    min_score: float | None = None,
) -> list[Path]:
    """Write semantic.ply, instance.ply and instances.json (see export.py) of one scene, where its files
    had it: with the offset that its scene.json states.

    Args:
        run: run folder (its last checkpoint is taken) or checkpoint folder.
        scene_folder: scene folder, with or without views; or what else `Segmenter.predict` takes a path
            for.
        out_dir: made if it is not there; each file appears complete or not at all.
        device: where the model runs; a GPU if there is one.
        precision: as of `Segmenter`.
        min_score: as of `Segmenter.predict`.
    Returns:
        The three paths.
    Raises:
        InputError: no checkpoint in `run`, or a scene folder that cannot be read.
    """
    segmenter = Segmenter(run, device=device, precision=precision)
    return segmenter.predict(Path(scene_folder), min_score=min_score).write(out_dir)
