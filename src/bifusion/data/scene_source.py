"""Where a split's scenes come from: folders of our own format, or code from outside the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from bifusion import plugins
from bifusion.data.checks import check_scene, check_view
from bifusion.data.open_scene import OpenScene
from bifusion.data.scene_folder import (
    data_sets_in,
    float32_note,
    load_labels,
    load_scene,
    scene_folders,
    segment_file,
)
from bifusion.data.view_files import has_views, load_view
from bifusion.errors import InputError, listing
from bifusion.labels.label_set import LabelSet
from bifusion.types import Scene, View


@runtime_checkable
class SceneSource(Protocol):
    """What a function from outside, "module:function" of (root, split), returns: the scenes of a split.

    Asked for again and again, by several processes: nothing may change from one time to the next. A
    worker process may get a copy by pickle.
    """

    @property
    def names(self) -> Sequence[str]:
        """Of all scenes, each once."""
        ...

    def scene(self, name: str) -> Scene:
        """Points, superpoints, annotation and the names of the views, in the frames and units of
        `types.Scene`."""
        ...

    def view(self, scene: str, view: str) -> View:
        """One of the scene's `view_names`; never asked for where there are none."""
        ...


def _require_folder(data_set: Path) -> None:
    """InputError where a data set is not there at all, or is a file."""
    if data_set.is_dir():
        return
    found = "is a file" if data_set.exists() else "no such folder"
    raise InputError(
        f"{data_set}: {found}; expected a data set, a folder with train/ and val/ (`bifusion prepare` "
        "makes one)"
    )


class SceneFolders:
    """The scene folders of root/`split` (CONVENTIONS.md)."""

    def __init__(self, folder: Path, labels: LabelSet | None, *, read_views: bool):
        """`labels` None: annotation is not looked at. Raises InputError: no such folder, no scene in
        it."""
        self.folder, self.labels, self.read_views = folder, labels, read_views
        self.place = str(folder)
        if not folder.is_dir():
            _require_folder(folder.parent)
            if any(folder.parent.glob("[!.]*/coord.npy")):
                raise InputError(
                    f"{folder.parent}: is a split, a folder of scenes; expected the data set that it is "
                    f"in, {folder.parent.parent}"
                )
            if several := data_sets_in(folder.parent):
                names = listing([path.name for path in several], 4)
                raise InputError(
                    f"{folder.parent}: is no data set but holds some: {names}; give one of them"
                )
            there = listing(sorted(path.name for path in folder.parent.glob("[!.]*")), 4)
            raise InputError(
                f"{folder}: no such folder; expected scene folders there (`bifusion prepare` makes them)"
                + (f"; {folder.parent} holds {there}" if there else "")
            )
        self.names = [path.name for path in scene_folders(folder)]
        if not self.names:
            raise InputError(
                f"{folder}: holds no scene folder; expected at least one (`bifusion prepare` makes them)"
            )

    def scene(self, name: str) -> Scene:
        """See `load_scene`."""
        return load_scene(self.folder / name, self.labels, read_views=self.read_views)

    def view(self, scene: str, view: str) -> View:
        """See `load_view`."""
        return load_view(self.folder / scene, view)

    def where(self, name: str, array: str) -> str:
        """What errors call an array of the scene `name`."""
        if array == "segment" and self.labels is not None:
            return str(self.folder / name / segment_file(self.labels))
        return str(self.folder / name / f"{array}.npy")

    def has_labels(self, name: str) -> bool:
        """Whether the scene is annotated."""
        return self.labels is not None and (self.folder / name / segment_file(self.labels)).exists()

    def has_labelled_points(self, name: str) -> bool:
        """Whether a point of it has a class; a damaged file is told where the scene is loaded."""
        if self.labels is None:
            return False
        try:
            segment, _ = load_labels(self.folder / name, self.labels)
        except InputError:
            return True
        return segment is not None and bool((segment >= 0).any())

    def has_views(self, name: str) -> bool:
        return has_views(self.folder / name)


class OutsideScenes:
    """The scenes that a function from outside gives, each checked as it comes."""

    def __init__(
        self, source: str, root: Path, split: str, *, read_views: bool, read_labels: bool = True
    ):
        """`source`: "module:function". InputError where what it returns is no `SceneSource`."""
        self.place = f"data.source {source} of {root}, {split}"
        self.read_views, self.read_labels = read_views, read_labels
        opened = plugins.load(source, "data.source")
        with plugins.noted(source, "data.source"):
            self._scenes = opened(root, split)
        names = getattr(self._scenes, "names", None)
        missing = [m for m in ("scene", "view") if not callable(getattr(self._scenes, m, None))]
        if not isinstance(names, Sequence) or isinstance(names, str) or missing:
            raise InputError(
                f"{self.place}: returned a {type(self._scenes).__name__}; expected names, scene(name) "
                "and view(scene, view), see bifusion.data.scene_source.SceneSource"
            )
        self.names = sorted(names)
        if not self.names or len(set(self.names)) < len(self.names):
            raise InputError(
                f"{self.place}: names are {self.names[:8]}; expected one or more, each once"
            )

    def scene(self, name: str) -> Scene:
        """The scene, its arrays in the types of ours. InputError for whatever is wrong with them."""
        scene, where = self._scenes.scene(name), f"{self.place}: scene {name}"
        if not isinstance(scene, Scene):
            raise InputError(f"{where} is a {type(scene).__name__}; expected a bifusion.types.Scene")
        if not self.read_labels:
            scene = dataclasses.replace(scene, segment=None, instance=None)
        scene = dataclasses.replace(_checked(scene, where), name=name)
        return scene if self.read_views else dataclasses.replace(scene, view_names=[])

    def view(self, scene: str, view: str) -> View:
        """The view. InputError for whatever is wrong with it."""
        found, where = self._scenes.view(scene, view), f"{self.place}: scene {scene}, view {view}"
        if not isinstance(found, View):
            raise InputError(f"{where} is a {type(found).__name__}; expected a bifusion.types.View")
        return _checked_view(found, view, where)

    def where(self, name: str, array: str) -> str:
        """What errors call an array of the scene `name`."""
        return f"{self.place}: scene {name}, {array}"

    def has_labels(self, name: str) -> bool:
        """Whether the scene is annotated."""
        return self.scene(name).segment is not None

    def has_labelled_points(self, name: str) -> bool:
        """Whether a point of it has a class."""
        segment = self.scene(name).segment
        return segment is not None and bool((segment >= 0).any())

    def has_views(self, name: str) -> bool:
        return bool(self._scenes.scene(name).view_names)


class OneScene:
    """A single scene in the hand, without its annotation, checked."""

    def __init__(self, scene: Scene, *, read_views: bool):
        """InputError for whatever is wrong with its arrays, or where its views are named but not there
        (`Scene` alone has no images)."""
        views = scene.views if isinstance(scene, OpenScene) else {}
        self.names = [scene.name]
        names = list(scene.view_names) if read_views else []
        missing = [name for name in names if name not in views]
        if missing:
            raise InputError(
                f"scene {scene.name}: has no images of its views {', '.join(missing[:8])}; open its "
                "folder (bifusion.open_scene), or make it of arrays with them (bifusion.make_scene)"
            )
        self._views = views
        plain = Scene(
            scene.name,
            scene.coord,
            scene.color,
            scene.superpoint,
            normal=scene.normal,
            view_names=names,
        )
        self._scene = _checked(plain, f"scene {scene.name}")

    def scene(self, name: str) -> Scene:
        """The scene."""
        return dataclasses.replace(self._scene)

    def view(self, scene: str, view: str) -> View:
        """The view. InputError for whatever is wrong with it."""
        return _checked_view(self._views[view], view, f"scene {scene}, view {view}")

    def where(self, name: str, array: str) -> str:
        """What errors call an array of the scene."""
        return f"scene {name}, {array}"


_KINDS = {
    "coord": "iuf", "color": "iuf", "superpoint": "iu", "segment": "iu", "instance": "iu", "normal": "f",
}  # fmt: skip
"""Kinds of numbers (numpy's letters) that a scene's arrays may be of."""


def _checked(scene: Scene, where: str) -> Scene:
    """`scene` in the types of ours; InputError for whatever is wrong with it."""
    optional = [name for name in ("segment", "instance", "normal") if getattr(scene, name) is not None]
    for name in ("coord", "color", "superpoint", *optional):
        array = getattr(scene, name)
        if not isinstance(array, np.ndarray):
            raise InputError(
                f"{where}: {name} is a {type(array).__name__}; expected a numpy array "
                "(bifusion.make_scene takes anything that numpy does, and computes superpoints)"
            )
        if array.dtype.kind not in _KINDS[name]:
            what = "numbers" if "f" in _KINDS[name] else "whole numbers"
            raise InputError(f"{where}: {name} holds {array.dtype}; expected {what}")
    if scene.color.dtype != np.uint8:
        raise InputError(f"{where}: color holds {scene.color.dtype}; expected uint8")
    check_scene(scene, where)
    coord = scene.coord.astype(np.float32)
    if note := float32_note(scene.coord, coord):
        raise InputError(f"{where}: coord {note} (bifusion.make_scene does, and gives it back)")
    return dataclasses.replace(
        scene,
        coord=coord,
        superpoint=scene.superpoint.astype(np.int32),
        view_names=list(scene.view_names),
    )


def _checked_view(view: View, name: str, where: str) -> View:
    """`view` in the types of ours, each array in one piece, as torch wants it; InputError for whatever
    is wrong with it."""
    check_view(view, where)
    cameras = ("color_K", "depth_K", "color_cam2world", "depth_cam2world")
    return View(
        name,
        np.ascontiguousarray(view.color),
        np.ascontiguousarray(view.depth_m, np.float32),
        *(np.asarray(getattr(view, camera), np.float64) for camera in cameras),
    )
