"""Charts of dose and response: gain, mIoU and the rooms' own figures against the knob."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bifusion.studies.comparison.charts import HEIGHT, Chart
from bifusion.studies.comparison.curves import Trace
from bifusion.studies.page.markup import Looks

Dose = dict[str, Any]
PART_LABELS = {
    "all": "all points",
    "seen": "points seen",
    "unseen": "points not seen",
    "texture": "texture classes",
    "other": "other classes",
    "texture_seen": "texture classes, points seen",
    "texture_unseen": "texture classes, points not seen",
}
GAIN_CHARTS: dict[str, tuple[str, ...]] = {
    "Gain on all points": ("all",),
    "Gain on points seen and not seen": ("seen", "unseen"),
    "Gain on texture classes and the others": ("texture", "other"),
    "Gain on texture classes, by points seen": ("texture_seen", "texture_unseen"),
}
SENSE_LOOKS = {"images": ("image crops", "#dd6420"), "voxels": ("voxels", "#3f7fd0")}
GREY = "#8b8f98"
MAX_TICKS = 8
"""More values than these share the axis' own ticks."""


def dose_charts(dose: Dose, looks: Looks) -> list[Chart]:
    """Every chart that has something to show, section by section."""
    gaining = [arm["key"] for arm in dose["arms"] if arm["key"] != dose["reference"]]
    charts = []
    for title, parts in GAIN_CHARTS.items():
        traces = [
            trace
            for key in gaining
            for place, part in enumerate(parts)
            for trace in _gain(dose, looks, key, part, ("solid", "dot")[place])
        ]
        charts.append(("Gain", title, traces, {"zeroline": True, "zerolinewidth": 2}))
    unit = {"range": [-0.02, 1.02], "zeroline": False, "dtick": 0.25}
    charts.append(("Gain", "mIoU on all points", _miou(dose, looks), {"zeroline": False}))
    charts.append(("Rooms", "Probe: texture classes told apart by", _probes(dose), unit))
    charts.append(("Rooms", "Share of validation points seen", _seen(dose), unit))
    return [
        Chart(section, title, {"data": traces, "layout": _layout(dose, traces, axis)})
        for section, title, traces, axis in charts
        if traces
    ]


def _gain(dose: Dose, looks: Looks, key: str, part: str, dash: str) -> list[Trace]:
    """A part's line of one model: the dash tells the part, the colour the model."""
    samples = [((level["arms"].get(key) or {}).get("gain") or {}).get(part) for level in dose["levels"]]
    traces = _samples(dose, samples, PART_LABELS[part], looks[key].color, dash, key)
    hover = f"{looks[key].label}, {PART_LABELS[part]}: %{{y:+.3f}} at %{{x:.4g}}<extra></extra>"
    first = next(arm["key"] for arm in dose["arms"] if arm["key"] != dose["reference"])
    return [{**trace, "showlegend": key == first, "hovertemplate": hover} for trace in traces]


def _miou(dose: Dose, looks: Looks) -> list[Trace]:
    traces = []
    for key, look in looks.items():
        samples = [
            (level["arms"].get(key) or {"miou": {}})["miou"].get("all") for level in dose["levels"]
        ]
        traces += _samples(dose, samples, look.label, look.color, look.dash, key)
    oracle = [(level["audit"] or {}).get("oracle_miou") for level in dose["levels"]]
    return traces + _line(dose, oracle, "superpoint oracle", GREY, "dash")


def _probes(dose: Dose) -> list[Trace]:
    probes = [level["audit"]["probe"] if level["audit"] else {} for level in dose["levels"]]
    traces = []
    for sense, (name, color) in SENSE_LOOKS.items():
        told = [probe.get(sense) for probe in probes]
        values = [entry["accuracy"] if entry else None for entry in told]
        errors = [entry["standard_error"] if entry else None for entry in told]
        traces += _line(dose, values, name, color, "solid", errors)
    chance = [next((e["chance"] for e in probe.values() if e), None) for probe in probes]
    return traces + _line(dose, chance, "chance", GREY, "dot")


def _seen(dose: Dose) -> list[Trace]:
    shares = [(level["audit"] or {}).get("seen_share") for level in dose["levels"]]
    return _line(dose, shares, "points seen", GREY, "solid")


def _samples(
    dose: Dose, samples: list[dict[str, Any] | None], name: str, color: str, dash: str, arm: str
) -> list[Trace]:
    means = [sample["mean"] if sample else None for sample in samples]
    spreads = [sample["spread"] if sample else None for sample in samples]
    return _line(dose, means, name, color, dash, spreads, arm)


def _line(
    dose: Dose,
    values: Sequence[float | None],
    name: str,
    color: str,
    dash: str,
    spreads: Sequence[float | None] = (),
    arm: str | None = None,
) -> list[Trace]:
    """One line with ± bars over the knob's values; none where nothing was measured."""
    if all(value is None for value in values):
        return []
    bars = {"type": "data", "array": [s or 0.0 for s in spreads], "thickness": 1.2, "width": 4}
    return [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "meta": arm,
            "x": [level["value"] for level in dose["levels"]],
            "y": list(values),
            "line": {"color": color, "width": 2, "dash": dash},
            "marker": {"color": color, "size": 6},
            "error_y": {**bars, "color": color, "visible": any(spreads)},
            "cliponaxis": False,
            "hovertemplate": "%{y:.3f} at %{x:.4g}",
        }
    ]


def _layout(dose: Dose, traces: list[Trace], value_axis: dict[str, Any]) -> dict[str, Any]:
    knob, values = dose["knob"], [level["value"] for level in dose["levels"]]
    label = knob["label"] + (f" ({knob['unit']})" if knob["unit"] else "")
    ticks = {"tickvals": values} if len(values) <= MAX_TICKS else {}
    named = sum(trace.get("showlegend", True) for trace in traces)
    return {
        "margin": {"l": 44, "r": 12, "t": 24 if named < 4 else 44, "b": 34},
        "height": HEIGHT,
        "showlegend": named > 1,
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 10}},
        "xaxis": {"title": {"text": label, "standoff": 4}, "zeroline": False, **ticks},
        "yaxis": value_axis,
    }
