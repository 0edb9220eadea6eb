"""Looks for numbers that must not be: in a batch, activations, buffers, the optimiser's state.

Every check looks at all tensors with one device synchronisation, and only where its cheap first
figure is suspicious at every element, so that it can run in every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bifusion.types import Batch, Prediction

VIEW_TENSORS = (
    "image", "image_depth_m", "K", "world2cam", "depth_m", "depth_K", "depth_world2cam",
)  # fmt: skip


def nonfinite_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with a NaN or infinity in them; one device synchronisation in all."""
    bad = _nonfinite(list(tensors.values()))
    return [name for name, is_bad in zip(tensors, bad, strict=True) if is_bad]


@torch.no_grad()
def _nonfinite(tensors: Sequence[Tensor]) -> list[bool]:
    """For each tensor: whether it has a NaN or infinity.

    Norms are cheap and carry both along; only where one is not finite, which that of huge finite
    numbers may be too, every element is looked at.
    """
    if not tensors:
        return []
    norms = _norms(tensors)
    suspect = (~torch.isfinite(norms)).tolist()
    return [
        odd and not bool(torch.isfinite(tensor).all())
        for tensor, odd in zip(tensors, suspect, strict=True)
    ]


def bad_inputs(batch: Batch) -> tuple[list[str], list[str]]:
    """Names of the input tensors with a NaN or infinity, and the scenes whose part has it."""
    of_voxels = ("voxel_feats", "voxel_position_m", "voxel_augmented_m")
    scene_of_voxel = batch.voxel_coords[:, 0]
    scene_of_bounds = torch.arange(len(batch.names), device=scene_of_voxel.device)
    inputs: dict[str, tuple[Tensor, Tensor | int]] = {
        name: (value, scene_of_voxel)
        for name in of_voxels
        if (value := getattr(batch, name)) is not None
    }
    inputs["scene_bounds_m"] = (batch.scene_bounds_m, scene_of_bounds)
    for view in batch.views:
        place = f"views.{batch.names[view.scene]}.{view.name}"
        inputs |= {f"{place}.{name}": (getattr(view, name), view.scene) for name in VIEW_TENSORS}
    bad = nonfinite_names({name: tensor for name, (tensor, _) in inputs.items()})
    scenes: set[int] = set()
    for name in bad:
        tensor, scene = inputs[name]
        if isinstance(scene, int):
            scenes.add(scene)
        else:
            rows = (~torch.isfinite(tensor)).flatten(1).any(dim=1).nonzero()[:, 0]
            scenes |= set(scene.index_select(0, rows).tolist())
    return bad, [batch.names[scene] for scene in sorted(scenes)]


def border_activations(prediction: Prediction) -> dict[str, Tensor]:
    """Activations at the borders between the parts of a model, by name."""
    last = prediction.layers[-1]
    activations = {
        "superpoint_features": prediction.superpoint_features,
        "class_logits": torch.cat([logits.flatten() for logits in last.class_logits]),
        "mask_logits": torch.cat([logits.flatten() for logits in last.mask_logits]),
    }
    if prediction.semantic_logits is not None:
        activations["semantic_logits"] = torch.cat([x.flatten() for x in prediction.semantic_logits])
    if prediction.fusion is not None:
        names = ("f2d_in", "f3d_in", "f2d", "f3d", "alpha")
        activations |= {name: getattr(prediction.fusion, name) for name in names}
    return activations


def buffers_by_group(
    model: nn.Module, groups: Mapping[str, Sequence[nn.Parameter]], name: str | None = None
) -> dict[str, list[Tensor]]:
    """Floating-point buffers (BatchNorm's running statistics), or those called `name`, by parameter
    group.

    A buffer belongs to the group of its module's own parameters, or, where it has none, to the part
    of the model it lies in.
    """
    group_of = {id(p): name for name, parameters in groups.items() for p in parameters}
    buffers: dict[str, list[Tensor]] = {}
    for path, module in model.named_modules():
        own = [group_of.get(id(p)) for p in module.parameters(recurse=False)]
        group = next((name for name in own if name is not None), path.split(".")[0] or "model")
        for own_name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and buffer.numel() and name in (None, own_name):
                buffers.setdefault(group, []).append(buffer)
    return buffers


def nonfinite_groups(tensors: Mapping[str, Sequence[Tensor]]) -> list[str]:
    """Names of the groups in which a tensor has a NaN or infinity."""
    names = [name for name, members in tensors.items() for _ in members]
    bad = _nonfinite([tensor for members in tensors.values() for tensor in members])
    return list(dict.fromkeys(name for name, is_bad in zip(names, bad, strict=True) if is_bad))


@torch.no_grad()
def negative_groups(variances: Mapping[str, Sequence[Tensor]]) -> list[str]:
    """Names of the groups in which a variance is below 0: every evaluation takes its square root,
    training does not."""
    every = [tensor for members in variances.values() for tensor in members]
    if not every or torch.cat([tensor.flatten() for tensor in every]).min().item() >= 0:
        return []
    return [name for name, members in variances.items() if any(bool((t < 0).any()) for t in members)]


class VarianceWatch:
    """How far a step moves BatchNorm's running variances, which training itself never reads.

    One huge activation, which the norm takes out of the forward pass again, is enough to multiply them
    by 10^5; every evaluation of the next hundred steps then goes wrong while losses look as ever.
    """

    def __init__(self, model: nn.Module):
        self._variances: dict[str, Tensor] = {
            path: variance
            for path, module in model.named_modules()
            if isinstance(variance := getattr(module, "running_var", None), Tensor)
        }
        self._before: list[Tensor] = []

    def begin(self) -> None:
        """The step's forward pass comes next."""
        self._before = self._sums()

    def growth(self, least: float = 2.0) -> dict[str, float]:
        """Factor by which the step has multiplied a module's mean running variance, by module in the
        order of the model, where it is at least `least`; one device synchronisation."""
        if not self._variances:
            return {}
        ratios = torch.stack(self._sums()) / torch.stack(self._before).clamp(min=1e-12)
        named = zip(self._variances, ratios.tolist(), strict=True)
        return {path: ratio for path, ratio in named if ratio >= least}

    @torch.no_grad()
    def _sums(self) -> list[Tensor]:
        return [torch.linalg.vector_norm(variance, 1) for variance in self._variances.values()]


@torch.no_grad()
def bad_optimizer_groups(optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimiser's groups whose Adam moments would carry a bad number into the weights.

    First moments must have a finite norm: those whose squares overflow float32 (1e19 and more) are
    refused as well, since the update they make, divided by a small second moment, is not finite
    either. Second moments must be finite and not negative: their square root divides.
    """
    first, second, names = [], [], []
    for part in optimizer.param_groups:
        for parameter in part["params"]:
            moments = optimizer.state.get(parameter)
            if moments and moments["exp_avg"].numel():
                first.append(moments["exp_avg"])
                second.append(moments["exp_avg_sq"])
                names.append(part["name"])
    if not names:
        return []
    norms = _norms(first)
    lowest, highest = (
        torch.stack(ends) for ends in zip(*(torch.aminmax(t) for t in second), strict=True)
    )
    fits = (torch.isfinite(norms) & (lowest >= 0) & torch.isfinite(highest)).tolist()
    bad = {name for name, fit in zip(names, fits, strict=True) if not fit}
    return [name for name in dict.fromkeys(names) if name in bad]


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Norm of every tensor; one launch on a GPU."""
    norms = torch._foreach_norm(list(tensors), 2)  # pyright: ignore[reportPrivateImportUsage]
    return torch.stack([norm.float() for norm in norms])
