"""The benchmark's audit on the page: probe against chance, oracle, share of points seen."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from bifusion.studies.comparison import text as page_text
from bifusion.studies.page.markup import about, head_cells, table
from bifusion.studies.page.text import NONE, number, significant

MAX_FACTS = 12
"""Groups with more figures are folded away."""


def audit(told: dict[str, Any] | None) -> str:
    """audit.json: the probe as a table, small groups of figures as cards, everything folded below."""
    if not told:
        return ""
    html = about(page_text.AUDIT) + _probe_table(told.get("probe"))
    cards = []
    for key, group in told.items():
        facts = _facts(group) if isinstance(group, dict) else []
        if key != "config" and 0 < len(facts) <= MAX_FACTS:
            items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
            cards.append(f"<div><h4>{escape(_words(key).capitalize())}</h4><dl>{items}</dl></div>")
    if cards:
        html += f'<div class="facts">{"".join(cards)}</div>'
    everything = escape(json.dumps(told, indent=2))
    return f"{html}<details><summary>The whole audit</summary><pre>{everything}</pre></details>"


def _probe_table(probe: Any) -> str:
    """Accuracy of the probe on what each sense gives, per group of classes, beside chance."""
    if not isinstance(probe, dict):
        return ""
    senses = [sense for sense, groups in probe.items() if isinstance(groups, dict)]
    names = list(dict.fromkeys(name for sense in senses for name in probe[sense]))
    rows = []
    for name in names:
        found = {sense: probe[sense].get(name) for sense in senses}
        measured = [entry for entry in found.values() if isinstance(entry, dict) and "chance" in entry]
        if not measured:
            continue
        classes = ", ".join(map(str, measured[0].get("classes") or []))
        note = f"<small>{escape(classes)}</small>" if classes != name else ""
        cells = [number(measured[0]["chance"])]
        cells += [
            _accuracy(entry, part) for entry in found.values() for part in ("val", "cross_validated")
        ]
        body = "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)
        rows.append(f"<tr><th>{escape(_words(name))}{note}</th>{body}</tr>")
    if not rows:
        return ""
    parts = ("validation rooms", "cross-validated")
    heads = ["Chance", *(f"{_words(sense).capitalize()}, {part}" for sense in senses for part in parts)]
    return (
        table(f"<tr><th>Classes told apart by the probe</th>{head_cells(heads)}</tr>", rows, "probe")
        + "<br>"
    )


def _accuracy(entry: Any, part: str) -> str:
    told = entry.get(part) if isinstance(entry, dict) else None
    if not isinstance(told, dict) or told.get("accuracy") is None:
        return NONE
    error = told.get("standard_error")
    return number(told["accuracy"]) + (f" ± {number(error)}" if error is not None else "")


def _facts(group: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(name, text) of every figure in a group, groups within it included."""
    facts = []
    for key, value in group.items():
        name = f"{prefix}{_words(key)}"
        if isinstance(value, dict):
            facts += _facts(value, f"{name}, ") if key not in ("iou", "per_class") else []
        else:
            facts.append(
                (name, ", ".join(map(_fact, value)) if isinstance(value, list) else _fact(value))
            )
    return facts


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return significant(value)
    return NONE if value is None else str(value)


def _words(key: str) -> str:
    return key.replace("_", " ")
