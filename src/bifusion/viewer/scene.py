"""A scene folder as the page shows it: colours, annotation, cameras, and what contradicts the scan."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bifusion.data.annotation import find_annotation
from bifusion.data.checks import check_finite
from bifusion.data.images import EncoderView, encoder_view
from bifusion.data.scene_folder import load_labels, load_points, segment_file
from bifusion.data.view_agreement import ViewAgreementConfig, find_disagreement
from bifusion.data.view_files import has_views, load_cameras, load_view
from bifusion.data.view_fit import ScanSample
from bifusion.data.voxels import clean_labels
from bifusion.errors import InputError
from bifusion.geometry import LiftingConfig, visible
from bifusion.labels.files import LABELS_FILE, read_labels
from bifusion.labels.label_set import LabelSet
from bifusion.labels.sets import SCANNET20, SCANNET200
from bifusion.types import View
from bifusion.untrusted.pictures import image_size
from bifusion.viewer.shown_scan import (
    ShownScan,
    ShownSegmentation,
    ShownView,
    segmentation,
    shown_classes,
)

MOST_VIEWS = 64
"""Views that are shown and counted; of more, so many, evenly spaced."""
THUMBNAIL = 200
"""Long side of a thumbnail in pixels."""
THUMBNAIL_QUALITY = 72
ENCODER_SIDE, PATCH = 320, 16
"""Size at which views are laid over the scan; that at which the small models see them."""


def show_scene(folder: Path, class_names: Sequence[str] | None = None) -> ShownScan:
    """The scan in a scene folder; superpoints are not needed.

    Annotation and views that cannot be read, and views that contradict the scan, are told in the notes
    and do not keep the rest from being shown.

    Args:
        folder: scene folder of this project or of Pointcept's preprocessed ScanNet.
        class_names: those of a prediction; annotation of other classes is left out, and it is said.
    Raises:
        InputError: missing, truncated or misshapen points or colours.
    """
    folder = Path(folder).resolve()
    coord, color = (np.array(array) for array in load_points(folder)[:2])
    check_finite(coord, folder / "coord.npy")
    labels, annotated, notes = _show_annotation(folder, class_names, coord)
    views, seen, told = _show_views(folder, coord, color)
    return ShownScan(
        name=folder.name,
        coord=coord,
        color=color,
        classes=() if labels is None else shown_classes(labels),
        annotated=annotated,
        seen=seen,
        views=views,
        notes=(*notes, *told),
    )


def _show_annotation(
    folder: Path, class_names: Sequence[str] | None, coord: np.ndarray
) -> tuple[LabelSet | None, ShownSegmentation | None, tuple[str, ...]]:
    """Its classes and what it says, of the label set that was asked for; None where it has none."""
    try:
        there = _labels_of(folder)
        fitting = [s for s in there if class_names is None or s.class_names == tuple(class_names)]
        if there and not fitting:
            names = " and ".join(one.describe() for one in there)
            return None, None, (f"The annotation is not shown: its classes are those of {names}.",)
        if fitting:
            return fitting[0], _annotation(folder, fitting[0], coord), ()
        nameless = "The annotation is not shown: nothing says the classes of segment.npy."
        return None, None, (nameless,) if (folder / "segment.npy").exists() else ()
    except InputError as error:
        return None, None, (f"The annotation is not shown: {error}",)


def _labels_of(folder: Path) -> list[LabelSet]:
    """The label sets that the folder's annotation is in."""
    roots = [root for root in (folder.parent.parent, folder.parent) if (root / LABELS_FILE).is_file()]
    sets = [read_labels(roots[0] / LABELS_FILE)] if roots else [SCANNET20, SCANNET200]
    return [labels for labels in sets if (folder / segment_file(labels)).exists()]


def _annotation(folder: Path, labels: LabelSet, coord: np.ndarray) -> ShownSegmentation:
    segment, instance = load_labels(folder, labels, len(coord))
    read = find_annotation(folder.parent.parent, labels)
    where = folder / segment_file(labels)
    semantic, instance = clean_labels(
        segment, instance, labels, where, len(coord), zero_is_none=read.zero_is_none
    )
    return segmentation(coord, semantic, instance)


def _show_views(
    folder: Path, coord: np.ndarray, color: np.ndarray
) -> tuple[tuple[ShownView, ...], np.ndarray | None, tuple[str, ...]]:
    """The views, how many of them see each point (None without views), and what to know of them."""
    if not has_views(folder):
        return (), None, ()
    try:
        cameras = load_cameras(folder)
    except InputError as error:
        return (), None, (f"No views are shown: {error}",)
    chosen = cameras.names[:: max(1, -(-len(cameras.names) // MOST_VIEWS))]
    notes = []
    if len(chosen) < len(cameras.names):
        notes.append(f"{len(chosen)} of the {len(cameras.names)} views are shown and counted.")
    scan, position = ScanSample(coord, color), torch.from_numpy(coord)
    seen, shown = np.zeros(len(coord), dtype=np.int32), []
    for name in chosen:
        try:
            view = load_view(folder, name, cameras)
        except InputError as error:
            notes.append(f"View {name} is left out: {error}")
            continue
        small = encoder_view(view, ENCODER_SIDE, PATCH, ENCODER_SIDE)
        one = _show_view(view, small, scan, folder.name)
        if one.warning is not None:
            notes.append(f"{one.warning[0].upper()}{one.warning[1:]}.")
        seen += visible(position, small.to_batch_view(0), LiftingConfig())[1].numpy()
        shown.append(one)
    return tuple(shown), seen if shown else None, tuple(notes)


def _show_view(view: View, small: EncoderView, scan: ScanSample, scene: str) -> ShownView:
    found = find_disagreement(scene, scan, small, ViewAgreementConfig())
    return ShownView(
        name=view.name,
        K=view.color_K,
        size=image_size(view.color),
        cam2world=view.color_cam2world,
        thumbnail=_thumbnail(view.color),
        warning=None if found is None else found.message,
    )


def _thumbnail(color: np.ndarray) -> bytes:
    """JPEG of (H, W, 3) uint8, its long side THUMBNAIL pixels at most."""
    image = Image.fromarray(color)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()
