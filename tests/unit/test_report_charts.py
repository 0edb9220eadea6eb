"""The curves of the report: what is drawn of them, and what is left out."""

import json

import numpy as np

from bifusion.studies.comparison.charts import all_charts
from bifusion.studies.comparison.curves import HOLE, without_holes
from bifusion.studies.figures.arms import group_runs
from bifusion.studies.figures.run import load_run
from bifusion.studies.page.style import arm_looks
from run_factory import FakeRun


def chart_called(title, arms):
    return next(chart for chart in all_charts(arms, arm_looks(arms)) if chart.title == title)


def test_arms_of_one_role_look_all_different(tmp_path):
    runs = []
    for number in range(9):
        folder = FakeRun(epochs=2).write(tmp_path / str(number))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"name": f"mine{number}"}))
        runs.append(load_run(folder))
    looks = arm_looks(group_runs(runs)).values()
    assert len({(look.color, look.dash) for look in looks}) == 9


def test_non_finite_steps_and_stages_are_marked_in_the_curves(tmp_path):
    fakes = [FakeRun(arm="naive", epochs=8, nonfinite={5: 2}), FakeRun(epochs=8)]
    arms = group_runs([load_run(fake.write(tmp_path)) for fake in fakes])
    chart = chart_called("Weighted total", arms)
    marks = [trace for trace in chart.figure["data"] if trace["mode"] == "markers"]
    assert [mark["meta"] for mark in marks] == ["naive"]
    assert all(5 <= x < 6 for x in marks[0]["x"])
    names = [note["text"] for note in chart.figure["layout"]["annotations"]]
    assert names == ["stability", "alignment", "enhancement"]


def test_a_loss_that_may_be_negative_is_drawn_and_left_out_only_where_it_is_off(tmp_path):
    """The alignment is a negative cosine: nearly all of its curve lies below 0."""
    run = load_run(FakeRun(epochs=8).write(tmp_path))
    for index, step in enumerate(run.steps):
        step["losses"] |= {"alignment": 0.0 if index < 24 else -0.5, "of_mine": -1.0}
        step["losses"]["semantic"] = 0.0 if index < 24 else step["losses"]["semantic"]
    arms = group_runs([run])
    for title, first in (("Alignment", 3), ("of_mine", 0), ("Semantic", 3)):
        for trace in chart_called(title, arms).figure["data"]:
            shown = [(x, y) for x, y in zip(trace["x"], trace["y"], strict=True) if y is not None]
            assert shown[0][0] == first and all((y < 0) == (title != "Semantic") for _, y in shown)


def test_steps_without_a_view_leave_no_gaps_in_a_line(tmp_path):
    """A line with a gap at every other step looks dashed, as another arm's is."""
    run = load_run(FakeRun(arm="naive", epochs=8, nonfinite={5: 2}).write(tmp_path))
    for step in run.steps[::3]:
        step["cosine"] = None
        step["grad_norm"]["head_2d"] = 0.0
    arms = group_runs([run])
    for title in ("Cosine of 2D and 3D features", "2D head"):
        for trace in chart_called(title, arms).figure["data"]:
            gaps = [x for x, y in zip(trace["x"], trace["y"], strict=True) if y is None]
            assert trace["mode"] == "markers" or all(5 <= x < 5.25 for x in gaps), title


def test_long_stretches_without_a_value_and_non_finite_steps_stay_gaps():
    x, y = np.arange(40.0), np.ones(40)
    y[[2, 3, 4, 5, 38]] = np.nan
    y[10 : 10 + HOLE + 1] = np.nan
    broken = np.zeros(40, dtype=bool)
    broken[5] = True
    kept, values = without_holes(x, y, broken)
    assert set(x) - set(kept) == {2, 3, 4, 38}
    assert kept[np.isnan(values)].tolist() == [5, *range(10, 10 + HOLE + 1)]


def test_no_mean_gate_is_shown_while_the_gate_is_off(tmp_path):
    run = load_run(FakeRun(epochs=8).write(tmp_path))
    run.epoch_records[1]["val"]["fusion_2d_ratio"] = None
    trace = chart_called("Mean gate on seen points", group_runs([run])).figure["data"][0]
    assert trace["y"][0] is None and trace["y"][1:] == [0.55] * 3
