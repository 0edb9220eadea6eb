"""Progress of one run on screen: a bar in a terminal, one line an epoch elsewhere."""

from __future__ import annotations

import math
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bifusion.untrusted.screen import Screen


class Display:
    """Use as a context manager; `quiet` shows nothing (processes other than the first)."""

    def __init__(self, name: str, epochs: int, steps_per_epoch: int, *, quiet: bool = False):
        self._console = Screen(quiet=quiet)
        self._name = name
        self._epochs = epochs
        self._loss = MovingAverage()
        self._bar: Progress | None = None
        self._total = epochs * steps_per_epoch

    def __enter__(self) -> Display:
        if self._console.is_terminal and not self._console.quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console)
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=self._total)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int, epoch: int, stage: str, loss: float | None) -> None:
        """After every optimiser step."""
        average = self._loss.update(math.nan if loss is None else loss)
        if self._bar is not None:
            text = f"epoch {epoch + 1}/{self._epochs} {stage}, loss {_number(average)}"
            self._bar.update(self._task, completed=step, description=text)

    def epoch(self, record: dict[str, Any]) -> None:
        """After every epoch."""
        val = record["val"] or {}
        self.line(
            f"{self._name}: epoch {record['epoch'] + 1}/{self._epochs} ({record['stage']}), "
            f"loss {_number(record['train'].get('total'))}, val mIoU {_number(val.get('miou'))}, "
            f"non-finite {record['raw_nonfinite']}, {record['seconds']:.1f} s"
        )

    def line(self, text: str) -> None:
        """One line of text."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class MovingAverage:
    """Exponential moving average that a non-finite value passes by without a trace."""

    def __init__(self, decay: float = 0.95):
        self.decay = decay
        self.value: float | None = None

    def update(self, value: float) -> float | None:
        """Takes `value` in if it is finite; returns the average so far, None before the first."""
        if math.isfinite(value):
            self.value = (
                value if self.value is None else self.decay * self.value + (1 - self.decay) * value
            )
        return self.value


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"
