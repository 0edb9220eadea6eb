"""When signals are heeded."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from bifusion import cli
from bifusion.training import signals
from bifusion.training.signals import (
    AGAIN_SECONDS,
    Interrupted,
    StopRequest,
    terminated_as_interrupted,
)


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def test_signals_wait_and_the_first_one_counts():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        send()
        send(signal.SIGINT)
        assert stop.signal_name == "SIGTERM"
        with stop.at_once(wanted=False):
            pass
        with pytest.raises(Interrupted, match="SIGTERM"), stop.at_once():
            pytest.fail("an earlier signal ends the block as it begins")
    assert signal.getsignal(signal.SIGTERM) is before


def test_at_once_a_signal_ends_the_block_where_it_stands():
    done = []
    with StopRequest() as stop:
        with pytest.raises(Interrupted), stop.at_once():
            send()
            done.append("after the signal")
        send()  # outside the block it waits again
    assert done == []


class Dropping:
    """A signal comes within its destructor, from which no exception spreads."""

    def __del__(self):
        send()
        _ = [None for _ in range(100)]  # where Python looks for signals


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_drops_is_heeded_at_the_end_of_the_block():
    with StopRequest() as stop, pytest.raises(Interrupted), stop.at_once():
        Dropping()


def test_a_stop_that_python_drops_is_silent_and_comes_again(monkeypatch):
    told = []
    monkeypatch.setattr("sys.unraisablehook", told.append)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        Dropping()
        time.sleep(10)
    assert told == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_a_library_swallows_comes_again_as_what_it_was(monkeypatch, number):
    monkeypatch.setattr(signals, "AGAIN_SECONDS", 0.05)
    with pytest.raises(KeyboardInterrupt) as stop, terminated_as_interrupted():
        with suppress(KeyboardInterrupt):
            send(number)
        time.sleep(10)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signals.exit_status(stop.value) == 128 + number


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_error_of_who_has_swallowed_a_stop_is_that_stop(number, status):
    """trimesh keeps what an import of its raises, and then has something else in its place."""
    with pytest.raises(KeyboardInterrupt) as stop, terminated_as_interrupted():
        with suppress(KeyboardInterrupt):
            send(number)
        raise TypeError("unsupported operand")
    assert signals.exit_status(stop.value) == status and isinstance(stop.value.__context__, TypeError)


def test_an_error_without_a_stop_is_itself():
    with pytest.raises(TypeError), terminated_as_interrupted():
        raise TypeError


def test_a_stop_that_is_being_heeded_does_not_come_again(monkeypatch):
    monkeypatch.setattr(signals, "AGAIN_SECONDS", 0.01)
    done = []
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        try:
            send()
        finally:
            try:
                raise ValueError
            except ValueError:  # what clears up may meet errors of its own
                time.sleep(0.05)
            time.sleep(0.05)
            done.append("cleared up")
    assert done


def test_a_stop_that_comes_again_too_late_changes_nothing(monkeypatch):
    monkeypatch.setattr("sys.unraisablehook", pytest.fail)
    with terminated_as_interrupted():
        Dropping()
    time.sleep(2 * AGAIN_SECONDS)


def test_other_errors_that_python_drops_are_told(monkeypatch):
    class Failing:
        def __del__(self):
            raise ValueError

    told = []
    monkeypatch.setattr("sys.unraisablehook", told.append)
    with terminated_as_interrupted():
        Failing()
    assert [one.exc_type for one in told] == [ValueError]


def test_interrupted_is_no_failure():
    assert issubclass(Interrupted, KeyboardInterrupt) and not issubclass(Interrupted, Exception)


@pytest.fixture
def interrupt_restored():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupt_restored")
def test_commands_are_left_in_order_on_sigterm(monkeypatch, capsys):
    left = []

    def command(args):
        try:
            send()
        finally:
            left.append("cleaned up")

    monkeypatch.setitem(cli.COMMANDS, "compare", command)
    monkeypatch.setattr("sys.argv", ["bifusion", "compare", "recipe"])
    with pytest.raises(SystemExit) as error:
        cli.main()
    assert error.value.code == 143 and left == ["cleaned up"]
    assert "the same command goes on" in capsys.readouterr().err


LEAVING_LATE = """
import threading, time
from bifusion import cli

def command(args):
    threading.Thread(target=time.sleep, args=[60]).start()
    print("began", flush=True)
    time.sleep(60)

cli.COMMANDS["info"] = command
cli.main(["info"])
"""


def test_a_second_ctrl_c_ends_what_takes_long_to_leave_without_a_traceback():
    command = [sys.executable, "-c", LEAVING_LATE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        assert running.stdout.readline() == "began\n"
        running.send_signal(signal.SIGINT)
        assert running.stderr.readline() == "bifusion: interrupted\n"
        time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=30) == ("", "")
    assert running.returncode == -signal.SIGINT


INTERRUPTING_IMPORT = """
import sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "bifusion.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from bifusion.__main__ import main
main()
"""


def test_ctrl_c_while_the_command_line_is_imported_is_one_line():
    ended = subprocess.run([sys.executable, "-c", INTERRUPTING_IMPORT], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "bifusion: interrupted\n")
