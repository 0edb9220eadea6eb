"""All scenes of a data set checked, each by every check there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bifusion.data.scene_folder import SEGMENT_FILES, SPLITS, scene_folders, segment_file
from bifusion.datasets.check import annotation, points, views
from bifusion.datasets.check.doubles import doubles, fingerprint
from bifusion.datasets.check.opened import Check, Finding, error, open_scene, warning
from bifusion.datasets.check.unseen import shown_classes, unseen_classes
from bifusion.datasets.processes import Died, run_in_processes
from bifusion.errors import InputError, listing
from bifusion.labels.files import LABELS_FILE, read_labels
from bifusion.labels.label_set import LabelSet
from bifusion.labels.sets import LABEL_SETS, get_label_set

CHECKS: tuple[Check, ...] = (
    points.files,
    points.coordinates,
    points.colors,
    points.normals,
    points.superpoints,
    annotation.classes,
    annotation.instances,
    views.cameras,
    views.pictures,
    views.agreement,
)
"""A check is a function of an opened scene that yields findings; one that is added here is run."""

MOST_WORKERS = 8
Progress = Callable[[int, int], None]
"""Called with (scenes done, scenes in all)."""


@dataclass
class SceneReport:
    """What the checks found in one scene folder."""

    folder: Path
    points: int = 0
    views: int = 0
    fingerprint: str | None = None
    """The same for scenes of the same points."""
    classes: dict[str, frozenset[int]] = field(default_factory=dict)
    """Those that points have, by label set."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.resolve().name  # the folder may be ".", which has no name

    @property
    def split(self) -> str:
        return self.folder.resolve().parent.name


@dataclass
class DataReport:
    """What the checks found in a data set."""

    data: Path
    scenes: list[SceneReport]
    """In the order of splits and names."""
    findings: list[Finding]
    """On the data set as a whole."""

    def count(self, severity: str) -> int:
        """Number of all findings of a severity, "error" or "warning"."""
        found = [*self.findings, *(one for scene in self.scenes for one in scene.findings)]
        return sum(one.severity == severity for one in found)


def check_data(
    data: Path,
    *,
    label_set: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> DataReport:
    """Everything that is wrong with the scene folders in `data`; one bad scene never stops the others.

    Args:
        data: a data set (with train/, val/ or test/), one split (scene folders), or one scene folder.
        label_set: built-in set of segment.npy where there is no labels.json; None: without that file
            such labels are an error. segment20.npy and segment200.npy are always ScanNet's.
        workers: processes; 0: this one; None: as many as there are processors or scenes, at most 8.
        progress: called after each scene.
    Raises:
        InputError: no such folder, no scene in it, no such label set.
    """
    data = Path(data)
    named = get_label_set(label_set) if label_set is not None else None
    root, folders, found = _scenes(data)
    own, of_labels = _own_labels(root)
    if own is None and named is None and not of_labels:
        of_labels = _unknown_classes(root, folders)
    if named is not None:
        of_labels += _asked_classes(data, folders, own or named)
    sets = [*(LABEL_SETS[name] for name in SEGMENT_FILES), own if own is not None else named]
    label_sets = tuple({labels.name: labels for labels in sets if labels is not None}.values())
    if workers is None:
        workers = 0 if len(folders) == 1 else min(os.cpu_count() or 1, len(folders), MOST_WORKERS)
    scenes = [SceneReport(folder) for folder in folders]
    jobs = [(folder, label_sets) for folder in folders]
    results = run_in_processes(check_scene_folder, jobs, workers)
    for done, (number, result) in enumerate(results, start=1):
        if isinstance(result, Died):
            scenes[number].findings.append(
                error(
                    f"{folders[number]}: the process that checked it {result}; look for a file that is "
                    "far too large, or give fewer --workers if memory ran out"
                )
            )
        else:
            scenes[number] = result
        if progress:
            progress(done, len(folders))
    for number, finding in doubles([(scene.folder, scene.fingerprint) for scene in scenes]):
        scenes[number].findings.append(finding)
    if own is not None and data.resolve() == root.resolve():
        train = [scene for scene in scenes if scene.split == "train"]
        found += unseen_classes(own, data / "train", [scene.classes for scene in train])
    return DataReport(data, scenes, [*found, *of_labels])


def check_scene_folder(job: tuple[Path, tuple[LabelSet, ...]]) -> SceneReport:
    """Every check of one scene folder, given with the label sets whose files it may have."""
    folder, label_sets = job
    scene = open_scene(folder, label_sets)
    return SceneReport(
        folder=folder,
        points=len(scene.arrays.get("coord", ())),
        views=len(scene.cameras.names) if scene.cameras else 0,
        fingerprint=fingerprint(scene),
        classes=shown_classes(scene),
        findings=[finding for check in CHECKS for finding in check(scene)],
    )


def _scenes(data: Path) -> tuple[Path, list[Path], list[Finding]]:
    """The data set's root, all scene folders, and what is wrong with the folders above them."""
    if not data.is_dir():
        found = "is a file" if data.exists() else "no such folder"
        raise InputError(f"{data}: {found}; expected a data set, a split or a scene folder")
    if any((data / name).exists() for name in ("coord.npy", "color.npy", "scene.json")):
        return data.resolve().parent.parent, [data], []
    splits = [data / split for split in SPLITS if (data / split).is_dir()]
    folders = [folder for split in splits or [data] for folder in scene_folders(split)]
    others = [folder.name for folder in folders if not splits and _is_split(folder)]
    if others:
        raise InputError(
            f"{data}: its scenes lie in {listing(others)}; a data set's lie in train/, val/ and test/: "
            "call them so, or give one of those folders"
        )
    if not folders:
        raise InputError(
            f"{data}: holds no scene folder; expected some there, or in its train/ and val/ "
            "(`bifusion prepare` makes them)"
        )
    if not splits:
        return data.resolve().parent, folders, []
    lacking = [split for split in ("train", "val") if not scene_folders(data / split)]
    found = [
        warning(f"{data / split}: holds no scene; training needs some in train/ and in val/")
        for split in lacking
    ]
    return data, folders, found


def _is_split(folder: Path) -> bool:
    """Whether a folder is no scene's, but holds some."""
    return not (folder / "coord.npy").exists() and any(folder.glob("[!.]*/coord.npy"))


def _own_labels(root: Path) -> tuple[LabelSet | None, list[Finding]]:
    """The classes that the data set says to be its own, and what is wrong with their file."""
    path = root / LABELS_FILE
    if not path.is_file():
        return None, []
    try:
        return read_labels(path), []
    except InputError as problem:
        return None, [error(problem)]


def _asked_classes(data: Path, folders: list[Path], labels: LabelSet) -> list[Finding]:
    """What training says too, of scenes of which none has the labels that were asked for."""
    trained = [folder for folder in folders if folder.parent.name == "train"] or folders
    what = segment_file(labels)
    if any((folder / what).exists() for folder in trained):
        return []
    return [
        error(
            f"{data}: no scene{' to train on' if trained != folders else ''} has {what}, the labels of "
            f"{labels.describe()}; prepare the scenes with annotation, or name the label set they have"
        )
    ]


def _unknown_classes(root: Path, folders: list[Path]) -> list[Finding]:
    """What is to be said of segment.npy where nothing tells its classes."""
    unknown = [folder for folder in folders if (folder / "segment.npy").exists()]
    if not unknown:
        return []
    return [
        error(
            f"{unknown[0] / 'segment.npy'}: its classes are not known (so in {len(unknown)} scenes); "
            f"expected {root / LABELS_FILE} with them (`bifusion labels --from TABLE` writes it), or "
            "--label-set NAME"
        )
    ]
