"""Whether results of runs may be compared: nothing leaks between splits, data and length are equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from bifusion.changes import changeable
from bifusion.datasets.check import doubles
from bifusion.datasets.check.doubles import copies_of_training
from bifusion.errors import listing
from bifusion.labels.label_set import LabelSet, named_differences, require_same_classes
from bifusion.models.parts import without_tower
from bifusion.recipes import get_recipe
from bifusion.studies.figures.arms import Arm
from bifusion.studies.figures.run import Run
from bifusion.untrusted.names import brief
from bifusion.wording import plural

POINTS = "coord.npy"
VOXEL_SIZE = ("data", "voxel_size_m")
FINE = "fine_voxels"
"""The control whose voxels are meant to differ."""
SHARED_SETTINGS = (
    ("data", "augment"),
    VOXEL_SIZE,
    ("trainer", "guard"),
)
"""Settings that have to be equal for a fair comparison, where runs record them."""
OPTIMISER = ("optim",)
STAGES = ("stages", "stages")
SHARED_WITHOUT_VIEWS = (
    ("model", "unet"),
    ("model", "decoder"),
    ("model", "fusion"),
    ("criterion",),
    STAGES,
    OPTIMISER,
    ("trainer", "precision"),
)
"""What BiFusion trained without views shares with the arm it is the decisive rival of."""
NETWORK = ("model", "unet")
SHARED_NETWORK = tuple((*NETWORK, field) for field in ("kind", "function", "planes", "blocks"))
"""What makes two networks the same size; Mask3D is another network by nature."""
OF_A_SEED = ("seed", "recipe", "data.labels")
"""Settings in which seeds of an arm may differ, besides those that may change while a run goes on; of
its classes the names are compared."""
WEIGHTS = "model.tower.pretrained"
"""Where the image tower's weights lie: the last part of it says which they are."""
INIT = ("trainer", "init")
"""Checkpoint that the 3D network starts from."""


def require_one_set(sets: Sequence[tuple[str, LabelSet]]) -> None:
    """InputError naming the classes in which one of `sets` (whose it is, the set) is another than the
    first: neither a class's figures nor their mean would be of the same thing."""
    for whose, labels in sets[1:]:
        require_same_classes(
            sets[0][1], sets[0][0], labels, whose, "Compare runs whose classes are the same."
        )


def why_leaking(runs: Sequence[Run]) -> str | None:
    """Why figures on the validation scenes of `runs` say nothing about new scenes, or None: some are
    scenes of training."""
    train = (scene for run in runs for scene in run.train_scenes)
    validation = (scene for run in runs for scene in run.val_scenes)
    points = ({scene: sums.get(POINTS) for scene, sums in run.scene_sums.items()} for run in runs)
    return doubles.why_leaking(train, validation, chain.from_iterable(map(copies_of_training, points)))


def why_refused(arms: list[Arm]) -> str | None:
    """Why results of `arms` must not be compared, or None: an arm that is none, leaking scenes, unequal
    data or length."""
    runs = [run for arm in arms for run in arm.runs]
    return next(filter(None, map(why_not_one, arms)), None) or why_leaking(runs) or why_unequal(arms)


def why_unequal(arms: list[Arm]) -> str | None:
    """Why trainings of `arms` must not be compared, or None: scenes, length, network or guard differ in
    what the arms do not stand for."""
    runs = [run for arm in arms for run in arm.runs]
    if found := why_other_scenes(runs):
        return found
    for run in runs:
        if unequal := _unequal(runs[0], run):
            return _unlike(runs[0], run, unequal)
    return None


def why_other_scenes(runs: Iterable[Run]) -> str | None:
    """Why `runs` must not be compared, or None: two of one seed saw other scenes. Each seed may have
    rooms of its own, as what is compared is paired by seed."""
    first_of_seed: dict[int, Run] = {}
    for run in runs:
        first = first_of_seed.setdefault(run.seed, run)
        if unequal := _other_scenes(first, run):
            return _unlike(first, run, unequal)
    return None


def _unlike(one: Run, other: Run, unequal: list[str]) -> str:
    pair = f"{one.folder.name} and {other.folder.name}"
    return f"{pair} differ in {listing(unequal)}: no fair comparison."


def why_not_one(arm: Arm) -> str | None:
    """Why the runs of `arm`, which share a name, are not one configuration with several seeds, or None.

    Mean and spread over other learning rates or networks are of nothing. As far as runs record them."""
    for run in arm.runs[1:]:
        unequal = list(_apart(arm.first.settings, run.settings))
        if unequal:
            pair = f"{arm.first.folder.name} and {run.folder.name}"
            return (
                f"{pair} differ in more than their seed, in {listing(unequal, 4)}: no seeds of one arm."
            )
    return None


def unlike_arms(arms: Sequence[Arm]) -> list[str]:
    """In what arms of one table differ that should be the same, their voxels and 3D networks: a sentence
    each that names arms and values, told whether or not one of them is judged by another.

    The control at finer voxels is left out of the first; Mask3D, another network by nature, is held
    against Mask3D alone.
    """
    fine = [arm for arm in arms if arm.role != FINE]
    told = [_apart_in("voxel size", fine, VOXEL_SIZE, " m")]
    for of_mask3d in (False, True):
        alike = [arm for arm in arms if (arm.first.model_kind == "mask3d") == of_mask3d]
        fields = dict.fromkeys(name for arm in alike for name in _setting(arm.first, NETWORK) or {})
        told += [_apart_in(f"3D network, {name}", alike, (*NETWORK, name)) for name in fields]
    return [sentence for sentence in told if sentence]


def _apart_in(what: str, arms: Sequence[Arm], keys: tuple[str, ...], unit: str = "") -> str | None:
    """The sentence on one setting, as far as runs record it; None where arms do not differ."""
    by_value: dict[str, list[str]] = {}
    for arm in arms:
        value = _setting(arm.first, keys)
        if value is not None:
            by_value.setdefault(brief(value) + unit, []).append(arm.label)
    if len(by_value) < 2:
        return None
    told = (f"{value} ({listing(labels, 8)})" for value, labels in by_value.items())
    return f"Arms differ in {what}: {'; '.join(told)}."


def same_network(one: Run, other: Run) -> bool:
    """Whether their settings say the same of the model; the image tower's weights may lie elsewhere."""
    mine, theirs = (run.settings.get("model") for run in (one, other))
    return not any(True for _ in _apart(mine, theirs, "model"))


def _apart(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """The settings that differ and may not between seeds, as "optim.lr (0.001, 0.01)"."""
    if path in _of_a_seed():
        return
    if path == WEIGHTS and isinstance(one, str) and isinstance(other, str):
        one, other = PurePath(one).name, PurePath(other).name
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        one, other = (dict(enumerate(value, start=1)) for value in (one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one:
            if key in other:
                yield from _apart(one[key], other[key], f"{path}.{key}" if path else str(key))
    elif one != other:
        yield f"{path} ({brief(one)}, {brief(other)})"


@cache
def _of_a_seed() -> frozenset[str]:
    return frozenset((*OF_A_SEED, *changeable(get_recipe("oneformer3d_small"))))


def why_more_than_images(arm: Arm, rival: Arm) -> str | None:
    """Why `rival`, BiFusion without views, is not what `arm` would be with α = 0, or None: only images
    may differ. An image tower that nothing is seen of may be any."""
    ours, theirs = arm.by_seed(), rival.by_seed()
    for seed in sorted(ours.keys() & theirs.keys()):
        one, other = ours[seed], theirs[seed]
        unequal = _other_training(one, other)
        if unequal:
            pair = f"{one.folder.name} and {other.folder.name}"
            return f"{pair} differ in more than images, in {listing(unequal, 4)}: no fair comparison."
    return None


def _other_training(one: Run, other: Run) -> list[str]:
    """How network, losses, stages and optimiser of two runs differ, as far as both record them."""
    found = []
    for keys in SHARED_WITHOUT_VIEWS:
        mine, theirs = (_setting(run, keys) for run in (one, other))
        if mine is not None and theirs is not None:
            both = [_at_any_tower(keys, value) for value in (mine, theirs)]
            found += _differences(".".join(keys), *both)
    return found


def _at_any_tower(keys: tuple[str, ...], value: Any) -> Any:
    """A setting without what is said of the image tower and of the gate; stages by their number."""
    if keys == OPTIMISER:
        return {name: item for name, item in value.items() if name not in ("rates", "tower_layer_decay")}
    if keys != STAGES:
        return value
    return {
        str(number): {
            "share": stage.get("share"),
            "trains": without_tower(stage.get("trains") or {}),
            "weights": stage.get("weights"),
        }
        for number, stage in enumerate(value, start=1)
    }


def _differences(name: str, one: Any, other: Any) -> list[str]:
    """The settings that differ, by their full names; within groups of settings, those alone."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys((*one, *other))
        absent = "absent"
        nested = [
            _differences(f"{name}.{key}", one.get(key, absent), other.get(key, absent)) for key in keys
        ]
        return [text for texts in nested for text in texts]
    return [] if one == other else [f"{name} ({one}, {other})"]


def _other_scenes(one: Run, other: Run) -> list[str]:
    """How the scenes of two runs differ, which have to be the same."""
    found = []
    if set(one.train_scenes) != set(other.train_scenes):
        found.append("their training scenes")
    if set(one.val_scenes) != set(other.val_scenes):
        found.append("their validation scenes")
    changed = [scene for scene in one.scene_sums if _is_another(scene, one, other)]
    if changed:
        found.append(f"the content of {plural(len(changed), 'scene')} ({listing(changed, 2)})")
    sources = [run.config.get("sources") for run in (one, other)]
    if None not in sources and sources[0] != sources[1]:
        found.append("where their scenes come from")
    return found


def _is_another(scene: str, one: Run, other: Run) -> bool:
    """A file of the scene has other bytes, as far as both have sums: a name alone is not a scene."""
    mine, theirs = one.scene_sums[scene], other.scene_sums.get(scene, {})
    return any(mine[file] != theirs[file] for file in mine.keys() & theirs.keys())


def _unequal(one: Run, other: Run) -> list[str]:
    """What else has to be equal between two runs and is not."""
    found = []
    classes = named_differences(one.labels, other.labels)
    if classes:
        found.append(f"label set ({one.label_set}, {other.label_set}: {classes})")
    if one.epochs != other.epochs:
        found.append(f"length ({one.epochs} and {other.epochs} epochs)")
    a_step = [(run.config.get("processes") or {}).get("scenes_a_step") for run in (one, other)]
    if None not in a_step and a_step[0] != a_step[1]:  # as many epochs are another number of steps
        found.append(f"scenes a step ({a_step[0]} and {a_step[1]})")
    starts = [_start(run) for run in (one, other)]
    if starts[0] != starts[1]:
        found.append(f"what their 3D networks start from ({starts[0]} and {starts[1]})")
    another_network = "mask3d" in (one.model_kind, other.model_kind)
    for keys in SHARED_SETTINGS + (() if another_network else SHARED_NETWORK):
        if keys == VOXEL_SIZE and FINE in (one.arm, other.arm):
            continue
        mine, theirs = (_setting(run, keys) for run in (one, other))
        if mine is not None and theirs is not None:
            found += _differences(".".join(keys), mine, theirs)
    return found


def _start(run: Run) -> str:
    """Name of the checkpoint that a run's 3D network starts from; where it lies may differ."""
    init = _setting(run, INIT)
    return "random weights" if init is None else Path(str(init)).name


def _setting(run: Run, keys: tuple[str, ...]) -> Any:
    """A setting of the run's configuration; view dropout, which 3D models have not, left out."""
    value: Any = run.settings
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if "view" not in key}
    return value
