"""Before anything is installed: say what set-up takes and stop early on what is missing.

    python3 tools/preflight.py [cuda|cpu]

The argument says which of PyTorch's wheels are taken. Standard library only, and syntax that old Pythons
can parse, so that it can tell them they are old.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys

ROOM_GB = 2.5
"""For downloads and for runs/."""
NEEDED_GB = {"cuda": 6.5, "cpu": 1.8}
MINUTES = {"cuda": 5, "cpu": 2}
GLIBC = (2, 28)
"""What PyTorch's wheels need; ours are built for it too (tools/wheels.py)."""
CPP17 = b"#include <optional>\nint main() { return *std::optional<int>(0); }\n"


def problems(torch="cuda"):
    """What stands in the way, one sentence each; empty if nothing does."""
    found = []
    if torch not in NEEDED_GB:
        found.append("TORCH=%s was given: expected cuda (PyTorch's ordinary wheels) or cpu" % torch)
        torch = "cuda"
    if sys.version_info < (3, 11):
        found.append(
            "Python %d.%d was found, 3.11 or newer is needed: install it and run "
            "`make PYTHON=python3.11 ...`" % sys.version_info[:2]
        )
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        found.append(
            "Python's venv module is missing: install it (Debian, Ubuntu: apt install python3-venv)"
        )
    if shutil.which("git") is None:
        found.append("git is missing: install it (Debian, Ubuntu: apt install git)")
    free_gb, needed_gb = shutil.disk_usage(os.getcwd()).free / 1e9, NEEDED_GB[torch] + ROOM_GB
    if free_gb < needed_gb:
        found.append(
            "%.1f GB of disk are free here, %.1f GB are needed: make room" % (free_gb, needed_gb)
        )
    if sys.platform.startswith("linux") and not glibc_is_new_enough():
        found.append(
            "the C library is glibc %d.%d, PyTorch's wheels need %d.%d or newer: use a newer system, or "
            "a container" % (glibc() + GLIBC)
        )
    return found


def glibc():
    """(major, minor) of the C library; None where it is another one."""
    try:
        name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
        return tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else None
    except (AttributeError, OSError, ValueError):
        return None


def glibc_is_new_enough():
    """Whether PyTorch's wheels run on it, as far as can be told."""
    version = glibc()
    return version is None or version >= GLIBC


def has_nvidia():
    """Whether there seems to be a GPU that CUDA serves."""
    return os.path.exists("/proc/driver/nvidia") or shutil.which("nvidia-smi") is not None


def choice(torch):
    """Which of PyTorch's wheels are taken, why, and how to have the others: a sentence."""
    if torch == "cpu":
        return "PyTorch without CUDA is taken (TORCH=cpu); `make TORCH=cuda ...` takes the ordinary one."
    if has_nvidia():
        return "PyTorch with CUDA is taken, for the NVIDIA GPU here."
    return (
        "PyTorch's ordinary wheels are taken, which bring CUDA. There is no NVIDIA GPU here: "
        "`make TORCH=cpu ...` takes those without, 0.2 GB instead of 5.5."
    )


def compiler():
    """The C++ compiler that will be taken, if it knows C++17; else None."""
    given = os.environ.get("CXX")
    for words in [shlex.split(given)] if given else (["c++"], ["g++"], ["clang++"]):
        if shutil.which(words[0]) is not None:
            tried = subprocess.Popen(
                words + ["-std=c++17", "-fsyntax-only", "-x", "c++", "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            tried.communicate(CPP17)
            if tried.returncode == 0:
                return words[0]
    return None


def engine():
    """Whether the C++ engine will be there, and what to do if not: a sentence or two."""
    found = compiler()
    if found is not None:
        return "The C++ engine for CPUs is compiled with %s." % found
    return (
        "No C++ compiler that knows C++17 was found (CXX, c++, g++, clang++): sparse operations will "
        "run on plain PyTorch, several times slower on a CPU. Install one (GCC 8, clang 7 or newer; "
        "Debian, Ubuntu: apt install g++), then `rm -f .venv/.ready && make setup`."
    )


def main():
    torch = sys.argv[1] if len(sys.argv) > 1 else "cuda"
    known = torch if torch in NEEDED_GB else "cuda"
    print(
        "Setting up .venv: about %.1f GB on disk (PyTorch above all), %d minutes on a fast line."
        % (NEEDED_GB[known], MINUTES[known])
    )
    print(choice(known))
    print(engine())
    print("Nothing is installed outside this folder; `rm -rf .venv` removes it again.")
    found = problems(torch)
    for problem in found:
        print("missing: " + problem, file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
