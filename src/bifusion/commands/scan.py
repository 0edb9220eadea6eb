"""The command that makes a labelled scan of whatever a user has of a room.

A command imports what it needs once its options are read: torch takes seconds, no help should.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bifusion.commands import parsing
from bifusion.commands.help import Help
from bifusion.commands.telling import going_on, say, tell_failed, telling
from bifusion.errors import InputError
from bifusion.untrusted.screen import Screen
from bifusion.wording import plural

if TYPE_CHECKING:
    from bifusion.datasets.scan.made import MadeScan
    from bifusion.datasets.scan.options import ScanOptions
    from bifusion.datasets.scan.telling import Telling
    from bifusion.inference.labelled import LabelledScan
    from bifusion.inference.segmenter import Segmenter

SCAN_HELP = Help(
    "scan room.ply --run runs/oneformer3d --out labelled",
    common=("input", "run", "out", "up", "scale", "views", "depth-scale", "intrinsics", "layout"),
)
PREPARE_HELP = Help(
    "prepare scan room.ply recordings/kitchen --out data/mine",
    common=("inputs", "out", "views", "up", "scale", "depth-scale", "shard", "jobs", "overwrite"),
)
Axes = Literal["opencv", "opengl"]
Direction = Literal["cam2world", "world2cam"]


@dataclass
class InputOptions:
    """How an input is understood. What is left out is found out, and said."""

    up: str | None = None
    """Which way is up in it: x, y, z, -x, -y, -z or three numbers like 0,0.9,0.1."""
    scale: float | None = None
    """Metres a unit of a mesh or cloud: 0.001 for millimetres."""
    layout: str | None = None
    """Layout of a recording, where it looks like several."""
    intrinsics: str | None = None
    """fx,fy,cx,cy, or with ,width,height, of a recording's cameras; or a file with them or a matrix."""
    depth_scale: float | None = None
    """Units of a recording's depth pictures a metre: 1000 for millimetres, 5000 as in TUM's."""
    axes: Axes | None = None
    """Camera axes of a recording's poses."""
    poses: Direction | None = None
    """Their direction."""
    pose_shift: int | None = None
    """Picture i has pose i + so many of the list."""
    voxel_size_m: float = 0.03
    """Of the fusion of a recording's depth."""
    most_frames: int | None = None
    """Fuse no more frames, evenly spread, those with a picture first."""
    least_confidence: Literal[0, 1, 2] | None = None
    """Least confidence of a phone's depth that is used: 0 low, 1 medium, 2 high; left out: 1."""

    def scan_options(self, views: int, spacing_m: float | None = None) -> ScanOptions:
        """The same for the functions that make scans."""
        from bifusion.datasets.recordings.options import OpenOptions
        from bifusion.datasets.scan.options import SPACING_M, ScanOptions

        opening = OpenOptions(
            intrinsics=self.intrinsics,
            depth_scale=self.depth_scale,
            axes=self.axes,
            poses=self.poses,
            pose_shift=self.pose_shift,
        )
        options = ScanOptions(
            up=self.up,
            scale=self.scale,
            layout=self.layout,
            opening=opening,
            views=views,
            voxel_size_m=self.voxel_size_m,
            most_frames=self.most_frames,
            least_confidence=self.least_confidence,
            spacing_m=SPACING_M if spacing_m is None else spacing_m,
        )
        options.check()
        return options


@dataclass
class Scan:
    """Label a mesh, a cloud, a recording or a scene folder, whatever frame and unit it is in."""

    input: tyro.conf.Positional[Path]
    """Mesh or cloud (.ply, .obj, .glb, .las, .e57, .pcd), recording (folder, .sens, .r3d), or scene
    folder."""
    run: Path
    """Run folder (its last checkpoint), checkpoint folder, or a published checkpoint."""
    out: Path
    """Folder to write: classes.ply, objects.csv, view.html and more; whole or not at all."""
    views: int | None = None
    """Frames of a recording that the model sees; left out: as many as it was trained with."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = None
    """Arithmetic; left out: float32 on a CPU, on a GPU what the run was trained in. bf16-mixed is faster
    also on CPUs with AMX or AVX512-BF16."""
    min_score: float | None = None
    """Score from 0 to 1 above which a candidate becomes an object; left out: the run's, usually 0.5."""
    options: Annotated[InputOptions, tyro.conf.arg(name="")] = field(default_factory=InputOptions)


@dataclass
class PrepareScan:
    """Meshes, clouds and recordings as scene folders, upright and in metres, with superpoints."""

    inputs: tyro.conf.Positional[tuple[Path, ...]]
    """Meshes or clouds (.ply, .obj, .glb, .las, .e57, .pcd) and recordings (folders, .sens, .r3d)."""
    out: Path
    """Folder to write: out/NAME of each; those that are there stay."""
    views: int = 12
    """Frames of a recording that become views, chosen by coverage and sharpness; 0: none."""
    spacing_m: float | None = None
    """Meshes are given points in between where theirs lie much farther apart; left out: 0.044."""
    shard: str | None = None
    """i/n: only every n-th input from the i-th on, for one of n machines; left out: as torchrun or srun
    say, or all."""
    jobs: int = 0
    """Inputs at a time; 0: one for each two processors."""
    overwrite: bool = False
    """Write scenes again that are there already."""
    options: Annotated[InputOptions, tyro.conf.arg(name="")] = field(default_factory=InputOptions)


def prepare_scan(args: list[str]) -> int:
    """Meshes, clouds and recordings as scene folders, upright and in metres, with superpoints.

    Exit status 1 where some of them could not be prepared.
    """
    wanted = parsing.parse(PrepareScan, args, "prepare scan", PREPARE_HELP)

    from bifusion.datasets.scan.prepare import PreparedScans, prepare_scans
    from bifusion.datasets.shards import asked_shard

    options = wanted.options.scan_options(wanted.views, wanted.spacing_m)
    if wanted.jobs < 0:
        raise InputError(f"jobs: found {wanted.jobs}; expected 1 or more, or 0: one for two processors")
    jobs = wanted.jobs or max(1, (os.cpu_count() or 1) // 2)
    console = Screen()
    said: set[str] = set()

    def done(prepared: PreparedScans, count: int) -> None:
        ended = len(prepared.written) + len(prepared.failed) + len(prepared.kept)
        for name in [*prepared.written, *prepared.failed]:
            if name not in said:
                said.add(name)
                word = "failed" if name in prepared.failed else "written"
                say(console, f"{ended}/{count} {name}: {word}")
                for line in prepared.written.get(name, []):
                    say(console, f"    {line}")

    with going_on(wanted.overwrite):
        prepared = prepare_scans(
            wanted.inputs,
            wanted.out,
            options,
            shard=asked_shard(wanted.shard),
            jobs=jobs,
            overwrite=wanted.overwrite,
            done=done,
        )
    say(console, f"{plural(len(prepared.written), 'scene')} written, {len(prepared.kept)} kept")
    return tell_failed(prepared.failed, "input", "prepared")


def scan(args: list[str]) -> int:
    """Label any scan (mesh, cloud, recording) on its own vertices, with a page."""
    wanted = parsing.parse(Scan, args, "scan", SCAN_HELP)

    from bifusion.datasets.scan.make import refuse_views
    from bifusion.inference.scan_files import scan_files
    from bifusion.inference.segmenter import check_min_score
    from bifusion.storage.files import locked_beside
    from bifusion.storage.folders import check_replaceable, tidy

    wanted.options.scan_options(wanted.views or 0)  # what is wrong is told before a model is loaded
    if not wanted.input.exists():
        raise InputError(f"{wanted.input}: no such file or folder; expected a mesh, cloud or recording")
    check_min_score(wanted.min_score, "--min-score")
    refuse_views(wanted.input, wanted.views, wanted.options.layout)
    if wanted.out.name in ("", ".."):  # of "." and "..", beside which nothing could be written
        wanted.out = wanted.out.resolve()
    with locked_beside(wanted.out):
        tidy(wanted.out.parent, scan_files, only={wanted.out.name})  # what a killed process left
        check_replaceable(wanted.out, scan_files)
        return _scan(wanted)


def _scan(wanted: Scan) -> int:
    from bifusion.datasets.scan.make import make_scan
    from bifusion.inference.device import keep_freed_memory
    from bifusion.inference.labelled import trained_views
    from bifusion.inference.segmenter import Segmenter
    from bifusion.official.run_of import run_of

    console = Screen()
    keep_freed_memory()
    run = run_of(wanted.run, say=lambda line: say(console, line))
    segmenter = Segmenter(run, precision=wanted.precision)
    views = trained_views(segmenter) if wanted.views is None else wanted.views
    options = wanted.options.scan_options(views)
    with telling(console) as told:
        made = make_scan(wanted.input, options, told)
        labelled = _write(wanted, made, segmenter, told)
    for warning in labelled.warnings:
        console.print(warning, style="bold red", markup=False)
    count = len(labelled.semantic)
    found = labelled.segmentation.describe_objects("--min-score")
    say(console, f"{wanted.out}: {count:,} vertices, {found}")
    say(console, str(wanted.out / "view.html"))
    return 0


def _write(wanted: Scan, made: MadeScan, segmenter: Segmenter, told: Telling) -> LabelledScan:
    """The output folder, whole or not at all; what the model says of the scene as it is written there,
    so that predicting that again says the same."""
    from bifusion.inference.labelled import segment
    from bifusion.inference.scan_files import SCENE, VIEW, scan_files, write_labelled
    from bifusion.storage.folders import folder_written_beside
    from bifusion.viewer.labelled import show_labelled
    from bifusion.viewer.page import write_view

    told.progress("writing", 0, 3)
    with folder_written_beside(wanted.out, scan_files) as beside:
        made.write_scene(beside / SCENE)
        told.progress("writing", 1, 3)
        written = made.as_written(beside / SCENE)
        told.progress("segmenting", 0, 1)
        labelled = segment(written, segmenter, min_score=wanted.min_score)
        told.progress("segmenting", 1, 1)
        write_labelled(beside, labelled, wanted.run)
        told.progress("writing", 2, 3)
        write_view(beside / VIEW, show_labelled(labelled, beside / SCENE))
    told.progress("writing", 3, 3)
    return labelled
