"""The page of a shown scan: one HTML file that asks for nothing else, from disk or from a server."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bifusion.storage.files import write_text
from bifusion.storage.json_files import embed_json
from bifusion.viewer.packing import pack
from bifusion.viewer.shown_scan import ShownScan

TEMPLATE = "page.html.jinja"
SCRIPTS = (
    "data", "geometry", "faces", "camera", "shaders", "renderer", "colors", "controls", "labels",
    "drawing", "panel", "search", "cards", "stage", "app", "start",
)  # fmt: skip
"""Files of scripts/ in the order in which they are put together; a later one uses earlier ones."""


def render_view(scan: ShownScan) -> str:
    """The page; names in it, from wherever, are shown as text."""
    described, columns, faces = pack(scan)
    # The package's own files, JSON without < > &, and base64; everything else is escaped.
    trusted = {
        "css": _packaged("page.css"),
        "policy": content_policy(),
        "script": _script(),
        "described": embed_json(described),
        "columns": base64.b64encode(columns).decode(),
        "faces": base64.b64encode(faces.content).decode() if faces else "",
    }
    marked = {name: Markup(content) for name, content in trusted.items()}
    template = _environment().get_template(TEMPLATE)
    return template.render(name=scan.name, facts=_facts(scan), **marked)


@cache
def content_policy() -> str:
    """The page's Content-Security-Policy: this package's script runs, no other; nothing is fetched."""
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    return f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"


def is_own_page(page: str) -> bool:
    """Whether a page, perhaps a stranger's, begins as this version's do, with `content_policy` where a
    browser heeds it: it then runs no script but ours in it, whatever comes after."""
    before = _packaged(TEMPLATE).partition("{{ policy }}")[0]
    return page.startswith(f'{before}{content_policy()}">')


def write_view(path: Path, scan: ShownScan) -> None:
    """Writes the page, whole or not at all."""
    write_text(path, render_view(scan))


def _facts(scan: ShownScan) -> str:
    """How much there is of it, in a few words."""
    counts = {"point": len(scan.coord), "view": len(scan.views)}
    known = [f"{count:,} {name}{'s' * (count != 1)}" for name, count in counts.items() if count]
    size = scan.coord.max(axis=0) - scan.coord.min(axis=0)
    return " · ".join([*known, " × ".join(f"{length:.1f}" for length in size.tolist()) + " m"])


@cache
def _script() -> str:
    """All scripts as one, in a scope of its own."""
    parts = "\n".join(_packaged(f"scripts/{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("bifusion.viewer", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _packaged(name: str) -> str:
    return resources.files("bifusion.viewer").joinpath(name).read_text(encoding="utf-8")
