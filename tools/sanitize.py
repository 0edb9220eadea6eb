"""Builds the C++ engine with AddressSanitizer and UndefinedBehaviorSanitizer and runs its tests.

Run from the project's root by the Python of its environment, with cmake and nanobind at hand; the
instrumented module stays in build/sanitize and never reaches the package.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

BUILD = Path("build/sanitize")
MODULE = "bifusion.sparse.native._native"
TESTS = [f"tests/unit/test_sparse_{name}.py" for name in ("native", "conv", "bfloat16", "tiles")]


def build() -> None:
    configure = ["cmake", "-S", ".", "-B", BUILD, "-DBIFUSION_SANITIZE=ON"]
    subprocess.run([*configure, f"-DPython_EXECUTABLE={sys.executable}"], check=True)
    subprocess.run(["cmake", "--build", BUILD, "--parallel", "2"], check=True)


def run_tests() -> int:
    """Tests of the instrumented module, which takes the installed one's place in this process."""
    import pytest
    import torch  # noqa: F401  brings the OpenMP runtime that the module needs

    (library,) = BUILD.glob("_native*.so")
    spec = importlib.util.spec_from_file_location(MODULE, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return pytest.main(["-q", "-s", "-p", "no:cacheprovider", *TESTS])


def _library(name: str) -> str:
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    if "--tests" in sys.argv:
        return run_tests()
    build()
    # The C++ library too, before the runtime looks for it: Python is C, and exceptions would fail.
    preloaded = [_library("libasan.so"), _library("libstdc++.so.6")]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(preloaded),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter and torch keep memory until the end
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    return subprocess.run([sys.executable, __file__, "--tests"], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
