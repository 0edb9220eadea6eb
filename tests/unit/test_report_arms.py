"""What report.json tells of arms and runs that ended in unusual ways, or are made of unusual parts."""

import io
import json
import re

from rich.console import Console

from bifusion.studies.comparison.run import write_report
from bifusion.studies.comparison.terminal import print_table
from run_factory import FakeRun, name_parts


def test_parts_from_outside_are_named(tmp_path):
    """Sizes of another kind's fields are not taken for theirs."""
    folder = FakeRun().write(tmp_path)
    name_parts(folder, gate="my_rooms.networks:cosine", network="my_rooms.networks:two_layers")
    rows = {row.dimension: row for row in write_report([folder], tmp_path / "out").study_table}
    cells = {dimension: dict(row.cells["staged"]) for dimension, row in rows.items()}
    assert cells["Fusion"]["type"] == "FiLM and gate from outside, my_rooms.networks:cosine"
    assert cells["Parameters"]["3D network from outside"] == "my_rooms.networks:two_layers"
    assert cells["Feature space"]["3D from the U-Net"].startswith("RMS")


def test_how_far_a_step_moves_the_image_tower_is_told(tmp_path):
    """Of the steps that measured it, in the stage that trains it; a tower that is frozen has no such."""
    folder = FakeRun(epochs=6).write(tmp_path)
    path, moved = folder / "steps.jsonl", {"conv1": [2e-6, 6e-6], "tower": [3e-5, 5e-5]}
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    last = [step for step in steps if step["stage"] == "enhancement"][:2]
    for place, step in enumerate(last):
        step["update_ratio"] = {"backbone": 1e-3} | {name: of[place] for name, of in moved.items()}
    steps[0]["update_ratio"] = {"backbone": 1e-3}
    path.write_text("".join(json.dumps(step) + "\n" for step in steps))
    frozen = FakeRun(arm="without_views", epochs=6).write(tmp_path)
    rows = {row.dimension: row for row in write_report([folder, frozen], tmp_path).study_table}
    staged, without = (dict(rows["CLIP"].cells[arm]) for arm in ("staged", "without_views"))
    assert staged["a step moves conv1 by"] == "median 4.00e-06, max 6.00e-06 of its norm"
    assert staged["a step moves the rest by"] == "median 4.00e-05, max 5.00e-05 of its norm"
    assert not [what for what in without if what.startswith("a step moves")]


def test_what_is_too_early_to_be_a_spike_is_told_with_its_size(tmp_path):
    """The largest gradients of a run are often those of its first steps."""
    folder = FakeRun(epochs=4, spike_at=3).write(tmp_path)
    rows = {row.dimension: row for row in write_report([folder], tmp_path / "out").study_table}
    told = dict(rows["Gradient flow"].measured_risk)["Staged BiFusion"]
    found = re.fullmatch(
        r"0 spikes of the norm after its first 10 steps \(there at most (\S+) × median\), "
        r"largest (\S+) × median, 0 non-finite",
        told,
    )
    assert found and found[1] == found[2] and float(found[1]) > 20
    page = (tmp_path / "out" / "report.html").read_text()
    assert "None is looked for in a curve’s first 10 finite steps" in page


def test_a_guard_stopped_run_is_a_result(tmp_path):
    stopped = FakeRun(arm="naive", epochs=8, epochs_done=3, state="guard_stopped", nonfinite={3: 3})
    folders = [stopped.write(tmp_path), FakeRun(epochs=8).write(tmp_path)]
    report = write_report(folders, tmp_path)
    assert report.complete
    assert report.runs[0].reason == "3 non-finite steps in a row"
    assert "stopped by its guard in epoch 3" in (tmp_path / "report.html").read_text()


def test_what_a_stopped_seed_reached_is_no_end_result(tmp_path):
    """It is evaluated where it stopped: the mean that holds it says so, and is not the best."""
    end = {"state": "guard_stopped", "epochs_done": 3, "evaluated": True, "miou": 0.9}
    naive = [FakeRun(arm="naive", epochs=8, seed=seed, **end if seed else {}) for seed in range(3)]
    rivals = [FakeRun(arm=arm, epochs=8) for arm in ("baseline", "staged")]
    report = write_report([run.write(tmp_path) for run in (*naive, *rivals)], tmp_path)
    page = (tmp_path / "report.html").read_text().split('id="results"')[1].split("</section>")[0]
    assert "<small>2 of 3 seeds stopped by their guard</small>" in page
    best = re.findall(r'<td class="n best">([^<]*)', page)
    assert best == ["0.660", "0.396", "0.528", "0.594", "0.462"]  # of the staged arm
    console = Console(width=200, record=True, file=io.StringIO())
    print_table(report, console)
    assert "2 of 3 seeds stopped by their guard" in " ".join(console.export_text().split())


def test_what_the_study_tells_of_the_gate_is_over_all_seeds(tmp_path):
    folders = [FakeRun(epochs=4, seed=seed).write(tmp_path) for seed in range(2)]
    *steps, last = (folders[0] / "steps.jsonl").read_text().splitlines()
    ended = json.loads(last)
    ended["gate"]["scale"] = 0.5
    (folders[0] / "steps.jsonl").write_text("\n".join([*steps, json.dumps(ended)]) + "\n")
    rows = {row.dimension: row for row in write_report(folders, tmp_path / "out").study_table}
    assert ("s, last step", "0.75") in rows["Fusion"].cells["staged"]


def test_a_gate_that_is_not_open_yet_has_no_mean(tmp_path):
    folder = FakeRun(epochs=8, epochs_done=4, state="running").write(tmp_path)
    path = folder / "epochs.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in filter(None, (record["val"] for record in records)):
        record["fusion_2d_ratio"] = None
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (arm,) = write_report([folder], tmp_path).arms
    assert not arm.figures.fusion_2d_ratio.by_seed and arm.figures.miou.by_seed


def test_a_skipped_spike_is_no_number_that_is_not_finite(tmp_path):
    folder = FakeRun(epochs=8).write(tmp_path)
    path = folder / "steps.jsonl"
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    steps[40]["event"] = {
        "kind": "gradient_spike", "phase": "gradient", "where": ["gradient.fusion"], "action": "skip",
    }  # fmt: skip
    path.write_text("".join(json.dumps(step) + "\n" for step in steps))
    rows = write_report([folder], tmp_path).study_table
    told = json.dumps([dict(row.risks) if hasattr(row, "risks") else str(row) for row in rows])
    assert "0 non-finite" in told and "1 non-finite" not in told


def test_an_arm_without_views_has_one_space_and_trains_no_tower(tmp_path):
    """Its tower and 2D head are built, with rates, and never run."""
    folder = FakeRun(arm="without_views", epochs=8).write(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["feature_dims"] = {"f2d_in": 128}
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "steps.jsonl"
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    for step in steps:
        step["lr"]["tower.block0"] = 1e-4
    path.write_text("".join(json.dumps(step) + "\n" for step in steps))
    cells = {r.dimension: r.cells["without_views"] for r in write_report([folder], tmp_path).study_table}
    told = [text for cell in cells.values() for _, text in cell]
    assert "one, sparse 3D" in told and not any("block0" in text for text in told)


def test_a_run_that_crashed_is_told(tmp_path):
    folder = FakeRun("baseline").write(tmp_path)
    report = write_report([folder], tmp_path / "out", crashed=["bifusion_small-seed0"])
    assert report.crashed == ["bifusion_small-seed0"] and not report.complete
    page = (tmp_path / "out" / "report.html").read_text()
    assert "bifusion_small-seed0" in page and "still training" not in page


def test_a_network_without_gradient_gives_no_ratio_and_no_warning(tmp_path):
    """As one that has collapsed: its gradient is 0 in steps that took it all the same."""
    folder = FakeRun(epochs=4).write(tmp_path)
    path = folder / "steps.jsonl"
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    for place, step in enumerate(steps):
        step["grad_norm"] |= {"backbone": 0.0, "head_2d": float(place % 2)}
    path.write_text("".join(json.dumps(step) + "\n" for step in steps))
    rows = {row.dimension: row for row in write_report([folder], tmp_path / "out").study_table}
    assert "2D head / 3D backbone" not in dict(rows["Gradient flow"].cells["staged"])
