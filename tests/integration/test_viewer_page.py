"""The page that shows a scan, in a real browser that draws in software: one browser for all tests."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from bifusion.inference.export import write_result
from bifusion.labels.label_set import LabelSet
from bifusion.labels.palette import class_palette
from bifusion.labels.sets import SCANNET20
from bifusion.studies.comparison.run import write_report
from bifusion.types import SceneResult
from bifusion.viewer.page import render_view, write_view
from bifusion.viewer.prediction import open_scan
from bifusion.viewer.serve import page_server
from bifusion.viewer.shown_scan import ShownMatch, ShownScan, ShownWord, segmentation, shown_classes
from browser_pages import SIZE, Opened, launched_browser, measured
from run_factory import FakeRun
from scene_factory import BOXES, make_tiny_scene

TABLE, CHAIR = 6, 4
LARGEST_DISC = 44 / 2 + 1
"""Pixels from the middle of the largest point to its rim, with one for rounding."""


@pytest.fixture(scope="module")
def browser():
    yield from launched_browser()


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> ShownScan:
    """A tiny room and a prediction of it: chair and table as annotated, scores 0.9 and 0.6; searched
    for three words."""
    root = tmp_path_factory.mktemp("shown")
    scene = make_tiny_scene(root / "data" / "val" / "room")
    coord, segment = np.load(scene / "coord.npy"), np.load(scene / "segment20.npy")
    instance = np.load(scene / "instance.npy")
    masks = np.stack([instance == 1, instance == 0])  # rows by falling score
    predicted = np.where(instance < 0, -1, 1 - instance).astype(np.int32)
    result = SceneResult(
        name="room", num_points=len(coord), masks=np.packbits(masks, axis=1),
        labels=np.array([CHAIR, TABLE], np.int16), scores=np.array([0.9, 0.6], np.float32),
        semantic=segment, panoptic_semantic=segment, panoptic_instance=predicted,
    )  # fmt: skip
    write_result(root / "out", result, coord, SCANNET20)
    fits = np.linspace(-0.1, 0.3, 9, dtype=np.float32)
    unseen = np.where(np.arange(9) == 2, np.nan, fits[::-1]).astype(np.float32)
    box = tuple(map(tuple, BOXES[1].tolist()))
    words = (
        ShownWord("a blue chair", fits, (ShownMatch(0.28, *box, 0), ShownMatch(0.1, *box, 1))),
        ShownWord("floor", unseen, (ShownMatch(0.3, (0, 0, 0), (1, 1, 0.1), None),)),
        ShownWord("Blue sky", fits, ()),
    )
    part = np.load(scene / "superpoint.npy")
    return replace(open_scan(root / "out", scene), part=part, words=words)


@pytest.fixture(scope="module")
def opened(browser, scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "view.html"
    write_view(path, scan)
    page = Opened(browser, path.as_uri())
    yield page
    page.context.close()


@pytest.fixture(autouse=True)
def as_at_first(request):
    """Tests share a page: each finds it uncut, with everything shown, from the same place."""
    if "opened" not in request.fixturenames:
        return
    request.getfixturevalue("opened").app(
        "app.cameras = false; app.labelled = true; app.setMeasuring(false); app.select(null);"
        "app.showAll(); app.setMode('photo');"
        "app.setSource('predicted'); app.setCut(app.tallest);"
        "app.camera.flight = null; Object.assign(app.camera, app.home());"
    )


def front_points(opened: Opened, coord: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points that no other can cover, nearest as far as the largest point reaches; and the place
    and depth of all points, infinitely deep where they are cut away."""
    places, depth = opened.project(coord)
    low_x, high_x, low_y, high_y = opened.run("bifusionView.app.scene().inner")
    x, y, z = coord.T
    walls = (x < low_x) | (x > high_x) | (y < low_y) | (y > high_y)
    depth = np.where(walls & (z > opened.run("bifusionView.app.scene().heights[0]")), np.inf, depth)
    inside = (places > 20).all(axis=1) & (places < (560, 580)).all(axis=1) & np.isfinite(depth)
    app = "bifusionView.app"
    pixels_a_metre = opened.run(f"{app}.height / 2 / Math.tan({app}.camera.fov / 2)") / depth.min()
    largest = min(LARGEST_DISC, opened.run(f"{app}.renderer.metres") * pixels_a_metre / 2 + 1)
    near = np.linalg.norm(places[:, None] - places[None], axis=2) < largest
    nearest = np.where(near, depth[None], np.inf).min(axis=1)
    return np.flatnonzero(inside & (depth <= nearest)), places, depth


def test_no_request_leaves_the_page_and_nothing_is_complained_of(opened):
    beyond = [url for url in opened.requests if not url.startswith("data:")]
    assert beyond == [opened.address]
    assert opened.complaints == []


def test_the_served_page_is_the_same(browser, scan):
    page = render_view(scan)
    with page_server(page, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served = Opened(browser, f"http://127.0.0.1:{server.server_port}/")
        beyond = [url for url in served.requests if not url.startswith("data:")]
        assert beyond == [served.address] and served.complaints == []
        assert served.context.request.get(served.address).text() == page
        assert served.context.request.get(served.address + "other").status == 404
        stranger = served.context.request.get(served.address, headers={"Host": "stranger.example"})
        assert stranger.status == 404
        served.context.close()
        server.shutdown()


def test_every_point_is_unpacked_where_and_as_it_was(opened, scan):
    """Each once, within the steps that positions are stored in."""
    opened.run("window.all = bifusionView.app.scan")
    size = np.ptp(scan.coord, axis=0)
    position = np.array(opened.run("Array.from(all.position)")).reshape(-1, 3) / 65535 * size
    order = np.lexsort(np.round(position + scan.coord.min(axis=0), 4).T)
    wanted = np.lexsort(np.round(scan.coord.astype(float), 4).T)
    found = (position + scan.coord.min(axis=0))[order]
    assert np.abs(np.sort(found, axis=0) - np.sort(scan.coord, axis=0)).max() < 1e-4
    assert scan.predicted is not None and scan.color is not None and scan.seen is not None
    for column, values in {
        "r": scan.color[:, 0], "b": scan.color[:, 2], "seen": scan.seen,
        "predicted_class": scan.predicted.semantic + 1, "annotated_object": _ranks(scan),
    }.items():  # fmt: skip
        unpacked = np.array(opened.run(f"Array.from(all.columns.{column})"))
        assert np.array_equal(np.bincount(unpacked), np.bincount(values)), column
    assert len(wanted) == len(order)


def _ranks(scan: ShownScan) -> np.ndarray:
    assert scan.annotated is not None
    return scan.annotated.instance + 1  # numbered 0, 1 in the tiny room


def test_picking_gives_the_object_under_the_pixel(opened, scan):
    front, places, depth = front_points(opened, scan.coord)
    assert len(front) > 20
    picked_objects = set()
    for i in front[:: max(1, len(front) // 30)]:
        found = opened.pick(places[i])
        assert np.linalg.norm(np.array(found["position"]) - scan.coord[i]) < 1e-3
        assert found["object"] == scan.predicted.instance[i] + 1
        assert found["label"] == scan.predicted.semantic[i] + 1
        picked_objects.add(found["object"])
    assert picked_objects >= {1, 2}
    rng = np.random.default_rng(0)
    for i in rng.choice(
        len(places), 40, replace=False
    ):  # others may be covered, never by what is behind
        if not np.isfinite(depth[i]):
            continue
        there, far = opened.project(np.array([opened.pick(places[i])["position"]]))
        assert far[0] <= depth[i] + 1e-3 and np.linalg.norm(there[0] - places[i]) <= LARGEST_DISC + 2
    assert opened.pick((4, 4)) is None


def test_a_click_tells_name_score_and_size_and_the_list_follows(opened, scan):
    top = BOXES[0].mean(axis=0)
    top[2] = BOXES[0][1, 2]
    (at,), _ = opened.project(top[None])
    opened.page.mouse.click(*at)
    opened.settle()
    card = opened.page.locator("#selected").inner_text()
    assert "table" in card and "0.600" in card and "Annotated as\ntable 100 %" in card
    assert "0.6" in card and "× 0.5" in card.replace("× 0.50", "× 0.5")
    chosen = opened.page.locator("#list .selected")
    assert chosen.count() == 1 and "#1" in chosen.inner_text() and "0.60" in chosen.inner_text()
    outlined = opened.screenshot()[: SIZE["height"], :580]
    assert (np.abs(outlined.astype(int) - (255, 138, 31)).max(axis=2) < 40).sum() > 50
    opened.page.mouse.click(4, 4)
    assert opened.page.locator("#selected").is_hidden()


def test_hiding_a_class_hides_it(opened):
    counting = (
        "(() => { const own = bifusionView.app.source.classOf, shown = bifusionView.shownPoints();"
        f"return [shown.length, shown.filter((i) => own[i] === {TABLE + 1}).length]; }})()"
    )
    all_before, table_before = opened.run(counting)
    opened.page.get_by_title("Hide table").click()
    opened.settle()
    all_after, table_after = opened.run(counting)
    assert table_before > 500 and table_after == 0 and all_after > 0.8 * all_before
    assert "table" not in opened.page.locator("#labels .label:visible").all_inner_texts()
    opened.page.get_by_role("button", name="Show all").click()
    opened.settle()
    assert opened.run(counting) == [all_before, table_before]


def test_labels_do_not_cover_each_other(opened):
    for turn in range(6):
        opened.app(
            f"app.camera.azimuth = {turn}; app.camera.elevation = {0.2 + 0.2 * turn}; app.redraw();"
        )
        boxes = opened.run(
            "[...document.querySelectorAll('#labels .label')].filter((one) => !one.hidden)"
            ".map((one) => one.getBoundingClientRect()).map((b) => [b.left, b.top, b.right, b.bottom])"
        )
        assert turn or len(boxes) == 2
        for a in range(len(boxes)):
            for b in range(a):
                one, other = boxes[a], boxes[b]
                apart = (
                    one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
                )
                assert apart


def test_a_measured_distance_is_right(opened, scan):
    front, places, _ = front_points(opened, scan.coord)
    a, b = front[0], front[np.linalg.norm(scan.coord[front] - scan.coord[front[0]], axis=1).argmax()]
    opened.page.keyboard.press("m")
    for i in (a, b):
        opened.page.mouse.click(*places[i])
    true = np.linalg.norm(scan.coord[a].astype(float) - scan.coord[b])
    assert true > 1 and abs(opened.run("bifusionView.app.measuredDistance()") - true) < 2e-3
    opened.page.keyboard.press("Escape")
    assert opened.run("bifusionView.app.measuredDistance()") is None


@pytest.mark.parametrize(
    ("mode", "color"),
    [
        ("class", class_palette(SCANNET20)[TABLE]),
        ("photo", (220, 40, 40)),
        ("difference", (82, 160, 118)),
    ],
)
def test_the_screenshot_has_the_colours_of_the_mode(opened, scan, mode, color):
    opened.app(f"app.labelled = false; app.setMode('{mode}');")
    assert np.abs(color_of_table_top(opened, scan) - color).max() < 26
    picture = opened.screenshot()
    assert np.abs(picture[3, 3].astype(int) - (238, 240, 242)).max() < 6  # the ground


def test_prediction_and_annotation_side_by_side(opened):
    opened.page.keyboard.press("b")
    opened.settle()
    names = opened.page.locator("#pane-names").inner_text().split()
    halves = opened.run("bifusionView.app.panes.map((pane) => [pane.source.name, ...pane.rect])")
    assert names == ["Prediction", "Annotation"]
    assert [half[0] for half in halves] == ["predicted", "annotated"] and halves[0][3] == halves[1][1]
    picture = opened.screenshot()[:, :580].astype(int)
    assert np.abs(picture[:, :289] - picture[:, 290:579]).mean() < 12  # one camera, the same classes


def test_precomputed_words_are_searched_for(opened, scan):
    """What is typed finds words; one that is chosen colours the parts, and leads to what fits it."""
    panel = opened.page.locator("#panel")
    assert panel.locator("#search-title").inner_text() == "3 words to search for"
    opened.page.locator("#query").fill("blue")
    assert panel.locator("#hits button").all_inner_texts() == ["Blue sky", "a blue chair"]
    opened.page.locator("#query").fill("chair a")
    opened.page.keyboard.press("Enter")
    opened.settle()
    assert opened.run("bifusionView.app.mode") == "word"
    opened.app("app.labelled = false; app.redraw();")
    assert panel.locator("#hits [aria-pressed=true]").inner_text() == "a blue chair"
    assert (
        "-0.10" in panel.locator("#legend").inner_text()
        and "0.30" in panel.locator("#legend").inner_text()
    )
    shown = color_of_table_top(opened, scan)
    assert np.abs(shown - (64, 173, 119)).max() < 26  # part 5 of 0 … 8, half a step up the ramp
    first = panel.locator("#matches button").first
    assert "#0 chair" in first.inner_text() and "0.280" in first.inner_text()
    first.click()
    opened.settle()
    assert opened.run("bifusionView.app.selected.object") == 1
    assert np.allclose(opened.run("bifusionView.app.camera.target"), BOXES[1].mean(axis=0), atol=1e-3)
    opened.page.locator("#query").fill("a piano")
    assert panel.locator("#no-hits").is_visible() and panel.locator("#hits button").count() == 0
    opened.page.locator("#query").fill("")
    panel.locator("#hits").get_by_role("button", name="floor").click()
    opened.settle()
    opened.app("Object.assign(app.camera, app.home()); app.redraw();")
    shown = color_of_table_top(opened, scan)
    assert np.abs(shown - (46, 114, 140)).max() < 26
    assert "superpoint" in panel.locator("#matches").inner_text()


def color_of_table_top(opened, scan) -> np.ndarray:
    """(3,) the colour that the middle of the table's top has in the picture."""
    top = np.linalg.norm(scan.coord - (0.6, 0.7, 0.5), axis=1).argmin()
    (at,), _ = opened.project(scan.coord[None, top])
    x, y = np.round(at).astype(int)
    return np.median(opened.screenshot()[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3), axis=0)


def test_keys_turn_and_explain(opened):
    before = opened.run("bifusionView.app.camera.azimuth")
    opened.page.locator("#points").focus()
    opened.page.keyboard.press("ArrowLeft")
    assert opened.run("bifusionView.app.camera.azimuth") < before
    opened.page.keyboard.press("?")
    assert opened.page.locator("#help").is_visible()
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("#help").is_hidden()
    opened.page.keyboard.press("2")
    assert opened.run("bifusionView.app.mode") == "class"


def test_fingers_turn_move_and_zoom(opened):
    touch = opened.context.new_cdp_session(opened.page)

    def fingers(kind: str, *places) -> None:
        points = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    state = (
        "(({ azimuth, distance, target }) => ({ azimuth, distance, target }))(bifusionView.app.camera)"
    )
    at_first = opened.run(state)
    fingers("touchStart", (300, 300))
    fingers("touchMove", (340, 300))
    fingers("touchMove", (380, 300))
    fingers("touchEnd")
    turned = opened.run(state)
    assert turned["azimuth"] < at_first["azimuth"] and turned["distance"] == at_first["distance"]
    fingers("touchStart", (250, 300), (350, 300))
    fingers("touchMove", (200, 300), (400, 300))
    fingers("touchEnd")
    apart = opened.run(state)
    assert apart["azimuth"] == turned["azimuth"]
    assert apart["distance"] == pytest.approx(turned["distance"] / 2, rel=0.2)


def test_cameras_are_drawn_and_one_looks_through_them(opened, scan):
    opened.app("app.toggle('cameras');")
    view = scan.views[0]
    (apex,), _ = opened.project(view.cam2world[None, :3, 3])
    opened.page.mouse.click(*apex)
    opened.settle()
    eye = opened.run("bifusionView.app.camera.eye")
    assert np.allclose(eye, view.cam2world[:3, 3], atol=1e-3)
    assert opened.page.locator("#through").is_visible()
    middle = view.cam2world[:3, 3] + 1.5 * view.cam2world[:3, 2]
    (at,), _ = opened.project(middle[None])
    assert np.allclose(at, (290, 300), atol=3)  # the middle of the stage


def test_names_from_strangers_are_text(browser, tmp_path):
    hostile = "</script><img src=x onerror=\"document.title='run'\">"
    labels = LabelSet.of("strange", ("wall", hostile), stuff_classes=(0,))
    coord = np.random.default_rng(0).random((400, 3)).astype(np.float32)
    semantic, instance = np.repeat([0, 1], 200), np.repeat([-1, 0], 200)
    shown = ShownScan(
        name=hostile, coord=coord, color=None, classes=shown_classes(labels),
        predicted=segmentation(coord, semantic, instance), notes=(hostile,),
    )  # fmt: skip
    write_view(tmp_path / "view.html", shown)
    page = Opened(browser, (tmp_path / "view.html").as_uri())
    assert page.complaints == [] and len(page.requests) == 1
    assert page.page.locator("img").count() == 1  # the empty one of the view looked through
    assert page.page.title() == f"{hostile} · BiFusion"
    for place in ("#list", "h1", "#notes"):
        assert hostile in page.page.locator(place).inner_text()
    page.context.close()


def test_the_report_leads_to_the_page_and_loads_nothing_either(browser, tmp_path):
    write_report([FakeRun(epochs=2, predictions=True).write(tmp_path)], tmp_path)
    report = (tmp_path / "report.html").as_uri()
    page = Opened(browser, report, ready=".plot .main-svg")
    pixels = page.screenshot()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50  # it is drawn, in more than two colours
    page.page.get_by_role("link", name="look around").first.click()
    page.page.wait_for_selector("html[data-ready]", timeout=120_000)
    assert page.page.locator("h1").inner_text() == "val00 · Staged BiFusion"
    beyond = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert beyond == [report, page.page.url] and page.complaints == []
    page.context.close()


@pytest.mark.slow
def test_a_million_points(browser, scan, tmp_path, record_property):
    """≤ 15 MB, first picture ≤ 5 s, no frame over 500 ms while turning and resting, in software."""
    rng = np.random.default_rng(0)
    which = rng.integers(0, len(scan.coord), 1_000_000)
    coord = scan.coord[which] + rng.normal(0, 0.01, (len(which), 3)).astype(np.float32)
    color = scan.color[which] ^ rng.integers(0, 32, (len(which), 3), dtype=np.uint8)
    parts = [
        segmentation(coord, p.semantic[which], p.instance[which])
        for p in (scan.predicted, scan.annotated)
    ]
    large = ShownScan(
        name="million", coord=coord, color=color, classes=scan.classes, predicted=parts[0],
        annotated=parts[1], seen=scan.seen[which], views=scan.views,
    )  # fmt: skip
    path = tmp_path / "view.html"
    write_view(path, large)
    figures = measured(browser, path)
    record_property("figures", json.dumps(figures))
    print(figures)
    assert figures["bytes"] <= 15e6 and figures["first_ms"] <= 5000 and figures["frames_ms"] <= 500
