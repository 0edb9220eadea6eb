"""What several files of unit tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A made-up ScanNet as it is released; `scan` and `posed` are the folders of its only scan."""
    from scannet_release import make_scan  # types are checked in what is imported after the tests begin

    return make_scan(tmp_path)


@pytest.fixture
def scan(released: Path) -> Path:
    from scannet_release import NAME

    return released / "scans" / NAME


@pytest.fixture
def posed(released: Path) -> Path:
    from scannet_release import NAME

    return released / "posed_images" / NAME


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
