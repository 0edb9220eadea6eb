"""How the learned gates are distributed over the points that a view sees."""

from __future__ import annotations

from collections.abc import Mapping

from bifusion.studies.comparison.fusion_report import GateEntry
from bifusion.studies.comparison.verdicts import GATE_RANGE
from bifusion.studies.page.charts import HEIGHT, Chart, Trace, plain, wanted_range
from bifusion.studies.page.style import Looks

SECTION = "Gate"


def gate_charts(gates: Mapping[str, GateEntry], looks: Looks) -> list[Chart]:
    """The histogram; none where no gate was measured."""
    if not gates:
        return []
    layout = {
        "margin": {"l": 44, "r": 10, "t": 20, "b": 34},
        "height": HEIGHT,
        "showlegend": False,
        "shapes": [wanted_range(*GATE_RANGE, axis="x")],
        "xaxis": {"range": [0, 1], "title": {"text": "gate", "standoff": 4}, "zeroline": False},
        "yaxis": {"rangemode": "tozero", "zeroline": False},
    }
    traces = [_trace(key, entry, looks) for key, entry in gates.items()]
    title = "Share of seen points by their gate"
    return [Chart(SECTION, title, {"data": traces, "layout": layout})]


def _trace(key: str, entry: GateEntry, looks: Looks) -> Trace:
    look, bins = looks[key], len(entry.histogram)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(look.label),
        "meta": key,
        "x": [round((index + 0.5) / bins, 4) for index in range(bins)],
        "y": [round(share, 5) for share in entry.histogram],
        "line": {"color": look.color, "width": 2, "dash": look.dash, "shape": "hvh"},
        "hovertemplate": "%{y:.1%} at %{x:.3f}",
    }
