"""Parameter counts of a recipe, part by part (`bifusion info`)."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from bifusion.config.run import Config, build_model


def parameter_counts(config: Config) -> dict[str, int]:
    """Parameters of each group of the recipe's model; nothing is allocated (meta device)."""
    with torch.device("meta"):
        model = build_model(config)
    return {name: sum(p.numel() for p in group) for name, group in model.parameter_groups().items()}


def print_info(config: Config, console: Console) -> None:
    """Prints a table of parts and their parameters, and the total."""
    counts = parameter_counts(config)
    table = Table("part", "parameters", title=config.name)
    table.columns[1].justify = "right"
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    table.add_section()
    table.add_row("total", f"{sum(counts.values()):,}")
    console.print(table)
