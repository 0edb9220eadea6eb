"""The report in a real browser: five models, and more, fit the width of a small laptop's screen."""

import json

import pytest

from bifusion.studies.comparison.run import write_report
from browser_pages import launched_browser
from run_factory import AUDIT, FakeRun

ARMS = ("baseline", "without_views", "naive", "gate_half", "staged")
MORE = (*ARMS, "plan_a", "plan_b", "mask3d")
GATE = {"points": 400, "mean": 0.4, "std": 0.1, "std_within_scenes": 0.08, "histogram": [20] * 20}


def report(root, arms):
    """The page of a comparison of these arms."""
    gates = {"naive": {"gate": GATE}, "staged": {"gate": GATE}}
    fakes = [FakeRun(arm=arm, epochs=6, evaluation=gates.get(arm, {})) for arm in arms]
    audit = root / "audit.json"
    audit.write_text(json.dumps(AUDIT))
    write_report([fake.write(root) for fake in fakes], root, audit=audit)
    return root / "report.html"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Of five models, and of more."""
    reports = [report(tmp_path_factory.mktemp("report"), arms) for arms in (ARMS, MORE)]
    for browser in launched_browser():
        opened = [browser.new_page(viewport={"width": 1280, "height": 800}) for _ in reports]
        for page, path in zip(opened, reports, strict=True):
            page.goto(path.as_uri())
        yield opened


@pytest.fixture
def page(pages):
    return pages[0]


@pytest.mark.parametrize("section", ["results", "study", "classes", "runs"])
@pytest.mark.parametrize("models", [len(ARMS), len(MORE)])
def test_tables_fit_the_page(pages, models, section):
    page = pages[models > len(ARMS)]
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


def test_the_study_has_a_row_for_each_of_many_models(pages):
    rows = pages[1].locator("#study tbody tr")
    names = [rows.nth(index).locator("th").inner_text() for index in range(rows.count())]
    assert len(names) == len(MORE) + 1 and names[-1] == "Risk, as measured"
    assert "Mask3D" in names and "Staged BiFusion" in names
    assert "The last row holds" in pages[1].locator("#study").inner_text()
    assert pages[0].locator("#study tbody tr").count() == 5
