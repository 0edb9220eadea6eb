"""Dose and response: planning, gains paired by seed, dose.json against its schema, the page."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
from plotly.offline import get_plotlyjs
from rich.console import Console

from bifusion.datasets.rooms import RoomsConfig
from bifusion.datasets.rooms.pretraining.config import TowerPretrainConfig
from bifusion.errors import InputError
from bifusion.storage.json_files import to_json
from bifusion.studies.dose import run as dose_run
from bifusion.studies.dose.charts import PART_LABELS
from bifusion.studies.dose.judge import PARTS, Level
from bifusion.studies.dose.report import Probe
from bifusion.studies.dose.run import KNOBS, DoseConfig, KnobName, plan_levels, run_dose, write_dose
from bifusion.studies.dose.terminal import print_dose
from run_factory import AUDIT, FakeRun
from stored_reports import assert_as_stored

TEXTURE = KNOBS["texture_contrast"]
RECIPES = ("bifusion_small", "bifusion_small_without_views")


def fake_level(root, value, runs, planned=()):
    """A level with these runs, and its audit."""
    folder = root / f"texture_contrast-{value:g}"
    folder.mkdir()
    (folder / "audit.json").write_text(json.dumps(AUDIT))
    folders = [fake.write(folder) for fake in runs]
    return Level(value, folder, (*folders, *planned), folder / "audit.json")


def pairs(gains, **settings):
    """Staged and without_views for each seed, `gains` apart."""
    return [
        FakeRun(arm=arm, seed=seed, epochs=2, miou=0.5 + (gain if arm == "staged" else 0.0), **settings)
        for seed, gain in enumerate(gains)
        for arm in ("staged", "without_views")
    ]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Three seeds at contrasts 1 (given first) and 0: (folder, dose, page)."""
    root = tmp_path_factory.mktemp("dose")
    levels = [
        fake_level(root, 1.0, pairs((0.1, 0.2, 0.3))),
        fake_level(root, 0.0, pairs((-0.02, 0.0, 0.02))),
    ]
    dose = write_dose(TEXTURE, levels, root, title="A <b>title</b>")
    return root, dose, (root / "dose.html").read_text()


def test_gains_are_paired_and_in_rising_order(told):
    _, dose, _ = told
    assert [level.value for level in dose.levels] == [0.0, 1.0]
    assert dose.complete and dose.reference == "without_views"
    off, full = (level.arms["staged"].gain for level in dose.levels)
    assert full.all.mean == pytest.approx(0.2) and full.all.spread == pytest.approx(0.1)
    assert full.all.by_seed == pytest.approx({0: 0.1, 1: 0.2, 2: 0.3})
    assert off.all.mean == pytest.approx(0, abs=1e-9)
    assert full.seen.mean == pytest.approx(0.2) and full.texture_seen.mean > 0
    assert dose.levels[0].arms["without_views"].gain is None


def test_probe_oracle_and_share_seen_stand_beside_each_value(told):
    audit = told[1].levels[0].audit
    assert audit.oracle_miou == 0.93 and audit.seen_share == 0.47
    assert audit.probe.voxels == Probe(accuracy=0.52, standard_error=0.03, chance=0.5)
    assert audit.probe.images.accuracy == 0.94


def test_the_file_is_what_was_returned_and_the_schema_is_documented_and_strict(told):
    root, dose, _ = told
    assert json.loads((root / "dose.json").read_text()) == to_json(dose)
    schema = json.loads((root / "dose.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    parts = schema["$defs"]["Parts"]
    assert set(parts["required"]) == set(parts["properties"]) == set(PARTS) == set(PART_LABELS)
    broken = to_json(dose)
    del broken["levels"][0]["arms"]["staged"]["gain"]["seen"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)
    assert not list(root.glob(".*")), "nothing half-written stays"


def test_content_and_keys_are_as_they_were(told):
    assert_as_stored("dose", told[1])


def test_the_page_says_where_the_expected_gain_is_zero_and_what_was_measured(told):
    page = told[2]
    assert "texture-off rooms" in page and "expected gain is zero" in page
    assert "Staged BiFusion +0.000 ± 0.020, 3 seeds (within its spread)" in page
    assert "expected gain 0" in page


def test_the_page_stands_alone_and_escapes(told):
    page = told[2]
    assert page.count(get_plotlyjs()[:200]) == 1
    assert not re.search(r"<(link|script|img)[^>]+(src|href)=", page)
    assert "A <b>title" not in page and "A &lt;b&gt;title" in page
    for text in ("Superpoint oracle", "Probe on image crops", "points not seen", "dose.schema.json"):
        assert text in page
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', page, re.S)[1])
    assert len(charts) == page.count('class="plot"') == 7
    gain = charts[0]["data"][0]
    assert gain["x"] == [0, 1] and gain["y"] == pytest.approx([0, 0.2], abs=1e-9)
    assert gain["error_y"]["array"] == pytest.approx([0.02, 0.1])


def test_one_seed_has_no_spread(tmp_path):
    dose = write_dose(TEXTURE, [fake_level(tmp_path, 0.0, pairs((0.1,)))], tmp_path, title="")
    assert math.isnan(dose.levels[0].arms["staged"].gain.all.spread)
    assert "+0.100, 1 seed." in (tmp_path / "dose.html").read_text()


def test_the_first_sentence_counts_the_seeds_of_every_arm(tmp_path):
    runs = [*pairs((0.1, 0.1)), FakeRun(seed=2, epochs=2)]
    write_dose(TEXTURE, [fake_level(tmp_path, 1.0, runs)], tmp_path, title="")
    assert "2 to 3 seeds each, on generated rooms" in (tmp_path / "dose.html").read_text()


def test_what_is_not_there_yet_is_left_open(tmp_path):
    running = pairs((0.1,), state="running", epochs_done=1)
    level = fake_level(tmp_path, 0.0, running, planned=(tmp_path / "not-started",))
    later = Level(1.0, tmp_path / "later", (tmp_path / "later" / "run",), tmp_path / "later/audit.json")
    dose = write_dose(TEXTURE, [later, level], tmp_path, title="")
    assert not dose.complete and dose.levels[1].arms == {} and dose.crashed == []
    assert dose.waiting[-2:] == ["texture_contrast-0/not-started", "later/run"]
    assert math.isnan(dose.levels[0].arms["staged"].gain.all.mean)
    assert "partial" in (tmp_path / "dose.html").read_text()
    print_dose(dose, Console(quiet=True))


def test_a_gain_of_the_pairs_that_came_to_their_end_says_so(tmp_path):
    runs = pairs((0.1, 0.1, 0.1))
    staged = [run for run in runs if run.arm == "staged"]
    for run in staged[1:]:
        run.state, run.evaluated, run.epochs_done = "guard_stopped", True, 1
    dose = write_dose(TEXTURE, [fake_level(tmp_path, 1.0, runs)], tmp_path, title="")
    page, console = (tmp_path / "dose.html").read_text(), Console(record=True, width=200)
    print_dose(dose, console)
    text = console.export_text()
    assert "1 of 3 pairs" in page and "1 of 3 " in text and "Under a gain" in text
    for told in (page, text):
        assert "2 of 3 seeds stopped by their guard" in " ".join(told.split())


def test_runs_that_crashed_are_named_and_left_out(tmp_path):
    stays = fake_level(tmp_path, 0.0, pairs((0.1,)))
    begun, never = FakeRun(seed=1, epochs=2, state="running", epochs_done=1), tmp_path / "never-seed1"
    level = fake_level(tmp_path, 1.0, [*pairs((0.1,)), begun], planned=(never,))
    crashed = (*level.run_dirs[2:], stays.run_dirs[0])
    dose = write_dose(TEXTURE, [stays, level], tmp_path, title="", crashed=crashed)
    named = ["texture_contrast-1/staged-seed1", "texture_contrast-1/never-seed1"]
    assert dose.crashed == named and dose.waiting == [], "what has a result did not crash"
    assert not dose.complete and [level.complete for level in dose.levels] == [True, False]
    assert dose.levels[1].arms["staged"].states == ["completed"]
    page, console = (tmp_path / "dose.html").read_text(), Console(record=True, width=200)
    print_dose(dose, console)
    for text in (page, console.export_text()):
        assert all(name in text for name in named)
        assert "still to be trained" not in text
    assert "Crashed, and therefore without a result: texture_contrast-1/staged-seed1" in page


def test_what_crashed_in_training_reaches_the_report(tmp_path, monkeypatch):
    def crash(runs, **_):
        return [run.folder.name for run in runs if "without_views" in run.folder.name]

    monkeypatch.setattr(dose_run, "train_runs", crash)
    monkeypatch.setattr(dose_run, "check_runs", lambda runs: None)
    monkeypatch.setattr(dose_run, "_make_data", lambda *_: None)
    monkeypatch.setattr(dose_run, "write_report", lambda *_, **__: None)
    (tmp_path / "tower").touch()
    wanted = DoseConfig(
        "texture_contrast", (0.0, 1.0), out=tmp_path / "out", tower_weights=tmp_path / "tower"
    )
    assert run_dose(wanted, Console(quiet=True)) == 1
    told = json.loads((tmp_path / "out" / "dose.json").read_text())
    folders = [f"texture_contrast-{value}/bifusion_small" for value in (0, 1)]
    assert told["crashed"] == [f"{folder}_without_views-seed0" for folder in folders]
    assert told["waiting"] == [f"{folder}-seed0" for folder in folders]


def test_an_arm_has_one_key_at_every_value(tmp_path):
    """Two recipes of one role, of which the second has begun at one value alone."""
    levels = []
    for value, names in ((0.0, ("small", "wide")), (1.0, ("small",))):
        folder = tmp_path / f"texture_contrast-{value:g}"
        folders = [FakeRun(epochs=2).write(folder / name) for name in names]
        for name, run in zip(names, folders, strict=True):
            config = json.loads((run / "config.json").read_text())
            (run / "config.json").write_text(json.dumps(config | {"name": name}))
        folders.append(FakeRun(arm="without_views", epochs=2).write(folder))
        levels.append(Level(value, folder, tuple(folders), folder / "audit.json"))
    dose = write_dose(TEXTURE, levels, tmp_path, title="")
    assert [arm.key for arm in dose.arms] == ["staged:small", "staged:wide", "without_views"]
    assert list(dose.levels[1].arms) == ["without_views", "staged:small"]
    assert dose.arms[0].label == "Staged BiFusion (small)"


def test_runs_without_their_counterpart_give_no_gain(tmp_path):
    alone = [FakeRun(arm="staged", epochs=2), FakeRun(arm="without_views", seed=1, epochs=2)]
    dose = write_dose(TEXTURE, [fake_level(tmp_path, 1.0, alone)], tmp_path, title="")
    assert dose.levels[0].arms["staged"].gain.all.by_seed == {}


def test_unfair_pairs_are_refused_and_said_so(tmp_path):
    unfair = [FakeRun(arm="staged", epochs=3), FakeRun(arm="without_views", epochs=2)]
    dose = write_dose(TEXTURE, [fake_level(tmp_path, 1.0, unfair)], tmp_path, title="")
    staged = dose.levels[0].arms["staged"]
    assert staged.gain is None and "length" in staged.refused
    assert "A gain is left out" in (tmp_path / "dose.html").read_text()


def test_controls_gain_from_the_same_reference(tmp_path):
    runs = [*pairs((0.2,)), FakeRun(arm="lifted_rgb", epochs=2, miou=0.55)]
    dose = write_dose(TEXTURE, [fake_level(tmp_path, 1.0, runs)], tmp_path, title="")
    gain = dose.levels[0].arms["lifted_rgb"].gain.all.mean
    assert gain == pytest.approx(0.05)
    page = (tmp_path / "dose.html").read_text()
    assert "BiFusion on lifted RGB, all points" in page
    assert "control: the pixels&#39; RGB" in page


def test_the_table_tells_gain_probe_and_oracle(told):
    console = Console(record=True, width=80)
    print_dose(told[1], console)
    text = console.export_text()
    for word in ("+0.200", "± 0.100", "0.52", "0.94", "0.93", "0.47", "expected gain is zero"):
        assert word in text


def test_the_table_is_whole_in_80_columns(tmp_path):
    """With the longest value of a knob, spreads, and a gain that is not of all pairs."""
    runs = pairs(tuple(0.1 * (seed % 4) for seed in range(12)))
    runs[0].state = "guard_stopped"
    level = fake_level(tmp_path, 0.000123456, runs)
    dose = write_dose(KNOBS["pose_noise_rad"], [level], tmp_path, title="")
    dose = dataclasses.replace(dose, crashed=[f"level/run-seed{k}" for k in range(40)])
    console = Console(record=True, width=80)
    print_dose(dose, console)
    text = console.export_text()
    assert "…" not in text and "0.000123456" in text and " 11 of 12 " in text
    assert "run-seed7 and 32 more (the report names all)" in " ".join(text.split())


# ------------------------------------------------------------------------------------- planning


def test_every_knob_is_a_field():
    assert set(get_args(KnobName)) == set(KNOBS)
    rooms = {field.name for field in dataclasses.fields(RoomsConfig)}
    assert set(KNOBS) - rooms == {"voxel_size_m"}


def test_a_knob_of_the_rooms_changes_nothing_else(tmp_path):
    wanted = DoseConfig("texture_contrast", (1.0, 0.0), out=tmp_path, seeds=(0, 1), epochs=5)
    off, full = plan_levels(wanted)
    assert (off.value, off.folder.name) == (0.0, "texture_contrast-0")
    assert dataclasses.replace(off.rooms, texture_contrast=1.0) == full.rooms == wanted.rooms
    assert [run.folder.name for run in full.runs] == [
        f"{recipe}-seed{seed}" for seed in (0, 1) for recipe in RECIPES
    ]
    config = full.runs[0].config
    assert config.data.root == full.data and config.trainer.epochs == 5
    assert config.model.tower.pretrained == str(tmp_path / "tower-small.safetensors")


def test_voxel_size_is_a_knob_of_the_models(tmp_path):
    levels = plan_levels(DoseConfig("voxel_size_m", (0.04, 0.08), out=tmp_path))
    assert [run.config.data.voxel_size_m for level in levels for run in level.runs] == [
        0.04, 0.04, 0.08, 0.08,
    ]  # fmt: skip
    assert levels[0].rooms == levels[1].rooms


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"values": ()}, "--values is empty"),
        ({"values": (0.5, 0.5)}, "each once"),
        ({"values": (1.5,)}, r"texture_contrast is 1.5; expected a number in \[0, 1\]"),
        ({"values": (-1.0,)}, "no value that texture_contrast"),
        ({"knob": "voxel_size_m", "values": (0.0,)}, "no value that voxel_size_m"),
        ({"recipes": ("bifusion_small",)}, "expected one recipe without views"),
        ({"recipes": ("bifusion_small_without_views",) * 2}, "expected one recipe without views"),
        ({"recipes": ("bifusion_smal", RECIPES[1])}, "'bifusion_smal' is unknown"),
        ({"epochs": 2}, "epochs is 2, but the plan has 3 stages"),
        ({"epochs": 0}, "epochs is 0, but the plan has 3 stages"),
        ({"jobs": -1}, "--jobs: found -1"),
        ({"tower_weights": Path("nothing.safetensors")}, "no such file"),
        ({"rooms": RoomsConfig(train_rooms=0)}, "--rooms.train-rooms: found 0"),
        ({"pretraining_rooms": 0}, "--pretraining-rooms: found 0"),
        ({"pretraining": TowerPretrainConfig(lr=0.0)}, "pretraining.lr: found 0.0"),
        ({"probe_rooms": -1}, "--probe-rooms: found -1"),
        ({"knob": "voxel_size_m", "values": (2e3,)}, "voxel_size_m: found 2000.0"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_made(tmp_path, settings, message):
    usual = {"knob": "texture_contrast", "values": (1.0,), "out": tmp_path / "out"}
    wanted = DoseConfig(**(usual | settings))
    with pytest.raises(InputError, match=message):
        run_dose(wanted, Console(quiet=True))
    assert not list(tmp_path.iterdir())  # not even its folder


def test_a_rooms_option_that_the_knob_sets_is_refused(tmp_path):
    rooms = RoomsConfig(texture_contrast=0.5)
    wanted = DoseConfig("texture_contrast", (0.0, 1.0), tmp_path / "out", rooms=rooms)
    with pytest.raises(InputError, match=r"--rooms.texture-contrast is 0.5, but .* is the knob"):
        run_dose(wanted, Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_other_rooms_in_the_folder_are_refused(tmp_path):
    rooms = tmp_path / "texture_contrast-1" / "rooms"
    rooms.mkdir(parents=True)
    stored = dataclasses.replace(RoomsConfig(), views=3)
    (rooms / "rooms.json").write_text(json.dumps(dataclasses.asdict(stored)))
    wanted = DoseConfig("texture_contrast", (1.0,), out=tmp_path)
    with pytest.raises(InputError, match="holds other rooms .views: 3 → 6.: choose another --out"):
        run_dose(wanted, Console(quiet=True))
