"""Before anything is installed: what is missing is said, and which PyTorch is taken."""

from __future__ import annotations

import ast
import subprocess
import sys
from types import ModuleType

import pytest

from documents import ROOT
from load_tool import load_tool

PATH = ROOT / "tools/preflight.py"


@pytest.fixture
def preflight() -> ModuleType:
    return load_tool("preflight")


@pytest.mark.parametrize(
    ("version", "expected"), [((2, 17), ["glibc 2.17"]), ((2, 28), []), ((2, 41), []), (None, [])]
)
def test_the_c_library(preflight, monkeypatch, version, expected):
    monkeypatch.setattr(preflight, "glibc", lambda: version)
    monkeypatch.setattr(preflight.sys, "platform", "linux")
    found = [line for line in preflight.problems() if "C library" in line]
    assert len(found) == len(expected) and all(part in found[0] for part in expected)


def test_an_old_python(preflight, monkeypatch):
    monkeypatch.setattr(preflight.sys, "version_info", (3, 9))
    assert any("3.11 or newer is needed" in line for line in preflight.problems())


def test_no_room_for_what_was_chosen(preflight, monkeypatch):
    free = preflight.shutil.disk_usage(ROOT)._replace(free=5 * 10**9)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: free)
    assert any("5.0 GB of disk are free here" in line for line in preflight.problems("cuda"))
    assert not any("of disk" in line for line in preflight.problems("cpu"))


@pytest.mark.parametrize(
    ("wanted", "nvidia", "said"),
    [
        ("cuda", True, "for the NVIDIA GPU here"),
        ("cuda", False, "`make TORCH=cpu ...` takes those without"),
        ("cpu", False, "without CUDA is taken"),
    ],
)
def test_which_pytorch_is_taken(preflight, monkeypatch, wanted, nvidia, said):
    monkeypatch.setattr(preflight, "has_nvidia", lambda: nvidia)
    assert said in preflight.choice(wanted)


COMPILERS = {
    "old": "for word; do test $word != -std=c++17 || exit 1; done",
    "new": "while read line; do :; done",
}


@pytest.mark.parametrize(
    ("kind", "said"), [(None, "g++), then"), ("old", "g++), then"), ("new", "with c++")]
)
def test_a_compiler_for_the_engine(preflight, monkeypatch, tmp_path, kind, said):
    if kind is not None:
        (tmp_path / "c++").write_text(f"#!/bin/sh\n{COMPILERS[kind]}\n")
        (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert said in preflight.engine()


def test_the_compiler_that_is_named_counts(preflight, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    assert preflight.compiler() is None


def test_old_pythons_can_read_it():
    ast.parse(PATH.read_text(encoding="utf-8"), feature_version=(3, 4))


def test_the_c_library_of_the_wheels_is_the_one_that_is_asked_for(preflight):
    assert load_tool("wheels").PLATFORM.startswith("manylinux_{}_{}_".format(*preflight.GLIBC))


def test_a_choice_that_there_is_not():
    done = subprocess.run([sys.executable, PATH, "rocm"], capture_output=True, text=True)
    assert done.returncode == 1 and "TORCH=rocm was given: expected cuda" in done.stderr


@pytest.mark.parametrize(
    ("python", "status", "said"),
    [
        ("exit 0", 0, ""),
        ('test "$1" = -c', 2, "without CUDA cannot be had from"),
        ('test "$1" = -m', 2, "came from different builds"),
    ],
)
def test_pytorch_without_cuda_is_tried_before_set_up_ends(tmp_path, python, status, said):
    """Pip that knows several indexes may take PyTorch of one and torchvision of another."""
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{python}\n")
    fake.chmod(0o755)
    rule = f"try: ; @$(call cpu_torch,{fake})"
    done = subprocess.run(
        ["make", "--no-print-directory", "--eval", rule, "try", "TORCH=cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
