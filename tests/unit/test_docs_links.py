"""Every relative link of every document leads somewhere where GitHub shows it: to a file, to a heading.

That it does on the site too is for `make docs` to say.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from documents import ROOT, documents

FOLDERS = ("docs", "src", "tests", "tools", "benchmarks", "laboratory")
DOCUMENTS = sorted(
    [path.name for path in ROOT.glob("*.md")]
    + [name for folder in FOLDERS for name in documents(folder)]
)


def links(text: str) -> list[tuple[str, str]]:
    """(path, anchor) of each link within the repository; what stands in code is none."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.S | re.M)
    found = re.findall(r"\]\(([^\s()#]*)#?([^\s()]*)\)", text)
    return [(path, anchor) for path, anchor in found if ":" not in path]


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a document."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.+?) *$", text, flags=re.M):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = found[name] = found.get(name, -1) + 1
        if number:
            found[f"{name}-{number}"] = 0
    return set(found)


def dead(name: str) -> list[str]:
    """The links of a document that lead nowhere."""
    problems = []
    for path, anchor in links((ROOT / name).read_text(encoding="utf-8")):
        place = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        if not place.is_relative_to(ROOT) or not place.exists():
            problems.append(f"{path} is not there")
        elif anchor and anchor not in _anchors_of(place):
            problems.append(f"{path}#{anchor} is not there")
    return problems


def _anchors_of(place: Path) -> set[str]:
    return anchors(place.read_text(encoding="utf-8")) if place.suffix == ".md" else set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str):
    assert dead(name) == []


def test_what_is_a_link_and_what_a_heading_is_called():
    text = (
        "[a](b.md#c), ![d](e.png), [f](#g), [h](https://i.org/j#k), `x[0](y)`\n```\n[l](m)\n# n\n```\n"
    )
    assert links(text) == [("b.md", "c"), ("e.png", ""), ("", "g")]
    headings = (
        '# It is slow, or says "plain torch"\n## `hf://user/name`\n## A / b\n## A / b\n```\n# no\n```\n'
    )
    assert anchors(headings) == {"it-is-slow-or-says-plain-torch", "hfusername", "a--b", "a--b-1"}


def test_no_other_document_is_left_out():
    assert len(DOCUMENTS) > 20 and {"README.md", "docs/zh/start.md", "SECURITY.md"} <= set(DOCUMENTS)
