"""Wheels, as users get them: every file is in, and an engine that cannot be compiled is done without.

Wheels with their engine are built, repaired and tried in fresh environments by `make wheels`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from documents import ROOT

CHECK = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__]
sys.path.insert(0, sys.argv[1])
import torch, bifusion
assert bifusion.__file__.startswith(sys.argv[1]), bifusion.__file__
from bifusion.sparse.backends import describe_backend
from bifusion.sparse.modules import SubmanifoldConv3d
from bifusion.sparse.tensor import SparseTensor
x = SparseTensor(torch.ones(2, 3), torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32))
assert SubmanifoldConv3d(3, 5, 3)(x).feats.shape == (2, 5)
print(describe_backend(torch.device("cpu")))
"""
OLD_COMPILER = """#!/bin/sh
for word in "$@"; do
    case $word in -std=*17) echo "unrecognized command-line option '$word'" >&2; exit 1;; esac
done
exec c++ "$@" -std=c++11
"""


def install_wheel(folder: Path, **variables: str) -> tuple[Path, str]:
    """Builds a wheel of the project and unpacks it; returns where, and what was printed."""
    pip = [sys.executable, "-m", "pip", "--verbose", "--disable-pip-version-check"]
    here = shutil.which("cmake") and find_spec("scikit_build_core") and find_spec("nanobind")
    build = [*pip, "wheel", "--no-deps", "--wheel-dir", folder, *(["--no-build-isolation"] * bool(here))]
    build += ["--config-settings", f"build-dir={folder}/build", ROOT]
    environment = {**os.environ, **variables}
    done = subprocess.run(build, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site", done.stdout + done.stderr


def run_check(site: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(site)], capture_output=True, text=True, cwd=site, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


def lacking_files(site: Path) -> list[Path]:
    """Files of the source that an installed package has not, but for those that are compiled."""
    source = ROOT / "src"
    wanted = (
        path.relative_to(source)
        for path in (source / "bifusion").rglob("*")
        if path.is_file() and path.suffix not in (".cpp", ".h", ".inl", ".pyc", ".so")
    )
    return [path for path in wanted if not (site / path).exists()]


def test_installation_without_a_compiler_has_all_files_and_says_what_is_slow(tmp_path: Path) -> None:
    site, _ = install_wheel(tmp_path, CC="/nowhere/cc", CXX="/nowhere/c++")
    assert not list(site.rglob("_native*.so"))
    assert not lacking_files(site)
    done = run_check(site)
    assert "plain torch" in done.stdout
    assert done.stderr.count("run on plain torch") == 1
    assert "install a C++ compiler that knows C++17" in done.stderr


def test_a_compiler_that_is_too_old_is_done_without(tmp_path: Path) -> None:
    if shutil.which("c++") is None:
        pytest.skip("no compiler to make an old one of")
    compiler = tmp_path / "old-c++"
    compiler.write_text(OLD_COMPILER)
    compiler.chmod(0o755)
    site, said = install_wheel(tmp_path / "wheel", CXX=str(compiler))
    assert "unrecognized command-line option" in said
    assert not list(site.rglob("_native*.so")) and (site / "bifusion/sparse/native").is_dir()


@pytest.mark.slow
def test_wheel_has_the_engine(tmp_path: Path) -> None:
    site, _ = install_wheel(tmp_path)
    assert "native C++ engine" in run_check(site).stdout
    assert not lacking_files(site)
