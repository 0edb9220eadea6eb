"""A device that is pretended: its tensors say "pretend:0", but are computed on the CPU.

What a real GPU would forbid raises here too, and what would make the host wait for one is counted, with
the line of the product that asked for it: so where tensors are made, and how often a step waits, is
shown without any GPU. Built on torch's experimental Python backend. Not covered: streams, pinned memory,
kernels of one's own, and the numbers a GPU would give.

Use `pretended()` as a context; it yields the list of `Stall`s met so far.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = "pretend:0"
aten = torch.ops.aten

WAITING = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.equal.default: "equal",
    aten.masked_select.default: "masked_select",
    aten._unique.default: "unique",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
    aten.repeat_interleave.Tensor: "repeat_interleave",
}
"""Operations whose result, or its size, the host must have before it goes on."""
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
COPIES = (aten._to_copy.default, aten.copy_.default)


@dataclass(frozen=True)
class Stall:
    """The host waits until the device has done all that was asked of it."""

    kind: str
    place: str
    """File and line of the product, and the function."""


STALLS: list[Stall] = []


class Mixed(RuntimeError):
    """A CPU tensor met one on the device."""


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_available(self) -> bool:
        return True


backend_registration._setup_privateuseone_for_python_backend("pretend", backend_module=_Backend())


def _on_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == "pretend"


def _stall(kind: str) -> None:
    frame = sys._getframe(1)
    while frame is not None and "/bifusion/" not in frame.f_code.co_filename:
        frame = frame.f_back
    place = "outside"
    if frame is not None:
        file = frame.f_code.co_filename.rpartition("/bifusion/")[2]
        place = f"{file}:{frame.f_lineno} {frame.f_code.co_name}"
    STALLS.append(Stall(kind, place))


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, Pretended) else value


def _pretend(value: Any) -> Any:
    return Pretended(value) if isinstance(value, Tensor) and not isinstance(value, Pretended) else value


class Pretended(torch.Tensor):
    """A tensor on the device; `raw` holds its numbers."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Pretended:
        tensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(),
            dtype=raw.dtype, device=DEVICE, requires_grad=False,
        )  # fmt: skip
        tensor.raw = raw
        return tensor

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.raw})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A file holds it as it holds a GPU's tensor that is loaded to the CPU."""
        _stall("copy to the CPU")
        return self.raw.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in COPIES:
            return _copy(function, args, kwargs)
        _look(function, args, kwargs)
        if _on_device(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
        out = function(*tree_map(_raw, args), **tree_map(_raw, kwargs))
        return _returned(function, args, kwargs, out)


def _look(function: Any, args: Any, kwargs: Any) -> None:
    """Counts what waits, and refuses what mixes devices."""
    if function in WAITING:
        _stall(WAITING[function])
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    if function in INDEXING:
        indices = [i for i in args[1] if i is not None]
        if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
            _stall("boolean indexing")
        if any(not isinstance(i, Pretended) for i in indices):
            _stall("index on the CPU")
            return
    strangers = [t for t in tensors if not isinstance(t, Pretended) and t.dim() > 0]
    if strangers:
        raise Mixed(f"{function}: a CPU tensor {tuple(strangers[0].shape)} meets one on the device")


def _copy(function: Any, args: Any, kwargs: Any) -> Any:
    """Between devices: down waits for the device, and so does up unless it is asked not to."""
    if function is aten.copy_.default:
        target, source = args[0], args[1]
        up = isinstance(target, Pretended) and not isinstance(source, Pretended)
        down = not isinstance(target, Pretended)
        waits = len(args) < 3 or not args[2]
    else:
        source = args[0]
        to = kwargs.get("device")
        there = isinstance(source, Pretended)
        up = not there and _on_device(to)
        down = there and to is not None and not _on_device(to)
        waits = not kwargs.get("non_blocking")
    if down:
        _stall("copy to the CPU")
    elif up and waits:
        _stall("waiting copy to the device")
    if function is aten.copy_.default:
        function(_raw(args[0]), _raw(args[1]))
        return args[0]
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    out = function(_raw(source), **kwargs)
    return Pretended(out) if up or (isinstance(source, Pretended) and not down) else out


def _returned(function: Any, args: Any, kwargs: Any, out: Any) -> Any:
    """What the caller gets: for an operation in place the very tensors that it was given."""
    schema = function._schema
    given = list(args)
    written = [i for i, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write]
    if written and not isinstance(out, (tuple, list)) and isinstance(out, Tensor):
        first = written[0]
        target = given[first] if first < len(given) else kwargs.get(schema.arguments[first].name)
        if isinstance(target, Pretended) and target.raw is out:
            return target
    return tree_map(_pretend, out)


def _fallback(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Operations that make tensors on the device out of none."""
    if "device" in kwargs:
        kwargs["device"] = torch.device("cpu")
    return tree_map(_pretend, operation(*tree_map(_raw, args), **tree_map(_raw, kwargs)))


_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(_fallback, "PrivateUse1")

_FILLED = {
    torch.arange, torch.zeros, torch.ones, torch.empty, torch.full, torch.rand, torch.randn,
    torch.linspace, torch.eye, torch.randperm, torch.randint,
}  # fmt: skip
_COPIED = {torch.tensor, torch.as_tensor}


class _Functions(TorchFunctionMode):
    """What does not come by as an operation: factories, and the ways into a tensor's memory."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in _FILLED and _on_device(kwargs.get("device")):
            return Pretended(function(*args, **{**kwargs, "device": "cpu"}))
        if function in _COPIED and _on_device(kwargs.get("device")):
            made = function(*args, **{**kwargs, "device": "cpu"})
            return made.to(DEVICE)
        if args and isinstance(args[0], Pretended):
            if function is torch.Tensor.tolist:
                _stall("tolist")
                return args[0].raw.tolist()
            if function is torch.Tensor.numpy:
                _stall("numpy")
                raise TypeError(
                    "can't convert a tensor on the device to numpy: copy it to the CPU first"
                )
            if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
                args = (args[0], _uploaded(args[1]), *args[2:])
            if function is torch.Tensor.new_tensor:
                dtype = kwargs.get("dtype") or args[0].dtype
                return torch.tensor(args[1], dtype=dtype).to(DEVICE)
        return function(*args, **kwargs)


def _uploaded(index: Any) -> Any:
    """Lists among the indices become tensors on the device."""
    if isinstance(index, tuple):
        return tuple(_uploaded(part) for part in index)
    return torch.tensor(index).to(DEVICE) if isinstance(index, list) else index


@contextmanager
def pretended() -> Iterator[list[Stall]]:
    """In this block tensors can be put on "pretend:0"; the stalls met in it."""
    STALLS.clear()
    with _Functions():
        yield STALLS
