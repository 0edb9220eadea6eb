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
def test_a_stop_that_a_library_swallows_comes_again(monkeypatch, number):
    monkeypatch.setattr(signals, "AGAIN_SECONDS", 0.05)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        with suppress(KeyboardInterrupt):
            send(number)
        time.sleep(10)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
    assert error.value.code == 130 and left == ["cleaned up"]
    assert "the same command goes on" in capsys.readouterr().err


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
