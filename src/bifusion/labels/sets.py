"""The label sets of the ScanNet benchmark: class names, ids in ScanNet's label table, stuff."""

from __future__ import annotations

from dataclasses import dataclass

from bifusion.labels import scannet200 as labels_scannet200
from bifusion.types import InputError


@dataclass(frozen=True)
class LabelSet:
    """Classes of a benchmark in its own order; a class is its position in that order."""

    name: str
    class_names: tuple[str, ...]
    source_ids: tuple[int, ...]
    """Id of each class in the source labelling (NYU40 ids for ScanNet20, ScanNet200's own)."""
    stuff_classes: tuple[int, ...]
    """Classes without instances (wall, floor)."""
    frequency_splits: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(split name, its classes) by how often they occur, where the benchmark defines it."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def thing_classes(self) -> tuple[int, ...]:
        """Classes with instances, in order; a model's instance label t means thing_classes[t]."""
        return tuple(c for c in range(self.num_classes) if c not in self.stuff_classes)

    @property
    def num_things(self) -> int:
        return len(self.thing_classes)


SCANNET20 = LabelSet(
    name="scannet20",
    class_names=(
        "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
        "picture", "counter", "desk", "curtain", "refrigerator", "shower curtain", "toilet", "sink",
        "bathtub", "otherfurniture",
    ),
    source_ids=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39),
    stuff_classes=(0, 1),
)  # fmt: skip


def _scannet200() -> LabelSet:
    names = labels_scannet200.CLASS_NAMES
    splits = {
        "head": labels_scannet200.HEAD_NAMES,
        "common": labels_scannet200.COMMON_NAMES,
        "tail": labels_scannet200.TAIL_NAMES,
    }
    return LabelSet(
        name="scannet200",
        class_names=names,
        source_ids=labels_scannet200.SOURCE_IDS,
        stuff_classes=(names.index("wall"), names.index("floor")),
        frequency_splits=tuple((split, tuple(map(names.index, splits[split]))) for split in splits),
    )


SCANNET200 = _scannet200()

LABEL_SETS: dict[str, LabelSet] = {label_set.name: label_set for label_set in (SCANNET20, SCANNET200)}


def get_label_set(name: str) -> LabelSet:
    """The label set called `name`; InputError names the known ones."""
    if name not in LABEL_SETS:
        raise InputError(f"label set {name!r} is unknown; known are {', '.join(sorted(LABEL_SETS))}")
    return LABEL_SETS[name]
