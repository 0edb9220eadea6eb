"""Whether a view's colour and depth fit the scan: wrong intrinsics, poses or mirrored images show here.

A camera that is wrong does not fail: points land on other pixels, and the network learns from noise. So
each view is laid over a fixed sample of the scan's points, and some likely mistakes are tried beside
what the files say. A right camera fits better than any mistake, however cluttered, dark or sparse the
view is; a threshold on the fit alone would depend on all that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bifusion.bounds import NotNegative, PositiveFloat, PositiveInt, Share
from bifusion.data.images import EncoderView
from bifusion.data.view_fit import Camera, ScanSample, fit_colors, fit_depth, unhidden
from bifusion.data.view_mistakes import COLOR_MISTAKES, DEPTH_MISTAKES
from bifusion.types import Batch, DisagreeingView

ENOUGH = 100
"""Points on which colours are compared; with fewer of them nothing is said."""
FEW = 30

Verdict = tuple[str, float, float, str]
"""Figure, its value, the threshold, and words."""


@dataclass(frozen=True)
class ViewAgreementConfig:
    """What "right" views show was measured on 120 views of generated rooms, 2 of ScanNet and 30 of two
    hand-held Kinects, and on each of them with some 25 mistakes."""

    check: bool = True
    """Compare views with the scan; off: they are taken as they are."""
    points: PositiveInt = 2000
    """Most points of a scan that a view is laid over; more of them tell no more."""
    margin: PositiveFloat = 1.15
    """A mistake must fit so many times as well as what the files say (right: below 0.85; focal length
    off by a fifth: from 1.2 up) …"""
    min_fit: Share = 0.15
    """… and at least so well in itself: the share of points in the frustum that agree, times support."""
    min_support: Share = 0.3
    """Least share of measured pixels near some point of the scan (right: from 0.48 up, scans have holes;
    inverted pose: 0). Low, as a scan may cover less than its views do."""
    max_in_front: Share = 0.15
    """Share, among the points that no other surface hides from the view, that lie clearly in front of
    what it measured, where nothing can be (right: up to 0.07; another view's pose: 0.2 to 0.9)."""
    color_margin: float = 0.05
    """A mistake must raise the correlation of colours by so much (right: below −0.10; mirrored image or
    focal length off by a fifth: from 0.08 up) …"""
    min_color_fit: float = 0.4
    """… and at least to this."""
    min_color: float = 0.25
    """Least correlation of colours (right: from 0.6 up; the image of another place: about 0.1)."""
    min_contrast: NotNegative = 10.0
    """Least standard deviation of colours, of 0 … 255, of both scan and image: in grey untextured rooms
    colour tells nothing."""


def find_disagreement(
    scene: str, scan: ScanSample, view: EncoderView, config: ViewAgreementConfig
) -> DisagreeingView | None:
    """What tells that the view's cameras, depth or image do not belong to the scan; None where nothing
    does, be it that they fit or that there is too little to judge by.

    Colour is only looked at where the depth fits.
    """
    depth = depth_camera(view)
    found = _judge_depth(scan, depth, config)
    if found is None:
        found = _judge_colors(scan, depth, color_camera(view), config)
    if found is None:
        return None
    figure, value, threshold, words = found
    return DisagreeingView(scene, view.name, figure, value, threshold, f"view {view.name}: {words}")


@dataclass
class Disagreements:
    """What `find_disagreement` said of each view of a split, asked once however often a view is loaded.
    One a process, never shared."""

    _of_view: dict[tuple[str, str], DisagreeingView | None] = field(default_factory=dict)

    def of(
        self,
        scene: str,
        view: EncoderView,
        scan: Callable[[], ScanSample],
        config: ViewAgreementConfig,
    ) -> DisagreeingView | None:
        """Of a view of the scene called `scene`, whose `scan` is made where the view is new."""
        key = (scene, view.name)
        if key not in self._of_view:
            self._of_view[key] = find_disagreement(scene, scan(), view, config)
        return self._of_view[key]


def depth_camera(view: EncoderView) -> Camera:
    """The camera that took the view's depth."""
    return Camera(view.depth_world2cam.astype(np.float64), view.depth_K.astype(np.float64), view.depth_m)


def color_camera(view: EncoderView) -> Camera:
    """The camera that took the view's image."""
    return Camera(view.world2cam.astype(np.float64), view.K.astype(np.float64), view.image)


def disagreeing_views(batch: Batch) -> list[DisagreeingView]:
    """Of all views of a batch."""
    return [view.disagreement for view in batch.views if view.disagreement is not None]


def _judge_depth(scan: ScanSample, camera: Camera, config: ViewAgreementConfig) -> Verdict | None:
    if not (camera.pixels > 0).any():
        return None
    given = fit_depth(scan, camera, config.points)
    fits = {
        mistake.name: fit_depth(scan, mistake.undo(camera), config.points).fit
        for mistake in DEPTH_MISTAKES
        if mistake.watched
    }
    best = max(fits, key=lambda words: fits[words])
    least = fits[best] / config.margin
    if fits[best] >= config.min_fit and given.fit < least:
        words = (
            f"its depth fits the scan better with {best} ({fits[best]:.2f}, as it is {given.fit:.2f})"
        )
        return "depth_fit", given.fit, least, words
    if given.support < config.min_support:
        words = f"the scan has {given.support:.0%} of the surfaces it measured; check its pose and depth"
        return "support", given.support, config.min_support, words
    if given.visible >= FEW and given.in_front > config.max_in_front:
        words = (
            f"{given.in_front:.0%} of the points it should see lie in front of what it measured; check "
            "its pose, intrinsics and depth"
        )
        return "in_front", given.in_front, config.max_in_front, words
    return None


def _judge_colors(
    scan: ScanSample, depth: Camera, color: Camera, config: ViewAgreementConfig
) -> Verdict | None:
    rows = unhidden(scan, depth, config.points)
    coord, colors = scan.coord[rows], scan.color[rows]
    given = fit_colors(coord, colors, color)
    if given.points >= FEW and given.contrast < config.min_contrast:
        return None
    mistakes = {
        mistake.name: fit_colors(coord, colors, mistake.undo(color))
        for mistake in COLOR_MISTAKES
        if mistake.watched
    }
    fits = {
        words: fit.correlation
        for words, fit in mistakes.items()
        if fit.points >= ENOUGH and fit.contrast >= config.min_contrast
    }
    best = max(fits, key=lambda words: fits[words], default="")
    least = fits.get(best, 0.0) - config.color_margin
    if best and fits[best] >= config.min_color_fit and given.correlation < least:
        words = (
            f"its colours fit the scan better with {best} (correlation {fits[best]:.2f}, as they are "
            f"{given.correlation:.2f})"
        )
        return "color_fit", given.correlation, least, words
    if given.points >= ENOUGH and given.correlation < config.min_color:
        words = (
            f"its colours do not fit the scan (correlation {given.correlation:.2f}); check that image "
            "and pose belong together"
        )
        return "color", given.correlation, config.min_color, words
    return None
