"""Files as the official projects saved them, in every layout, imported and compared with ours.

Made of the names and shapes in NAME.tensors.json with weights by name, as in the other checks.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import needs
from bifusion.official.import_checkpoint import read_checkpoint, write_imported
from bifusion.official.models import convert
from bifusion.runs.trained_model import load_model
from reference.checks_mask3d import load_case as load_mask3d_case
from reference.checks_models import load_case, relative_error, weight_by_name
from reference.test_reference import REFERENCE

ROTATIONS = tuple(f"rotation {shift}" for shift in range(1, 5))
LAYOUTS = {
    "oneformer3d_scannet20": ("official", "legacy", "module.", *ROTATIONS),
    "oneformer3d_scannet200": ("official", "legacy", "module.", "kernels (1, in, out)"),
    "mask3d_scannet20": ("official", "legacy", "without model.", "kernels (1, in, out)"),
}
KINDS = tuple(LAYOUTS)


class Meta:
    """Stands for the configuration objects that mmengine and Lightning put beside the weights."""

    def __init__(self) -> None:
        self.history = np.arange(3)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """A published model; all tests of one come one after another."""
    return request.param


@pytest.fixture(scope="module")
def tensors(kind: str) -> dict[str, Tensor]:
    """Its state dict."""
    path = REFERENCE / "models" / f"{kind}.tensors.json"
    if not path.is_file():
        needs.lacking("reference", path)
    shapes = json.loads(path.read_text())["tensors"]
    return {
        name: torch.as_tensor(weight_by_name(name.removeprefix("model."), tuple(shape)))
        for name, shape in shapes.items()
    }


def save(kind: str, tensors: dict[str, Tensor], path: Path, *, legacy: bool = False) -> Path:
    """As the project's trainer saves: with objects of its own and an optimiser beside the weights."""
    content: dict = {"state_dict": tensors, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}
    if kind.startswith("mask3d"):
        tensors["criterion.empty_weight"] = torch.ones(19)
        content |= {"hyper_parameters": {"config": Meta()}, "pytorch-lightning_version": "1.7.2"}
    else:
        content |= {"meta": {"cfg": Meta(), "epoch": 512}, "message_hub": Meta()}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def rearranged(tensors: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """The same weights as an older or converted file holds them."""
    if layout.startswith("rotation"):
        axes = [(axis + int(layout[-1])) % 5 for axis in range(5)]
        return {n: t.permute(axes).contiguous() if t.ndim == 5 else t for n, t in tensors.items()}
    if layout == "kernels (1, in, out)":
        return {n: t[None] if n.endswith(".kernel") and t.ndim == 2 else t for n, t in tensors.items()}
    if layout == "without model.":
        return {n.removeprefix("model."): t for n, t in tensors.items()}
    if layout == "module.":
        return {f"module.{n}": t for n, t in tensors.items()}
    return dict(tensors)


def test_every_layout_gives_the_same_weights(
    kind: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    expected = convert(kind, tensors).state
    for layout in LAYOUTS[kind]:
        changed = rearranged(tensors, layout)
        path = save(kind, changed, tmp_path / "x.pth", legacy=layout == "legacy")
        imported = read_checkpoint(path)
        assert imported.kind == kind, layout
        assert imported.conversion.complete, (layout, imported.conversion.problems())
        assert imported.conversion.state.keys() == expected.keys()
        for name, tensor in imported.conversion.state.items():
            assert torch.equal(tensor, expected[name]), (layout, name)
        path.unlink()


def test_imported_checkpoint_predicts_what_the_official_code_does(
    kind: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    case = next(iter(sorted((REFERENCE / "models").glob(f"{kind}.case*.npz"))), None)
    if case is None:
        needs.lacking("reference", f"no case of {kind} in {REFERENCE}")
    imported = read_checkpoint(save(kind, dict(tensors), tmp_path / "x.pth"))
    model, config = load_model(write_imported(imported, tmp_path / "run"))
    assert config.model == imported.config.model
    expected = np.load(case)
    batch = load_mask3d_case(case) if kind.startswith("mask3d") else load_case(case)
    if kind.startswith("mask3d"):
        model.decoder.config.eval_queries = len(expected["query_points"])
    with torch.no_grad():
        layer = model(batch).layers[-1]
    assert relative_error(layer.class_logits[0], expected["class_logits"]) < 1e-4
    assert relative_error(layer.mask_logits[0], expected["mask_logits"]) < 1e-4


def test_missing_and_misshapen_tensors_are_listed(
    kind: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    changed = dict(tensors)
    names = [name for name, tensor in tensors.items() if tensor.ndim > 1]
    del changed[names[0]]
    changed[names[1]] = torch.zeros(3, 3)
    imported = read_checkpoint(save(kind, changed, tmp_path / "x.pth"))
    assert list(imported.conversion.missing) == [names[0]]
    assert list(imported.conversion.misshapen) == [names[1]]
