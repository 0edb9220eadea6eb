"""Text from strangers on the screen: names of files and classes may hold what steers a terminal."""

from __future__ import annotations

import re
import reprlib

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Control characters but for tab and newline, what turns the direction of text, what is not there to be
seen, and halves of pairs, which bytes in a file's name that are no UTF-8 become."""
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 120
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = 8
_BRIEF.maxlevel = 3


def brief(value: object) -> str:
    """A value as an error names it, not all of it where it is long."""
    return _BRIEF.repr(value)


def shown(text: object) -> str:
    """`text` with what is not to be seen as escapes (\\x1b, \\u202e)."""
    return _UNSEEN.sub(_escape, str(text))


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
