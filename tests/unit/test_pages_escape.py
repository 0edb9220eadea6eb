"""Whatever names scenes, classes, runs and recipes have, the pages show them as text."""

import json
from html.parser import HTMLParser

import pytest

from bifusion.studies.ablation.plan import AblationArm, AblationPlan, GridPoint
from bifusion.studies.ablation.run import write_ablation
from bifusion.studies.comparison.run import write_report
from bifusion.studies.dose.judge import Level
from bifusion.studies.dose.report import Knob
from bifusion.studies.dose.run import write_dose
from bifusion.studies.page.charts import plain
from bifusion.studies.sweep.plan import Condition, SweepArm, SweepPlan
from bifusion.studies.sweep.run import write_sweep
from run_factory import AUDIT, FakeRun

HOSTILE = """<script>"'&amp;&{{ 7 * 7 }}{% raw %}{# note #}%{x}<img src=x onerror=alert(1)>"""


class Page(HTMLParser):
    """The tags of a page, the text it shows, and its charts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.shown, self.charts = [], [], "", ""
        self._inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self._inside = dict(attrs).get("id", tag) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.shown += data
        elif self._inside == "charts":
            self.charts += data


def hostile_run(root, **settings):
    """A run folder in which every name that is free is hostile."""
    folder = FakeRun(epochs=6, predictions=True, **settings).write(root)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    names = {key: f"{key} {HOSTILE}" for key in ("name", "recipe", "arm", "tower")}
    config |= names | {"class_names": [*config["class_names"][:-1], HOSTILE]}
    config["stages"][0]["name"] = f"stage {HOSTILE}"
    config["config"][HOSTILE] = HOSTILE
    path.write_text(json.dumps(config))
    text = (folder / "evaluation.json").read_text()
    (folder / "evaluation.json").write_text(text.replace('"door"', json.dumps(HOSTILE)))
    prediction = next((folder / "predictions").iterdir())
    prediction.rename(prediction.with_name(f"scene {HOSTILE}.npz"))
    return folder.rename(root / f"run {HOSTILE}")


def comparison(root):
    audit = json.loads(json.dumps(AUDIT).replace('"door"', json.dumps(HOSTILE)))
    audit["probe"]["voxels"][f"group {HOSTILE}"] = audit["probe"]["voxels"]["panels"]
    audit[f"facts {HOSTILE}"] = {f"fact {HOSTILE}": f"value {HOSTILE}"}
    (root / "audit.json").write_text(json.dumps(audit))
    folders = [hostile_run(root), FakeRun(arm="baseline", epochs=6).write(root)]
    title, crashed = f"title {HOSTILE}", [f"crashed {HOSTILE}"]
    write_report(folders, root, audit=root / "audit.json", title=title, crashed=crashed)
    words = ["title", "crashed", "arm", "run", "scene", "group", "Facts", "fact", "value"]
    return "report", [HOSTILE, *(f"{word} {HOSTILE}" for word in words)], ["arm", "stage"]


def ablation(root):
    names = [f"{word} {HOSTILE}" for word in ("recipe", "label", "instead")]
    recipe, label, instead = names
    arms = (
        AblationArm("base", "base", "Staged", "staged", "all", True),
        AblationArm(recipe, recipe, label, "removed", instead, True),
    )
    point = GridPoint.at(1, 1, f"precision {HOSTILE}")
    runs = {arm: FakeRun(epochs=3, miou=miou) for arm, miou in (("base", 0.5), (recipe, 0.4))}
    folders = {(arm, point.key, 0): run.write(root / run.arm / arm[:4]) for arm, run in runs.items()}
    left_out = f"left out {HOSTILE}"
    plan = AblationPlan(
        base="base", arms=arms, points=(point,), seeds=(0,), folders=folders, arms_left_out=(left_out,)
    )
    write_ablation(plan, root, title=f"title {HOSTILE}")
    return "ablation", [*names, point.label, left_out, f"title {HOSTILE}"], ["label", "precision"]


def dose(root):
    folder = root / f"level {HOSTILE}"
    folder.mkdir()
    runs = [hostile_run(folder), FakeRun(arm="without_views", epochs=6).write(folder)]
    knob = Knob("knob", f"knob {HOSTILE}", f"unit {HOSTILE}", f"meaning {HOSTILE}", zero_at=0.0)
    crashed = folder / f"crashed {HOSTILE}"
    level = Level(0.0, folder, (*runs, crashed), folder / "audit.json")
    write_dose(knob, [level], root, title=f"title {HOSTILE}", crashed=[crashed])
    words = ("title", "knob", "meaning", "arm", "recipe", "tower", "level", "crashed")
    return "dose", [f"{word} {HOSTILE}" for word in words], ["arm", "knob"]


def sweep(root):
    recipe, label, meaning, left_out = (
        f"{word} {HOSTILE}" for word in ("recipe", "label", "meaning", "left out")
    )
    arm = SweepArm(recipe, "naive", label, 1e-3, {"semantic": 1.0})
    condition, factors = Condition("plain", f"condition {HOSTILE}", meaning), (1.0, 10.0)
    folders = {
        (recipe, "plain", factor, 0): FakeRun(epochs=3).write(root / f"{factor:g}") for factor in factors
    }
    names = {"arms_left_out": (left_out,), "crashed": (f"crashed {HOSTILE}",)}
    plan = SweepPlan(
        base="base",
        arms=(arm,),
        factors=factors,
        conditions=(condition,),
        seeds=(0,),
        folders=folders,
        **names,
    )
    write_sweep(plan, root, title=f"title {HOSTILE}")
    shown = [recipe, label, meaning, left_out, condition.label, f"title {HOSTILE}"]
    return "sweep", shown, ["label"]


@pytest.mark.parametrize("study", [comparison, ablation, dose, sweep])
def test_names_are_shown_as_text(study, tmp_path):
    name, shown, drawn = study(tmp_path)
    page = Page((tmp_path / f"{name}.html").read_text())
    for text in shown:
        assert text in page.shown
    assert page.tags.count("script") == 3 and not any(a.startswith("on") for a in page.attributes)
    figures = [strip(figure) for figure in json.loads(page.charts)]
    for word in drawn:
        assert plain(f"{word} {HOSTILE}") in "".join(strings(figures))
    assert not any("<script" in text or "%{x}<img" in text for text in strings(figures))


def strip(figure):
    """A figure without what names traces for the page's script, which is never drawn."""
    traces = [{key: value for key, value in t.items() if key != "meta"} for t in figure["data"]]
    return {**figure, "data": traces}


def strings(value):
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in strings(item)]
