"""The lower sections of the page: rooms, classes, runs, how to read it."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from bifusion.labels.palette import class_palette
from bifusion.studies.comparison import text as page_text
from bifusion.studies.page.markup import Looks, about, head_cells, nan, shaded_cell, table
from bifusion.studies.page.pictures import Picture, Room
from bifusion.studies.page.text import count, duration

Report = dict[str, Any]
TEXTURE_COLUMNS = {
    "texture": "Texture classes",
    "other": "Other classes",
    "texture_seen": "Texture classes, points seen",
    "texture_unseen": "Texture classes, points not seen",
}


def rooms(pictured: list[Room], looks: Looks) -> str:
    """Colour, annotation and each model's prediction; rooms after the first are folded away."""
    if not pictured:
        return ""
    first, *others = pictured
    folded = [
        f"<details><summary>{escape(room.scene)}</summary>{_room(room, looks)}</details>"
        for room in others
    ]
    return about(page_text.ROOMS) + _room(first, looks) + "".join(folded)


def _room(room: Room, looks: Looks) -> str:
    palette = class_palette(room.label_set)
    legend = "".join(
        f'<span><i style="background:rgb({",".join(str(int(v)) for v in palette[c])})"></i>'
        f"{escape(room.label_set.class_names[c])}</span>"
        for c in room.classes
    )
    return (
        f'<h3>{escape(room.scene)}: classes</h3><div class="legend">{legend}</div>'
        f'<div class="rooms">{"".join(_picture(p, looks) for p in room.semantic)}</div>'
        f"<h3>{escape(room.scene)}: instances</h3>"
        f'<div class="rooms">{"".join(_picture(p, looks) for p in room.instances)}</div>'
    )


def _picture(picture: Picture, looks: Looks) -> str:
    caption = looks[picture.arm].name() if picture.arm else escape(picture.caption)
    image = f'<img loading="lazy" alt="{escape(picture.caption)}" src="{picture.url}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def classes(report: Report, looks: Looks) -> str:
    """Texture classes and seen points against the others, then IoU of each class."""
    texture, split = report["texture"], report["seen_split"]
    html = []
    if texture:
        named = ", ".join(texture["classes"])
        html.append(about(f"Classes that only texture tells apart: {named}. {page_text.TEXTURE}"))
    groups = TEXTURE_COLUMNS if texture else {}
    parts = {"seen": "Points seen (mIoU)", "unseen": "Points not seen (mIoU)"} if split else {}
    if groups or parts:
        rows = []
        for key, look in looks.items():
            values = [texture["arms"][key][part] for part in groups] + [
                split[key][part] for part in parts
            ]
            rows.append(f"<tr><th>{look.name()}</th>{''.join(shaded_cell(v) for v in values)}</tr>")
        head = head_cells([*groups.values(), *parts.values()])
        html.append(table(f"<tr><th>Mean IoU</th>{head}</tr>", rows))
    html.append(_class_table(report, looks, set(texture["classes"]) if texture else set()))
    return "".join(html)


def _class_table(report: Report, looks: Looks, texture: set[str]) -> str:
    if not report["classes"]["names"]:
        return ""
    head = "".join(f'<th class="n">{look.name()}</th>' for look in looks.values())
    oracle = ((report["audit"] or {}).get("superpoint_oracle") or {}).get("iou") or {}
    head += head_cells(["Superpoint oracle"]) if oracle else ""
    rows = []
    for name in report["classes"]["names"]:
        mark = "<small>texture class</small>" if name in texture else ""
        cells = "".join(shaded_cell(report["classes"]["iou"][key][name]) for key in looks)
        cells += shaded_cell(oracle.get(name)) if oracle else ""
        rows.append(f"<tr><th>{escape(name)}{mark}</th>{cells}</tr>")
    return "<h3>IoU of each class</h3>" + table(f"<tr><th>Class</th>{head}</tr>", rows)


# ----------------------------------------------------------------------------------------- runs


def runs(report: Report) -> str:
    """Every run with its counts, its configuration folded away."""
    names = ["Epochs", "Steps", "Finite epochs in a row", "Loss spikes", "Gradient spikes", "Time"]
    rows = []
    for run in report["runs"]:
        reason = f"<small>{escape(run['reason'])}</small>" if run["reason"] else ""
        figures = [
            f"{run['epochs_done']} of {run['epochs']}",
            count(run["steps"]),
            run["finite_epochs_in_a_row"],
            run["loss_spikes"],
            run["gradient_spikes"],
            duration(nan(run["seconds"])),
        ]
        cells = "".join(f'<td class="n">{escape(str(figure))}</td>' for figure in figures)
        state = f"<td>{escape(run['state'].replace('_', ' '))}{reason}</td>"
        rows.append(f"<tr><th>{escape(run['name'])}</th>{state}{cells}</tr>")
    head = f"<tr><th>Run</th><th>State</th>{head_cells(names)}</tr>"
    return table(head, rows) + "".join(_configuration(run) for run in report["runs"])


def _configuration(run: dict[str, Any]) -> str:
    text = json.dumps({"versions": run["versions"], "settings": run["settings"]}, indent=2)
    summary = f"{escape(run['name'])}: configuration"
    return f"<details><summary>{summary}</summary><pre>{escape(text)}</pre></details>"


def reading(report: Report) -> str:
    """What the words of the page mean."""
    texts = page_text.READING | ({"Synthetic": page_text.SYNTHETIC} if report["synthetic"] else {})
    items = "".join(f"<li><b>{escape(name)}.</b> {escape(text)}</li>" for name, text in texts.items())
    return f'<ul class="read">{items}</ul>'
