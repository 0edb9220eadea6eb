"""Hostile inputs by kind, a share of them, and that the trial sees a reader which falls for one."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from laboratory.fuzz.target import Target, make_sample
from laboratory.fuzz.targets import TARGETS
from laboratory.hostile import run
from laboratory.hostile.kinds import kinds_for

import bifusion
from bifusion.errors import InputError
from bifusion.training.processes.lines import connect, listen

REPOSITORY = Path(__file__).parents[2]
READERS = (
    "mesh .ply binary",
    "torch zip",
    "json scene",
    "scene shown",
    "weights",
    "scannet text",
    "image .png",
)
"""Between them they open files of every content that has kinds of its own."""
READS = re.compile(r"json\.loads?\(|np\.load(txt)?\(|\.read_(text|bytes)\(\)|\.read_text\(enc")
OWN_FILES = {
    "commands.labels": "whether the file that would be replaced says the same",
    "datasets.mesh_files.las_points": "what its own process, under a limit of memory, has decoded",
    "datasets.rooms.audit": "what it has just written",
    "device_memory": "what the system says of its own process",
    "models.towers.code_of": "modules that its own process has imported",
    "sparse.openmp": "what the system says of its own process",
    "studies.page.render": "the package's own styles",
    "studies.training_runs.progress": "what runs write that it has started",
    "training.loggers": "a number that it has written",
    "training.processes.agreement": "the package's own files",
    "training.processes.lines": "messages of processes that know the run's token; others are sent away",
    "training.view_features": "a configuration that its own process has sent",
    "viewer.page": "the package's own styles",
}
"""Modules that read without it, and what: nothing that a stranger has given."""


def test_one_input_of_each_kind_is_read_or_refused():
    """In a process that has done nothing else, as forks of it are what reads."""
    command = [sys.executable, "-m", "laboratory.hostile", "--once", "--only", *READERS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, text=True, capture_output=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = re.search(r"^([\d,]+) inputs of (\d+) kinds", ended.stdout, flags=re.M)
    assert told is not None and int(told[2]) > 180, ended.stdout


def test_every_reader_that_is_named_is_there():
    names = [target.name for target in TARGETS]
    assert all(any(part in name for name in names) for part in READERS)


def test_files_of_strangers_are_read_by_untrusted_alone():
    root = Path(bifusion.__file__).parent
    found = {
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in root.rglob("*.py")
        if READS.search(path.read_text(encoding="utf-8")) and path.parent.name != "untrusted"
    }
    assert found == set(OWN_FILES)


@pytest.mark.parametrize("said", [b"[" * 50_000 + b"\n", b"{\n", b"3\n", b"{}\n"])
def test_strangers_who_connect_to_a_run_are_sent_away(said):
    server, place = listen()
    with server, socket.create_connection((place.host, place.port)) as stranger:
        stranger.sendall(said)
        own = connect(place, 1)
        accepted = place.accept(server, 1)
        assert list(accepted) == [1]
        for lines in (own, *accepted.values()):
            lines.close()


def test_a_process_that_introduces_itself_in_pieces_is_known():
    server, place = listen()
    hello = json.dumps({"token": place.token, "number": 3}).encode() + b"\n"
    with server, socket.create_connection((place.host, place.port)) as own:
        own.sendall(hello[:20])
        rest = threading.Timer(0.1, own.sendall, [hello[20:]])
        rest.start()
        accepted = place.accept(server, 1)
        rest.join()
        assert list(accepted) == [3]
        accepted[3].close()


def test_kinds_follow_from_what_a_file_holds():
    groups = {
        b"ply\nformat ascii 1.0\nelement vertex 1\nend_header\n0 0 0\n": {"PLY", "text"},
        b'{"a": 1, "b": ["x"]}': {"JSON"},
        b'{"a": 1}\n{"a": 2}\n': {"JSON"},
        b"0.5 1\n2 3\n": {"text"},
        b"\x00\x01\x02": set(),
    }
    for data, expected in groups.items():
        found = {kind.partition(": ")[0] for kind, _ in kinds_for(data) if ": " in kind}
        assert found == expected


# ------------------------------------------------------------------------ that it sees what it looks for


def written(folder: Path) -> Path:
    path = folder / "numbers.json"
    path.write_text('{"count": 3}')
    return path


def careless(path: Path) -> None:
    """Believes whatever is there."""
    text = path.read_text()
    if "NaN" in text:
        raise ZeroDivisionError("planted")
    if len(text) > 1000:
        raise InputError("long")


@pytest.mark.parametrize(
    ("kind", "found", "refused"),
    [
        ("a pipe", "hang", False),
        ("no file", "FileNotFoundError", False),
        ("JSON: NaN", "ZeroDivisionError: planted", False),
        ("JSON: 5,000 digits", None, True),
        ("JSON: zero", None, False),
    ],
)
def test_what_a_reader_falls_for_is_told(kind, found, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "MOST_SECONDS", 0.5)
    target = Target("planted", written, careless, ())
    sample = make_sample(target, tmp_path / "sample")
    inputs = [one for one in run.inputs_of(sample, None) if one.kind == kind]
    tried = list(run.try_inputs(target, sample, [*inputs, *inputs], tmp_path / "work"))
    assert [one.refused for one in tried] == [refused] * 2 * len(inputs)
    assert inputs and all(
        one.finding is None if found is None else one.finding.what.startswith(found) for one in tried
    )
