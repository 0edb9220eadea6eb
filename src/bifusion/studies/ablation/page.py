"""ablation.html: one file that needs no network, from the content of ablation.json."""

from __future__ import annotations

from html import escape
from typing import Any

from bifusion.studies.ablation.charts import ablation_charts, point_looks, tall_chart
from bifusion.studies.ablation.rules import LEVEL, RIVAL_WORDS
from bifusion.studies.ablation.text import CHARTS, FINDINGS, GRID, READING, RIVALS
from bifusion.studies.comparison.page import Page, badges, fill_page
from bifusion.studies.page.markup import about, head_cells, nan, table
from bifusion.studies.page.text import NONE, listing, number, plural, signed, significant

Report = dict[str, Any]
Cell = dict[str, Any]
ROLES = {
    "staged": "the recipe that all others are compared with",
    "removed": "one measure removed",
    "added": "one measure added",
    "rival": "another model or plan",
}
OUTCOMES = {
    "matters": "pass",
    "harms": "fail",
    "does not show": "quiet",
    "too few pairs": "quiet",
}
"""Outcome → how it is coloured."""


def render_ablation(report: Report) -> str:
    """The page of ablation.json's content."""
    looks = point_looks(report)
    charts = ablation_charts(report, looks)
    drawn = "".join(tall_chart(chart, index, report) for index, chart in enumerate(charts))
    parts = [
        ("findings", "What matters", _findings(report)),
        ("rule", "The rule", _rule(report)),
        ("all-arms", "All arms", about(CHARTS) + f'<div class="charts">{drawn}</div>' if charts else ""),
        ("grid", "The grid, whole", about(GRID) + _grid(report)),
        ("not-run", "Not run", _not_run(report)),
        ("arms", "Arms", _arms(report)),
        ("reading", "How to read this", _reading()),
    ]
    page = Page(
        kind="BiFusion ablation",
        title=report["title"],
        created=report["created"],
        data="ablation.json",
        badges=badges(synthetic=report["synthetic"], complete=report["complete"]),
        lead=_lead(report),
        notice=_notice(report),
    )
    return fill_page(page, parts, looks, [chart.figure for chart in charts])


def _lead(report: Report) -> str:
    removed = sum(arm["role"] == "removed" for arm in report["arms"])
    setting, kind = report["setting"], "generated room" if report["synthetic"] else "scene"
    text = (
        f"{report['base']} with each of {plural(removed, 'stabilising measure')} removed in turn, and "
        f"its rivals, at {plural(len(report['points']), 'point')} of a grid fixed beforehand, "
        f"{plural(len(report['seeds']), 'seed')} each"
    )
    if setting is None:
        return text + "."
    return (
        f"{text}: {plural(setting['epochs'], 'epoch')} on {plural(setting['train_scenes'], kind)}, "
        f"validated on {setting['val_scenes']}."
    )


def _notice(report: Report) -> str:
    notices, left = [], report["not_run"]
    if not report["complete"]:
        notices.append("Runs are still to be trained: figures and judgements are those so far.")
    if left["points"] or left["arms"]:
        notices.append("The grid was narrowed; what was left out stands under “Not run”.")
    if report["refused"]:
        notices.append(f"Accuracy is not judged: {report['refused']}")
    if left["crashed"]:
        notices.append(f"Crashed, and therefore without a result: {listing(left['crashed'], 8)}.")
    return " ".join(notices)


# ------------------------------------------------------------------------------------ findings


def _findings(report: Report) -> str:
    roles = {arm["key"]: arm["role"] for arm in report["arms"]}
    mine = [f for f in report["findings"] if roles[f["arm"]] != "rival"]
    rivals = [f for f in report["findings"] if roles[f["arm"]] == "rival"]
    tests = 2 * len(report["findings"])
    html = about(FINDINGS.format(tests=tests, level=LEVEL, chance=number(LEVEL * tests, 1)))
    if mine:
        html += _finding_table(report, mine, "Measure")
    if rivals:
        html += f"<h3>Rivals</h3>{about(RIVALS)}{_finding_table(report, rivals, 'Model')}"
    return html


def _finding_table(report: Report, findings: list[dict[str, Any]], who: str) -> str:
    arms = {arm["key"]: arm for arm in report["arms"]}
    rows = []
    for finding in findings:
        arm = arms[finding["arm"]]
        cells = "".join(
            f"<td>{_outcome(finding[aspect], rival=arm['role'] == 'rival')}</td>"
            for aspect in ("stability", "accuracy")
        )
        rows.append(
            f"<tr><th>{escape(arm['label'])}</th>{cells}"
            f"<td><b>{escape(finding['headline'])}.</b> {escape(finding['sentence'])}</td></tr>"
        )
    head = f"<tr><th>{who}</th><th>Stability</th><th>Accuracy</th><th>What came out</th></tr>"
    return table(head, rows, "probe", 900)


def _outcome(finding: dict[str, Any], *, rival: bool) -> str:
    kind, word = OUTCOMES[finding["outcome"]], finding["outcome"]
    word = RIVAL_WORDS.get(word, word) if rival else word
    count = f"{finding['better']} : {finding['worse']} of {finding['pairs']}"
    return f'<span class="outcome {kind}">{word}</span><small>{count}</small>'


def _rule(report: Report) -> str:
    return about("Fixed before any of these runs.") + _items(report["rule"])


def _items(texts: list[str]) -> str:
    return f'<ul class="read">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>'


# ------------------------------------------------------------------------------------ the grid

HEADS = (
    "raw non-finite", "spikes", "alarms", "gradient spread", "range ratio", "gate", "mIoU", "AP",
    "accuracy − staged",
)  # fmt: skip


def _grid(report: Report) -> str:
    html = []
    for point in report["points"]:
        cells = {c["arm"]: c for c in report["cells"] if c["point"] == point["key"]}
        rows = [_row(arm, cells[arm["key"]]) for arm in report["arms"]]
        head = f"<tr><th>Arm</th><th>Ended</th>{head_cells(list(HEADS))}</tr>"
        html.append(f"<h3>{escape(point['label'])}</h3>{table(head, rows, 'probe', 1100)}")
    return "".join(html)


def _row(arm: dict[str, Any], cell: Cell) -> str:
    figures = cell["figures"]
    shared = "<small>one run for every range</small>" if cell["shared"] else ""
    skipped = f"<small>{cell['rollbacks']} rollbacks</small>" if cell["rollbacks"] else ""
    columns = [
        f"{_sum(figures['raw_nonfinite'])}{skipped}",
        _sum(figures["spikes"]),
        _sum(figures["unsteady"]),
        _factor(figures["gradient_spread"]),
        _ratio(figures["range_in"], figures["range_out"]),
        _sample(figures["gate"]),
        _sample(figures["miou"]),
        _sample(figures["ap"]),
        _difference(cell["difference"]),
    ]
    strong = ' class="main"' if arm["role"] == "staged" else ""
    body = "".join(f'<td class="n">{column}</td>' for column in columns)
    name = f"<th>{escape(_name(arm))}{shared}</th>"
    return f"<tr{strong}>{name}<td>{_ended(cell)}</td>{body}</tr>"


def _name(arm: dict[str, Any]) -> str:
    before = {"removed": "No ", "added": "With "}.get(arm["role"], "")
    return before + arm["label"]


def _ended(cell: Cell) -> str:
    """States of the seeds; why the guard stopped one."""
    states = list(cell["states"].values())
    if set(states) == {"completed"}:
        return f"{len(states)} of {len(states)}"
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    told = "; ".join(
        f"{count} {state.replace('guard_stopped', 'stopped')}" for state, count in counts.items()
    )
    reasons = sorted(set(cell["reasons"].values()))
    return told + (f"<small>{escape(reasons[0])}</small>" if reasons else "")


def _sum(sample: dict[str, Any]) -> str:
    """Sum over the seeds, and each where there is anything to tell."""
    values = list(sample["by_seed"].values())
    each = " · ".join(f"{value:.0f}" for value in values) if any(values) and len(values) > 1 else ""
    return (f"{sum(values):.0f}" if values else NONE) + (f"<small>{each}</small>" if each else "")


def _factor(sample: dict[str, Any]) -> str:
    if sample["median"] is None:
        return NONE
    factors = [10**value for value in sample["by_seed"].values()]
    return f"×/÷ {10 ** sample['median']:.2f}" + _span([f"{factor:.2f}" for factor in factors])


def _ratio(before: dict[str, Any], after: dict[str, Any]) -> str:
    if before["median"] is None:
        return NONE
    told = f"{significant(before['median'])} → {significant(nan(after['median']))}"
    return told + _span([significant(value) for value in before["by_seed"].values()])


def _span(values: list[str]) -> str:
    """From the smallest to the largest over the seeds."""
    low, high = min(values, key=_size), max(values, key=_size)
    return f"<small>{low} to {high}</small>" if len(values) > 1 else ""


def _size(text: str) -> float:
    return float(text.replace(",", ""))


def _sample(sample: dict[str, Any]) -> str:
    spread = f"<small>± {number(sample['spread'])}</small>" if sample["spread"] is not None else ""
    return number(nan(sample["median"])) + spread


def _difference(sample: dict[str, Any]) -> str:
    spread = f"<small>± {number(sample['spread'])}</small>" if sample["spread"] is not None else ""
    return signed(nan(sample["mean"])) + spread


# ------------------------------------------------------------------------------------- the rest


def _not_run(report: Report) -> str:
    left = report["not_run"]
    lines = []
    if left["points"]:
        lines.append(f"Points of the default grid: {'; '.join(left['points'])}.")
    if left["arms"]:
        lines.append(f"Arms: {', '.join(left['arms'])}.")
    if left["waiting"]:
        lines.append(f"{plural(len(left['waiting']), 'run')} not ended: {listing(left['waiting'], 12)}.")
    if left["crashed"]:
        lines.append(f"Crashed: {listing(left['crashed'], 12)}.")
    return _items(lines or ["Nothing: the whole grid was run."])


def _arms(report: Report) -> str:
    rows = [
        f"<tr><th>{escape(_name(arm))}</th><td><code>{escape(arm['recipe'])}</code></td>"
        f"<td>{ROLES[arm['role']]}</td><td>{escape(arm['instead'])}</td></tr>"
        for arm in report["arms"]
    ]
    tower = (report["setting"] or {}).get("tower")
    told = about(f"Image tower of all arms that have one: {tower}.") if tower else ""
    return told + table("<tr><th>Arm</th><th>Recipe</th><th>Role</th><th>What it does</th></tr>", rows)


def _reading() -> str:
    items = "".join(f"<li><b>{escape(name)}.</b> {escape(text)}</li>" for name, text in READING.items())
    return f'<ul class="read">{items}</ul>'
