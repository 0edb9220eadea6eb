"""Programs that documents name are there: targets of make, tools, modules; notebooks can be read."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

import pytest

from documents import ROOT, documents

DOCUMENTS = sorted({path.name for path in ROOT.glob("*.md")} | set(documents()))
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
SETTING = r"(?:[A-Z_]+=\S+ )*"


def _code(name: str) -> Iterator[str]:
    """What stands in a document's blocks and between backticks."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)
    for block in blocks:
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_named_is_there(name: str):
    for line in _code(name):
        for target in re.findall(rf"\bmake {SETTING}([a-z][a-z-]*)(?=[\s…]|$)", line):
            assert target in TARGETS, line
        for path in re.findall(r"\b(?:tools|tests|benchmarks|laboratory)/[\w/]+\.(?:py|json)", line):
            assert (ROOT / path).is_file(), line
        for module in re.findall(r"-m ((?:benchmarks|laboratory)[\w.]*)", line):
            place = ROOT / module.replace(".", "/")
            assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), line


@pytest.mark.parametrize("path", sorted((ROOT / "docs/notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_are_python_and_keep_no_output(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] for cell in code)
    for cell in code:
        ast.parse("".join(cell["source"]))
