"""What a command asks of the C library for the memory of large arrays (Linux, glibc)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import needs

needs.module("engine", "bifusion.sparse.native")

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import re, resource, sys
import torch
from bifusion.sparse import native

if sys.argv[1] == "kept" and not native.keep_freed_memory():
    sys.exit("another C library")
filled = lambda: torch.full((48 << 20,), 1, dtype=torch.uint8)
filled()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
again = filled()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
part = [
    part
    for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read())[1:]
    if int(part.split("-")[0], 16) <= again.data_ptr() < int(re.split("[- ]", part)[1], 16)
]
print(faults, "hg" in re.search("VmFlags:(.*)", part[0])[1].split())
"""


def told(how: str) -> tuple[int, bool]:
    """Page faults of an array as large as one that was freed, and whether it lies in large pages."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True)
    if "another C library" in done.stderr:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    faults, large = done.stdout.split()
    return int(faults), large == "True"


def test_an_array_takes_the_memory_of_one_that_was_freed_in_large_pages() -> None:
    faults, large = told("kept")
    assert faults < 100
    assert large or not PAGES.exists()


def test_a_librarys_user_keeps_the_process_as_it_was() -> None:
    faults, large = told("left")
    assert faults > 1000 or "always" in PAGES.read_text().split("[")[1]
    assert not large
