"""The engine finds torch's OpenMP runtime where torch keeps it to itself, as on 64-bit ARM."""

import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import needs

if not sys.platform.startswith("linux"):
    needs.lacking("proc", "/proc/self/maps")
needs.module("engine", "bifusion.sparse.native")
from bifusion.sparse import openmp  # noqa: E402

KEPT = """
import ctypes
shared, ctypes.RTLD_GLOBAL = ctypes.RTLD_GLOBAL, ctypes.RTLD_LOCAL
import torch
ctypes.RTLD_GLOBAL = shared
assert not hasattr(ctypes.CDLL(None), "GOMP_parallel")
from bifusion.sparse import openmp
"""
USED = """
from bifusion.sparse import native
coords = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.int32)
print(native.index_voxels(coords), native.describe())
print("runtimes", *openmp._loaded())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_engine_finds_a_runtime_that_torch_keeps_to_itself() -> None:
    done = run(KEPT + USED)
    assert done.returncode == 0, done.stderr
    assert "native C++ engine" in done.stdout
    (runtimes,) = (line.split()[1:] for line in done.stdout.splitlines() if line.startswith("runtimes"))
    assert len(runtimes) == 1  # it was not loaded once more


def test_without_being_shared_it_is_not_found() -> None:
    done = run(KEPT + "openmp.share_runtime = lambda: None" + USED)
    assert done.returncode == 1
    assert re.search("ImportError: .*undefined symbol: (GOMP|omp)_", done.stderr)


def test_a_runtime_that_is_there_for_all_is_left_alone() -> None:
    """As with torch for x86-64: the process's memory map is not even read."""
    done = run(
        "import ctypes, torch; from bifusion.sparse import openmp\n"
        "if hasattr(ctypes.CDLL(None), 'GOMP_parallel'): openmp._loaded = None\n"
        "openmp.share_runtime()"
    )
    assert done.returncode == 0, done.stderr


def test_files_with_names_in_another_encoding_are_mapped_too(tmp_path: Path) -> None:
    """As those of a virtual environment in a folder that was named under GB 18030."""
    path = os.fsencode(tmp_path) + "/房间".encode("gb18030")
    with open(path, "wb") as file:
        file.write(bytes(mmap.PAGESIZE))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert path in Path("/proc/self/maps").read_bytes()
        assert all(Path(runtime).is_file() for runtime in openmp._loaded())
