"""Commands that make scene folders: prepare synthetic, scannet, scan, superpoints.

A command imports what it needs once its options are read: torch takes seconds, no help should.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from bifusion.commands import parsing
from bifusion.commands.features import prepare_features
from bifusion.commands.help import Help, summary_of
from bifusion.commands.scan import prepare_scan
from bifusion.commands.telling import going_on, say
from bifusion.errors import InputError, listing
from bifusion.untrusted.screen import Screen
from bifusion.wording import plural

MOST_NOTES = 20


@dataclass
class PrepareScanNet:
    """ScanNet as released (scans, label table, splits, posed images) into scene folders."""

    scans: Path
    """Folder with one folder a scan (…/scans)."""
    labels: Path
    """scannetv2-labels.combined.tsv."""
    out: Path
    """Data set to write: out/train/SCENE, out/val/SCENE."""
    posed_images: Path | None = None
    """Folder with one folder of posed colour and depth images a scan; without it no views."""
    splits: Path | None = None
    """Folder with scannetv2_{train,val,test}.txt; a scan listed twice goes to both splits. Without it
    all scans go to train."""
    frame_skip: int = 1
    """Take every n-th posed image."""
    depth_frame: Literal["registered", "sensor"] = "registered"
    """Whether depth images are registered to the colour camera (as released) or the sensor's own."""
    long_side: int | None = None
    """Shrink colour images to this long side in pixels (640 saves disk and decoding time)."""
    depth_scale: float = 1000.0
    """Units of the depth images a metre: 1000 for millimetres, 5000 as in TUM's recordings."""
    scale: float = 1.0
    """Metres a unit of meshes, axis alignments and poses: 0.001 for millimetres."""
    shard: str | None = None
    """i/n: only every n-th scan from the i-th on; left out: as torchrun or srun say, or all."""
    jobs: int = 0
    """Scans at a time; 0: one for each processor."""
    overwrite: bool = False
    """Write scenes again that are there already."""


def prepare(args: list[str]) -> int:
    """Make scene folders (scan, scannet, synthetic), or add superpoints, features."""
    kinds = {
        "synthetic": _prepare_synthetic,
        "scannet": _prepare_scannet,
        "scan": prepare_scan,
        "superpoints": _prepare_superpoints,
        "features": prepare_features,
    }
    lines = {name: summary_of(function) for name, function in kinds.items()}
    example = "prepare synthetic --out data/rooms"
    return kinds[parsing.of_kinds(lines, args, "prepare", example)](args[1:])


def _prepare_synthetic(args: list[str]) -> int:
    """Rooms with ScanNet20 classes and rendered RGB-D views, and their audit."""
    from bifusion.datasets.rooms import RoomsConfig, make_rooms
    from bifusion.datasets.rooms.audit import audit
    from bifusion.datasets.rooms.audit_lines import audit_lines
    from bifusion.studies.training_runs.progress import progress_bar

    @dataclass
    class PrepareSynthetic:
        """Rooms with ScanNet20 classes and rendered RGB-D views, and their audit."""

        out: Path
        """Data set to write."""
        voxel_size_m: float = 0.08
        """Voxel size the audit (probe, superpoint oracle) speaks of."""
        rooms: Annotated[RoomsConfig, tyro.conf.arg(name="")] = field(default_factory=RoomsConfig)

    told = Help(
        "prepare synthetic --out data/tiny --train-rooms 4 --val-rooms 2",
        common=("out", "train-rooms", "val-rooms", "seed", "voxel-size-m", "texture-contrast", "views"),
    )
    wanted = parsing.parse(PrepareSynthetic, args, "prepare synthetic", told)
    console = Screen()
    with going_on(), progress_bar("rooms", console) as progress:
        make_rooms(wanted.out, wanted.rooms, progress)
    for line in audit_lines(audit(wanted.out, wanted.voxel_size_m)):
        console.print(line, markup=False)
    console.print(f"{wanted.out}: every figure of it in audit.json", markup=False)
    return 0


def _prepare_scannet(args: list[str]) -> int:
    """ScanNet as released (scans, label table, splits, posed images) into scene folders."""
    told = Help(
        "prepare scannet --scans scans --posed-images posed_images --labels "
        "scannetv2-labels.combined.tsv --splits splits --out data/scannet"
    )
    wanted = parsing.parse(PrepareScanNet, args, "prepare scannet", told)

    from bifusion.datasets.scannet.prepare import prepare_scannet
    from bifusion.datasets.scannet.views import ViewOptions
    from bifusion.datasets.shards import asked_shard

    console = Screen()
    notes: dict[str, list[str]] = {}
    options = ViewOptions(wanted.frame_skip, wanted.depth_frame, wanted.depth_scale, wanted.long_side)
    if wanted.jobs < 0:
        raise InputError(f"jobs: found {wanted.jobs}; expected 1 or more, or 0: one for each processor")
    began = time.monotonic()
    try:
        with going_on(wanted.overwrite):
            prepared = prepare_scannet(
                wanted.scans,
                wanted.out,
                labels=wanted.labels,
                posed_images=wanted.posed_images,
                splits=wanted.splits,
                view_options=options,
                scale=wanted.scale,
                overwrite=wanted.overwrite,
                shard=asked_shard(wanted.shard),
                jobs=wanted.jobs or os.cpu_count() or 1,
                notes=notes,
                done=lambda name, became, done, count: say(console, f"{done}/{count} {name}: {became}"),
            )
    finally:
        _print_notes(notes, console)
    rate = _rate(len(prepared.written), time.monotonic() - began)
    console.print(
        f"{plural(len(prepared.written), 'scene')} written{rate}, {len(prepared.kept)} kept, "
        f"{sum(prepared.lost_views.values())} views left out because their pose is lost"
    )
    return 0


def _rate(scenes: int, seconds: float) -> str:
    """How fast, where it took long enough to tell."""
    if not scenes or seconds < 1:
        return ""
    return f" in {seconds:.0f} s ({60 * scenes / seconds:.1f} a minute)"


def _print_notes(notes: dict[str, list[str]], console: Console) -> None:
    """Each line once, with the scenes that it is about; not more lines than one reads."""
    scenes_of: dict[str, list[str]] = {}
    for scene, lines in notes.items():
        for line in lines:
            scenes_of.setdefault(line, []).append(scene)
    lines = [f"{listing(scenes, 3)}: {line}" for line, scenes in scenes_of.items()]
    if len(lines) > MOST_NOTES:
        lines[MOST_NOTES:] = [f"… and {len(lines) - MOST_NOTES} lines of this kind more"]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@dataclass
class PrepareSuperpoints:
    """superpoint.npy for scene folders without one, such as Pointcept's preprocessed ScanNet."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Scene folders, splits, or whole data sets."""
    scans: Path | None = None
    """ScanNet's released scans (…/scans), for scenes made from them: official superpoints then."""
    overwrite: bool = False
    """Replace superpoints that are there already."""


def _prepare_superpoints(args: list[str]) -> int:
    """superpoint.npy for scene folders without one, such as Pointcept's ScanNet."""
    told = Help("prepare superpoints data/mine")
    wanted = parsing.parse(PrepareSuperpoints, args, "prepare superpoints", told)

    from bifusion.datasets.superpoints.prepare_superpoints import prepare_superpoints
    from bifusion.studies.training_runs.progress import progress_bar

    if not wanted.folders:
        raise InputError("prepare superpoints of what? Expected at least one folder")
    console = Screen()
    with going_on(wanted.overwrite), progress_bar("scenes", console) as progress:
        sources = prepare_superpoints(
            wanted.folders, scans=wanted.scans, overwrite=wanted.overwrite, progress=progress
        )
    console.print(", ".join(f"{source}: {count}" for source, count in sources.items()))
    return 0
