"""Where numbers must be sound: in a batch, activations, buffers, the optimiser's state.

Each check puts its figures among a step's (`Figures`) and is read when these have been fetched; what is
suspicious then is looked at element by element.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from bifusion.step.figures import Figures
from bifusion.types import Batch, Prediction

VIEW_TENSORS = (
    "image", "image_depth_m", "K", "world2cam", "depth_m", "depth_K", "depth_world2cam",
)  # fmt: skip


def nonfinite_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with a NaN or infinity in them; one device synchronisation in all."""
    figures = Figures()
    figures.watch("", tensors.items())
    figures.fetch()
    return figures.nonfinite("")


def bad_inputs(batch: Batch) -> tuple[list[str], list[str]]:
    """Names of the input tensors with a NaN or infinity, and the scenes whose part has it.

    To be asked while the batch lies on the host: a position that is not finite finds no pixel, and an
    index out of range ends a process that uses a GPU.
    """
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


def border_activations(prediction: Prediction) -> dict[str, list[Tensor]]:
    """Activations at the borders between the parts of a model, by name; logits a scene."""
    last, fusion = prediction.layers[-1], prediction.fusion
    activations = {
        "superpoint_features": [prediction.superpoint_features],
        "class_logits": last.class_logits,
        "mask_logits": last.mask_logits,
    }
    if prediction.semantic_logits is not None:
        activations["semantic_logits"] = prediction.semantic_logits
    if fusion is not None:
        activations |= {
            "f2d_in": [fusion.seen_f2d_in],
            "f3d_in": [fusion.f3d_in],
            "f2d": [fusion.seen_f2d],
            "f3d": [fusion.f3d],
            "alpha": [fusion.alpha],
        }
    return activations


class Statistics:
    """A model's buffers: BatchNorm's running statistics. A forward pass moves them, a loss does not
    show it.

    One huge activation, which the norm takes out of the forward pass again, is enough to multiply a
    running variance by 10^5; every evaluation of the next hundred steps then goes wrong while losses
    look as ever. A negative one is as bad: evaluation takes its root, training does not read it.
    """

    def __init__(self, model: nn.Module, groups: Mapping[str, Sequence[nn.Parameter]]):
        self._buffers = list(model.buffers())
        self._kept = [torch.empty_like(buffer) for buffer in self._buffers]
        self._remembers = False
        """All buffers are kept, and may have moved since. A signal may end a step at any point."""
        self._by_group = list(_buffers_by_group(model, groups))
        self._variances: dict[str, Tensor] = {
            path: variance
            for path, module in model.named_modules()
            if isinstance(variance := getattr(module, "running_var", None), Tensor)
        }
        self._before: list[Tensor] = []

    @torch.no_grad()
    def remember(self) -> None:
        """Keeps a copy of all buffers as they are now: a step's forward pass comes next."""
        self._remembers = False
        _copy(self._kept, self._buffers)
        self._before = self._sums()
        self._remembers = True

    @torch.no_grad()
    def put_back(self) -> None:
        """Gives all buffers the values remembered for this step, if they are."""
        if self._remembers:
            _copy(self._buffers, self._kept)
        self._remembers = False

    def forget(self) -> None:
        """The step was taken: its buffers stay."""
        self._remembers = False

    @torch.no_grad()
    def watch(self, figures: Figures, place: str) -> None:
        """To be asked what is `bad` in the buffers as they are now."""
        figures.watch(f"{place}.buffers", ((group, buffer) for group, _, buffer in self._by_group))
        lowest = [v.amin() for g, name, v in self._by_group if name == "running_var"]
        figures.put(f"{place}.lowest", {str(i): low for i, low in enumerate(lowest)})

    def bad(self, figures: Figures, place: str) -> list[str]:
        """Groups with a buffer that is not finite or, if there is none, with a negative variance."""
        groups = [group for group, name, _ in self._by_group if name == "running_var"]
        lowest = figures.at(f"{place}.lowest").values()
        negative = [group for group, low in zip(groups, lowest, strict=True) if low < 0]
        return figures.nonfinite(f"{place}.buffers") or list(dict.fromkeys(negative))

    @torch.no_grad()
    def watch_growth(self, figures: Figures) -> None:
        """To be asked for `growth` since `remember`."""
        if self._variances:
            ratios = torch.stack(self._sums()) / torch.stack(self._before).clamp(min=1e-12)
            figures.put("growth", dict(zip(self._variances, ratios.unbind(), strict=True)))

    def growth(self, figures: Figures, least: float = 2.0) -> dict[str, float]:
        """Factor by which the step has multiplied a module's mean running variance, by module in the
        order of the model, where it is at least `least`."""
        return {path: ratio for path, ratio in figures.at("growth").items() if ratio >= least}

    def _sums(self) -> list[Tensor]:
        return list(torch._foreach_norm(list(self._variances.values()), 1)) if self._variances else []  # pyright: ignore[reportPrivateImportUsage]


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)  # pyright: ignore[reportPrivateImportUsage]


def _buffers_by_group(
    model: nn.Module, groups: Mapping[str, Sequence[nn.Parameter]]
) -> Iterator[tuple[str, str, Tensor]]:
    """Group, name and tensor of every floating-point buffer.

    A buffer belongs to the group of its module's own parameters, or, where it has none, to the part
    of the model it lies in.
    """
    group_of = {id(p): name for name, parameters in groups.items() for p in parameters}
    for path, module in model.named_modules():
        own = [group_of.get(id(p)) for p in module.parameters(recurse=False)]
        group = next((name for name in own if name is not None), path.split(".")[0] or "model")
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and buffer.numel():
                yield group, name, buffer


@torch.no_grad()
def watch_moments(figures: Figures, optimizer: torch.optim.Optimizer) -> None:
    """Adam's moments, to be asked which are `bad_moments`."""
    parameters = [(part["name"], p) for part in optimizer.param_groups for p in part["params"]]
    moments = {
        f"{group} {index}": optimizer.state[parameter]
        for index, (group, parameter) in enumerate(parameters)
        if optimizer.state.get(parameter) and parameter.numel()
    }
    figures.watch("moments.first", ((name, state["exp_avg"]) for name, state in moments.items()))
    ends = {name: torch.aminmax(state["exp_avg_sq"]) for name, state in moments.items()}
    figures.put("moments.lowest", {name: end.min for name, end in ends.items()})
    figures.put("moments.highest", {name: end.max for name, end in ends.items()})


def bad_moments(figures: Figures) -> list[str]:
    """Names of the optimiser's groups whose moments would carry a bad number into the weights.

    First moments must have a finite norm: those whose squares overflow float32 (1e19 and more) are
    refused as well, since the update they make, divided by a small second moment, is not finite
    either. Second moments must be finite and not negative: their square root divides.
    """
    lowest, highest = figures.at("moments.lowest"), figures.at("moments.highest")
    bad = [
        name.rpartition(" ")[0]
        for name, norm in figures.at("moments.first").items()
        if not (math.isfinite(norm) and lowest[name] >= 0 and math.isfinite(highest[name]))
    ]
    return list(dict.fromkeys(bad))


def is_sound(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Weights, buffers and moments are such that a step can begin from them."""
    figures = Figures()
    numbers = [("state", t) for t in model.state_dict().values() if t.is_floating_point()]
    figures.watch("model", numbers)
    watch_moments(figures, optimizer)
    figures.fetch()
    return not (figures.nonfinite("model") or bad_moments(figures))
