"""Which code a network runs, where it is not this package's: what is kept of it must not outlive it.

This package and torch say their versions already. Another installed package is told by its version too;
code that somebody is still writing by the content of its files.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

_TOLD = {"bifusion", "torch", *sys.stdlib_module_names}
_INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
_NO_FILE = secrets.token_hex()
"""Stands for what was typed in, which no other process can know."""


def code_of(network: nn.Module) -> str:
    """A line for each installed package, and for each module of no such package, that the classes of
    `network` are of, those that they inherit from, and what their modules have imported in turn."""
    classes = {of for module in network.modules() for of in type(module).__mro__}
    found: dict[str, str] = {}
    names = [of.__module__ for of in classes]
    while names:
        name = names.pop()
        package = name.partition(".")[0]
        module = sys.modules.get(name)
        if module is None or name in found or package in found or package in _TOLD:
            continue
        if _is_installed(module):
            found[package] = str(getattr(sys.modules[package], "__version__", "installed"))
        else:
            found[name] = _content(module)
            names += [of for value in list(vars(module).values()) if (of := _module_of(value))]
    return "\n".join(f"{name} {told}" for name, told in sorted(found.items()))


def _module_of(value: Any) -> str | None:
    name = getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", None)
    return name if isinstance(name, str) else None


def _is_installed(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and any(Path(file).is_relative_to(place) for place in _INSTALLED)


def _content(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return _NO_FILE if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
