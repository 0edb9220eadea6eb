"""Installed wheels, as users get them: with the C++ engine, and without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
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


def install_wheel(folder: Path, **variables: str) -> Path:
    """Builds a wheel of the project and unpacks it; returns where."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    isolation = [] if find_spec("scikit_build_core") is None else ["--no-build-isolation"]
    build = [*pip, "wheel", "--no-deps", *isolation, "--wheel-dir", folder]
    build += ["--config-settings", f"build-dir={folder}/build", ROOT]
    subprocess.run(build, env={**os.environ, **variables}, check=True, timeout=900)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run_check(site: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(site)], capture_output=True, text=True, cwd=site, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


def test_wheel_has_the_native_engine_and_all_files(tmp_path: Path) -> None:
    site = install_wheel(tmp_path)
    assert "native C++ engine" in run_check(site).stdout
    source = ROOT / "src"
    wanted = {
        path.relative_to(source)
        for path in (source / "bifusion").rglob("*")
        if path.is_file() and path.suffix not in (".cpp", ".h", ".inl", ".pyc", ".so")
    }
    assert not [path for path in wanted if not (site / path).exists()]


def test_installation_without_a_compiler_falls_back_and_says_so(tmp_path: Path) -> None:
    site = install_wheel(tmp_path, CC="/nowhere/cc", CXX="/nowhere/c++")
    assert not list(site.rglob("_native*.so"))
    done = run_check(site)
    assert "plain torch" in done.stdout
    assert done.stderr.count("run on plain torch") == 1
    assert "install a C++ compiler" in done.stderr
