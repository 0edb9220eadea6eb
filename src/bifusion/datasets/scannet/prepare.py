"""`bifusion prepare scannet`: the released files of many scans into scene folders, resumably."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bifusion.data.scene_folder import read_description, scene_complete, scene_files, write_scene
from bifusion.datasets.processes import Died, run_in_processes
from bifusion.datasets.scan.options import changed
from bifusion.datasets.scannet.posed_images import find_posed_images, pose_is_lost
from bifusion.datasets.scannet.scan import LabelTable, read_label_table, read_scan
from bifusion.datasets.scannet.splits import (
    SPLITS,
    absent_notes,
    read_lists,
    scan_names,
    splits_of_scans,
)
from bifusion.datasets.scannet.views import ViewOptions, iterate_views
from bifusion.datasets.shards import WHOLE, Shard, locked_shard
from bifusion.errors import FAILURES, InputError, SomeFailedError, failure, listing
from bifusion.labels.sets import get_label_set
from bifusion.storage.folders import check_replaceable, tidy

SOURCE = "ScanNet v2"
Done = Callable[[str, str, int, int], None]
"""Called with a scan's SPLIT/NAME, what became of it, how many are done, and how many there are."""
Written = tuple[int, list[str]]
"""How many posed images were left out for their lost pose, and what the user should know of the scan."""


@dataclass
class Prepared:
    """What `prepare_scannet` did."""

    written: list[str] = field(default_factory=list)
    """Scenes, one that is in two splits twice; `kept` likewise."""
    kept: list[str] = field(default_factory=list)
    """Scenes that were complete already."""
    lost_views: dict[str, int] = field(default_factory=dict)
    """Scene → posed images left out because their pose is −inf."""


def prepare_scannet(
    scans: Path,
    out: Path,
    *,
    labels: Path,
    posed_images: Path | None = None,
    splits: Path | None = None,
    view_options: ViewOptions | None = None,
    scale: float = 1.0,
    overwrite: bool = False,
    shard: Shard = WHOLE,
    jobs: int = 1,
    notes: dict[str, list[str]] | None = None,
    done: Done | None = None,
) -> Prepared:
    """Write out/SPLIT/SCENE for every scan in `scans`; complete scene folders are kept, if they were
    made with these options: one of others fails, as long as it is not to be overwritten.

    A scan that cannot be prepared does not stop the others: all of them are named at the end. Nothing
    that was not written here is removed: not a folder without scene.json, nor notes in one with it.

    Args:
        scans: folder with one folder a scan, as released.
        out: data set to write.
        labels: scannetv2-labels.combined.tsv.
        posed_images: folder with one folder of posed images a scan (`find_posed_images`); None: no
            views. With it, every scan needs its folder there.
        splits: folder with scannetv2_train.txt, scannetv2_val.txt and maybe scannetv2_test.txt;
            None: all scans go to train. A scan that two of them list goes to both splits (to try
            things out on a single scan). Scans of the test split are prepared without labels.
        view_options: how posed images are read; None: as released.
        scale: metres a unit of length of meshes, axis alignments and poses.
        overwrite: write complete scene folders again; what else is in them stays.
        shard: i of n: every n-th scan, from the i-th on; all give the same scans and the same n.
        jobs: scans at a time, each in a process of its own; 1, or a single scan: in this one.
        notes: filled, scan → lines on what its files were taken for where they are not as released;
            list → how many of its scans have no folder; also if scans fail.
        done: called after each scan.
    Raises:
        InputError: no scan; no list, or a scan in none; another process writes the same shard to
            `out`, or one of another number of shards.
        SomeFailedError: after all others are done, what is wrong with each scan that could not be
            prepared, or with the folder at its place.
    """
    options = view_options or ViewOptions()
    _check_options(options, scale)
    if jobs < 1:
        raise InputError(f"jobs: found {jobs}; expected 1 or more")
    names = scan_names(Path(scans))
    lists = read_lists(Path(splits)) if splits else {"train": set(names)}
    splits_of = splits_of_scans(names, lists, Path(splits or scans))
    folders = [(name, split) for name in shard.of(names) for split in splits_of[name]]
    _refuse_other_splits(Path(out), {name: splits_of[name] for name in shard.of(names)})
    table = read_label_table(Path(labels))
    if notes is not None:
        notes |= {f"scannetv2_{split}.txt": [note] for split, note in absent_notes(names, lists).items()}
        notes |= {table.path.name: table.notes} if table.notes else {}

    def job_of(name: str, split: str) -> _Job:
        images = Path(posed_images) / name if posed_images else None
        scan_table = None if split == "test" else table
        return _Job(Path(scans) / name, Path(out) / split / name, scan_table, images, options, scale)

    def tidy_splits(wanted: set[str]) -> None:
        for split in wanted:
            own = {name for name, of in folders if of == split}
            tidy(Path(out) / split, scene_files, only=None if shard == WHOLE else own)

    ended = _Ended(len(folders), {} if notes is None else notes, done)
    with locked_shard(Path(out), shard):
        tidy_splits({split for _, split in folders})
        there = [f for f in folders if scene_complete(Path(out) / f[1] / f[0]) and not overwrite]
        for folder in there:
            ended.there(*folder, _another(job_of(*folder)))
        wanted = [f for f in folders if f not in there]
        workers = min(jobs, len(wanted))
        tried = run_in_processes(_tried, [job_of(*f) for f in wanted], workers if workers > 1 else 0)
        for number, outcome in tried:
            ended.tried(*wanted[number], outcome)
        tidy_splits({split for _, split in ended.failures})  # what a killed process left
    if ended.failures:
        listed = "\n".join(ended.failures[folder] for folder in folders if folder in ended.failures)
        raise SomeFailedError(
            f"{len(ended.failures)} of {len(folders)} scans could not be prepared:\n{listed}"
        )
    return ended.prepared


@dataclass
class _Ended:
    """What became of the scans so far."""

    total: int
    notes: dict[str, list[str]]
    done: Done | None
    prepared: Prepared = field(default_factory=Prepared)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    """(scan, split) → what is wrong."""
    number: int = 0

    def there(self, name: str, split: str, why: str | None) -> None:
        """`why`: what is wrong with a scene that is there."""
        if why is None:
            self.prepared.kept.append(name)
            self._tell(name, split, "kept")
        else:
            self.failures[name, split] = why
            self._tell(name, split, "failed")

    def tried(self, name: str, split: str, outcome: Written | str | Died) -> None:
        """`outcome`: what `_prepare_scan` gave, or what is wrong."""
        if isinstance(outcome, Died):
            outcome = f"{_called(name, split)}: its process {outcome}; nothing of it was left"
        if isinstance(outcome, str):
            self.failures[name, split] = outcome
            self._tell(name, split, "failed")
            return
        lost, said = outcome
        self.prepared.written.append(name)
        if lost:
            self.prepared.lost_views[name] = lost
        if said:
            self.notes[name] = list(dict.fromkeys(said))
        self._tell(name, split, "written")

    def _tell(self, name: str, split: str, became: str) -> None:
        self.number += 1
        if self.done:
            self.done(f"{split}/{name}", became, self.number, self.total)


@dataclass(frozen=True)
class _Job:
    """A scan, the scene folder that it becomes, and how."""

    scan: Path
    target: Path
    table: LabelTable | None
    images: Path | None
    options: ViewOptions
    scale: float


def _refuse_other_splits(out: Path, splits_of: Mapping[str, Collection[str]]) -> None:
    """InputError where scans lie in a split that the lists do not give them: who trains on it would
    train on scenes of validation."""
    left = [
        str(out / split / name)
        for name, wanted in splits_of.items()
        for split in SPLITS
        if split not in wanted and scene_complete(out / split / name)
    ]
    if left:
        raise InputError(
            f"{listing(left, 3)}: prepared before, in a split that the lists do not give them; nothing "
            "was changed. Remove these folders, or prepare to another --out"
        )


def _called(name: str, split: str) -> str:
    return f"scan {name} of {split}"


def _tried(job: _Job) -> Written | str:
    """What `_prepare_scan` gives, or what is wrong."""
    try:
        return _prepare_scan(job)
    except FAILURES as error:
        return failure(error, _called(job.target.name, job.target.parent.name))


def _prepare_scan(job: _Job) -> Written:
    """Write one scene folder."""
    check_replaceable(job.target, scene_files)
    scan = read_scan(job.scan, job.table, scale=job.scale)
    views, lost = (), 0
    if job.images is not None:
        images = find_posed_images(job.images)
        wanted = images.frames[:: job.options.frame_skip]
        tracked = [frame for frame in wanted if not pose_is_lost(frame)]
        lost = len(wanted) - len(tracked)
        views = iterate_views(images, tracked, scan, job.options)
    write_scene(
        job.target,
        scan.scene,
        segments={get_label_set(name): segment for name, segment in scan.segments.items()},
        views=views,
        source=_source(job),
        axis_alignment=scan.placement.aligned,
        offset_m=scan.placement.offset_m,
    )
    return lost, scan.notes


def _source(job: _Job) -> str:
    """What a scene is made of, and the options that were given."""
    images = "without images" if job.images is None else "with posed images"
    given = [] if job.images is None else list(changed(job.options, ViewOptions()))
    given += [("scale", f"{job.scale:g}")] if job.scale != 1 else []
    return "; ".join([SOURCE, images, *(f"{name} {text}" for name, text in given)])


def _another(job: _Job) -> str | None:
    """What is wrong where a scene that is there was made with other options; those of former versions
    do not say with which."""
    try:
        source = str(read_description(job.target).get("source"))
    except InputError as error:
        return str(error)
    if source in (SOURCE, _source(job)):
        return None
    return (
        f"{job.target}: is there already, {source}; asked for is {_source(job)}. Nothing was changed; "
        "--overwrite writes it again, another --out leaves it"
    )


def _check_options(options: ViewOptions, scale: float) -> None:
    if options.frame_skip < 1:
        raise InputError(f"frame_skip: found {options.frame_skip}; expected at least 1 (every image)")
    if options.long_side is not None and options.long_side < 1:
        raise InputError(
            f"long_side: found {options.long_side}; expected pixels, at least 1, or leave it out"
        )
    if not 0 < options.depth_scale < float("inf"):
        raise InputError(
            f"depth_scale: found {options.depth_scale}; expected units a metre, 1000 for millimetres"
        )
    if not 0 < scale < float("inf"):
        raise InputError(f"scale: found {scale}; expected metres a unit, 0.001 for millimetres")
