"""What all tests share: the folders they may need, and what BIFUSION_REQUIRE makes of a lack."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import needs


@dataclass(frozen=True)
class Called:
    """What a command left: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


def pytest_configure() -> None:
    """A misspelt name in BIFUSION_REQUIRE ends the session before a test is skipped because of it."""
    try:
        needs.required()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture
def bifusion(capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """Calls the command line in this process; an exception that it lets through fails the test, as it
    would leave with a traceback."""
    from bifusion import cli  # not above: types are checked in what is imported after the session begins

    def call(*args: object) -> Called:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main([str(arg) for arg in args])
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
