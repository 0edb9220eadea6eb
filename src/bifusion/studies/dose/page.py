"""dose.html: one file that needs no network, from the content of dose.json."""

from __future__ import annotations

from html import escape
from typing import Any

from bifusion.studies.comparison.page import Page, badges, chart_grid, fill_page
from bifusion.studies.comparison.verdicts import MIN_SEEDS
from bifusion.studies.dose.charts import PART_LABELS, dose_charts
from bifusion.studies.page.markup import Looks, about, head_cells, nan, sample_cell, table
from bifusion.studies.page.text import NONE, listing, number, plural, signed

Dose = dict[str, Any]
GAIN = (
    "Gain: mIoU of a model minus that of the same BiFusion trained without views, on the same rooms, "
    "at the last checkpoint, paired by seed; bars and small figures are the standard deviation over "
    "seeds. Points not seen can gain only through their neighbours."
)
ROOMS = (
    "What stands beside the gain at each value: how well a small classifier tells texture classes apart "
    "by voxel colours and geometry alone, and by image crops alone (mean over the groups of classes "
    "that nothing but texture tells apart, cross-validated); the best mIoU that any model on the rooms’ "
    "superpoints could reach; and the share of points that a view sees."
)
ZERO = (
    "Images hold nothing there that voxels do not, so the expected gain is zero. A gain at this value "
    "is chance or a flaw of the comparison, never a merit; the curve is to be read from it upwards."
)
READING = {
    "Paired by seed": (
        "Both models of a pair read the same rooms and start from the same backbone and decoder; rooms "
        "of different values share layout, colours and cameras as far as the value leaves them."
    ),
    "Image tower": (
        "One set of weights for all values: the tower was not pretrained anew for each of them. What "
        "each model’s image features come from stands under Models."
    ),
    "Indicative": f"Fewer than {MIN_SEEDS} seeds: the curve shows a direction, not a result.",
    "Synthetic": (
        "The rooms are generated. These figures compare models with each other; they say nothing about "
        "real scans."
    ),
}


def render_dose(dose: Dose, looks: Looks) -> str:
    """The page of dose.json's content; `looks` by the keys of its arms."""
    charts = dose_charts(dose, looks)
    drawn = {chart.section for chart in charts}
    figures = {name: chart_grid(charts, name) if name in drawn else "" for name in ("Gain", "Rooms")}
    zero = zero_point(dose)
    parts = [
        ("gain", "Gain", about(GAIN) + about(zero) + figures["Gain"] + _gain_tables(dose, looks)),
        ("rooms", "Rooms", about(ROOMS) + figures["Rooms"] + "<br>" + _rooms_table(dose)),
        ("models", "Models", _models(dose, looks)),
        ("reading", "How to read this", _reading()),
    ]
    page = Page(
        kind="BiFusion dose and response",
        title=dose["title"],
        created=dose["created"],
        data="dose.json",
        badges=badges(synthetic=True, complete=dose["complete"]),
        lead=_lead(dose),
        notice=_notice(dose),
    )
    return fill_page(page, parts, looks, [chart.figure for chart in charts])


def zero_point(dose: Dose) -> str:
    """What the knob does, what was measured where the expected gain is zero, and what that means."""
    knob = dose["knob"]
    if knob["zero_at"] is None:
        return f"{knob['meaning']} No value of it makes the expected gain zero."
    where = f"{knob['label']} {knob['zero_at']:g}"
    level = next((level for level in dose["levels"] if level["expected_zero"]), None)
    if level is None:
        return f"{knob['meaning']} {where}, where the expected gain is zero, is not among the values."
    told = [
        f"{arm['label']} {_gain_text(entry['gain']['all'])}"
        for arm in dose["arms"]
        if (entry := level["arms"].get(arm["key"])) and entry["gain"] is not None
    ]
    measured = f" Measured: {listing(told)}." if told else " Not measured yet."
    return f"{knob['meaning']} {where}: {ZERO}{measured}"


def _gain_text(sample: dict[str, Any]) -> str:
    """ "+0.012 ± 0.010, 3 seeds (within its spread)"."""
    mean, spread, seeds = nan(sample["mean"]), sample["spread"], len(sample["by_seed"])
    if spread is None:
        return f"{signed(mean)}, {plural(seeds, 'seed')}"
    size = "within its spread" if abs(mean) <= spread else "beyond its spread"
    return f"{signed(mean)} ± {number(spread)}, {plural(seeds, 'seed')} ({size})"


def _lead(dose: Dose) -> str:
    labels = [arm["label"] for arm in dose["arms"] if arm["key"] != dose["reference"]]
    values = ", ".join(f"{level['value']:g}" for level in dose["levels"])
    seeds = max(
        (len(e["states"]) for level in dose["levels"] for e in level["arms"].values()), default=0
    )
    return (
        f"What images add to {listing(labels) or 'a model'} as {dose['knob']['label'].lower()} takes "
        f"the values {values}: {plural(seeds, 'seed')} each, on generated rooms."
    )


def _notice(dose: Dose) -> str:
    notices = []
    if not dose["complete"]:
        notices.append("Runs are still to be trained or evaluated: figures are those so far.")
    refused = {e["refused"] for level in dose["levels"] for e in level["arms"].values() if e["refused"]}
    return " ".join([*notices, *(f"A gain is left out: {reason}" for reason in sorted(refused))])


def _gain_tables(dose: Dose, looks: Looks) -> str:
    """One table a model: values × parts, beside the mIoU of both."""
    html = []
    for arm in dose["arms"]:
        if arm["key"] == dose["reference"]:
            continue
        what = about(arm["control"]) if arm["control"] else ""
        heads = ["mIoU", "without views", *(f"gain, {label}" for label in PART_LABELS.values())]
        head = f"<tr><th>{escape(dose['knob']['label'])}</th>{head_cells(heads)}</tr>"
        rows = [_gain_row(level, arm["key"], dose["reference"]) for level in dose["levels"]]
        html.append(f"<h3>{looks[arm['key']].name()}</h3>{what}" + table(head, rows, "probe", 1000))
    return "".join(html)


def _gain_row(level: dict[str, Any], key: str, reference: str | None) -> str:
    mine, theirs = level["arms"].get(key), level["arms"].get(reference)
    cells = [
        sample_cell(entry["miou"]["all"], None) if entry else f'<td class="n">{NONE}</td>'
        for entry in (mine, theirs)
    ]
    gain = mine["gain"] if mine else None
    cells += [_gain_cell(gain[part] if gain else None) for part in PART_LABELS]
    return f"<tr>{_value(level)}{''.join(cells)}</tr>"


def _gain_cell(sample: dict[str, Any] | None) -> str:
    if sample is None:
        return f'<td class="n">{NONE}</td>'
    spread = "" if sample["spread"] is None else f"<small>± {number(sample['spread'])}</small>"
    return f'<td class="n">{signed(nan(sample["mean"]))}{spread}</td>'


def _value(level: dict[str, Any]) -> str:
    notes = ["expected gain 0"] if level["expected_zero"] else []
    notes += [] if level["complete"] else ["not complete"]
    return f"<th>{level['value']:g}{''.join(f'<small>{note}</small>' for note in notes)}</th>"


def _rooms_table(dose: Dose) -> str:
    heads = [
        "Probe on voxels",
        "Probe on image crops",
        "Chance",
        "Superpoint oracle, mIoU",
        "Points seen",
    ]
    rows = []
    for level in dose["levels"]:
        told = level["audit"] or {}
        probes = [(told.get("probe") or {}).get(sense) for sense in ("voxels", "images")]
        cells = [
            f"{number(probe['accuracy'])} ± {number(probe['standard_error'])}" if probe else NONE
            for probe in probes
        ]
        chance = next((probe["chance"] for probe in probes if probe), None)
        cells += [
            number(nan(value)) for value in (chance, told.get("oracle_miou"), told.get("seen_share"))
        ]
        body = "".join(f'<td class="n">{cell}</td>' for cell in cells)
        folder = f"<td><code>{escape(level['folder'])}/</code></td>"
        rows.append(f"<tr>{_value(level)}{body}{folder}</tr>")
    head = f"<tr><th>{escape(dose['knob']['label'])}</th>{head_cells(heads)}<th>Rooms and runs</th></tr>"
    return table(head, rows, "probe")


def _models(dose: Dose, looks: Looks) -> str:
    rows = [
        f"<tr><th>{looks[arm['key']].name()}</th><td><code>{escape(arm['recipe'])}</code></td>"
        f"<td>{escape(arm['tower'] or 'none')}</td></tr>"
        for arm in dose["arms"]
    ]
    return table("<tr><th>Model</th><th>Recipe</th><th>Image features</th></tr>", rows)


def _reading() -> str:
    items = "".join(f"<li><b>{escape(name)}.</b> {escape(text)}</li>" for name, text in READING.items())
    return f'<ul class="read">{items}</ul>'
