"""Trains a tiny run with a fault in it, through the product's own trainer, and has it judged."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Any

from bifusion.errors import InputError
from bifusion.runs.run_folder import RunFolder, RunStatus
from bifusion.step.runtime import deterministic
from laboratory.bench import RESUMED, Workshop, hushed
from laboratory.corpus import site_of
from laboratory.faults import Bench, Expected, Fault, Injection
from laboratory.judge import Ending, Result, judge
from laboratory.tiny import LONG_RUN, SHORT_RUN

CRASHES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What a product that a fault breaks may raise: a result of the laboratory, not its end."""


class Laboratory:
    """Runs faults one after the other under a folder."""

    def __init__(self, folder: Path):
        self.workshop = Workshop(folder)
        self._runs = 0
        self._healthy: dict[tuple[str, int], list[dict[str, Any]]] = {}

    def run(self, fault: Fault, seed: int) -> Result:
        """The fault in a run of its own, judged."""
        site = site_of(self.workshop, fault.recipe, seed)
        epochs = LONG_RUN if fault.expected.lasting else SHORT_RUN
        folder = self.workshop.folder / "faults" / f"{seed}-{_slug(fault)}"
        ending = self._train(fault, seed, folder, epochs)
        result = judge(fault, site, ending, self.healthy(fault.recipe, epochs))
        self._runs += 1
        if self._runs % 10 == 0:
            gc.collect()  # trainers with hooks on them are cycles; the collector sees no tensor's size
        return result

    def healthy(self, recipe: str, epochs: int) -> list[dict[str, Any]]:
        """Records of the run that nothing was done to, from the resumption on."""
        if (recipe, epochs) not in self._healthy:
            nothing = Fault("healthy", recipe, Expected("must-work"), Injection(), "")
            folder = self.workshop.folder / "twins" / f"{recipe}-{epochs}"
            self._healthy[recipe, epochs] = self._train(nothing, 0, folder, epochs).records
        return self._healthy[recipe, epochs]

    def _train(self, fault: Fault, seed: int, folder: Path, epochs: int) -> Ending:
        site = site_of(self.workshop, fault.recipe, seed)
        ending = Ending([], None, None, None, None)
        try:
            with hushed():
                bench = self.workshop.bench(fault.recipe, site, fault.injection, folder, epochs)
                ending.watch = bench.watch
                ending.status = _run(bench)
        except InputError as error:
            ending.refusal = str(error)
        except CRASHES as error:
            ending.crash = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        records = RunFolder(folder / "run").read_lines(folder / "run" / "steps.jsonl")
        ending.records = [record for record in records if record["step"] >= RESUMED]
        return ending


def _run(bench: Bench) -> RunStatus:
    trainer = bench.trainer
    with deterministic(trainer.config.trainer.deterministic, trainer.fabric.device):
        status = trainer.run()
    bench.watch.end(trainer.progress.step - 1)
    return status


def _slug(fault: Fault) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{fault.recipe} {fault.name}".lower()).strip("-")
