"""Pages made of the code leave nothing out: fields of configurations, commands, public names."""

from __future__ import annotations

import dataclasses
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest

import bifusion
from bifusion.cli import COMMANDS
from bifusion.recipes import RECIPES
from documents import ROOT
from load_tool import load_tool


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    return load_tool("docs_pages")


@pytest.fixture(scope="module")
def pages(hook: ModuleType) -> dict[str, str]:
    return hook.pages()


def _dataclasses_of(value: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(value):
        yield value
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    inner = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list | tuple):
        for item in inner:
            yield from _dataclasses_of(item)


def test_every_field_of_every_recipe_is_on_the_page(pages: dict[str, str]):
    sections = {
        found[1]: found[0]
        for found in re.finditer(
            r"^## .*?\{ #(\w+) \}\n.*?(?=^## |\Z)", pages[CONFIGURATION], re.S | re.M
        )
    }
    kinds = {type(part) for recipe in RECIPES.values() for part in _dataclasses_of(recipe())}
    assert len(kinds) > 20
    for kind in kinds:
        for field in dataclasses.fields(kind):
            if field.init:
                assert f"| `{field.name}` |" in sections[kind.__name__], f"{kind.__name__}.{field.name}"


CONFIGURATION = "reference/configuration.md"


def test_what_is_said_of_a_field(pages: dict[str, str]):
    (row,) = [line for line in pages[CONFIGURATION].splitlines() if line.startswith("| `workers` |")]
    assert (
        "int; 0 or more, from 0 to 1,024 = `4`" in row
        and "Processes that load scenes" in row
        and "*Free.*" in row
    )
    (row,) = [line for line in pages[CONFIGURATION].splitlines() if line.startswith("| `precision` |")]
    assert "`32-true`, `bf16-mixed`" in row and "*Free.*" not in row


def test_every_command_and_kind_shows_its_help(pages: dict[str, str]):
    page = pages["reference/commands.md"]
    for name in COMMANDS:
        assert f"### bifusion {name}\n" in page
        assert re.search(rf"^usage: bifusion {name}\b", page, flags=re.M), name
    for kind in ("synthetic", "scannet", "scan", "superpoints", "features"):
        assert f"usage: bifusion prepare {kind} " in page


def test_every_public_name_is_in_the_reference():
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    shown = {line.split(".")[-1] for line in page.splitlines() if line.startswith("::: ")}
    assert set(dir(bifusion)) - {"__version__"} <= shown


def test_links_lead_to_pages_of_the_site(hook: ModuleType):
    for name, text, expected in (
        ("compared.md", "[x](../RECIPES.md#real-frames)", "[x](reference/recipes.md#real-frames)"),
        ("compared.md", "[x](numbers.md#the-picture)", "[x](numbers.md#the-picture)"),
        ("reference/python.md", "[x](../../CONVENTIONS.md)", "[x](conventions.md)"),
        ("reference/recipes.md", "[x](docs/dose.md#a)", "[x](../dose.md#a)"),
        ("reference/recipes.md", "[x](CHANGELOG.md)", "[x](changelog.md)"),
        (
            "stability.md",
            "[x](../src/bifusion/config/guard.py)",
            "[x](reference/configuration.md#GuardConfig)",
        ),
        ("zh/start.md", "[x](../scans.md#a), `a[0](b)`", "[x](../scans.md#a), `a[0](b)`"),
        ("start.md", "[x](https://a.org/docs/b.md), [y](#c)", "[x](https://a.org/docs/b.md), [y](#c)"),
    ):
        assert hook.linked(text, name) == expected


def test_a_warning_stops_the_site():
    """`--quiet` would have mkdocs count no warnings, and so pass over dead links."""
    (line,) = re.findall(r"mkdocs build.*", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert "--strict" in line and "-q" not in line


def test_the_stages_are_drawn_from_the_recipe():
    figures = load_tool("docs_figures")
    text = figures.STAGES.read_text(encoding="utf-8")
    assert text == figures.stages_svg(), "python tools/docs_figures.py"
    drawn = ElementTree.fromstring(text)
    texts = [element.text or "" for element in drawn.iter() if element.tag.endswith("text")]
    assert {"1 stability", "2 alignment", "3 enhancement", "epoch 21", "epoch 61"} <= set(texts)
    assert len([element for element in drawn.iter() if element.tag.endswith("polyline")]) == 11


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    found = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert found <= listed


def test_the_order_of_packages_is_that_which_is_held():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]
    layers = [re.findall(r"\w+", layer) for layer in contract["layers"]]
    page = (ROOT / "docs/reference/code.md").read_text(encoding="utf-8")
    assert re.findall(r"^  (\w+)(?:/|\.py) ", page, re.M) == [name for layer in layers for name in layer]


def test_the_version_stands_in_one_place_and_others_follow():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[0] == version


def test_readme_can_be_read():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
    assert (ROOT / "docs/pictures/room.png").stat().st_size <= 150_000
