"""The upper sections of the page, from report.json's content: verdicts, results, study's table."""

from __future__ import annotations

from html import escape
from typing import Any

from bifusion.studies.comparison import text as page_text
from bifusion.studies.page.markup import Looks, about, head_cells, nan, pairs, sample_cell, table
from bifusion.studies.page.text import count, duration, number, plural

Report = dict[str, Any]
CRITERIA = {"stability": "Stability", "performance": "Performance", "fusion": "Fusion"}
STAGES = {"stage 1": "1 · as stable as the baseline", "stage 2": "2 · aligned", "stage 3": "3 · better"}
RESULT_COLUMNS = {"miou": "mIoU", "ap": "AP", "ap50": "AP50", "ap25": "AP25", "pq": "PQ"}
GUARD_COLUMNS = {"skipped": "Skipped", "rollbacks": "Rollbacks", "warnings": "Warnings"}


def verdicts(report: Report, looks: Looks) -> str:
    """A row of cards for each arm, then one for the stages of the staged arms."""
    order = list(dict.fromkeys(verdict["arm"] for verdict in report["verdicts"]))
    html = [about(page_text.VERDICTS), _cards(order, CRITERIA, report, looks)]
    staged = [v["arm"] for v in report["verdicts"] if v["criterion"] == "stage 1"]
    if staged:
        html.append("<h3>Stage by stage</h3>" + _cards(staged, STAGES, report, looks))
    return "".join(html)


def _cards(order: list[str], criteria: dict[str, str], report: Report, looks: Looks) -> str:
    """One row an arm, one card a criterion."""
    found = {(v["arm"], v["criterion"]): v for v in report["verdicts"]}
    standing = {arm["key"]: _standing(arm) for arm in report["arms"]}
    heads = "".join(f'<div class="head">{escape(name)}</div>' for name in criteria.values())
    html = [f'<div class="matrix heads"><div></div>{heads}</div>']
    for position, arm in enumerate(order):
        cards = "".join(_card(name, found[arm, criterion]) for criterion, name in criteria.items())
        who = f'<div class="who">{looks[arm].name()}<small>{escape(standing[arm])}</small></div>'
        html.append(f'<div class="matrix{" main" if position == 0 else ""}">{who}{cards}</div>')
    return "".join(html)


def _card(name: str, verdict: dict[str, Any]) -> str:
    outcome = verdict["outcome"]
    quiet = " quiet" if outcome == "not judged" else ""
    return (
        f'<div class="verdict{quiet}"><span class="name">{escape(name)}</span>'
        f'<span class="outcome {outcome}">{escape(outcome)}</span>'
        f"<p>{escape(verdict['evidence'])}</p></div>"
    )


def _standing(arm: dict[str, Any]) -> str:
    """Where an arm stands, in a few words."""
    stopped = arm["states"].count("guard_stopped")
    if stopped and len(arm["states"]) > 1:
        return f"{stopped} of {len(arm['states'])} seeds stopped by their guard"
    if stopped:
        return f"stopped by its guard in epoch {arm['epochs_done']}"
    if arm["final"]:
        return f"{plural(arm['epochs_done'], 'epoch')}, {plural(len(arm['seeds']), 'seed')}"
    return f"so far: epoch {arm['epochs_done']} of {arm['epochs']}"


def results(report: Report, looks: Looks) -> str:
    """Arms × figures; the best of each column stands out."""
    names = ["Mean gate", "Raw non-finite", *GUARD_COLUMNS.values(), "Parameters", "Time"]
    best = {
        key: _best([arm["figures"][key]["mean"] for arm in report["arms"]]) for key in RESULT_COLUMNS
    }
    rows = []
    for arm in report["arms"]:
        notes = [arm["control"]] if arm["control"] else []
        notes += [] if arm["final"] else [_standing(arm)]
        note = "".join(f"<small>{escape(text)}</small>" for text in notes)
        cells = [sample_cell(arm["figures"][key], best[key]) for key in RESULT_COLUMNS]
        cells.append(sample_cell(arm["figures"]["fusion_2d_ratio"], None))
        plain = [str(arm["raw_nonfinite"]), *(str(arm[key]) for key in GUARD_COLUMNS)]
        plain += [count(arm["parameters"]), duration(nan(arm["seconds"]["mean"]))]
        cells += [f'<td class="n">{escape(text)}</td>' for text in plain]
        rows.append(f"<tr><th>{looks[arm['key']].name()}{note}</th>{''.join(cells)}</tr>")
    oracle = (report["audit"] or {}).get("superpoint_oracle")
    if oracle:
        cells = "".join(f'<td class="n">{number(nan(oracle.get(key)))}</td>' for key in RESULT_COLUMNS)
        cells += f'<td colspan="{len(names)}"></td>'
        rows.append(f'<tr class="oracle"><th>Superpoint oracle</th>{cells}</tr>')
    scenes = "generated (synthetic) validation rooms" if report["synthetic"] else "the validation scenes"
    head = f"<tr><th>Model</th>{head_cells([*RESULT_COLUMNS.values(), *names])}</tr>"
    controls = page_text.CONTROLS if any(arm["control"] for arm in report["arms"]) else ""
    text = f"On {scenes}. {page_text.RESULTS} {page_text.ORACLE if oracle else ''} {controls}"
    return about(text) + table(head, rows)


def _best(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if len(set(known)) > 1 else None


def study(report: Report, looks: Looks) -> str:
    """The study's table S1, one column an arm."""
    heads = "".join(f"<th>{look.name()}</th>" for look in looks.values())
    rows = []
    for row in report["study_table"]:
        cells = "".join(f"<td>{pairs(row['cells'][key])}</td>" for key in looks)
        risk = f'<td class="risk"><b>{escape(row["risk"])}</b>{pairs(row["measured_risk"])}</td>'
        rows.append(f"<tr><th>{escape(row['dimension'])}</th>{cells}{risk}</tr>")
    head = f"<tr><th></th>{heads}<th>Risk, as measured</th></tr>"
    width = 360 + 170 * len(
        looks
    )  # columns that can be read; the table scrolls where the screen is less
    return about(page_text.STUDY) + table(head, rows, "study", width)
