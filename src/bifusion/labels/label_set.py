"""A label set: the classes of a data set in their own order, and what is known of each."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from bifusion.arguments import require, text_of, whole_of
from bifusion.errors import InputError

Kind = Literal["stuff", "thing"]
Color = tuple[int, int, int]
NAMED = 8
"""Differences that are named one by one."""
IGNORED = {255, -100}
"""What other programs write for points without a class."""


@dataclass(frozen=True)
class LabelClass:
    """One class; its number is its position in the label set."""

    name: str
    kind: Kind = "thing"
    """Things have instances; stuff (walls, floors) has none."""
    color: Color | None = None
    """RGB, each 0 … 255; None: one is made from the position."""
    id: int | None = None
    """The class's number in the labelling it comes from, where there is one."""
    group: str | None = None
    """Part of the set whose figures are given apart, such as head, common, tail."""


@dataclass(frozen=True)
class LabelSet:
    """Classes of a data set in its own order; a class is its position in that order.

    Raises InputError, naming the class, for a set that nothing can be trained on: fewer than two
    classes, none of them a thing, a name that is empty or there twice, an id there twice or
    missing among others, a colour outside 0 … 255.
    """

    name: str
    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        problem = _problem(self.classes) if is_plain(self.name) else "expected a name of one line"
        if problem is not None:
            raise InputError(f"label set {self.name!r}: {problem}")

    @classmethod
    def of(
        cls,
        name: str,
        class_names: Sequence[str],
        source_ids: Sequence[int] | np.ndarray | None = None,
        stuff_classes: Sequence[int] | np.ndarray = (),
        *,
        colors: Sequence[Color] | np.ndarray | None = None,
        group_of: dict[str, str] | None = None,
    ) -> LabelSet:
        """The set from columns: classes in order, the numbers of those that are stuff, and for each
        class its id, its colour and, by name, its group.

        Raises InputError naming the column that does not fit the names.
        """
        text_of(name, "name")
        several = isinstance(class_names, Iterable) and not isinstance(class_names, str)
        require(several, class_names, "class_names", "a list of names")
        class_names = [text_of(one, "class_names", "names") for one in class_names]
        require(isinstance(stuff_classes, Iterable), stuff_classes, "stuff_classes", "a list of numbers")
        stuff = {whole_of(one, "stuff_classes") for one in stuff_classes}
        _require_places(stuff, len(class_names))
        for column, values in (("source_ids", source_ids), ("colors", colors)):
            if values is not None and len(values) != len(class_names):
                raise InputError(
                    f"{column}: has {len(values)} entries for {len(class_names)} class_names; expected "
                    "one for each"
                )
        require(group_of is None or isinstance(group_of, dict), group_of, "group_of", "name → group")
        groups = group_of or {}
        if unknown := [one for one in groups if one not in class_names]:
            raise InputError(f"group_of: {unknown[0]!r} is none of class_names")
        return cls(
            name,
            tuple(
                LabelClass(
                    name=text,
                    kind="stuff" if index in stuff else "thing",
                    color=None if colors is None else _whole_color(colors[index]),
                    id=None if source_ids is None else whole_of(source_ids[index], "source_ids"),
                    group=groups.get(text),
                )
                for index, text in enumerate(class_names)
            ),
        )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.classes)

    @cached_property
    def source_ids(self) -> tuple[int, ...]:
        """Id of each class in its source (NYU40's for ScanNet20, …); empty where there is none."""
        return tuple(one.id for one in self.classes if one.id is not None)

    @cached_property
    def stuff_classes(self) -> tuple[int, ...]:
        """Classes without instances (wall, floor)."""
        return tuple(i for i, one in enumerate(self.classes) if one.kind == "stuff")

    @cached_property
    def thing_classes(self) -> tuple[int, ...]:
        """Classes with instances, in order; a model's instance label t means thing_classes[t]."""
        return tuple(i for i, one in enumerate(self.classes) if one.kind == "thing")

    @property
    def num_things(self) -> int:
        return len(self.thing_classes)

    @cached_property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Group name → its classes, in order of their first; classes in no group are left out."""
        names = dict.fromkeys(one.group for one in self.classes if one.group is not None)
        return {
            name: tuple(i for i, one in enumerate(self.classes) if one.group == name) for name in names
        }

    def describe(self) -> str:
        """Name, number and kinds in a few words."""
        stuff = f", {len(self.stuff_classes)} of them stuff" if self.stuff_classes else ""
        return f"{self.name} ({self.num_classes} classes{stuff})"


def differences(one: LabelSet, other: LabelSet) -> list[str]:
    """Where two sets name other classes, or other ones things; colours, ids and groups may differ."""
    found = []
    for index in range(max(one.num_classes, other.num_classes)):
        mine, theirs = (s.classes[index] if index < s.num_classes else None for s in (one, other))
        if mine is None or theirs is None or mine.name != theirs.name:
            names = [repr(c.name) if c is not None else "none" for c in (mine, theirs)]
            found.append(f"{index} is {names[0]} and {names[1]}")
        elif mine.kind != theirs.kind:
            found.append(f"{index} {mine.name!r} is a {mine.kind} class and a {theirs.kind} class")
    return found


def named_differences(one: LabelSet, other: LabelSet) -> str:
    """`differences` in one line, the first few by name; empty where there is none."""
    found = differences(one, other)
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"class {'; '.join(found[:NAMED])}{more}" if found else ""


def require_same_classes(
    one: LabelSet, of_one: str, other: LabelSet, of_other: str, advice: str
) -> None:
    """InputError naming the classes that differ between the sets of `of_one` and `of_other`."""
    found = named_differences(one, other)
    if found:
        raise InputError(
            f"{of_one} has the classes of {one.describe()}, {of_other} those of {other.describe()}: "
            f"{found}. {advice}"
        )


def check_labels(segment: np.ndarray, labels: LabelSet, where: str | Path) -> None:
    """InputError if a semantic label is neither −1 nor a class of the set."""
    if not len(segment) or (segment.min() >= -1 and segment.max() < labels.num_classes):
        return
    outside = segment[(segment < -1) | (segment >= labels.num_classes)]
    last = labels.num_classes - 1
    raise InputError(
        f"{where}: labels go from {int(segment.min())} to {int(segment.max())}; expected -1 "
        f"(unlabelled) to {last} ({labels.class_names[last]}), positions in {labels.describe()}; "
        f"{len(outside)} of {len(segment)} points have others (first: {int(outside[0])}); "
        f"{_to_positions(set(np.unique(segment).tolist()), labels)}"
    )


def _to_positions(found: set[int], labels: LabelSet) -> str:
    """What makes positions of the numbers in `found`, not all of which are."""
    ignored = sorted(found & IGNORED)
    classes = found - IGNORED - {-1}
    said = [f"{one} marks points without a class elsewhere: write -1 in its place" for one in ignored]
    if classes <= set(range(labels.num_classes)):
        return "; ".join(said)
    if classes - {0} <= set(labels.source_ids):
        said.append(
            "they are ids of the classes: replace each by its position (0, if it is none, by -1)"
        )
    elif min(classes) >= 0 and max(classes) == labels.num_classes:
        said.append("subtract 1, if they count from 1")
    else:
        said.append("map them to positions first")
    return "; ".join(said)


def _require_places(stuff: set[int], number: int) -> None:
    """InputError for numbers of classes that there are not, which would be things without a word."""
    if wrong := sorted(place for place in stuff if not 0 <= place < number):
        raise InputError(
            f"stuff_classes: found {wrong[0]}; expected numbers of classes, 0 … {number - 1}"
        )


def _whole_color(color: Sequence[int] | np.ndarray) -> Color:
    """Python's own numbers, also of numpy's, as JSON takes no others."""
    require(isinstance(color, Iterable) and not isinstance(color, str), color, "colors", "RGB each")
    channels = [whole_of(channel, "colors") for channel in color]
    if len(channels) != 3:
        raise InputError(f"colors: found {channels}; expected red, green, blue of 0 … 255")
    return channels[0], channels[1], channels[2]


def is_plain(text: str) -> bool:
    """Whether a name can stand in a line of a file, a table or a page."""
    return bool(text.strip()) and text.isprintable()


def _problem(classes: tuple[LabelClass, ...]) -> str | None:
    """What is wrong with the classes of a set; None: nothing."""
    for index, one in enumerate(classes):
        if not isinstance(one, LabelClass) or not isinstance(one.name, str):
            return f"class {index} is {one!r}; expected a LabelClass with a name"
        where = f"class {index} {one.name!r}"
        if not is_plain(one.name):
            return f"{where}: expected a name of one line"
        if one.kind not in ("stuff", "thing"):
            return f"{where}: kind is {one.kind!r}; expected stuff or thing"
        if one.color is not None and not all(0 <= channel <= 255 for channel in one.color):
            return f"{where}: colour is {list(one.color)}; expected red, green, blue of 0 … 255"
        if one.group is not None and not is_plain(one.group):
            return f"{where}: group is {one.group!r}; expected a name of one line"
    if len(classes) < 2:
        found = repr(classes[0].name) if classes else "none"
        return f"has {len(classes)} classes ({found}); expected two or more to tell apart"
    if all(one.kind == "stuff" for one in classes):
        return (
            f"all {len(classes)} classes are stuff; expected at least one thing, as every model here "
            "finds instances"
        )
    return _repetition(classes)


def _repetition(classes: tuple[LabelClass, ...]) -> str | None:
    # What looks the same on a page is the same name, however its accents are encoded.
    looks = [unicodedata.normalize("NFC", one.name.strip()) for one in classes]
    names, ids = Counter(looks), Counter(one.id for one in classes)
    name, count = names.most_common(1)[0]
    if count > 1:
        at = [index for index, look in enumerate(looks) if look == name]
        return f"classes {', '.join(map(str, at))} are all called {name!r}; expected each name once"
    if None in ids and len(ids) > 1:
        without = next(one.name for one in classes if one.id is None)
        return f"class {without!r} has no id, though others have; give all of them one, or none"
    identity, count = ids.most_common(1)[0]
    if identity is not None and count > 1:
        of = [repr(one.name) for one in classes if one.id == identity]
        return f"id {identity} is that of {' and '.join(of)}; expected each id once"
    return None
