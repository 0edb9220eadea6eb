"""A machine that steps through a pickle and calls nothing.

Opcodes are told apart by the standard library's `pickletools.genops`, which only parses. A name that
is asked for stays a `Global`, a call becomes an `Inert`; the few functions with which PyTorch rebuilds
tensors and ordered dicts are understood, not called.
"""

from __future__ import annotations

import io
import mmap
import pickletools
from collections.abc import Callable
from typing import IO, Any, cast

from bifusion.errors import first_line
from bifusion.torch_files.objects import (
    Global,
    Inert,
    MalformedFileError,
    Storage,
    storage_from,
    tensor_from,
)

MAX_OPCODES = 3_000_000
"""A checkpoint has some ten thousand; more would fill the memory with small objects."""

_CONSTANTS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_DICTS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict")
_KEYS = (str, int, float, bytes, bool, type(None))


class PickleMachine:
    """Reads one pickle after the other from a binary file; see `load`.

    `storages` holds every storage they refer to, by key.
    """

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._left = MAX_OPCODES

    def load(self, file: io.BytesIO | IO[bytes] | mmap.mmap) -> Any:
        """The object described by the pickle at the file's position, which moves behind it.

        `file` must not reserve memory for a read beyond its end: bytes in memory, or a memory map.
        Raises MalformedFileError for what is no pickle, or one cut short.
        """
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # stacks under the marks
        self._memo: dict[int, Any] = {}
        try:
            for opcode, arg, _ in pickletools.genops(cast(IO[bytes], file)):
                self._left -= 1
                if self._left < 0:
                    raise MalformedFileError(f"a pickle of more than {MAX_OPCODES:,} instructions")
                self._step(opcode.name, arg)
            (result,) = self._stack
        except (ValueError, IndexError, KeyError) as error:
            raise MalformedFileError(f"a damaged pickle ({first_line(error)})") from error
        return result

    def _step(self, name: str, arg: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(arg)
        elif name in _VALUES:
            self._stack.append(_VALUES[name])
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(self._stack) < count:
                raise IndexError("stack is empty")
            self._stack[-count:] = [tuple(self._stack[-count:])]
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if arg is None else arg] = self._stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[arg])
        elif name == "GLOBAL":
            self._stack.append(Global(*arg.split(" ", 1)))
        elif name == "INST":
            self._pop_mark()
            self._stack.append(_called(Global(*arg.split(" ", 1)), ()))
        elif name == "PERSID":
            self._stack.append(storage_from(arg))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise MalformedFileError(f"a pickle with the instruction {name}, which no weights need")

    def _pop_mark(self) -> list[Any]:
        """The values above the last mark."""
        values, self._stack = self._stack, self._below.pop()
        return values

    def _drop(self) -> None:
        self._pop_mark()

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop(self) -> None:
        # a POP right behind a MARK takes the mark
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _tuple(self) -> None:
        values = self._pop_mark()
        self._stack.append(tuple(values))

    def _list(self) -> None:
        values = self._pop_mark()
        self._stack.append(values)

    def _dict(self) -> None:
        values = self._pop_mark()
        self._stack.append({})
        self._set(values)

    def _append(self) -> None:
        self._extend([self._stack.pop()])

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Inert):
            raise MalformedFileError(f"a pickle that appends to a {type(target).__name__}")

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            for key, value in zip(values[::2], values[1::2], strict=True):
                # Only plain keys are hashed: deeply nested ones could exhaust the interpreter's stack.
                target[key if isinstance(key, _KEYS) else Inert("key")] = value
        elif not isinstance(target, Inert):
            raise MalformedFileError(f"a pickle that sets items of a {type(target).__name__}")

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise MalformedFileError("a pickle that imports something without a name")
        self._stack.append(Global(module, name))

    def _call(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._stack.append(_called(function, args))

    def _call_with_keywords(self) -> None:
        self._stack.pop()
        self._call()

    def _obj(self) -> None:
        function, *args = self._pop_mark()
        self._stack.append(_called(function, tuple(args)))

    def _build(self) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], Inert):
            self._stack[-1].state = state

    def _persistent(self) -> None:
        storage = storage_from(self._stack.pop())
        self._stack.append(storage)
        if isinstance(storage, Storage):
            self.storages[storage.key] = storage


def _called(function: Any, args: Any) -> Any:
    """What stands for the result of `function(*args)`."""
    name = str(function) if isinstance(function, Global) else type(function).__name__
    if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        return tensor_from(args)
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        if not isinstance(args, tuple) or not args:
            raise MalformedFileError("a parameter that is made of nothing")
        return args[0]
    if name == "torch.Size" and isinstance(args, tuple) and args and isinstance(args[0], tuple):
        return args[0]
    if name in _DICTS:
        return _ordered_dict(args)
    return Inert(name)


def _ordered_dict(args: Any) -> dict[Any, Any]:
    """An OrderedDict of nothing, or of a list of pairs (Python 2)."""
    pairs = args[0] if isinstance(args, tuple) and args and isinstance(args[0], list) else []
    result = {}
    for pair in pairs:
        if isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], _KEYS):
            result[pair[0]] = pair[1]
    return result


_ACTIONS: dict[str, Callable[[PickleMachine], None]] = {
    "MARK": PickleMachine._mark,
    "POP": PickleMachine._pop,
    "POP_MARK": PickleMachine._drop,
    "DUP": lambda machine: machine._stack.append(machine._stack[-1]),
    "EMPTY_LIST": lambda machine: machine._stack.append([]),
    "EMPTY_DICT": lambda machine: machine._stack.append({}),
    "EMPTY_SET": lambda machine: machine._stack.append([]),
    "TUPLE": PickleMachine._tuple,
    "LIST": PickleMachine._list,
    "FROZENSET": PickleMachine._list,
    "DICT": PickleMachine._dict,
    "APPEND": PickleMachine._append,
    "APPENDS": lambda machine: machine._extend(machine._pop_mark()),
    "ADDITEMS": lambda machine: machine._extend(machine._pop_mark()),
    "SETITEM": PickleMachine._setitem,
    "SETITEMS": lambda machine: machine._set(machine._pop_mark()),
    "STACK_GLOBAL": PickleMachine._stack_global,
    "REDUCE": PickleMachine._call,
    "NEWOBJ": PickleMachine._call,
    "NEWOBJ_EX": PickleMachine._call_with_keywords,
    "OBJ": PickleMachine._obj,
    "BUILD": PickleMachine._build,
    "BINPERSID": PickleMachine._persistent,
}
