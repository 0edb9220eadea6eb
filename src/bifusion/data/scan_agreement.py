"""Whether the views of a scan fit it, and if not, the likely cause, which is mostly one for all of them.

Some views are laid over the scan as the files say and with each row of `view_mistakes.py` undone. What
fits much better in nearly all of them names what is wrong with the files. Where no row does, the views
are told that disagree in themselves, as training watches them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from bifusion.data.images import EncoderView, encoder_view
from bifusion.data.view_agreement import (
    ENOUGH,
    ViewAgreementConfig,
    color_camera,
    depth_camera,
    find_disagreement,
)
from bifusion.data.view_files import Cameras
from bifusion.data.view_fit import Camera, ScanSample, fit_colors, fit_depth, unhidden
from bifusion.data.view_mistakes import (
    COLOR_MISTAKES,
    DEPTH_MISTAKES,
    DEPTH_UNITS,
    SHIFTS,
    Mistake,
    in_other_units,
    shifted,
)
from bifusion.errors import InputError
from bifusion.types import DisagreeingView, View
from bifusion.untrusted.pictures import DEPTH_SCALE

IMAGE_SIZE, DEPTH_SIZE = 320, 640
"""Long sides of pictures and depth maps as they are compared."""
MARGIN = 1.3
"""So many times as well as what the files say a mistake undone must fit, over all views looked at …

Planted in generated rooms and two real recordings they do from 1.5 up; no mistake fits two thirds of
right views better."""
MOST_OF = 2 / 3
"""… and better in so many of them."""
COLOR_MARGIN = 0.08
"""By so much a mistake undone must raise the correlation of colours, over all views looked at."""
ALIKE = 0.97
"""Mistakes that fit nearly as well as the best are not told apart; the first in the table counts."""
GRID = (24, 32)
"""Rows and columns of cells in which the nearest point of the scan is compared with the depth map."""
FEW_CELLS = 30
STEADY = 0.1
"""Largest half of the middle half's spread of log ratios: of one factor, not of a wrong camera."""
OFF = 0.18
"""Least |log factor| that is spoken of (a fifth)."""


@dataclass(frozen=True)
class LookedAt:
    """A view, reduced, and where the list of poses has the cameras around it."""

    view: EncoderView
    depth_neighbours: Mapping[int, np.ndarray] = field(default_factory=dict)
    """Places further on in the list, one of SHIFTS → (4, 4) world2cam of the depth camera there."""
    color_neighbours: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class ViewsFinding:
    """What is wrong with the views of a scan."""

    cause: str | None
    """The row of `view_mistakes.py` that explains it, by name; None: no single one does."""
    message: str
    """What was found and what to do."""


def look_at(
    view: View,
    row: int = 0,
    depth_poses: Mapping[int, np.ndarray] | None = None,
    color_poses: Mapping[int, np.ndarray] | None = None,
) -> LookedAt:
    """`view` as it is compared.

    Args:
        row: its place in the list of poses.
        depth_poses, color_poses: place → (4, 4) cam2world of other views, if known.
    """
    reduced = encoder_view(view, IMAGE_SIZE, 1, DEPTH_SIZE)
    return LookedAt(reduced, _neighbours(depth_poses, row), _neighbours(color_poses, row))


def chosen_rows(number: int, most: int) -> list[int]:
    """Places of at most `most` views, evenly spaced."""
    return [int(row) for row in np.linspace(0, number - 1, min(number, most)).round()]


def look_at_some(
    names: Sequence[str], view: Callable[[str], View], cameras: Cameras | None, most: int
) -> list[LookedAt]:
    """At most `most` of a scene's views, evenly spaced, without those that cannot be read.

    Args:
        names: of all of them, in their order.
        view: loads one.
        cameras: of all of them, if known: else a shifted list of poses goes unnoticed.
    """
    depth_poses = dict(enumerate(cameras.depth_cam2world)) if cameras else None
    color_poses = dict(enumerate(cameras.color_cam2world)) if cameras else None
    rows = chosen_rows(len(names), most)
    looked = []
    for row in rows:
        with suppress(InputError):  # told to whoever reads that view
            looked.append(look_at(view(names[row]), row, depth_poses, color_poses))
    return looked


def judge_views(
    coord: np.ndarray,
    color: np.ndarray,
    looked: Sequence[LookedAt],
    config: ViewAgreementConfig | None = None,
    read_units: float | None = None,
) -> list[ViewsFinding]:
    """What tells that views do not belong to their scan as the files say; nothing where they do, and
    where there is too little to judge by.

    Args:
        coord, color: (N, 3) metres and 0 … 255 of the scan.
        looked: some of its views.
        read_units: units a metre that their depth was read with; None: it lies in a scene folder,
            and the remedy names no --depth-scale.
    """
    config = config or ViewAgreementConfig()
    looked = [one for one in looked if (one.view.depth_m > 0).any()]
    if not looked:
        return []
    scan = ScanSample(coord, color)
    cause = _depth_cause(scan, looked, config, read_units)
    if cause:
        return [cause]
    singly = [find_disagreement("", scan, one.view, config) for one in looked]
    depth_fits = [
        one
        for one, found in zip(looked, singly, strict=True)
        if found is None or found.figure.startswith("color")
    ]
    cause = _color_cause(scan, depth_fits, config)
    return [cause] if cause else _single_views([found for found in singly if found], len(looked))


def depth_ratios(coord: np.ndarray, camera: Camera) -> np.ndarray:
    """(K,) measured depth over that of the scan's nearest point, cell by cell of the image.

    The nearest point of a cell hides the others; taken over cells, points seen through gaps between
    those of a sparse scan are few.
    """
    row, column, depth_m, inside = camera.project(coord)
    row, column, depth_m = row[inside], column[inside], depth_m[inside]
    height, width = camera.pixels.shape
    cell = row * GRID[0] // height * GRID[1] + column * GRID[1] // width
    order = np.lexsort((depth_m, cell))
    nearest = order[np.unique(cell[order], return_index=True)[1]]
    measured = camera.pixels[row[nearest], column[nearest]]
    return (measured / depth_m[nearest])[measured > 0]


def _neighbours(poses: Mapping[int, np.ndarray] | None, row: int) -> dict[int, np.ndarray]:
    poses = poses or {}
    return {shift: np.linalg.inv(poses[row + shift]) for shift in SHIFTS if row + shift in poses}


# ------------------------------------------------------------------------------------------ depth


def _depth_cause(
    scan: ScanSample, looked: Sequence[LookedAt], config: ViewAgreementConfig, read_units: float | None
) -> ViewsFinding | None:
    """The mistake without which the depth maps fit."""
    cameras = [depth_camera(one.view) for one in looked]
    for_all = (*DEPTH_MISTAKES, *_other_units(scan, cameras, read_units))

    def fit(camera: Camera) -> float:
        return fit_depth(scan, camera, config.points).fit

    tried = []
    for one, camera in zip(looked, cameras, strict=True):
        mistakes = (*for_all, *shifted(one.depth_neighbours, "poses"))
        fits = [(mistake, fit(mistake.undo(camera))) for mistake in mistakes]
        tried.append(_Tried(fit(camera), fits))
    best = _best(tried)
    if best is None or best.fit < config.min_fit or best.fit < MARGIN * best.given:
        return None
    return best.finding(f"the depth of {best.views} views looked at fits the scan better with")


def _other_units(scan: ScanSample, cameras: Sequence[Camera], read_units: float | None) -> list[Mistake]:
    """Depth in each of the units that recorders use, and in that which most views agree on."""
    stored = DEPTH_SCALE if read_units is None else read_units
    factors = [units / stored for units in DEPTH_UNITS if units != stored]
    logs = []
    for camera in cameras:
        ratio = depth_ratios(scan.coord, camera)
        if len(ratio) >= FEW_CELLS:
            low, middle, high = np.percentile(np.log(ratio), (25, 50, 75))
            logs += [middle] if high - low <= 2 * STEADY else []
    if 2 * len(logs) > len(cameras) and abs(np.median(logs)) >= OFF:
        factors.append(float(np.exp(np.median(logs))))
    return [in_other_units(read_units, factor) for factor in factors]


# ----------------------------------------------------------------------------------------- colour


def _color_cause(
    scan: ScanSample, looked: Sequence[LookedAt], config: ViewAgreementConfig
) -> ViewsFinding | None:
    """The mistake without which the pictures fit, in views whose depth does and whose colours tell."""
    tried = []
    for one in looked:
        rows = unhidden(scan, depth_camera(one.view), config.points)
        coord, colors, camera = scan.coord[rows], scan.color[rows], color_camera(one.view)
        given = fit_colors(coord, colors, camera)
        if given.points < ENOUGH or given.contrast < config.min_contrast:
            continue
        mistakes = (*COLOR_MISTAKES, *shifted(one.color_neighbours, "pictures"))
        fits = [(mistake, fit_colors(coord, colors, mistake.undo(camera))) for mistake in mistakes]
        telling = [
            (mistake, fit.correlation)
            for mistake, fit in fits
            if fit.points >= ENOUGH and fit.contrast >= config.min_contrast
        ]
        tried.append(_Tried(given.correlation, telling))
    best = _best(tried)
    if best is None or best.fit < config.min_color_fit or best.fit < best.given + COLOR_MARGIN:
        return None
    return best.finding(f"the colours of {best.views} views looked at fit the scan better with")


# ------------------------------------------------------------------------------------------- both


@dataclass(frozen=True)
class _Tried:
    """How one view fits as it is, and without each mistake."""

    given: float
    fits: Sequence[tuple[Mistake, float]]


@dataclass(frozen=True)
class _Best:
    """The mistake whose undoing raises the fit most, on average over the views it can be tried on."""

    mistake: Mistake
    views: int
    given: float
    fit: float

    @property
    def gain(self) -> float:
        return self.fit - self.given

    def finding(self, what: str) -> ViewsFinding:
        figures = f"{self.fit:.2f}, as it is {self.given:.2f}"
        message = f"{self.mistake.remedy} ({what} {self.mistake.name}: {figures})"
        return ViewsFinding(self.mistake.name, message)


def _best(tried: Sequence[_Tried]) -> _Best | None:
    """The mistake without which most views fit better; None if there is none."""
    pairs: dict[str, list[tuple[Mistake, float, float]]] = {}
    for view in tried:
        for mistake, fit in view.fits:
            pairs.setdefault(mistake.name, []).append((mistake, view.given, fit))
    candidates = []
    for of_views in pairs.values():
        given = np.array([pair[1] for pair in of_views])
        fit = np.array([pair[2] for pair in of_views])
        if 2 * len(of_views) >= len(tried) and (fit > given).mean() >= MOST_OF:
            mean = float(given.mean()), float(fit.mean())
            candidates.append(_Best(of_views[0][0], len(of_views), *mean))
    most = max((one.gain for one in candidates), default=0.0)
    return next((one for one in candidates if one.gain >= ALIKE * most), None)


def _single_views(found: Sequence[DisagreeingView], looked: int) -> list[ViewsFinding]:
    """One line on the views that disagree each in its own way."""
    if not found:
        return []
    more = "" if len(found) == 1 else f" (and {len(found) - 1} more)"
    of = f"{len(found)} of {looked} views looked at"
    return [ViewsFinding(None, f"{of} contradict the scan: {found[0].message}{more}")]
