"""Takes the step of a replay bundle again, in a process of its own, and compares it to the bit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bifusion.config.optim import freeze_outside_stage
from bifusion.config.run import Config
from bifusion.config.stages import StageState, Timeline
from bifusion.diagnosis.bundle import Bundle, Circumstances, read_bundle
from bifusion.diagnosis.calls import Call, Origin
from bifusion.diagnosis.ranges import Range
from bifusion.diagnosis.rerun import RERUN_ERRORS, run_again
from bifusion.diagnosis.tracing import Tracer
from bifusion.errors import InputError
from bifusion.models.build import build_model
from bifusion.precision import PRECISIONS, float32_matmul_precision
from bifusion.runs.run_data import MOST_THREADS
from bifusion.step.assembly import make_stepper
from bifusion.step.events import Fault
from bifusion.step.outcome import StepOutcome
from bifusion.step.runtime import deterministic, make_fabric
from bifusion.step.step import Stepper
from bifusion.untrusted.screen import Screen

WIDTH = 130
"""Columns of the table of modules, on narrower terminals too."""


@dataclass
class ReplayReport:
    """What came of a replay."""

    bundle: Bundle
    fingerprint: str
    losses: dict[str, float]
    fault: Fault | None
    """What the step met this time."""
    notes: list[str]
    """What is different here from where the bundle was written."""
    heights: dict[str, tuple[float | None, float]] = field(default_factory=dict)
    """Of a recorded spike, which no rule judges here: its figures by place, as recorded and now."""
    calls: list[Call] = field(default_factory=list)
    """With `trace`: every module call, in order."""
    origin: Origin | None = None
    """With `trace`: where non-finite numbers came from."""

    @property
    def identical(self) -> bool:
        """Losses, border activations and gradients are the same bits as when it was written."""
        return self.fingerprint == self.bundle.fingerprint


def replay(path: Path, *, trace: bool = False) -> ReplayReport:
    """Takes the step of the bundle again on the CPU; the process's own settings are put back.

    Raises InputError for a file that is no bundle, or a damaged one.
    """
    bundle = read_bundle(path)
    with _circumstances(bundle):
        stepper, state = stepper_of(bundle)
        notes = _notes(bundle, Circumstances.here(stepper.fabric.device))
        try:
            rerun = run_again(stepper, bundle.inputs, state)
        except RERUN_ERRORS as error:
            raise InputError(
                f"{path}: its step cannot be taken ({error}): the file is damaged, or was written by "
                "another version; copy it again, or take another bundle"
            ) from error
        report = ReplayReport(
            bundle,
            rerun.fingerprint,
            rerun.outcome.losses,
            rerun.outcome.event,
            notes,
            _heights(bundle, rerun.outcome),
        )
        if trace:
            tracer = Tracer(stepper.model.module, operations=True)
            run_again(stepper, bundle.inputs, state, tracer=tracer)
            report.calls = tracer.calls
            report.origin = tracer.origin if rerun.outcome.event is not None else None
    return report


def stepper_of(bundle: Bundle) -> tuple[Stepper, StageState]:
    """The bundle's model, optimiser and stage on the CPU, ready to take its step."""
    config = _on_cpu(bundle.config)
    fabric = make_fabric(config.trainer)
    model = build_model(config.model, config.seed, config.labels, load_pretrained=False)
    model.load_state_dict(bundle.weights)
    stepper = make_stepper(config, fabric, model)
    optimizer = stepper.optimizer.optimizer
    for part in optimizer.param_groups:
        if part["name"] not in bundle.inputs.rates:
            raise InputError(f"{bundle.path}: has no learning rate of {part['name']}; copy it again")
        part["lr"] = bundle.inputs.rates[part["name"]]
    parameters = dict(model.named_parameters())
    for name, moments in bundle.optimizer.items():
        optimizer.state[parameters[name]] = dict(moments)
    state = Timeline(config.stages, config.trainer.epochs).at(bundle.inputs.time)
    freeze_outside_stage(stepper.may_train, state)
    _restore_scaler(bundle, stepper)
    return stepper, state


def print_report(report: ReplayReport, console: Console) -> None:
    """Prints what was replayed, under which circumstances, and whether it came out the same."""
    bundle = report.bundle
    scenes = ", ".join(name for batch in bundle.inputs.batches for name in batch.names)
    print_line = console.out
    print_line(
        f"step {bundle.inputs.step} of {bundle.config.name}, epoch {bundle.inputs.time:.2f}: {scenes}"
    )
    for event in bundle.events:
        print_line(f"recorded: {event.get('kind') or event.get('rule')} in {', '.join(_places(event))}")
    threads = bundle.circumstances.threads
    print_line(f"threads set to {threads}, as when it was written")
    for note in report.notes:
        print_line(f"note: {note}")
    if report.calls:
        # modules' paths are long, and where nobody looks at a terminal there is room
        Screen(file=console.file, width=max(console.width, WIDTH)).print(_table(report))
    if report.origin is not None:
        print_line(_describe(report.origin))
    print_line(f"met this time: {_met(report)}")
    if report.identical:
        print_line(f"bit-identical: losses, border activations, gradients ({report.fingerprint[:16]})")
        return
    print_line("not bit-identical:")
    for term, value in report.losses.items():
        print_line(f"  {term}: {_number(bundle.losses.get(term))} recorded, {_number(value)} now")


def _met(report: ReplayReport) -> str:
    """The fault, or the figures of a spike, in words."""
    if report.fault is not None:
        return ", ".join(report.fault.where)
    pairs = report.heights.items()
    told = [f"{place} {_number(now)} ({_number(then)} recorded)" for place, (then, now) in pairs]
    return ", ".join(told) or "nothing"


def _places(event: dict[str, Any]) -> list[str]:
    where = event.get("where")
    return [str(place) for place in where] if isinstance(where, list) else []


def _heights(bundle: Bundle, outcome: StepOutcome) -> dict[str, tuple[float | None, float]]:
    found: dict[str, tuple[float | None, float]] = {}
    for event in bundle.events:
        recorded = event.get("heights")
        if isinstance(recorded, dict):
            now = outcome.heights(str(event.get("kind")), _places(event))
            found |= {place: (_figure(recorded.get(place)), height) for place, height in now.items()}
    return found


def _figure(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _on_cpu(config: Config) -> Config:
    """The configuration for this machine."""
    trainer = dataclasses.replace(
        config.trainer, accelerator="cpu", devices=1, nodes=1, init=None, compile=()
    )
    return dataclasses.replace(config, trainer=trainer)


def _restore_scaler(bundle: Bundle, stepper: Stepper) -> None:
    """The gradient scaler of float16 as it was; nothing where the run had none."""
    precision = stepper.fabric.strategy.precision
    for name, present in precision.state_dict().items():
        found = bundle.scaler.get(name)
        if not isinstance(found, int | float) or not 0 <= found < math.inf:
            raise InputError(
                f"{bundle.path}: {name} of its gradient scaler is {found!r}; expected a number such as "
                f"{present}; copy it again"
            )
    precision.load_state_dict(bundle.scaler)


@contextmanager
def _circumstances(bundle: Bundle) -> Iterator[None]:
    """Threads and arithmetic as when the bundle was written."""
    threads = torch.get_num_threads()
    wanted = bundle.circumstances
    if not 1 <= wanted.threads <= MOST_THREADS or wanted.matmul_precision not in PRECISIONS:
        raise InputError(
            f"{bundle.path}: {wanted.threads} threads, precision {wanted.matmul_precision!r} of matrix "
            "products; copy the file again"
        )
    torch.set_num_threads(wanted.threads)
    repeatable = deterministic(bundle.config.trainer.deterministic, torch.device("cpu"))
    try:
        with float32_matmul_precision(wanted.matmul_precision), repeatable:
            yield
    finally:
        torch.set_num_threads(threads)


def _notes(bundle: Bundle, here: Circumstances) -> list[str]:
    there = bundle.circumstances
    notes = []
    if there.device != here.device:
        notes.append(
            f"written on {there.device}, replayed on {here.device}: the last bits of results may differ"
        )
    same_kind = there.device == here.device
    if bundle.config.trainer.precision == "16-mixed" and not same_kind:
        notes.append(
            "a CPU imitates float16 in sparse layers and sums in another order in dense ones: what "
            "overflows may be another number"
        )
    pairs = [("CPU", there.cpu, here.cpu)]
    pairs += [("sparse operations", there.sparse, here.sparse)] if same_kind else []
    pairs += [(name, v, here.versions.get(name, "none")) for name, v in there.versions.items()]
    notes += [
        f"{name}: {before} then, {now} now; bits may differ"
        for name, before, now in pairs
        if before != now
    ]
    return notes


def _table(report: ReplayReport) -> Table:
    """Every call's output, in order of execution, and the gradient that came back to it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("output of", no_wrap=True)
    for name in ("rms", "min", "max", "finite", "gradient rms", "finite"):
        table.add_column(name, justify="right", no_wrap=True)
    marked = _marked(report)
    for call in report.calls:
        name = call.module if call.number == 0 else f"{call.module} #{call.number + 1}"
        bad = call is marked
        table.add_row(
            f"> {name}" if bad else f"  {name}", *_cells(call), style="bold red" if bad else None
        )
    return table


def _marked(report: ReplayReport) -> Call | None:
    """The call whose numbers went wrong first. A weight's gradient is its module's, whose last call is
    the first on the way back."""
    if report.origin is None:
        return None
    calls = [call for call in report.calls if call.module == report.origin.call.module]
    return next((call for call in calls if call is report.origin.call), calls[-1] if calls else None)


def _describe(origin: Origin) -> str:
    module = origin.module if origin.term is None else f"loss term {origin.term}"
    return f"first non-finite, {origin.direction}: {module}, {origin.describe_operation() or 'here'}"


def _cells(call: Call) -> list[str]:
    output, gradient = call.output, call.grad_output
    return [
        *([""] * 4 if output is None else [_number(output.rms), _number(output.min)]),
        *([] if output is None else [_number(output.max), _share(output)]),
        *(["", ""] if gradient is None else [_number(gradient.rms), _share(gradient)]),
    ]


def _share(range_: Range) -> str:
    """Percent that is finite; never 100 where one number is not."""
    return "all" if range_.finite == 1 else f"{math.floor(range_.finite * 1000) / 10}%"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
