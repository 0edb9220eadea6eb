"""Tables of what was measured on a GPU, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_gpu_tables(record: dict[str, Any], console: Console) -> None:
    """One table a part that was measured."""
    console.print(
        f"{record['chip']}, torch {record['torch']}, triton {record['triton']}, {record['date']}"
    )
    if "tests" in record:
        console.print(f"tests: {' '.join(record['tests']['summary'])}")
    speed = record.get("limit", {}).get("copy_bytes_per_second")
    if speed:
        console.print(f"a copy in device memory: {speed / 1e12:.2f} TB/s")
    if "layers" in record:
        console.print(_layers(record["layers"], speed))
    if "steps" in record:
        console.print(_steps(record["steps"]))
    runs = record.get("runs")
    if runs:
        shown = {name: value for name, value in runs.items() if name != "totals"}
        console.print(f"against the CPU: {shown}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _layers(found: list[dict[str, Any]], speed: float | None) -> Table:
    title = "layers: milliseconds, and the forward pass's share of the memory limit (each input once)"
    table = _table(
        title, "layer", "channels", "dtype", "engine", "forward", "of limit", "backward", "right"
    )
    records = [record for engine in found for record in engine["layers"]]
    records.sort(key=lambda r: (r["layer"], r["level"], r["channels"], r["dtype"], r["engine"]))
    for record in records:
        if "forward" not in record:
            continue
        forward, backward = record["forward"]["seconds"], record["backward"]["seconds"]
        table.add_row(
            f"{record['layer']}, level {record['level']}",
            "→".join(map(str, record["channels"])),
            record["dtype"],
            record["engine"],
            f"{forward * 1000:.3f}",
            f"{record['least_bytes'] / speed / forward:.0%}" if speed else "",
            f"{backward * 1000:.3f}",
            "yes" if record["correct"] else f"NO {max(record['errors']):.0e}",
        )
    for engine in found:
        if engine["status"] != 0:
            table.add_row(f"status {engine['status']}", "", "", engine["engine"], "", "", "", "")
    return table


def _steps(found: list[dict[str, Any]]) -> Table:
    table = _table(
        "full-size steps and inference of the real scan",
        "recipe", "backend", "precision", "step s", "device busy s", "stalls", "peak GB", "inference ms",
        "whole ms",
    )  # fmt: skip
    for record in found:
        head = record["recipe"], record["backend"], record["precision"]
        if "step" not in record:
            table.add_row(*head, f"status {record['status']}")
            continue
        scan = record["inference"]
        table.add_row(
            *head,
            f"{record['step']['seconds']:.3f}",
            f"{record['device']['busy_ms'] / 1000:.3f}",
            str(record["stalls"]["count"]),
            f"{record['peak_memory_mb'] / 1024:.1f}",
            f"{scan['forward']['seconds'] * 1000:.1f}",
            f"{scan['whole']['seconds'] * 1000:.1f}",
        )
    return table
