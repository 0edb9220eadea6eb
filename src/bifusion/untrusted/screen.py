"""The screen, on which names from strangers are shown and do nothing."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NoReturn

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from bifusion.untrusted.names import shown

UNREAD_EXIT = 141
"""Status of a command whose output nobody reads on, as after `| head`: that of one that SIGPIPE ends."""


class Screen(Console):
    """rich's Console, in which control characters of whatever is shown are escaped: of plain text
    before lines are broken, of text with a style as it is written."""

    def render(self, *args: Any, **options: Any) -> Iterable[Segment]:
        for text, style, control in super().render(*args, **options):
            yield Segment(text if control else shown(text), style, control)

    def render_str(self, text: str, *args: Any, **options: Any) -> Text:
        return super().render_str(shown(text), *args, **options)

    def out(self, *objects: Any, **options: Any) -> None:
        super().out(*map(shown, objects), **options)

    def on_broken_pipe(self) -> NoReturn:
        with suppress(SystemExit):  # rich leaves with 1, as if something had failed
            super().on_broken_pipe()
        raise SystemExit(UNREAD_EXIT)
