"""Charts of dose and response: gain, mIoU and the rooms' own figures against the knob."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bifusion.studies.dose.report import DoseReport, RoomsAudit
from bifusion.studies.figures.metrics import Sample
from bifusion.studies.page.charts import HEIGHT, Chart, Trace, plain
from bifusion.studies.page.style import Looks

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


def dose_charts(dose: DoseReport, looks: Looks) -> list[Chart]:
    """Every chart that has something to show, section by section."""
    charts = []
    for title, parts in GAIN_CHARTS.items():
        traces = [
            trace
            for arm in dose.gaining
            for part, dash in zip(parts, ("solid", "dot"), strict=False)
            for trace in _gain(dose, looks, arm.key, part, dash)
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


def _gain(dose: DoseReport, looks: Looks, key: str, part: str, dash: str) -> list[Trace]:
    """A part's line of one model: the dash tells the part, the colour the model."""
    entries = [level.arms.get(key) for level in dose.levels]
    samples = [getattr(entry.gain, part) if entry and entry.gain else None for entry in entries]
    traces = _samples(dose, samples, PART_LABELS[part], looks[key].color, dash, key)
    hover = f"{plain(looks[key].label)}, {PART_LABELS[part]}: %{{y:+.3f}} at %{{x:.4g}}<extra></extra>"
    first = key == dose.gaining[0].key
    return [{**trace, "showlegend": first, "hovertemplate": hover} for trace in traces]


def _miou(dose: DoseReport, looks: Looks) -> list[Trace]:
    traces = []
    for key, look in looks.items():
        entries = [level.arms.get(key) for level in dose.levels]
        samples = [entry.miou.all if entry else None for entry in entries]
        traces += _samples(dose, samples, plain(look.label), look.color, look.dash, key)
    oracle = [audit.oracle_miou if audit else math.nan for audit in _audits(dose)]
    return traces + _line(dose, oracle, "superpoint oracle", GREY, "dash")


def _probes(dose: DoseReport) -> list[Trace]:
    traces = []
    for sense, (name, color) in SENSE_LOOKS.items():
        probes = [getattr(audit.probe, sense) if audit else None for audit in _audits(dose)]
        values = [probe.accuracy if probe else math.nan for probe in probes]
        errors = [probe.standard_error if probe else math.nan for probe in probes]
        traces += _line(dose, values, name, color, "solid", errors)
    found = [(audit.probe.voxels or audit.probe.images) if audit else None for audit in _audits(dose)]
    chance = [probe.chance if probe else math.nan for probe in found]
    return traces + _line(dose, chance, "chance", GREY, "dot")


def _seen(dose: DoseReport) -> list[Trace]:
    shares = [audit.seen_share if audit else math.nan for audit in _audits(dose)]
    return _line(dose, shares, "points seen", GREY, "solid")


def _audits(dose: DoseReport) -> list[RoomsAudit | None]:
    return [level.audit for level in dose.levels]


def _samples(
    dose: DoseReport, samples: list[Sample | None], name: str, color: str, dash: str, arm: str
) -> list[Trace]:
    means = [sample.mean if sample else math.nan for sample in samples]
    spreads = [sample.spread if sample else math.nan for sample in samples]
    return _line(dose, means, name, color, dash, spreads, arm)


def _line(
    dose: DoseReport,
    values: Sequence[float],
    name: str,
    color: str,
    dash: str,
    spreads: Sequence[float] = (),
    arm: str | None = None,
) -> list[Trace]:
    """One line with ± bars over the knob's values; none where nothing was measured."""
    if not any(map(math.isfinite, values)):
        return []
    bars = {"type": "data", "thickness": 1.2, "width": 4, "color": color}
    return [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "meta": arm,
            "x": [level.value for level in dose.levels],
            "y": [value if math.isfinite(value) else None for value in values],
            "line": {"color": color, "width": 2, "dash": dash},
            "marker": {"color": color, "size": 6},
            "error_y": {
                **bars,
                "array": [spread if math.isfinite(spread) else 0.0 for spread in spreads],
                "visible": any(spread > 0 for spread in spreads),
            },
            "cliponaxis": False,
            "hovertemplate": "%{y:.3f} at %{x:.4g}",
        }
    ]


def _layout(dose: DoseReport, traces: list[Trace], value_axis: dict[str, Any]) -> dict[str, Any]:
    knob, values = dose.knob, [level.value for level in dose.levels]
    label = plain(knob.label + (f" ({knob.unit})" if knob.unit else ""))
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
