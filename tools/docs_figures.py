"""Figures of the documentation, drawn from what the code itself says: the three stages over a run.

python tools/docs_figures.py     # writes docs/pictures/stages.svg; a test says when that is due
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bifusion.config.stages import StageState, Timeline
from bifusion.recipes import get_recipe

RECIPE = "bifusion_scannet20"
STAGES = Path(__file__).parents[1] / "docs/pictures/stages.svg"
WIDTH, PANEL, GAP, LEFT, RIGHT, TOP = 760, 130, 46, 46, 150, 44
COLORS = ("#3b5bdb", "#e8590c", "#2b8a3e", "#862e9c", "#c92a2a", "#0b7285")
STEPS_AN_EPOCH = 8


@dataclass(frozen=True)
class Panel:
    """One chart: curves over the epochs, each a figure of the state that the stages ask for."""

    title: str
    curves: dict[str, Callable[[StageState], float | None]]


PANELS = (
    Panel(
        "how far 2D features are let in",
        {
            "gate's scale s": lambda state: state.control.scale,
            "fixed α (else learned)": lambda state: state.control.fixed_alpha,
        },
    ),
    Panel(
        "weights of the losses",
        {
            term: lambda state, term=term: state.weights[term]
            for term in ("semantic", "instance_class", "mask_bce", "score", "alignment")
        },
    ),
    Panel(
        "factor on the learning rate, by part (0: frozen)",
        {
            "3D network, decoder": lambda state: state.lr_factor("backbone"),
            "2D head, FiLM, gate": lambda state: state.lr_factor("gate"),
            "CLIP's last blocks": lambda state: state.lr_factor("tower.block5"),
            "CLIP's gradient": lambda state: state.control.tower_gradient_scale,
        },
    ),
)


def stages_svg() -> str:
    """The stages of BiFusion's full-size recipe, as an SVG of its own."""
    config = get_recipe(RECIPE)
    timeline = Timeline(config.stages, config.trainer.epochs)
    height = TOP + len(PANELS) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#333">',
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#fff"/>',
        *_stage_bands(timeline, height),
    ]
    for index, panel in enumerate(PANELS):
        parts += _panel(panel, timeline, TOP + index * (PANEL + GAP))
    return "\n".join([*parts, "</svg>\n"])


def _stage_bands(timeline: Timeline, height: int) -> list[str]:
    parts = []
    for index, (stage, (first, end)) in enumerate(zip(timeline.stages, timeline.bounds, strict=True)):
        x, width = _x(first, timeline), _x(end, timeline) - _x(first, timeline)
        fill = ("#f1f3f5", "#fff", "#f1f3f5")[index % 3]
        parts.append(
            f'<rect x="{x:.1f}" y="8" width="{width:.1f}" height="{height - 30}" fill="{fill}"/>'
        )
        parts.append(
            f'<text x="{x + 6:.1f}" y="22" font-weight="600">{index + 1} {stage.name}</text>'
            f'<text x="{x + 6:.1f}" y="{height - 8}" fill="#777">epoch {first}</text>'
        )
    return parts


def _panel(panel: Panel, timeline: Timeline, top: int) -> list[str]:
    bottom, right = top + PANEL, _x(timeline.epochs, timeline)
    parts = [f'<text x="{LEFT}" y="{top - 4}" fill="#555">{panel.title}</text>']
    for value in (0.0, 0.5, 1.0):
        y = bottom - value * (PANEL - 10)
        parts.append(
            f'<line x1="{LEFT}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ced4da"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#777">{value:g}</text>'
        )
    for number, (name, value_of) in enumerate(panel.curves.items()):
        color, y = COLORS[number], top + 12 + 17 * number
        parts += [_line(points, bottom, color, timeline) for points in _points(value_of, timeline)]
        parts.append(
            f'<line x1="{right + 8:.1f}" x2="{right + 22:.1f}" y1="{y - 4}" y2="{y - 4}" '
            f'stroke="{color}" stroke-width="2.5"/><text x="{right + 27:.1f}" y="{y}">{name}</text>'
        )
    return parts


def _points(
    value_of: Callable[[StageState], float | None], timeline: Timeline
) -> list[list[tuple[float, float]]]:
    """The curve as runs of (epoch, value) in which it has a value."""
    runs: list[list[tuple[float, float]]] = [[]]
    for step in range(timeline.epochs * STEPS_AN_EPOCH + 1):
        epoch = step / STEPS_AN_EPOCH
        value = value_of(timeline.at(epoch))
        if value is not None:
            runs[-1].append((epoch, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _corners(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without the points between two of which the curve is straight."""
    kept = [points[0]]
    for before, here, after in zip(points, points[1:], points[2:], strict=False):
        if abs((here[1] - before[1]) - (after[1] - here[1])) > 1e-9:
            kept.append(here)
    return [*kept, points[-1]]


def _line(points: Sequence[tuple[float, float]], bottom: int, color: str, timeline: Timeline) -> str:
    corners = _corners(points)
    at = " ".join(f"{_x(e, timeline):.1f},{bottom - v * (PANEL - 10):.1f}" for e, v in corners)
    return f'<polyline points="{at}" fill="none" stroke="{color}" stroke-width="2"/>'


def _x(epoch: float, timeline: Timeline) -> float:
    return LEFT + epoch / timeline.epochs * (WIDTH - LEFT - RIGHT)


if __name__ == "__main__":
    STAGES.write_text(stages_svg(), encoding="utf-8")
