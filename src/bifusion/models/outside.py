"""Parts of a model that a function of somebody else's package makes: what holds of each kind."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.parameter import is_lazy

from bifusion import plugins
from bifusion.errors import InputError

Part = TypeVar("Part", bound=nn.Module)


def outside_part(name: str, field: str, kind: type[Part], *given: object) -> Part:
    """The `kind` that the function `name`, "module:function" of a package that you have named as trusted
    (`plugins.py`), makes of `given`.

    Args:
        field: of the configuration that names it, for errors.

    Raises:
        InputError: it makes no such part, or one with parameters whose shape a first call decides
            (nn.LazyLinear): they are counted, grouped and loaded before.
    """
    part = plugins.make(name, field, kind, *given)
    tensors = (*part.named_parameters(), *part.named_buffers())
    lazy = [tensor for tensor, values in tensors if is_lazy(values)]
    if lazy:
        raise InputError(
            f"{returned(name, field, part)} with {', '.join(lazy)} of no shape yet; expected layers "
            "that know theirs (nn.Linear for nn.LazyLinear)"
        )
    return part


def returned(name: str, field: str, part: nn.Module) -> str:
    """How errors begin that are about a part."""
    return f"{field}: {name} returned a {type(part).__name__}"


def check_channels(part: nn.Module, where: str) -> None:
    """InputError, which begins with `where`, unless its `out_channels` is a number above 0."""
    channels = getattr(part, "out_channels", None)
    if not isinstance(channels, int) or channels < 1:
        raise InputError(f"{where} whose out_channels is {channels!r}, expected a number above 0")
