"""Observes a training step; never acts. Its figures are what steps.jsonl records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifusion.evaluation.fusion_figures import share_of_2d
from bifusion.models.parts import PARTS, part_of_group
from bifusion.types import FusionControl, FusionTrace, Prediction

UNMEASURED: dict[str, Any] = dict.fromkeys(
    ("ranges", "cosine", "gate", "seen_share", "decoder_in", "class_spread")
)
"""What `record_of` says of a step in which nothing could be measured."""


def gradient_norms(groups: dict[str, list[nn.Parameter]]) -> dict[str, Tensor]:
    """Gradient norm of every group that trains, 0 where no gradient came, and the "total" of those that
    have gradients; 0-dim float32 each."""
    norms, without = {}, {}
    for name, parameters in groups.items():
        gradients = [p.grad for p in parameters if p.grad is not None]
        trained = [p for p in parameters if p.requires_grad]
        if gradients:
            norms[name] = nn.utils.get_total_norm(gradients).float()
        elif trained:
            without[name] = trained[0].new_zeros((), dtype=torch.float32)
    if norms:
        norms["total"] = torch.stack(list(norms.values())).norm()
    return norms | without


def norms_by_path(norms: dict[str, float]) -> dict[str, float | None]:
    """Norms of groups put together by the part they are of, and "total"; None for a part of which no
    group has one: frozen, or not in the model."""
    squares: dict[str, float] = {}
    for group, norm in norms.items():
        if (part := part_of_group(group)) is not None:
            squares[part.name] = squares.get(part.name, 0) + norm * norm
    paths: dict[str, float | None] = {
        part.name: squares[part.name] ** 0.5 if part.name in squares else None for part in PARTS
    }
    return paths | {"total": norms.get("total")}


def rms_and_max(features: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square and largest magnitude of (K, D) features; zeros where K is 0."""
    features = features.detach().float()
    if features.numel() == 0:
        return features.new_zeros(()), features.new_zeros(())
    norm = torch.linalg.vector_norm(features)
    lowest, highest = torch.aminmax(features)  # the norm of order infinity takes ten times as long
    return norm / features.numel() ** 0.5, torch.maximum(lowest.abs(), highest.abs())


def class_spread(logits: Sequence[Tensor]) -> Tensor | None:
    """() how far the (S_b, C + 1) semantic logits of a scene tell its superpoints apart: their standard
    deviation over the superpoints, mean over the classes and the scenes. None where no scene has two
    superpoints: one alone has nothing to be told apart from."""
    several = [one[:, :-1].float() for one in logits if len(one) > 1]
    if not several:
        return None
    return torch.stack([one.std(dim=0, correction=0).mean() for one in several]).mean()


@torch.no_grad()
def observe(prediction: Prediction) -> dict[str, Tensor]:
    """Figures of a prediction, () each, for `record_of`: of "decoder_in", the range of the superpoint
    features that enter the decoder, which every model has, `class_spread` where there is one, and of
    the fusion where views saw something.

    2D features are measured on the voxels that a view sees, 3D features before the heads on all.
    """
    figures = _range("decoder_in", prediction.superpoint_features)
    spread = class_spread(prediction.semantic_logits or [])
    if spread is not None:
        figures["class_spread"] = spread
    trace = prediction.fusion
    if trace is None or len(trace.seen_rows) == 0:
        return figures
    seen = trace.seen_rows
    f2d, f3d = trace.seen_f2d.float(), trace.f3d.index_select(0, seen).float()
    alpha, gate = trace.alpha.index_select(0, seen).float(), trace.gate.index_select(0, seen).float()
    figures |= _range("f2d_in", trace.seen_f2d_in) | _range("f3d_in", trace.f3d_in)
    figures |= _range("f2d", f2d) | _range("f3d", trace.f3d)
    return figures | {
        "cosine": F.cosine_similarity(f2d, f3d, dim=1).mean(),
        "alpha_mean": alpha.mean(),
        "alpha_std": alpha.std(correction=0),
        "gate_mean": gate.mean(),
        "share_2d": share_of_2d(gate, f2d, f3d).mean(),
    }


@dataclass(frozen=True)
class Fused:
    """What the host knows of a fusion without asking a device."""

    seen_share: float
    """Of the voxels, by at least one view."""
    learned: bool

    @classmethod
    def of(cls, trace: FusionTrace | None) -> Fused | None:
        """None where no 2D branch ran."""
        if trace is None:
            return None
        return cls(len(trace.seen_rows) / len(trace.seen), trace.learned)


def record_of(
    figures: Mapping[str, float], fused: Fused | None, control: FusionControl
) -> dict[str, Any]:
    """The fields of `UNMEASURED` in a step's record, of the figures that `observe` made, fetched; None
    where not measurable."""
    record: dict[str, Any] = dict(UNMEASURED)
    record["decoder_in"] = _range_of("decoder_in", figures)
    record["class_spread"] = figures.get("class_spread")
    if fused is None:
        return record
    record["seen_share"] = fused.seen_share
    if fused.seen_share == 0:
        return record
    ranges: dict[str, Any] = {n: _range_of(n, figures) for n in ("f2d_in", "f3d_in", "f2d", "f3d")}
    ranges["ratio_in"] = _ratio(ranges["f2d_in"]["rms"], ranges["f3d_in"]["rms"])
    ranges["ratio_out"] = _ratio(ranges["f2d"]["rms"], ranges["f3d"]["rms"])
    gate = {name: figures[name] for name in ("alpha_mean", "alpha_std", "gate_mean", "share_2d")}
    gate = {"scale": control.scale, **gate, "learned": fused.learned}
    return record | {"ranges": ranges, "cosine": figures["cosine"], "gate": gate}


def _range(name: str, features: Tensor) -> dict[str, Tensor]:
    rms, largest = rms_and_max(features)
    return {f"{name}.rms": rms, f"{name}.max": largest}


def _range_of(name: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {"rms": figures[f"{name}.rms"], "max": figures[f"{name}.max"]}


def _ratio(first: float, second: float) -> float | None:
    return first / second if second > 0 else None
