"""Every case of the reference folder against our models, losses and evaluators.

The folder is named by BIFUSION_REFERENCE, else it is `../shared/reference`. Each check
returns named errors, which are printed beside their bound (`pytest -s`).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import needs

REFERENCE = needs.folder("BIFUSION_REFERENCE", "reference")
CASES = sorted(REFERENCE.rglob("*.case*.npz")) or [None]


def check_model(path: Path) -> dict[str, float]:
    from reference.checks_models import check_oneformer3d

    return check_oneformer3d(path)


def check_losses(path: Path) -> dict[str, float]:
    from reference.checks_losses import check_losses as check

    return check(path)


def check_postprocess(path: Path) -> dict[str, float]:
    from reference.checks_losses import check_postprocess as check

    return check(path)


def check_mask3d(path: Path) -> dict[str, float]:
    from reference.checks_mask3d import check_mask3d as check

    return check(path)


def check_evaluation(path: Path) -> dict[str, float]:
    from reference.checks_evaluation import check_evaluation as check

    return check(path)


CHECKS = {
    "oneformer3d_scannet20": check_model,
    "oneformer3d_scannet200": check_model,
    "mask3d_scannet20": check_mask3d,
    "oneformer3d_losses": check_losses,
    "oneformer3d_postprocess": check_postprocess,
    "scannet_eval": check_evaluation,
}


def bound(family: str, name: str) -> float:
    """Largest error allowed: absolute for evaluation, entries that differ where exact, else relative."""
    if family == "scannet_eval":
        return 1e-6
    if family == "oneformer3d_losses":
        return 0.0 if name.endswith("matches") else 1e-5
    if family == "oneformer3d_postprocess":
        return 1e-6 if name == "scores" else 0.0
    if name.startswith("crowded"):
        return 1e-5
    return {"superpoint_features": 1e-6, "voxels": 0.0, "query_points": 0.0}.get(name, 1e-4)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem if path else "none")
def test_case(path: Path | None) -> None:
    if path is None:
        needs.lacking("reference", f"no cases in {REFERENCE}")
    family = path.name.split(".")[0]
    assert family in CHECKS, f"no check for {path.name}; known are {', '.join(sorted(CHECKS))}"
    errors = CHECKS[family](path)
    assert errors, f"{path.name}: nothing was compared"
    print(f"\n{path.name}")
    for name, error in errors.items():
        print(f"  {name:40s} {error:10.3g}   allowed {bound(family, name):g}")
    # not `error > bound`, which a NaN would pass
    failed = {name: error for name, error in errors.items() if not error <= bound(family, name)}
    assert not failed, f"{path.name}: {failed}"


@pytest.mark.parametrize("name", ["oneformer3d_scannet20", "oneformer3d_scannet200", "mask3d_scannet20"])
def test_parameter_count(name: str) -> None:
    """Our network has the official number of parameters, in as many tensors."""
    path = REFERENCE / "models" / f"{name}.tensors.json"
    if not path.is_file():
        needs.lacking("reference", path)
    from bifusion.official.models import official_models

    official = json.loads(path.read_text())
    model = official_models()[name].build()
    assert sum(p.numel() for p in model.parameters()) == official["parameters"]
    buffers = ("running_mean", "running_var", "num_batches_tracked", "gauss_B")
    learned = [shape for tensor, shape in official["tensors"].items() if not tensor.endswith(buffers)]
    assert sum(math.prod(shape) for shape in learned) == official["parameters"]
    assert len(learned) == len(list(model.parameters()))
