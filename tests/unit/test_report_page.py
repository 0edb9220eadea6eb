"""report.json against its schema, report.html on its own, the table in the terminal."""

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs
from rich.console import Console

from bifusion.errors import InputError
from bifusion.labels.sets import LABEL_SETS
from bifusion.storage.json_files import embed_json, to_json
from bifusion.studies.comparison.run import ComparisonConfig, audit_of, run_comparison, write_report
from bifusion.studies.comparison.terminal import print_table
from run_factory import AUDIT, CLASSES, FakeRun
from stored_reports import assert_as_stored

ARMS = ("baseline", "without_views", "naive", "staged")


class References(HTMLParser):
    """Everything a page loads, what it links to, and the text of its script elements."""

    def __init__(self):
        super().__init__()
        self.loaded, self.links, self.scripts, self._in_script = [], [], [], False

    def handle_starttag(self, tag, attrs):
        values = [value for name, value in attrs if name in ("src", "href", "data", "poster")]
        if tag == "a":
            self.links += values
        else:
            self.loaded += values
        self._in_script = tag == "script"

    def handle_data(self, data):
        if self._in_script:
            self.scripts.append(data)

    def handle_endtag(self, tag):
        self._in_script = False


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A finished comparison of the demo's arms: (folder, report, page)."""
    root = tmp_path_factory.mktemp("comparison")
    folders = [FakeRun(arm=arm, epochs=6, predictions=arm == "staged").write(root) for arm in ARMS]
    audit = root / "audit.json"
    audit.write_text(json.dumps(AUDIT))
    report = write_report(folders, root, audit=audit, title="A <b>title</b>")
    return root, report, (root / "report.html").read_text()


def test_what_is_written_is_what_is_returned_and_fits_the_schema(compared):
    root, report, _ = compared
    written = json.loads((root / "report.json").read_text())
    assert written == to_json(report)
    jsonschema.validate(written, json.loads((root / "report.schema.json").read_text()))
    assert written["synthetic"]
    assert written["complete"]
    assert [arm["key"] for arm in written["arms"]] == list(ARMS)


def test_content_and_keys_are_as_they_were(compared):
    assert_as_stored("report", compared[1])


def test_generated_rooms_are_called_synthetic_without_an_audit_too(tmp_path):
    rooms = FakeRun(epochs=2, sources=["generated room, config 0123"]).write(tmp_path / "rooms")
    scans = FakeRun(epochs=2, sources=["ScanNet v2"]).write(tmp_path / "scans")
    assert write_report([rooms], tmp_path / "a").synthetic
    assert not write_report([scans], tmp_path / "b").synthetic


@pytest.mark.parametrize("sources", [["rooms.py:mine"], []], ids=["own arrays", "not said"])
def test_generated_rooms_beside_others_are_not_said_to_be_all(tmp_path, sources):
    """The lead, too, is of all runs, not of the first."""
    rooms = FakeRun(arm="baseline", epochs=2, sources=["generated room, config 0123"])
    own = FakeRun(epochs=2, sources=sources, train_scenes=["a", "b"], val_scenes=["c"])
    report = write_report([fake.write(tmp_path) for fake in (rooms, own)], tmp_path)
    assert report.partly_synthetic and not report.synthetic
    output = io.StringIO()
    print_table(report, Console(file=output, width=200, color_system=None))
    assert "Some figures, not all, are of generated" in output.getvalue()
    assert "All figures" not in output.getvalue()
    page = (tmp_path / "report.html").read_text()
    assert "2 to 8 scenes (some of them generated rooms), validated on 1 to 2," in page
    assert "some rooms synthetic" in page and ">synthetic rooms<" not in page


def test_the_schema_is_valid_documented_and_strict(compared):
    schema = json.loads((compared[0] / "report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for entry in (schema, *schema["$defs"].values()):
        assert entry["description"] and all(key["description"] for key in entry["properties"].values())
        assert entry["required"] == list(entry["properties"]) and not entry["additionalProperties"]
    assert "report.schema.json" in compared[2]
    broken = to_json(compared[1])
    broken["verdicts"][0]["outcome"] = "maybe"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_non_finite_numbers_become_null():
    assert to_json({1: [float("nan"), float("inf"), 0.5]}) == {"1": [None, None, 0.5]}


def test_mask3d_has_no_miou(tmp_path):
    write_report([FakeRun(arm="mask3d", epochs=4).write(tmp_path)], tmp_path)
    figures = json.loads((tmp_path / "report.json").read_text())["arms"][0]["figures"]
    assert figures["miou"] == {"mean": None, "spread": None, "by_seed": {}}
    assert figures["ap"]["mean"] > 0
    assert ">—<" in (tmp_path / "report.html").read_text()


def test_the_page_loads_nothing(compared):
    references = References()
    references.feed(compared[2])
    assert references.loaded
    assert all(value.startswith("data:image/png;base64,") for value in references.loaded)
    assert not re.search(r"@import|url\(", compared[2].split("</style>")[0])


def test_each_arms_prediction_has_a_page_beside_the_report(compared):
    references = References()
    references.feed(compared[2])
    beside = {link for link in references.links if not link.startswith("#")}
    assert beside == {"views/0-val00-0-Staged-BiFusion.html"}
    page = (compared[0] / beside.pop()).read_text()
    assert "val00 · Staged BiFusion" in page
    shown = References()
    shown.feed(page)
    described = json.loads(shown.scripts[0])
    assert list(described["sources"]) == ["predicted", "annotated"]
    assert {one["name"] for one in described["classes"]} >= set(CLASSES)


def test_pictures_say_their_size_so_that_the_page_does_not_jump(compared):
    picture = r'<img loading="lazy" width="(\d+)" height="(\d+)" alt="[^"]*" src="data:[^,]*,([^"]*)"'
    found = re.findall(picture, compared[2])
    assert len(found) == compared[2].count("<img")
    for width, height, encoded in found:
        image = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert image.size == (int(width), int(height))


def test_plotly_is_embedded_once(compared):
    head = get_plotlyjs()[:200]
    assert compared[2].count(head) == 1


def test_names_are_escaped(compared):
    assert "A <b>title</b>" not in compared[2]
    assert "A &lt;b&gt;title&lt;/b&gt;" in compared[2]
    assert "</script" not in embed_json({"name": "</script><script>"})
    assert json.loads(embed_json({"name": "</script>&"})) == {"name": "</script>&"}


def test_the_page_shows_verdicts_study_table_oracle_and_pictures(compared):
    page = compared[2]
    for text in ("Stability", "Gradient explosion", "Superpoint oracle", "texture class", "synthetic"):
        assert text in page
    assert page.count("<figure>") == 5  # colour, 2 annotations, 2 predictions of the one arm
    assert page.count('class="plot"') >= 15


def test_texture_classes_stand_apart(compared):
    texture = compared[1].texture
    assert texture.classes == ["cabinet", "door"]
    ious = compared[1].classes.iou["staged"]
    assert texture.arms["staged"].texture == pytest.approx((ious["cabinet"] + ious["door"]) / 2)


def test_every_dimension_of_the_study_is_measured(compared):
    rows = compared[1].study_table
    names = ["Feature space", "Gradient flow", "Parameters", "CLIP", "Fusion"]
    assert [row.dimension for row in rows] == names
    assert all(row.cells[arm] for row in rows for arm in ARMS)
    assert all(row.measured_risk for row in rows)
    staged = {row.dimension: dict(row.cells["staged"]) for row in rows}
    assert staged["Feature space"]["2D from the image tower"].startswith("128 channels, RMS 4.")
    assert staged["Gradient flow"]["paths to the loss"].startswith("two")
    assert staged["CLIP"]["trained in stability"] == "nothing, frozen"
    assert staged["CLIP"]["trained in enhancement"] == "block0"


def test_a_partial_report_can_be_written_again_and_again(tmp_path):
    folder = FakeRun(epochs=8, epochs_done=2, state="running").write(tmp_path)
    other = FakeRun(arm="baseline", epochs=8, epochs_done=1, state="running").write(tmp_path)
    (other / "steps.jsonl").write_text("")
    for _ in range(2):
        report = write_report([folder, other], tmp_path)
    assert not report.complete
    assert "partial" in (tmp_path / "report.html").read_text()
    left = sorted(path.name for path in tmp_path.glob("*report*"))
    assert left == ["report.html", "report.json", "report.schema.json"]
    assert not list(tmp_path.glob(".report*"))


def test_an_audit_of_one_seeds_rooms_is_not_taken_for_that_of_all(tmp_path):
    (tmp_path / "audit.json").write_text(json.dumps(AUDIT))

    def told(rooms):
        scenes = [{"train_scenes": [f"{room}-train"], "val_scenes": [room]} for room in rooms]
        runs = [FakeRun(epochs=2, seed=seed, **own) for seed, own in enumerate(scenes)]
        folders = [run.write(tmp_path / "-".join(rooms)) for run in runs]
        return write_report(folders, tmp_path, audit=tmp_path / "audit.json").cautions

    assert told(["a", "a"]) == []
    assert told(["a", "b"]) == [
        "Superpoint oracle and audit are of one of the 2 data sets that the runs saw."
    ]


def test_no_mean_is_marked_as_the_best_of_arms_with_other_seeds(tmp_path):
    """Each seed may have rooms of its own."""
    runs = [FakeRun(epochs=8, seed=seed) for seed in range(3)]
    write_report([run.write(tmp_path) for run in (*runs, FakeRun(arm="naive", epochs=8))], tmp_path)
    page = (tmp_path / "report.html").read_text().split('id="results"')[1].split("</section>")[0]
    assert 'class="n best"' not in page
    assert "<small>8 epochs, 3 seeds</small>" in page and "<small>8 epochs, 1 seed</small>" in page


def test_no_mean_is_marked_as_the_best_of_what_must_not_be_compared(tmp_path):
    folders = [FakeRun(arm="baseline", epochs=8).write(tmp_path), FakeRun(epochs=9).write(tmp_path)]
    assert write_report(folders, tmp_path).scenes_refused
    assert 'class="n best"' not in (tmp_path / "report.html").read_text()


def test_a_page_can_be_read_without_seeing_or_a_mouse(compared):
    page = compared[2]
    charts = re.findall(r'<div class="plot"([^>]*)>', page)
    assert charts and all('role="img" aria-label="' in attributes for attributes in charts)
    assert page.count('class="scroll"') == page.count('class="scroll" tabindex="0"') > 0
    assert "<noscript>" in page


def test_where_a_report_lies_is_told_as_it_is_called(tmp_path, monkeypatch):
    """Words in brackets are styles to rich, and a folder named by "." has a name too."""
    run, out = FakeRun(epochs=2).write(tmp_path), tmp_path / "runs [bold] of today"
    out.mkdir()
    monkeypatch.chdir(out)
    console = Console(width=300, record=True, file=io.StringIO())
    for folder in (out, Path()):
        assert run_comparison(ComparisonConfig(out=folder, runs=(run,)), console) == 0
        assert json.loads((out / "report.json").read_text())["title"] == out.name
    assert f"report: {out / 'report.html'}" in console.export_text()


def test_no_runs_and_no_audit_are_told(tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        write_report([], tmp_path)
    with pytest.raises(InputError, match="no such audit"):
        write_report([FakeRun(epochs=4).write(tmp_path)], tmp_path, audit=tmp_path / "audit.json")


def test_the_audit_is_that_of_the_data_that_was_named(tmp_path):
    """Where all runs are of them. What a run names itself is not read, which may be a stranger's."""
    folders = []
    for name in ("a", "b", "b"):
        folder = tmp_path / f"run{len(folders)}"
        folder.mkdir()
        config = {"config": {"data": {"root": str(tmp_path / name)}}}
        (folder / "config.json").write_text(json.dumps(config))
        folders.append(folder)
    assert audit_of(folders[1:], tmp_path / "b") is None
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "audit.json").write_text("{}")
    assert audit_of(folders[1:], tmp_path / "b") == tmp_path / "b" / "audit.json"
    assert audit_of(folders[1:], None) is None
    assert audit_of(folders, tmp_path / "b") is None


def test_the_terminal_table_fits_80_columns(compared):
    output = io.StringIO()
    print_table(compared[1], Console(file=output, width=80, color_system=None))
    text = output.getvalue()
    assert "0.660" in text
    assert "indicative pass" in text
    assert "superpoint" in text
    assert max(map(len, text.splitlines())) <= 80


def test_names_are_whole_beside_spreads_in_80_columns(tmp_path):
    arms, seeds = ("baseline", "staged"), (0, 1, 2)
    runs = [FakeRun(arm=arm, seed=s, miou=0.5 + 0.01 * s).write(tmp_path) for arm in arms for s in seeds]
    output = io.StringIO()
    report = write_report(runs, tmp_path / "out", room_views=False)
    print_table(report, Console(file=output, width=80, color_system=None))
    text = output.getvalue()
    assert text.count("OneFormer3D ") == text.count("Staged BiFusion ") == 2 and "± 0.010" in text
    assert "…" not in text and max(map(len, text.splitlines())) <= 80


def test_names_are_whole_beside_large_counts_in_80_columns(tmp_path):
    runs = [FakeRun(seed=s, miou=0.5 + 0.1 * s, gate=0.4 + 0.1 * s).write(tmp_path) for s in range(3)]
    report = write_report(
        runs, tmp_path / "out", room_views=False, crashed=[f"run-{k}" for k in range(99)]
    )
    many = dataclasses.replace(report.arms[0], raw_nonfinite=123456, skipped=123456, rollbacks=1234)
    output = io.StringIO()
    report = dataclasses.replace(report, arms=[many])
    print_table(report, Console(file=output, width=80, color_system=None))
    text = output.getvalue()
    assert "Staged BiFusion " in text and "(123456, 1234)" in text and "…" not in text
    assert "run-7 and 91 more (the report names all)" in text and max(map(len, text.splitlines())) <= 80


def test_the_factory_uses_classes_of_the_label_set():
    assert set(CLASSES) <= set(LABEL_SETS["scannet20"].class_names)
