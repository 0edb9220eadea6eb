"""The engine's NEON kernels: cross-compiled, emulated, held against plain loops in double."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import needs

ENGINE = Path(__file__).parents[2] / "src/bifusion/sparse/native"
PROGRAM = Path(__file__).parents[1] / "engine_check.cpp"
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fopenmp", "-Wall", "-Werror"]
ARM = "aarch64-linux-gnu-"
CASES = 510

pytestmark = pytest.mark.slow


def emulated(engine: Path, folder: Path) -> dict[str, float]:
    """Case → largest difference over the largest value, of the kernels in `engine`."""
    program = folder / "check"
    sources = [PROGRAM, engine / "kernels_neon.cpp", engine / "kernel_map.cpp", engine / "shares.cpp"]
    compiler = [f"{ARM}g++", *FLAGS, "-DCHECKED=neon", f"-I{engine}"]
    subprocess.run([*compiler, *map(str, sources), "-o", str(program)], check=True)
    command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", str(program)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {name: float(error) for name, error in (ln.rsplit(" ", 1) for ln in done.stdout.splitlines())}


@pytest.fixture(autouse=True)
def tools() -> None:
    for name in (f"{ARM}g++", f"{ARM}objdump", "qemu-aarch64"):
        if shutil.which(name) is None:
            needs.lacking("arm", f"no {name} on the path")


def test_neon_kernels_equal_plain_loops_in_double(tmp_path: Path) -> None:
    errors = emulated(ENGINE, tmp_path)
    assert len(errors) == CASES
    for name, error in errors.items():
        assert error <= (1e-13 if "float64" in name else 3e-6), name


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [
        ["sum[r][v] += x * weight[v]", "sum[r][v] -= x * weight[v]", "convolve float32"],
        ["sum[r][v] += x[r] * grad[v]", "sum[r][v] += x[0] * grad[v]", "weight_gradient float64"],
    ],
)
def test_a_kernel_that_is_wrong_is_seen(before: str, after: str, seen: str, tmp_path: Path) -> None:
    broken = tmp_path / "engine"
    shutil.copytree(ENGINE, broken, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    text = (broken / "kernels.inl").read_text()
    assert text.count(before) == 1
    (broken / "kernels.inl").write_text(text.replace(before, after))
    errors = emulated(broken, tmp_path)
    assert max(error for name, error in errors.items() if name.startswith(seen)) > 0.1
    assert max(error for name, error in errors.items() if name.startswith("normalise")) < 1e-5


def inner_loops(listing: str) -> Iterator[list[str]]:
    """Bodies, in instructions, of loops without branches in them."""
    found = [
        (int(where, 16), text) for where, text in re.findall(r"^ *(\w+):\t\w+ \t(.*)$", listing, re.M)
    ]
    places = {where: number for number, (where, _) in enumerate(found)}
    for number, (_, text) in enumerate(found):
        branch = re.match(r"b\.\w+\t(\w+)", text)
        begin = places.get(int(branch[1], 16), number) if branch else number
        body = [instruction for _, instruction in found[begin:number]]
        if body and not any(re.match(r"(b|bl|b\.\w+|cbn?z|tbn?z)\t", one) for one in body):
            yield body


def test_inner_loops_multiply_vectors_and_spill_nothing(tmp_path: Path) -> None:
    made = tmp_path / "neon.o"
    compiler = [f"{ARM}g++", *FLAGS, f"-I{ENGINE}", "-c", str(ENGINE / "kernels_neon.cpp")]
    subprocess.run([*compiler, "-o", str(made)], check=True)
    dump = subprocess.run([f"{ARM}objdump", "-d", str(made)], check=True, capture_output=True, text=True)
    loops = [loop for loop in inner_loops(dump.stdout) if sum("fmla" in one for one in loop) >= 8]
    assert len(loops) > 20
    assert max(sum("fmla" in one for one in loop) for loop in loops) == 20
    spills = [one for loop in loops for one in loop if re.match(r"(ld|st)[rp]\tq.*\[sp", one)]
    assert spills == []
