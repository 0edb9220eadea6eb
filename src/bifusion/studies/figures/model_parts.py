"""What a run's configuration tells of its model: parameters by part, channels of its features."""

from __future__ import annotations

from bifusion.models.parts import part_of_group
from bifusion.studies.figures.run import Run


def part_counts(run: Run) -> dict[str, int]:
    """Parameters of each part of the model; groups of no known part stand for themselves."""
    counts: dict[str, int] = {}
    for group, count in run.parameters.items():
        if group != "total":
            part = part_of_group(group)
            name = group if part is None else part.counted_as or part.label
            counts[name] = counts.get(name, 0) + count
    return counts


def feature_dims(run: Run) -> dict[str, int]:
    """Channels of the features, as far as the run's configuration tells them."""
    model = run.settings.get("model") or {}
    unet, tower, fusion = (model.get(part) or {} for part in ("unet", "tower", "fusion"))
    dims: dict[str, int | None] = {}
    if unet.get("planes") and unet.get("kind") != "outside":
        dims["f3d_in"] = unet["planes"][0 if unet.get("kind") == "residual" else -1]
    if run.tower is not None and run.views_used:
        small = tower.get("width") if tower.get("architecture") == "small" else None
        dims["f2d_in"] = 3 if tower.get("kind") == "pixels" else small
        dims |= {"f2d": fusion.get("dim"), "f3d": fusion.get("dim")}
    dims |= run.config.get("feature_dims") or {}
    if not run.views_used:  # the branch is built, and never run
        dims = {feature: size for feature, size in dims.items() if "2d" not in feature}
    return {feature: size for feature, size in dims.items() if size}
