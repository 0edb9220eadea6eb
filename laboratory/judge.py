"""What a run with a fault says about it, against what was expected.

Judged are the run's own records (steps.jsonl with its events, diagnoses and alarms, status.json) and
the error a user would see; the injector is asked nothing. Whether the state was left alone is compared
to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from bifusion.runs.run_folder import RunStatus
from laboratory.faults import Expected, Fault, Label, Site
from laboratory.watch import Watch


@dataclass
class Ending:
    """What is left of a run with a fault in it."""

    records: list[dict[str, Any]]
    """Lines of steps.jsonl from the resumption on."""
    status: RunStatus | None
    """None: it ended with an error."""
    refusal: str | None
    """The InputError's message."""
    crash: str | None
    """Any other error: type and message."""
    watch: Watch | None
    """None: it was refused before a trainer stood."""


@dataclass
class Result:
    """One line of the table; None where a question does not arise."""

    name: str
    recipe: str
    seed: int
    label: Label
    detected: bool
    """Something was said about it."""
    module: bool | None = None
    """The right place: the first module, or input, loss term, optimiser group, statistic."""
    scenes: bool | None = None
    survived: bool | None = None
    """The run went on to its end and its whole state is finite."""
    untouched: bool | None = None
    """No bad step changed anything, and no step put a non-finite number anywhere."""
    verdict: bool | None = None
    """The diagnosis puts it down to the right cause."""
    names_module: bool = False
    """The expected place is a module (of the figure of right modules)."""
    said: str = ""
    """What the run said, in short."""
    why: str = ""

    @property
    def as_expected(self) -> bool:
        answers = (self.module, self.scenes, self.survived, self.untouched, self.verdict)
        return self.detected == (self.label != "must-work") and False not in answers


def judge(fault: Fault, site: Site, ending: Ending, healthy: list[dict[str, Any]]) -> Result:
    """The result of a fault; `healthy` are the records of the same run without it."""
    result = Result(fault.name, fault.recipe, site.seed, fault.expected.label, detected=False)
    result.why = fault.why
    watch = ending.watch
    result.untouched = None if watch is None else _left_alone(ending.records, watch)
    if ending.crash is not None:
        result.said, result.survived = f"crashed: {ending.crash}", False
    elif fault.expected.label == "must-reject":
        _judge_refusal(result, site, ending, fault.expected)
    else:
        _judge_run(result, fault.expected, site, ending, healthy)
    return result


def _judge_refusal(result: Result, site: Site, ending: Ending, expected: Expected) -> None:
    result.detected = ending.refusal is not None
    result.said = ending.refusal or "nothing"
    if ending.refusal is not None and expected.scenes == "victim":
        result.scenes = site.victim in ending.refusal


def _judge_run(
    result: Result, expected: Expected, site: Site, ending: Ending, healthy: list[dict[str, Any]]
) -> None:
    if ending.refusal is not None:
        result.said, result.survived = f"refused: {ending.refusal}", False
        return
    assert ending.watch is not None and ending.status is not None
    ended = ending.status.state == "completed"
    result.survived = (ended or not expected.completes) and all(ending.watch.take().finite.values())
    first = 0 if expected.at_once else site.step
    last = site.step + expected.within
    if expected.label == "must-work":
        first, last = 0, ending.status.steps
    found = findings([r for r in ending.records if first <= r["step"] <= last], healthy)
    if expected.by == "event" and expected.label == "must-alarm":
        found = [finding for finding in found if "kind" in finding]
    result.said = "; ".join(map(describe, found[:3])) or "nothing"
    if expected.label == "must-work":
        result.detected = not all(_may_warn(finding, expected) for finding in found)
        return
    found = [f for f in found if _counts(f, expected)]
    result.detected = bool(found)
    if found:
        _judge_attribution(result, expected, site, found)


def _may_warn(finding: dict[str, Any], expected: Expected) -> bool:
    """An alarm that would be true of something that is not wrong."""
    return any(fnmatchcase(finding.get("rule", ""), pattern) for pattern in expected.rules)


def _judge_attribution(
    result: Result, expected: Expected, site: Site, found: list[dict[str, Any]]
) -> None:
    """Judges the finding that fits best: of several alarms of a step each may name its own place."""
    right = [f for f in found if _right_place(f, expected)]
    finding = (right or found)[0]
    result.names_module = expected.module is not None
    if expected.module is not None or expected.places:
        result.module = bool(right)
    result.scenes = _right_scenes(finding, expected, site)
    diagnosis = finding.get("diagnosis") or {}
    if expected.verdict is not None:
        result.verdict = diagnosis.get("verdict") == expected.verdict


def findings(records: list[dict[str, Any]], healthy: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events and alarms in the order of their steps, but for alarms that the healthy run raises too.

    Each has "step" and "batch", the scenes of its step, besides what the run wrote.
    """
    usual = {(r["step"], a["rule"], *a["where"]) for r in healthy for a in r["alarms"]}
    found = []
    for record in records:
        place = {"step": record["step"], "batch": record["scenes"]}
        if record["event"] is not None:
            found.append({**record["event"], **place})
        for alarm in record["alarms"]:
            if (record["step"], alarm["rule"], *alarm["where"]) not in usual:
                found.append({**alarm, **place})
    return found


def describe(finding: dict[str, Any]) -> str:
    """A finding in a few words."""
    diagnosis = finding.get("diagnosis") or {}
    where = diagnosis.get("module") or ", ".join(finding["where"])
    kind = f"{finding['kind']} {finding['phase']}" if "kind" in finding else f"alarm {finding['rule']}"
    verdict = f", {diagnosis['verdict']}" if diagnosis.get("verdict") else ""
    return f"step {finding['step']}: {kind} in {where} [{', '.join(_scenes(finding))}{verdict}]"


def _counts(finding: dict[str, Any], expected: Expected) -> bool:
    """The finding is by one of the rules that can know."""
    rule = finding.get("kind") or finding["rule"]
    return not expected.rules or any(fnmatchcase(rule, pattern) for pattern in expected.rules)


def _right_place(finding: dict[str, Any], expected: Expected) -> bool:
    if expected.module is not None:
        return (finding.get("diagnosis") or {}).get("module") == expected.module
    return not expected.places or any(
        fnmatchcase(place, pattern) for place in finding["where"] for pattern in expected.places
    )


def _scenes(finding: dict[str, Any]) -> list[str]:
    """Those of the diagnosis, which has looked at each alone; else those of the event."""
    diagnosis = finding.get("diagnosis") or {}
    return sorted(diagnosis.get("scenes") or finding["scenes"])


def _right_scenes(finding: dict[str, Any], expected: Expected, site: Site) -> bool | None:
    named = _scenes(finding)
    answers = {
        "any": None,
        "victim": named == [site.victim],
        "batch": named == sorted(finding["batch"]),
        "among": site.victim in named,
    }
    return answers[expected.scenes]


def _left_alone(records: list[dict[str, Any]], watch: Watch) -> bool:
    """Steps that were dropped changed nothing, and no step poisoned anything.

    A rollback replaces the state, by a healthy one: it is bound by the second half alone.
    """
    skipped = [r["step"] for r in records if (r["event"] or {}).get("action") == "skip"]
    kept = all(not watch.changed_by(step) for step in skipped if step in watch.after)
    return kept and not any(watch.poisoned_by(step) for step in watch.after)
