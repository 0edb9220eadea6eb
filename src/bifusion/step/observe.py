"""Observes a training step; never acts. Its figures are what steps.jsonl records."""

from __future__ import annotations

import resource
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifusion.evaluation.fusion_figures import share_of_2d
from bifusion.models.parts import PARTS, part_of_group
from bifusion.types import FusionControl, FusionTrace, Prediction


def gradient_norms(groups: dict[str, list[nn.Parameter]]) -> dict[str, Tensor]:
    """Gradient norm of every group that has gradients, and their "total"; 0-dim float32 each."""
    norms = {}
    for name, parameters in groups.items():
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients:
            norms[name] = nn.utils.get_total_norm(gradients).float()
    if norms:
        norms["total"] = torch.stack(list(norms.values())).norm()
    return norms


def norms_by_path(norms: dict[str, float]) -> dict[str, float | None]:
    """Norms of groups put together by the part they are of, and "total"; None for a part without
    gradients."""
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
    largest = torch.linalg.vector_norm(features, ord=torch.inf)
    return norm / features.numel() ** 0.5, largest


@torch.no_grad()
def observe(prediction: Prediction, control: FusionControl) -> dict:
    """`observe_fusion`, and "decoder_in", the range of the superpoint features that enter the decoder:
    every model has these, with or without a 2D branch."""
    rms, largest = torch.stack(rms_and_max(prediction.superpoint_features)).tolist()
    return {
        **observe_fusion(prediction.fusion, control),
        "decoder_in": {"rms": rms, "max": largest},
    }


@torch.no_grad()
def observe_fusion(trace: FusionTrace | None, control: FusionControl) -> dict:
    """ "ranges", "cosine", "gate" and "seen_share" of a step's record; None where not measurable.

    2D features are measured on the voxels that a view sees, 3D features before the heads on all.
    One device synchronisation in all.
    """
    nothing = {"ranges": None, "cosine": None, "gate": None, "seen_share": None}
    if trace is None:
        return nothing
    seen = trace.seen.nonzero()[:, 0]
    if len(seen) == 0:
        return nothing | {"seen_share": 0.0}
    f2d, f3d = trace.f2d.index_select(0, seen).float(), trace.f3d.index_select(0, seen).float()
    alpha, gate = trace.alpha.index_select(0, seen).float(), trace.gate.index_select(0, seen).float()
    measured = {
        "f2d_in": trace.f2d_in.index_select(0, seen),
        "f3d_in": trace.f3d_in,
        "f2d": f2d,
        "f3d": trace.f3d,
    }
    figures = [figure for features in measured.values() for figure in rms_and_max(features)]
    figures += [F.cosine_similarity(f2d, f3d, dim=1).mean(), alpha.mean(), alpha.std(correction=0)]
    figures += [gate.mean(), share_of_2d(gate, f2d, f3d).mean()]
    values = torch.stack([figure.to(f2d.dtype) for figure in figures]).tolist()
    ranges: dict = {
        name: {"rms": values[2 * i], "max": values[2 * i + 1]} for i, name in enumerate(measured)
    }
    ranges["ratio_in"] = _ratio(ranges["f2d_in"]["rms"], ranges["f3d_in"]["rms"])
    ranges["ratio_out"] = _ratio(ranges["f2d"]["rms"], ranges["f3d"]["rms"])
    cosine, alpha_mean, alpha_std, gate_mean, share_2d = values[2 * len(measured) :]
    return {
        "ranges": ranges,
        "cosine": cosine,
        "gate": {
            "scale": control.scale,
            "alpha_mean": alpha_mean,
            "alpha_std": alpha_std,
            "gate_mean": gate_mean,
            "share_2d": share_2d,
            "learned": trace.learned,
        },
        "seen_share": len(seen) / len(trace.seen),
    }


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far: allocated on a CUDA device, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class MovingAverage:
    """Exponential moving average that a non-finite value passes by without a trace."""

    def __init__(self, decay: float = 0.95):
        self.decay = decay
        self.value: float | None = None

    def update(self, value: float) -> float | None:
        """Takes `value` in if it is finite; returns the average so far, None before the first."""
        if value == value and abs(value) != float("inf"):
            self.value = (
                value if self.value is None else self.decay * self.value + (1 - self.decay) * value
            )
        return self.value


def _ratio(first: float, second: float) -> float | None:
    return first / second if second > 0 else None
