"""The commands and Python blocks that documents show, and how each is held.

In docs/ the line before a block says so: `<!-- run -->`, run by the ordinary tests; `<!-- slow -->`, by
`make release-check` or by hand; `<!-- needs ScanNet -->`. Every `bifusion` command is parsed besides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("run", "slow", "needs ScanNet")
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[\w ]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.S | re.M
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    mark: str | None
    language: str
    """"" of commands and of what they print, "python", "text", …"""
    text: str

    @property
    def commands(self) -> list[str]:
        """Its `bifusion` commands, variables before them included, without comments."""
        if self.language:
            return []
        lines = [line.split(" #")[0].strip() for line in self.text.splitlines()]
        return [line for line in lines if re.match(r"(\w+=\S+ )*bifusion ", line)]


def blocks(document: str) -> list[Block]:
    """All blocks of a document, given by its path from the project's root, in order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [
        Block(document, found["mark"], found["language"], found["text"])
        for found in _BLOCK.finditer(text)
    ]


def documents(folder: str = "docs") -> list[str]:
    """The Markdown files in a folder, by their paths from the project's root."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.md"))
