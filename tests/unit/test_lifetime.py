"""Processes end with the one that started them, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bifusion.lifetime import Parent, how_it_ended, lifeline, under_lifeline
from left_processes import left_running, of_session

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux's /proc")
SECONDS = 60.0
CHILDREN = """
import multiprocessing, os, time
from bifusion.lifetime import end_with_parent

def wait(tell):
    end_with_parent()
    tell.send(os.getpid())
    pow(3, 10**9, 10**(10**6))  # Python runs no other thread meanwhile

if __name__ == "__main__":
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        heard, tell = context.Pipe(duplex=False)
        for _ in range(2):  # a later fork holds the pipes of an earlier one
            context.Process(target=wait, args=(tell,)).start()
            print(heard.recv(), flush=True)
    print("all", flush=True)
    time.sleep(600)
"""


@needs_proc
def test_children_of_a_killed_process_end_however_they_were_started(tmp_path):
    script = tmp_path / "children.py"
    script.write_text(CHILDREN)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(line) for line in iter(parent.stdout.readline, "all\n")]
        parent.kill()
    assert len(pids) >= 4
    assert left_running(pids, SECONDS) == []


def test_a_program_ends_when_its_lifeline_does(tmp_path):
    (tmp_path / "sleeper.py").write_text("import time; print('began', flush=True); time.sleep(600)")
    with lifeline() as line:
        process = subprocess.Popen(
            under_lifeline("sleeper"), stdin=line, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        assert process.poll() is None
    process.communicate(timeout=SECONDS)
    assert process.returncode in (1, -signal.SIGKILL)


def test_a_program_under_a_lifeline_is_what_it_would_be_without(tmp_path):
    (tmp_path / "program.py").write_text(
        "import sys\nif __name__ == '__main__':\n    print(sys.argv[1:])\n    sys.exit(3)\n"
    )
    with lifeline() as line:
        done = subprocess.run(
            [*under_lifeline("program"), "a", "--b"], stdin=line, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (3, "['a', '--b']\n", "")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with status 0"),
        (2, "ended with status 2"),
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-(signal.SIGRTMIN + 1), f"was killed by signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_how_a_process_came_to_an_end(code, words):
    """A signal without a name of its own is none that Python's list of them has."""
    assert how_it_ended(code) == words


def test_who_was_not_started_by_another_is_told():
    with pytest.raises(RuntimeError, match="not started by multiprocessing"):
        Parent()


@needs_proc
def test_ctrl_c_while_a_fork_server_imports_is_its_callers_alone(tmp_path):
    """Which takes seconds, and is what the first run of many waits for."""
    (tmp_path / "slow_to_import.py").write_text(
        "import time\nprint('imports', flush=True)\ntime.sleep(3)"
    )
    (tmp_path / "program.py").write_text(
        "from pathlib import Path\n"
        "from bifusion.studies.training_runs import forked\n"
        "if __name__ == '__main__':\n"
        "    forked.PRELOADED[:] = ['slow_to_import']\n"
        "    try:\n"
        "        forked.start_forked(Path('run.json'), Path(), 1, {})\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
    )
    with subprocess.Popen(
        [sys.executable, "program.py"], cwd=tmp_path, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert running.stdout.readline() == "imports\n"
        os.killpg(running.pid, signal.SIGINT)
        said = running.communicate(timeout=SECONDS)
    assert said == ("interrupted\n", "")


MAKES_ROOMS = """
import sys
from pathlib import Path
from bifusion.datasets.rooms import RoomsConfig, make_rooms
if __name__ == '__main__':
    config = RoomsConfig(train_rooms=40, views=1, point_spacing_m=0.1, image_size=(64, 48))
    tell = lambda done, count: print(done, flush=True)
    try:
        make_rooms(Path(sys.argv[1]), config, tell)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@needs_proc
def test_rooms_being_made_end_with_the_command(tmp_path):
    """`prepare synthetic` killed: its workers, each as large as Python with all it imports, end."""
    (tmp_path / "rooms.py").write_text(MAKES_ROOMS)
    with subprocess.Popen(
        [sys.executable, "rooms.py", "rooms"], cwd=tmp_path, stdout=subprocess.PIPE,
        start_new_session=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"1\n"
        started = [pid for pid in of_session(parent.pid) if pid != parent.pid]
        parent.send_signal(signal.SIGKILL)
    assert len(started) >= 2
    assert left_running(started, SECONDS) == []


@needs_proc
def test_a_terminals_ctrl_c_is_for_the_command_alone_not_for_processes_that_make_rooms(tmp_path):
    """As they start: a traceback of each was printed, and the command left after all were made."""
    (tmp_path / "rooms.py").write_text(MAKES_ROOMS)
    with subprocess.Popen(
        [sys.executable, "rooms.py", "rooms"], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as parent:  # fmt: skip
        while len(of_session(parent.pid)) < 4 and parent.poll() is None:  # one is multiprocessing's own
            time.sleep(0.01)
        time.sleep(0.2)
        os.killpg(parent.pid, signal.SIGINT)
        said = parent.communicate(timeout=SECONDS)
    assert said == ("interrupted\n", "")
