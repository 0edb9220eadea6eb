"""What the page shows of a benchmark's audit.json: the probe against chance, small groups of figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bifusion.studies.figures.run import Record
from bifusion.studies.figures.text import NONE, number, significant

MAX_FACTS = 12
"""Groups with more figures are not shown as a card."""
PARTS = {"val": "validation rooms", "cross_validated": "cross-validated"}


@dataclass(frozen=True)
class ProbeRow:
    """A group of classes that the probe tells apart."""

    name: str
    classes: str
    """Empty where the name says them."""
    cells: list[str]


@dataclass(frozen=True)
class Probe:
    """Accuracy of the probe on what each sense gives, per group of classes, beside chance."""

    heads: list[str]
    rows: list[ProbeRow]


def probe_table(audit: Record) -> Probe | None:
    """The audit's probe; None where it has none."""
    probe = audit.get("probe")
    if not isinstance(probe, dict):
        return None
    groups = {sense: told for sense, told in probe.items() if isinstance(told, dict)}
    names = list(dict.fromkeys(name for told in groups.values() for name in told))
    rows = [row for name in names if (row := _row(name, [told.get(name) for told in groups.values()]))]
    heads = [f"{_words(sense).capitalize()}, {part}" for sense in groups for part in PARTS.values()]
    return Probe(["Chance", *heads], rows) if rows else None


def _row(name: str, entries: list[Any]) -> ProbeRow | None:
    """`entries`: what each sense gives of the group; None where it was not probed."""
    measured = [entry for entry in entries if isinstance(entry, dict) and "chance" in entry]
    if not measured:
        return None
    classes = ", ".join(map(str, measured[0].get("classes") or []))
    cells = [_accuracy(entry, part) for entry in entries for part in PARTS]
    return ProbeRow(
        _words(name), classes if classes != name else "", [number(measured[0]["chance"]), *cells]
    )


def _accuracy(entry: Any, part: str) -> str:
    told = entry.get(part) if isinstance(entry, dict) else None
    if not isinstance(told, dict) or told.get("accuracy") is None:
        return NONE
    error = told.get("standard_error")
    return number(told["accuracy"]) + (f" ± {number(error)}" if error is not None else "")


def fact_cards(audit: Record) -> dict[str, list[tuple[str, str]]]:
    """Small groups of figures: name of the group → (name, text) of each."""
    groups = {
        key: _facts(group) for key, group in audit.items() if isinstance(group, dict) and key != "config"
    }
    return {
        _words(key).capitalize(): facts for key, facts in groups.items() if 0 < len(facts) <= MAX_FACTS
    }


def _facts(group: Record, prefix: str = "") -> list[tuple[str, str]]:
    """(name, text) of every figure in a group, groups within it included."""
    facts = []
    for key, value in group.items():
        name = f"{prefix}{_words(key)}"
        if isinstance(value, dict):
            facts += _facts(value, f"{name}, ") if key not in ("iou", "per_class") else []
        else:
            told = ", ".join(map(_fact, value)) if isinstance(value, list) else _fact(value)
            facts.append((name, told))
    return facts


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return significant(value)
    return NONE if value is None else str(value)


def _words(key: str) -> str:
    return key.replace("_", " ")
