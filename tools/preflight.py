"""Before anything is installed: say what set-up takes and stop early on what is missing.

Standard library only, and syntax that old Pythons can parse, so that it can tell them they are old.
"""

import importlib.util
import os
import shutil
import sys

NEEDED_GB = 9.0  # 6.5 GB of packages, and room for the download and for runs/
MINUTES = 5


def problems():
    """What stands in the way, one sentence each; empty if nothing does."""
    found = []
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
    free_gb = shutil.disk_usage(os.getcwd()).free / 1e9
    if free_gb < NEEDED_GB:
        found.append(
            "%.1f GB of disk are free here, %.0f GB are needed: make room" % (free_gb, NEEDED_GB)
        )
    return found


def main():
    print(
        "Setting up .venv: about 6.5 GB on disk (PyTorch above all), %d minutes on a fast line."
        % MINUTES
    )
    print("Nothing is installed outside this folder; `rm -rf .venv` removes it again.")
    found = problems()
    for problem in found:
        print("missing: " + problem, file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
