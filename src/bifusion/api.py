"""The package's face in Python: load, predict, train, evaluate, compare; read and write scenes.

`import bifusion` offers these names and imports nothing; a function imports what it needs when it is
called, as torch takes seconds. Units, frames and labels are those of CONVENTIONS.md: metres, z up,
`cam2world` in OpenCV's camera frame, classes as positions in their label set, −1 for none. Whatever is
wrong with what is given raises `bifusion.InputError`, which names the argument or the file.

`train` and `evaluate` load scenes in other processes (`trainer.workers`). Where Python starts those from
the script anew (macOS, or Python 3.14 and later) the script's calls belong under
`if __name__ == "__main__":`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bifusion.arguments import path_of, require, text_of, told_by_name, whole_of
from bifusion.errors import InputError

if TYPE_CHECKING:
    import torch

    from bifusion.config.run import Config
    from bifusion.data.open_scene import OpenScene
    from bifusion.datasets.placement import Up
    from bifusion.inference.found import Found, Instances
    from bifusion.inference.segmentation import Segmentation
    from bifusion.inference.segmenter import Segmenter
    from bifusion.inference.train_and_evaluate import TrainedRun
    from bifusion.inference.word_tower import WordTower
    from bifusion.labels.label_set import LabelSet
    from bifusion.studies.comparison.report import ComparisonReport
    from bifusion.training.trainer import OnEpoch

PathLike = str | os.PathLike[str]


@told_by_name
def load(
    run: PathLike, *, device: torch.device | str | None = None, precision: str | None = None
) -> Segmenter:
    """A trained model in memory, whose `predict` segments scenes.

    Args:
        run: run folder (its last checkpoint), checkpoint folder, what `train` returned, or a published
            OneFormer3D or Mask3D checkpoint as it was downloaded: it is converted once into the cache
            (BIFUSION_CACHE, or the platform's cache folder), and nothing in it is executed. Or
            "hf://user/name", a run that `bifusion push` has shared.
        device: where it runs; None: a GPU if there is one.
        precision: "32-true", "bf16-mixed" or, on a GPU, "16-mixed"; None: what the run was trained in,
            on a CPU float32.
    """
    from bifusion.inference.segmenter import Segmenter
    from bifusion.official.run_of import run_of

    return Segmenter(run_of(path_of(run, "run")), device=device, precision=precision)


@told_by_name
def train(
    recipe: str | PathLike | Config,
    *,
    out: PathLike,
    data: PathLike | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    tower_weights: PathLike | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    on_epoch: OnEpoch | None = None,
) -> TrainedRun:
    """Trains one run, evaluates its last checkpoint, and returns both and the run's folder.

    An epoch is a line of output, or a bar in a terminal, as `bifusion train` shows it. A run that its
    guard stopped is a result: see `status.state` and `status.summary`.

    Args:
        recipe: a recipe's name, "module:function" of one of your own, the path of a stored config.json,
            or a configuration (`get_recipe(name)`, free to be changed).
        out: run folder.
        data: data set (train/ and val/ with scene folders) instead of the configuration's.
        epochs: instead of the configuration's.
        seed: instead of the configuration's.
        tower_weights: file of weights for its image tower, which otherwise starts from those that the
            configuration names; where it names none, from random ones, as a line of output then says.
        resume: go on from the folder's last checkpoint, if there is one.
        accept_changes: go on though scenes or versions of the software have changed; reports say what.
        on_epoch: gets the record of each epoch, a dict as in epochs.jsonl ("epoch", "stage", "train":
            mean loss by term, "val": figures, or None where it was not validated, …), once the epoch is
            saved: for searches of settings, notebooks, trackers.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the run is saved, `resume=True` goes on.
        Whatever `on_epoch` raises, which ends the run; it is saved, `resume=True` goes on.
    """
    from bifusion.inference.train_and_evaluate import train_and_evaluate
    from bifusion.studies.training_runs.plan import give_weights

    require(on_epoch is None or callable(on_epoch), on_epoch, "on_epoch", "a function of a record")
    config = _config(recipe)
    config.data.root = config.data.root if data is None else path_of(data, "data")
    config.trainer.epochs = config.trainer.epochs if epochs is None else whole_of(epochs, "epochs")
    config.seed = config.seed if seed is None else whole_of(seed, "seed")
    if tower_weights is not None:
        if config.tower_for_weights is None:
            raise InputError(f"tower_weights: {config.name} has no image tower that takes weights")
        give_weights([config], path_of(tower_weights, "tower_weights"))
    run = train_and_evaluate(
        config, path_of(out, "out"), resume=resume, accept_changes=accept_changes, on_epoch=on_epoch
    )
    if run.status.state == "interrupted":
        raise KeyboardInterrupt(f"{run.folder}: saved; resume=True goes on")
    return run


@told_by_name
def evaluate(
    run: PathLike,
    *,
    data: PathLike | None = None,
    device: torch.device | str | None = None,
    precision: str = "32-true",
) -> dict[str, Any]:
    """All figures of a run's last checkpoint on validation scenes, also written into its folder.

    Args:
        run: run folder, what `train` returned, or a published checkpoint, as of `load`; no checkpoint
            folder, as the figures are written into the run's.
        data: data set of the same classes (its val/ counts) instead of the one it was trained on; a
            published checkpoint was trained on none of yours and needs it.
        precision: "32-true", "bf16-mixed" or, on a GPU, "16-mixed": what that costs in accuracy.

    Returns:
        What evaluation.json holds: under "full" mIoU, AP, PQ and what they are made of (shares of 1,
        None where there is nothing to measure), beside it the same with views withheld or shuffled.
    """
    from bifusion.inference.evaluate import evaluate_run
    from bifusion.official.run_of import run_of

    folder = run_of(path_of(run, "run"))
    data = None if data is None else path_of(data, "data")
    return evaluate_run(folder, data=data, device=device, precision=precision)


@told_by_name
def compare(
    recipes: Sequence[str] | str = (),
    *,
    data: PathLike | None = None,
    out: PathLike,
    seeds: Sequence[int] | int = (0,),
    epochs: int | None = None,
    tower_weights: PathLike | None = None,
    jobs: int = 0,
    runs: Sequence[PathLike] | PathLike = (),
    progress: bool = True,
) -> ComparisonReport:
    """Trains recipes side by side and judges them, as `bifusion compare` does; writes report.html and
    report.json into `out`. What is finished there is not trained again.

    Args:
        recipes: names, or "module:function", or one of them; none: a report on `runs` alone.
        data: data set to train on.
        seeds: one or more, every recipe is trained with each; fewer than three make verdicts
            "indicative".
        epochs: length of all runs instead of the recipes' own.
        tower_weights: weights of the image tower for the recipes that have one.
        jobs: runs at a time; 0: one a GPU, or two without.
        runs: finished run folders to report on too.
        progress: show how the runs go.

    Returns:
        What report.json holds; `crashed` names runs that have no result.
    """
    from bifusion.studies.comparison.run import ComparisonConfig, compare_runs
    from bifusion.untrusted.screen import Screen

    wanted = ComparisonConfig(
        recipes=tuple(text_of(recipe, "recipes", "names") for recipe in _several(recipes)),
        data=None if data is None else path_of(data, "data"),
        out=path_of(out, "out"),
        seeds=tuple(whole_of(seed, "seeds") for seed in _several(seeds)),
        epochs=None if epochs is None else whole_of(epochs, "epochs"),
        tower_weights=None if tower_weights is None else path_of(tower_weights, "tower_weights"),
        jobs=whole_of(jobs, "jobs"),
        runs=tuple(path_of(run, "runs") for run in _several(runs)),
    )
    return compare_runs(wanted, Screen(quiet=not progress))


@told_by_name
def open_scene(
    path: PathLike,
    *,
    labels: LabelSet | str | None = None,
    scale: float | None = None,
    up: Up | None = None,
) -> OpenScene:
    """A scene in the hand: arrays as memory maps, `views[name]` decoded when asked for.

    Args:
        path: scene folder, or a mesh or cloud (.ply, .obj, .glb, .las, .e57, .pcd), coloured, which has
            no views.
        labels: the classes of a folder's labels; None: those of its data set.
        scale: metres a unit of a mesh file; None: as the file says, else 1.
        up: which axis of a mesh file points up; None: y in glTF, z in all others.

    Raises:
        InputError: whatever is wrong with it; labels with a mesh, scale or up with a folder.
    """
    from bifusion.data.open_scene import open_folder
    from bifusion.datasets.arrays.arguments import label_set_of
    from bifusion.datasets.mesh_files.read import check_unplaced, is_mesh_file
    from bifusion.datasets.mesh_scene import open_mesh

    path = path_of(path, "path")
    if is_mesh_file(path) or path.is_file():
        if labels is not None:
            raise InputError(
                f"labels: {path} is a mesh file, which has none; they go with a scene folder"
            )
        return open_mesh(path, scale=scale, up=up)
    check_unplaced(path, scale, up)
    return open_folder(path, None if labels is None else label_set_of(labels))


@told_by_name
def find(
    scene: PathLike | OpenScene,
    words: Sequence[str] | str,
    tower: str | WordTower = "ViT-B-16",
    *,
    weights: PathLike | None = None,
    prediction: Segmentation | Instances | None = None,
    device: torch.device | str | None = None,
) -> Found:
    """Where a scene looks most like `words`, by CLIP's image features of its views; nothing is trained,
    and no accuracy is claimed.

    Args:
        scene: scene folder with views, the folder of a scan (its scene/ is one), or what `open_scene`
            returned.
        words: what to look for, taken as it is: "a red chair".
        tower: a plain CLIP of open_clip's table, a .json file in its format, or a tower in memory
            (`bifusion.inference.word_tower.load_word_tower`).
        weights: of a tower that is named: a file of a whole CLIP, or an open_clip tag; None: LAION-2B's,
            or OpenAI's of a tower "…-quickgelu".
        prediction: of the same points, whose objects are ranked; `Segmenter.predict` makes one.
        device: where a tower that is named runs; None: a GPU if there is one.
    """
    from bifusion.data.open_scene import OpenScene, open_folder
    from bifusion.inference.find import find_words, require_views
    from bifusion.inference.found import Instances
    from bifusion.inference.scan_files import scene_of
    from bifusion.inference.segmentation import Segmentation
    from bifusion.inference.word_tower import WordTower, load_word_tower
    from bifusion.models.towers.clip_text import check_words

    words = check_words(words)
    is_path = isinstance(scene, str | os.PathLike)
    opened = open_folder(scene_of(path_of(scene, "scene")), annotated=False) if is_path else scene
    require(isinstance(opened, OpenScene), scene, "scene", "a path, or what open_scene returned")
    require_views(opened)
    predicted = prediction is None or isinstance(prediction, Segmentation | Instances)
    require(predicted, prediction, "prediction", "what a model's predict returned, or Instances")
    require(isinstance(tower, str | WordTower), tower, "tower", "a name, or a WordTower")
    if isinstance(tower, str):  # after all that may be wrong with the others, as it may be downloaded
        named = weights is None or isinstance(weights, str | os.PathLike)
        require(named, weights, "weights", "a path, or an open_clip tag")
        tower = load_word_tower(tower, None if weights is None else str(weights), device=device)
    instances = Instances.of(prediction) if isinstance(prediction, Segmentation) else prediction
    return find_words(opened, words, tower, instances=instances)


def _config(recipe: str | PathLike | Config) -> Config:
    """A configuration of one's own to change."""
    from bifusion.config.run import Config, load_config
    from bifusion.recipes import config_of

    if isinstance(recipe, Config):
        return copy.deepcopy(recipe)
    expected = "a recipe's name, the path of a config.json or a configuration"
    require(isinstance(recipe, str | os.PathLike), recipe, "recipe", expected)
    return config_of(recipe) if isinstance(recipe, str) else load_config(Path(recipe))


def _several(given: Any) -> tuple[Any, ...]:
    """One, where it is no list of them, as several."""
    if isinstance(given, str | os.PathLike) or not isinstance(given, Iterable):
        return (given,)
    return tuple(given)
