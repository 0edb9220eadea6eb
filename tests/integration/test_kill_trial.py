"""A short form of `make kill-trial`: commands killed at random moments and repeated."""

import subprocess
import sys
from pathlib import Path

import pytest

from load_tool import TOOLS, load_tool

COMMANDS = ("train, saved each step, with workers", "import-checkpoint")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux's /proc")


@needs_proc
def test_killed_commands_leave_what_undisturbed_ones_do():
    command = [sys.executable, str(TOOLS / "kill_trial.py"), "--runs", "1", "--commands", *COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_proc
def test_the_trial_sees_what_is_left(tmp_path):
    killing = load_tool("killing")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for place in (ours, theirs):
        (place / "run").mkdir(parents=True)
        (place / "run" / "a.json").write_text('{"x": 1, "seconds": 2}')
        (place / "run" / "b.bin").write_bytes(b"1")
    assert list(killing.differences(ours, theirs)) == []
    (ours / "run" / "a.json").write_text('{"x": 1, "seconds": 3}')
    (ours / "said").write_text("whatever")
    assert list(killing.differences(ours, theirs)) == []
    (ours / "run" / "a.json").write_text('{"x": 2, "seconds": 2}')
    (ours / "run" / "b.bin").write_bytes(b"2")
    (ours / "run" / "c.bin").write_bytes(b"")
    found = list(killing.differences(ours, theirs))
    assert [line.split(":")[0].split(" is ")[0] for line in found] == [
        "run/c.bin", "run/a.json.x", "run/b.bin",
    ]  # fmt: skip
    (ours / "run" / ".a.json.writing-12").touch()
    assert [str(path) for path in killing.left_behind(ours)] == ["run/.a.json.writing-12"]
