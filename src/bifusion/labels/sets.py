"""The label sets that are built in, each with its source and the terms of its data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bifusion.errors import InputError
from bifusion.labels import replica, scannet200, scannetpp
from bifusion.labels.label_set import LabelSet
from bifusion.spelling import did_you_mean

SCANNET20_COLORS = (
    (174, 199, 232), (152, 223, 138), (31, 119, 180), (255, 187, 120), (188, 189, 34), (140, 86, 75),
    (255, 152, 150), (214, 39, 40), (197, 176, 213), (148, 103, 189), (196, 156, 148), (23, 190, 207),
    (247, 182, 210), (219, 219, 141), (255, 127, 14), (158, 218, 229), (44, 160, 44), (112, 128, 144),
    (227, 119, 194), (82, 84, 163),
)  # fmt: skip
"""The ScanNet benchmark's own."""

S3DIS_COLORS = (
    (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 255, 0), (255, 0, 255), (100, 100, 255),
    (200, 200, 100), (170, 120, 200), (255, 0, 0), (200, 100, 100), (10, 200, 100), (200, 200, 200),
    (50, 50, 50),
)  # fmt: skip
"""Those that mmdetection3d draws it in."""

_SCANNET20_NAMES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
    "picture", "counter", "desk", "curtain", "refrigerator", "shower curtain", "toilet", "sink",
    "bathtub", "otherfurniture",
)  # fmt: skip

_NYU40_NAMES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
    "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror",
    "floor mat", "clothes", "ceiling", "books", "refridgerator", "television", "paper", "towel",
    "shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp", "bathtub",
    "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip
"""Spelt as in ScanNet's label table."""

_S3DIS_NAMES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa", "bookcase",
    "board", "clutter",
)  # fmt: skip

_SCANNET200_GROUPS = {
    **dict.fromkeys(scannet200.HEAD_NAMES, "head"),
    **dict.fromkeys(scannet200.COMMON_NAMES, "common"),
    **dict.fromkeys(scannet200.TAIL_NAMES, "tail"),
}


def _places(names: Sequence[str], *wanted: str) -> tuple[int, ...]:
    return tuple(names.index(name) for name in wanted)


SCANNET20 = LabelSet.of(
    "scannet20",
    _SCANNET20_NAMES,
    (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39),
    stuff_classes=(0, 1),
    colors=SCANNET20_COLORS,
)

SCANNET200 = LabelSet.of(
    "scannet200",
    scannet200.CLASS_NAMES,
    scannet200.SOURCE_IDS,
    stuff_classes=_places(scannet200.CLASS_NAMES, "wall", "floor"),
    group_of=_SCANNET200_GROUPS,
)

NYU40 = LabelSet.of(
    "nyu40", _NYU40_NAMES, range(1, 41), stuff_classes=_places(_NYU40_NAMES, "wall", "floor", "ceiling")
)

S3DIS = LabelSet.of(
    "s3dis",
    _S3DIS_NAMES,
    stuff_classes=(0, 1, 2, 3, 4, 5, 6, 12),
    colors=S3DIS_COLORS,
)

SCANNETPP100 = LabelSet.of(
    "scannetpp100",
    scannetpp.CLASS_NAMES,
    stuff_classes=_places(scannetpp.CLASS_NAMES, *scannetpp.STUFF_NAMES),
)

REPLICA = LabelSet.of(
    "replica",
    replica.CLASS_NAMES,
    range(1, 102),
    stuff_classes=_places(replica.CLASS_NAMES, "ceiling", "floor", "wall"),
)


@dataclass(frozen=True)
class BuiltIn:
    """A label set that is built in, and where it comes from."""

    labels: LabelSet
    source: str
    stuff: str
    """Whose distinction of stuff and things it has."""
    licence: str
    """Terms of the data set it belongs to, which is not part of this product; names alone are."""


BUILT_IN = (
    BuiltIn(
        SCANNET20,
        "ScanNet benchmark (Dai et al., CVPR 2017); ids of NYU40",
        "the benchmark's: instances of 18 classes",
        "ScanNet Terms of Use, non-commercial",
    ),
    BuiltIn(
        SCANNET200,
        "ScanNet200 (Rozenberszki et al., ECCV 2022); ids of scannetv2-labels.combined.tsv",
        "the benchmark's: instances of 198 classes",
        "ScanNet Terms of Use, non-commercial",
    ),
    BuiltIn(
        NYU40,
        "Gupta et al., CVPR 2013, on NYU Depth v2; names and ids as in scannetv2-labels.combined.tsv",
        "ours: wall, floor and ceiling are stuff; it has no instance benchmark",
        "of the data labelled with it; in ScanNet: ScanNet Terms of Use, non-commercial",
    ),
    BuiltIn(
        S3DIS,
        "S3DIS (Armeni et al., CVPR 2016); order and colours as in mmdetection3d and OneFormer3D",
        "OneFormer3D's panoptic evaluation (things: table, chair, sofa, bookcase, board); the instance "
        "benchmark counts all 13: write a labels.json with more things for that",
        "the data set's own terms, on request from Stanford",
    ),
    BuiltIn(
        SCANNETPP100,
        "ScanNet++ (Yeshwanth et al., ICCV 2023), metadata/semantic_benchmark/top100.txt",
        "the benchmark's: instances of the 84 classes of top100_instance.txt",
        "ScanNet++ Terms of Use, non-commercial",
    ),
    BuiltIn(
        REPLICA,
        "Replica (Straub et al., 2019), habitat/info_semantic.json; ids 1 … 101",
        "ours: wall, floor and ceiling are stuff; it has no instance benchmark",
        "Replica Dataset Research Terms, non-commercial",
    ),
)

LABEL_SETS: dict[str, LabelSet] = {one.labels.name: one.labels for one in BUILT_IN}


def known_sets() -> str:
    """The names of the built-in sets, for messages."""
    return ", ".join(LABEL_SETS)


def get_label_set(name: str) -> LabelSet:
    """The built-in label set called `name`; InputError names the known ones."""
    if name not in LABEL_SETS:
        raise InputError(
            f"label set {name!r} is unknown{did_you_mean(name, LABEL_SETS)}; known are {known_sets()}"
        )
    return LABEL_SETS[name]
