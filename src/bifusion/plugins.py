"""Code from outside the package, named as `module:function`: recipes, loss terms, image towers, scenes.

Importing a module runs it, and a name may come from a run folder that someone else made. So only
packages that the user has named are imported: those listed in the environment variable BIFUSION_PLUGINS,
and that of a recipe asked for by name. The list lies in the environment because processes that a run
starts (arms of a comparison, data workers) inherit it.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from bifusion.errors import InputError
from bifusion.spelling import did_you_mean

DESCRIBED = "docs/reference/parts.md, docs/outside.md"
VARIABLE = "BIFUSION_PLUGINS"
"""Names of trusted top-level packages, separated by commas."""
Kind = TypeVar("Kind")
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_outside(name: str) -> bool:
    """Whether `name` is meant as `module:function` rather than as one of our own names."""
    return ":" in name


def allow(name: str) -> None:
    """Lets this process and those it starts import the package of `name` ("my_rooms.losses:edge", or
    "my_rooms")."""
    package = _package(name)
    if package not in _allowed():
        os.environ[VARIABLE] = ",".join([*_allowed(), package])


def load(name: str, where: str) -> Callable[..., Any]:
    """The function (or class) that `name`, "module:function", stands for.

    A module is looked for as Python does, and last in the current folder.

    Args:
        where: the argument or field that names it, for errors.

    Raises:
        InputError: not of that form, a package that the user has not named, a module that cannot be
            imported, no such function in it, something that cannot be called.
    """
    module, attribute = _module_of(name, where), name.partition(":")[2]
    found = getattr(module, attribute, None)
    if found is None:
        public = [known for known in vars(module) if not known.startswith("_")]
        raise InputError(
            f"{where}: {module.__name__} ({module.__file__}) has no {attribute!r}"
            f"{did_you_mean(attribute, public)}"
        )
    if not callable(found):
        raise InputError(f"{where}: {name} is of type {type(found).__name__}, expected a function")
    return found


def make(name: str, where: str, kind: type[Kind], *given: object) -> Kind:
    """What the function `name` makes of `given`; InputError as `load`, and where it is no `kind`."""
    function = load(name, where)
    with noted(name, where):
        made = function(*given)
    if not isinstance(made, kind):
        raise InputError(
            f"{where}: {name} returned a {type(made).__name__}, expected a "
            f"{kind.__module__}.{kind.__qualname__}"
        )
    return made


@contextmanager
def noted(name: str, where: str) -> Iterator[None]:
    """Adds to whatever is raised in the block, where the code that `name` stands for is called, which
    code that was and where it says what it gets; its traceback stays."""
    try:
        yield
    except Exception as error:
        what = where if name in where else f"{where} ({name})"
        error.add_note(f"{what}: raised in code from outside; what it gets: {DESCRIBED}")
        raise


def exists(name: str, where: str) -> bool:
    """Whether the module of `name` has what it names; InputError as `load` where there is no module."""
    return hasattr(_module_of(name, where), name.partition(":")[2])


def path_in_package(path: Path) -> str | None:
    """The file `path` from the name of its package on ("my_rooms/networks.py"), if that is one that the
    user has named and that is imported; else None."""
    for package in _allowed():
        module = sys.modules.get(package)
        for folder in map(Path, getattr(module, "__path__", [])):
            if folder in path.parents:
                return f"{package}/{path.relative_to(folder).as_posix()}"
        if module is not None and getattr(module, "__file__", None) == str(path):
            return path.name
    return None


def _module_of(name: str, where: str) -> ModuleType:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{where}: found {name!r}, expected module:function, such as my_rooms.losses:edge"
        )
    package = _package(name)
    if package not in _allowed():
        raise InputError(
            f"{where}: {name} is code of the package {package}, which runs when it is imported; if you "
            f"trust it, say so: {VARIABLE}={','.join([*_allowed(), package])} bifusion …, or in Python "
            f"bifusion.plugins.allow({package!r})"
        )
    module = name.partition(":")[0]
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # at the end: no file of this folder stands in for an installed module
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{where}: the module {module} cannot be imported ({error}); install it, or put its folder "
            "on PYTHONPATH or into the current folder"
        ) from error


def _package(name: str) -> str:
    return name.partition(":")[0].partition(".")[0]


def _allowed() -> list[str]:
    return [part.strip() for part in os.environ.get(VARIABLE, "").split(",") if part.strip()]
