"""Pages in a real browser that draws in software, and what they did."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import needs

CHROMIUM = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--use-gl=angle",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip
SIZE = {"width": 900, "height": 600}


def launched_browser() -> Iterator[Any]:
    """The machine's Chromium, for a fixture; where there is none, tests that ask for it are skipped."""
    playwright = needs.module("browser", "playwright.sync_api")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=needs.chromium(), args=CHROMIUM)
        yield launched
        launched.close()


class Opened:
    """A page in the browser, and what it did."""

    def __init__(self, browser, address: str, ready: str = "html[data-ready]"):
        self.requests, self.complaints, self.address = [], [], address
        self.context = browser.new_context(viewport=SIZE, has_touch=True)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.goto(address)
        self.page.wait_for_selector(ready, timeout=120_000)

    def _heard(self, message):
        if message.type == "error":
            self.complaints.append(message.text)

    def run(self, code: str):
        return self.page.evaluate(code)

    def settle(self):
        self.run("bifusionView.settled()")

    def app(self, code: str):
        """Acts on the page's state, and waits for the picture."""
        self.run(f"(() => {{ const app = bifusionView.app; {code} }})()")
        self.settle()

    def project(self, coord: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, 2) place in the window and (N,) depth of points, by the camera that the page states."""
        matrix = np.array(self.run("bifusionView.app.drawnCamera.viewProjection")).reshape(4, 4).T
        clip = np.column_stack([coord, np.ones(len(coord))]) @ matrix.T
        width, height = self.run("[bifusionView.app.width, bifusionView.app.height]")
        x, y = clip[:, 0] / clip[:, 3], clip[:, 1] / clip[:, 3]
        return np.column_stack([(x + 1) / 2 * width, (1 - y) / 2 * height]), clip[:, 3]

    def pick(self, at) -> dict | None:
        return self.run(f"bifusionView.pick({at[0]}, {at[1]})")

    def screenshot(self) -> np.ndarray:
        return np.array(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))


def measured(browser, path: Path, before: str = "") -> dict[str, float]:
    """Bytes of a page, milliseconds to its first picture, and the longest frame while it is turned and
    comes to rest; `before`: what is done to the page's `app` first, in its frames too."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(path.as_uri())
    drawn = "window.bifusionView && bifusionView.app.drawnCamera ? performance.now() : 0"
    while not (first_ms := page.evaluate(drawn)):
        page.wait_for_timeout(20)
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    page.evaluate("bifusionView.app.frames.length = 0")
    if before:
        page.evaluate(f"(async () => {{ const app = bifusionView.app; {before} }})()")
        page.evaluate("bifusionView.settled()")
    page.mouse.move(300, 400)
    page.mouse.down()
    for step in range(40):
        page.mouse.move(300 + 8 * step, 400 + step)
        page.wait_for_timeout(25)
    page.mouse.up()
    page.evaluate("bifusionView.settled()")
    frames = page.evaluate("bifusionView.app.frames")
    context.close()
    return {"bytes": path.stat().st_size, "first_ms": first_ms, "frames_ms": max(frames)}
