"""The report in a real browser: the demo's five models fit the width of a small laptop's screen."""

import json

import pytest

from bifusion.studies.comparison.run import write_report
from browser_pages import launched_browser
from run_factory import AUDIT, FakeRun

ARMS = ("baseline", "without_views", "naive", "gate_half", "staged")
GATE = {"points": 400, "mean": 0.4, "std": 0.1, "std_within_scenes": 0.08, "histogram": [20] * 20}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    gates = {"naive": {"gate": GATE}, "staged": {"gate": GATE}}
    fakes = [FakeRun(arm=arm, epochs=6, evaluation=gates.get(arm, {})) for arm in ARMS]
    audit = root / "audit.json"
    audit.write_text(json.dumps(AUDIT))
    write_report([fake.write(root) for fake in fakes], root, audit=audit)
    for browser in launched_browser():
        opened = browser.new_page(viewport={"width": 1280, "height": 800})
        opened.goto((root / "report.html").as_uri())
        yield opened


@pytest.mark.parametrize("section", ["results", "study", "classes", "runs"])
def test_tables_fit_the_page(page, section):
    tables = page.evaluate(
        f"[...document.querySelectorAll('#{section} .scroll')].map(e => [e.scrollWidth, e.clientWidth])"
    )
    assert tables and all(inner <= outer for inner, outer in tables), tables


def test_the_charts_of_the_gate_keep_clear_of_its_table(page):
    between = page.evaluate(
        "document.querySelector('#gate .scroll').getBoundingClientRect().top"
        " - document.querySelector('#gate .charts').getBoundingClientRect().bottom"
    )
    assert between >= 10
