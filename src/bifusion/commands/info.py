"""Parameter counts of a recipe, part by part (`bifusion info`)."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bifusion import plugins
from bifusion.config.run import Config
from bifusion.models.build import build_bare
from bifusion.models.parts import PATH_LABELS, part_of_group


def parameter_counts(config: Config) -> dict[str, int]:
    """Parameters of each group of the recipe's model."""
    groups = build_bare(config.model, config.seed, config.labels).parameter_groups()
    return {name: sum(p.numel() for p in parameters) for name, parameters in groups.items()}


def print_info(config: Config, console: Console) -> None:
    """Prints a table of parts and their parameters, and the total; below it, what is from outside.

    InputError for code from outside that there is not, be it a loss term, which has no parameters.
    """
    for where, function in config.outside_code.items():
        plugins.load(function, where)
    counts = parameter_counts(config)
    table = Table("group", "part", "path", "parameters", title=config.name)
    table.columns[3].justify = "right"
    for name, count in counts.items():
        part = part_of_group(name)
        assert part is not None  # `build_model` refuses such a model
        table.add_row(name, part.label, PATH_LABELS[part.path], f"{count:,}")
    table.add_section()
    table.add_row("total", "", "", f"{sum(counts.values()):,}")
    console.print(table)
    for where, function in config.outside_code.items():
        console.print(f"{where}: {function}, from outside")
