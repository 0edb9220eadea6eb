"""What all tests share: the folders they may need, and what BIFUSION_REQUIRE makes of a lack."""

import gc
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

import needs

IMPORTED_BY_FORKS = [
    "bifusion.cli",
    "bifusion.studies.training_runs.forked",
    "bifusion.datasets.rooms",
    "bifusion.datasets.scan.make",
    "bifusion.diagnosis.replay",
    "open_clip",
    "torch.utils.tensorboard",
]
"""All that commands import late or slowly."""


@dataclass(frozen=True)
class Called:
    """What a command left: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


def pytest_configure() -> None:
    """A misspelt name in BIFUSION_REQUIRE ends the session before a test is skipped because of it.

    What a shell starts in the background ignores Ctrl-C, and so would the commands that tests interrupt.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        needs.required()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_collection_finish() -> None:
    """What has been imported stays: no collection of garbage need walk through it again in any test, and
    forks share its memory."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_fork_server() -> Iterator[None]:
    """A session has one fork server, which imports what whoever starts it asks for: here always all, so
    that no fork of another test has to import the rest."""
    preload = BaseContext.set_forkserver_preload
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            BaseContext, "set_forkserver_preload", lambda self, names: preload(self, IMPORTED_BY_FORKS)
        )
        yield


@pytest.fixture
def fresh_backend_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The backend of sparse operations is chosen anew in the test, with none forced, and after it."""
    from bifusion.sparse import backends

    monkeypatch.delenv(backends.BACKEND_VARIABLE, raising=False)
    backends._choose.cache_clear()
    yield
    backends._choose.cache_clear()


@pytest.fixture
def bifusion(capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """Calls the command line in this process; an exception that it lets through fails the test, as it
    would leave with a traceback."""
    from bifusion import cli  # not above: types are checked in what is imported after the session begins

    def call(*args: object) -> Called:
        capsys.readouterr()
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(SystemExit) as left:
            cli.main([str(arg) for arg in args])
        signal.signal(signal.SIGINT, before)  # a command that was interrupted leaves it to the system
        written = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Called(left.value.code, written.out, written.err)

    return call


@pytest.fixture(scope="session")
def cases() -> Path:
    """Folder of small inputs that users met trouble with, one folder each (BIFUSION_CASES)."""
    path = needs.folder("BIFUSION_CASES", "cases")
    if not path.is_dir():
        needs.lacking("cases", f"{path} is no folder")
    return path.resolve()
