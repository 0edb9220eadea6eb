"""The screen, on which names from strangers are shown and do nothing."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from bifusion.untrusted.names import shown


class Screen(Console):
    """rich's Console, in which text without a style of its own has its control characters escaped."""

    def render_str(self, text: str, *args: Any, **options: Any) -> Text:
        return super().render_str(shown(text), *args, **options)

    def out(self, *objects: Any, **options: Any) -> None:
        super().out(*map(shown, objects), **options)
