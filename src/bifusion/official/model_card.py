"""The card of a shared run, made of what the run measured: data, classes, figures, verdicts, limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bifusion.config.run import Config

FIGURES = {"miou": "mIoU", "ap": "AP", "ap50": "AP50", "ap25": "AP25", "pq": "PQ"}
NOT_FOR = """## What it is not for
- Decisions about people, safety or structure. It labels surfaces of rooms, and it errs.
- Rooms unlike those it was trained on, or that its figures are of.
- Terms of the data that it was trained on may restrict what its weights may be used for."""
SYNTHETIC = (
    "It was trained and evaluated on **generated rooms**. Its figures compare models with each other "
    "and say nothing about real scans."
)


@dataclass(frozen=True)
class Shared:
    """What a card is made of."""

    name: str
    """user/name."""
    licence: str
    config: Config
    described: dict[str, Any]
    """The run's config.json without the configuration; empty for an imported one."""
    evaluation: dict[str, Any]
    report: dict[str, Any]
    """report.json of the comparison that the run is part of; empty without one."""

    @property
    def is_imported(self) -> bool:
        """It came as a checkpoint: an import knows of no scene that it was trained on."""
        return bool(self.described) and not self.described.get("train_scenes")


def model_card(shared: Shared, run: str) -> str:
    """Markdown with the hub's header. `run`: the folder's name, by which the report knows it."""
    config, described = shared.config, shared.described
    parts = [
        _header(shared),
        f"# {shared.name.partition('/')[2]}\n",
        f"{config.model_kind}, recipe `{config.recipe}`, for indoor RGB-D scans; made with BiFusion.\n",
        "```python\nimport bifusion\n\n"
        f'model = bifusion.load("hf://{shared.name}")\nprint(model.predict("room.ply"))\n```\n',
    ]
    parts.append(_needs(config))
    sources = [str(source) for source in described.get("sources", [])]
    if any("synthetic" in source or "generated" in source for source in sources):
        parts.append(SYNTHETIC + "\n")
    parts += [_data(shared, sources), _classes(config), _figures(shared)]
    parts += [_verdicts(shared.report, run), NOT_FOR + "\n"]
    return "\n".join(part for part in parts if part)


def _header(shared: Shared) -> str:
    return (
        f"---\nlicense: {shared.licence}\nlibrary_name: bifusion\n"
        "tags: [point-cloud, 3d-segmentation, rgb-d, indoor]\n---\n"
    )


def _needs(config: Config) -> str:
    """What the model cannot be made without and is not shared; empty where there is nothing."""
    parts = [_architecture_file(config), _outside_code(config.model.outside_parts)]
    told = [part for part in parts if part]
    return "\n".join(["## Needs", *told]) + "\n" if told else ""


def _architecture_file(config: Config) -> str:
    """Of an image tower that no table has."""
    name = str(getattr(config.model.image_tower, "architecture", ""))
    if not name.endswith(".json"):
        return ""
    return (
        f"The architecture of its image tower, `{name}`: a file that lies in the folder it is loaded in."
    )


def _outside_code(made: dict[str, str]) -> str:
    if not made:
        return ""
    modules = (name.partition(":")[0] for name in made.values())
    packages = ", ".join(dict.fromkeys(module.partition(".")[0] for module in modules))
    lines = [f"- {where}: `{name}`" for where, name in made.items()]
    told = (
        f"Parts of the model are code that is not here. Without {packages} installed, and named as "
        f"trusted (`BIFUSION_PLUGINS={packages.replace(' ', '')}`), it cannot be loaded."
    )
    return "\n".join([told, *lines])


def _data(shared: Shared, sources: list[str]) -> str:
    described, config = shared.described, shared.config
    lines = ["## Data"]
    if shared.is_imported:
        lines.append("- imported as weights alone: what it was trained on is not told here")
    else:
        lines.append(f"- from: {', '.join(sources) or 'not recorded'}")
    if described and not shared.is_imported:
        lines.append(
            f"- {len(described.get('train_scenes', []))} scenes to train on, "
            f"{len(described.get('val_scenes', []))} to validate on"
        )
        lines.append(f"- {config.trainer.epochs} epochs, seed {config.seed}, last checkpoint")
    if described.get("tower"):
        lines.append(f"- image tower: {described['tower']}")
    lines.append(f"- licence of the weights: {shared.licence}")
    return "\n".join(lines) + "\n"


def _classes(config: Config) -> str:
    names = ", ".join(config.labels.class_names)
    return f"## Classes\n{config.labels.describe()}: {names}\n"


def _figures(shared: Shared) -> str:
    full = shared.evaluation.get("full") or {}
    rows = [f"| {title} | {_number(full.get(key))} |" for key, title in FIGURES.items()]
    if not full:
        return "## Figures\nNone were measured.\n"
    of = f"On {_scenes(shared)}:\n"
    return "\n".join(["## Figures", of, "| | |", "| --- | --- |", *rows]) + "\n"


def _scenes(shared: Shared) -> str:
    """Which scenes the figures are of: a run's own, or, for an import, those it was evaluated on."""
    data, own = shared.evaluation.get("data"), shared.config.data
    if not shared.is_imported and data in (None, own.source or own.root.name):
        return "its validation scenes"
    return f"the validation scenes of `{data}`" if data else "scenes of data that were not recorded"


def _verdicts(report: dict[str, Any], run: str) -> str:
    """The run's arm in its comparison: mean and spread over seeds, verdicts with their evidence."""
    key = next((one["arm"] for one in report.get("runs", []) if one.get("name") == run), None)
    arm = next((one for one in report.get("arms", []) if one.get("key") == key), None)
    if arm is None:
        return "## Verdicts\nIt was part of no comparison: nothing says that it is better than others.\n"
    lines = ["## Verdicts", f"Of {arm['label']}, seeds {', '.join(map(str, arm['seeds']))}:\n"]
    for figure, title in FIGURES.items():
        sample = arm["figures"].get(figure) or {}
        if sample.get("mean") is not None:
            spread = "" if sample.get("spread") is None else f" ± {_number(sample['spread'])}"
            lines.append(f"- {title}: {_number(sample['mean'])}{spread}")
    for verdict in report.get("verdicts", []):
        if verdict["arm"] == key:
            lines.append(f"- **{verdict['criterion']}: {verdict['outcome']}.** {verdict['evidence']}")
    return "\n".join(lines) + "\n"


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "—"
