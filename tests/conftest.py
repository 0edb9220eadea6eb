"""What all tests share: the folders they may need, and what BIFUSION_REQUIRE makes of a lack."""

from pathlib import Path

import pytest

import needs


def pytest_configure() -> None:
    """A misspelt name in BIFUSION_REQUIRE ends the session before a test is skipped because of it."""
    try:
        needs.required()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="session")
def cases() -> Path:
    """Folder of small inputs that users met trouble with, one folder each (BIFUSION_CASES)."""
    path = needs.folder("BIFUSION_CASES", "cases")
    if not path.is_dir():
        needs.lacking("cases", f"{path} is no folder")
    return path.resolve()
