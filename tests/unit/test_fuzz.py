"""A share of the fuzzing, and that it finds what it looks for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from laboratory.fuzz import worker
from laboratory.fuzz.crash import keep, replay
from laboratory.fuzz.run import Progress, fuzz, inputs_of
from laboratory.fuzz.target import Sample, Target, changed_file
from laboratory.fuzz.targets import TARGETS
from laboratory.fuzz.worker import Finding

import bifusion
from bifusion.datasets.mesh_files.read import READERS
from bifusion.datasets.recordings.open import LAYOUTS
from bifusion.errors import InputError
from bifusion.sparse import native

SHARE, MOST = 0.001, 10
"""Of each target's inputs; `make fuzz` tries all."""
REPOSITORY = Path(__file__).parents[2]
OPENS = re.compile(
    r"bifusion\.untrusted(\.(files|json_text|arrays|tables))? import|"
    r"import .*\b(open_torch_file|safe_open|load_file)\b"
)
"""What a module imports that reads strangers' files."""
OWN_FILES = {
    "models.towers.view_cache", "inference.predict_data", "inference.evaluate", "inference.found_files",
    "datasets.scan.make",
}  # fmt: skip
"""Modules that read nothing but what they wrote; the last one nothing: it asks where links lead."""


def test_mutated_files_are_read_or_refused(tmp_path: Path):
    """In a process that has done nothing else, as forks of it are what reads."""
    command = [
        sys.executable,
        "-m",
        "laboratory.fuzz",
        f"--share={SHARE}",
        f"--most={MOST}",
        "--out",
        tmp_path,
    ]
    ended = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    tried = Progress.read(tmp_path / "progress.json").counts
    assert {name: count.tried for name, count in tried.items()} == {
        target.name: inputs_of(target, SHARE, MOST) for target in TARGETS
    }
    assert sum(count.refused for count in tried.values()) > len(TARGETS)


def test_every_reader_has_a_target():
    names = [target.name for target in TARGETS]
    assert len(set(names)) == len(names)
    for ending in READERS:
        assert any(name.startswith(f"mesh {ending}") for name in names), f"no target of {ending} files"
    for layout in LAYOUTS:
        known = [name for name in names if name.split()[:2] == ["recording", layout.name]]
        assert known, f"no target of the layout {layout.name}: add it to recording_factory.WRITERS"
    root, read = Path(bifusion.__file__).parent, {part for one in TARGETS for part in one.modules}
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in root.rglob("*.py")
        if OPENS.search(path.read_text(encoding="utf-8")) and path.parent.name != "untrusted"
    } - OWN_FILES
    without = [name for name in modules if not any(f"{name}.".startswith(f"{part}.") for part in read)]
    assert modules and without == [], "readers of strangers' files without a target"


# ------------------------------------------------------------------------------- that it finds faults


def written(folder: Path) -> Path:
    path = folder / "numbers.txt"
    path.write_text("".join(f"{number}\n" for number in range(30)))
    return path


def faulty(path: Path) -> None:
    """Refuses what is no number, and breaks on one that it did not think of."""
    words = path.read_text(errors="replace").split()
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise InputError(str(error)[:100]) from error
    if any(number != number for number in numbers):
        raise ZeroDivisionError("planted")


def hanging(path: Path) -> None:
    time.sleep(60)


def hungry(path: Path) -> None:
    b"x" * (worker.MOST_MEMORY + (512 << 20))


def silent(path: Path) -> None:
    raise InputError("")


def dying(path: Path) -> None:
    import os

    os.abort()


def found_by(read, tmp_path: Path, inputs: int) -> tuple[Target, list[tuple[Sample, Finding]]]:
    target = Target("planted", written, read, (), inputs)
    progress = Progress(tmp_path / "progress.json")
    found = fuzz([target], tmp_path / "work", progress)
    return target, [(sample, finding) for _, sample, finding in found]


def test_a_planted_fault_is_found_and_replayed(tmp_path):
    target, found = found_by(faulty, tmp_path, 150)
    assert found and {finding.what for _, finding in found} == {"ZeroDivisionError: planted"}
    sample, finding = found[0]
    again = replay(keep(target, sample, finding, tmp_path), [target])
    assert again is not None and again.what == finding.what and "faulty" in again.details
    assert changed_file(target, sample, finding.number) == changed_file(target, sample, finding.number)
    mended = Target("planted", written, lambda path: None, (), 400)
    assert replay(keep(target, sample, finding, tmp_path), [mended]) is None


def test_what_was_tried_is_not_tried_again(tmp_path):
    target, _ = found_by(faulty, tmp_path, 40)
    progress = Progress.read(tmp_path / "progress.json")
    assert progress.of(target).tried == 40 and progress.of(target).refused > 0
    assert list(fuzz([target], tmp_path / "again", progress)) == []


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (hanging, "hang"),
        (hungry, "memory"),
        (silent, "no message"),
        (dying, "process ended with -6"),
    ],
)
def test_limits_are_held(read, what, tmp_path, monkeypatch):
    if what == "hang":
        monkeypatch.setattr(worker, "MOST_SECONDS", 0.5)
    kept = None
    if what == "memory":  # the fork begins with what this process has freed and kept
        native.keep_freed_memory()
        kept = [b"x" * (64 << 20) for _ in range(24)]
    del kept
    _, found = found_by(read, tmp_path, 2)
    assert [finding.what for _, finding in found] == [what] * len(found)
    # Two inputs, and the sample before them, on which a process that ends begins its first input; a
    # process's peak is told once.
    assert len(found) == {"memory": 1, "no message": 3}.get(what, 2)


def slow_at_first(path: Path) -> None:
    seen = path.parents[2] / "seen"  # outside of what each process reads
    if not seen.exists():
        seen.touch()
        time.sleep(60)


def test_what_was_slow_once_alone_is_no_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "MOST_SECONDS", 0.5)
    _, found = found_by(slow_at_first, tmp_path, 2)
    assert (tmp_path / "work" / "processes" / "seen").exists() and found == []
    assert Progress.read(tmp_path / "progress.json").counts["planted"].tried == 2
