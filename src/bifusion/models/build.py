"""A model with the initial weights of its seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bifusion.errors import InputError
from bifusion.labels.label_set import LabelSet
from bifusion.models.backbone import FUNCTION
from bifusion.models.model import Model, ModelConfig
from bifusion.models.parts import check_groups
from bifusion.models.unet import build_unet
from bifusion.rng import seed_cpu


def build_model(
    config: ModelConfig, seed: int, labels: LabelSet, *, load_pretrained: bool = True
) -> Model:
    """The network for the classes `labels`, with the initial weights that belong to `seed`.

    `load_pretrained` False: the image tower's weights are not read, a checkpoint will bring them.
    Backbone and decoder draw from streams of their own, so that arms with the same seed start from
    the same values wherever their shapes agree (runs are compared paired by seed). Global generators
    are left as they were, of all devices. Raises InputError for a parameter that no part of `parts.py`
    has, and for a part from outside that its function does not make as it should.
    """
    with torch.random.fork_rng(devices=[]):
        seed_cpu(seed, "init")
        model = config.build(labels, load_pretrained=load_pretrained)
        if not next(model.parameters()).is_meta:
            _pair_initial_weights(model, config, seed, labels)
    check_groups(model, model.parameter_groups())
    return model


def build_bare(config: ModelConfig, seed: int, labels: LabelSet) -> Model:
    """The same network for its names and shapes, or for a checkpoint to bring its values: on the meta
    device, where nothing is drawn or allocated. On the CPU where a part is from outside, which may read
    values as it is made."""
    with torch.device("cpu") if config.outside_parts else shapes_alone():
        return build_model(config, seed, labels, load_pretrained=False)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Networks made in this block are on the meta device: names, shapes and types."""
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    """Leaves normal numbers out: to draw them on the meta device torch first imports its compiler, which
    takes longer than all else that a small network needs to be read."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.normal_:
            return args[0]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def _pair_initial_weights(model: Model, config: ModelConfig, seed: int, labels: LabelSet) -> None:
    seed_cpu(seed, "init", "backbone")
    drawn = build_unet(config.unet).state_dict()
    try:
        model.get_submodule("unet").load_state_dict(drawn)
    except RuntimeError as error:  # of ours all that one configuration makes are alike
        raise InputError(
            f"{FUNCTION}: {config.unet.function} returned networks of other tensors when it was called "
            f"twice; expected the same names and shapes ({error})"
        ) from error
    seed_cpu(seed, "init", "decoder")
    twin = config.twin_decoder(labels)
    if twin is None:
        return
    decoder = model.get_submodule("decoder")
    own = decoder.state_dict()
    shared = {n: t for n, t in twin.state_dict().items() if n in own and own[n].shape == t.shape}
    decoder.load_state_dict({**own, **shared})
