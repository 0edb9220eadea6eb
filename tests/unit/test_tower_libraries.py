"""Libraries of image towers are imported where it works, whatever device a network is built on."""

from pathlib import Path

import pytest
import torch

from bifusion.models.towers.libraries import library

COMPUTES = "import torch\nTHREE = (torch.ones(3).sum()).item()\n"
"""What torch 2.6's `torch._dynamo` does as it is imported, and the libraries import it."""


def test_a_library_that_computes_as_it_is_imported_is_imported_under_the_meta_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("library_as_it_is", "library_on_meta"):
        (tmp_path / f"{name}.py").write_text(COMPUTES)
    monkeypatch.syspath_prepend(str(tmp_path))
    with torch.device("meta"):
        with pytest.raises(RuntimeError, match="meta"):
            import library_as_it_is  # pyright: ignore[reportMissingImports] # noqa: F401
        assert library("library_on_meta").THREE == 3
        assert torch.ones(1).is_meta, "the device of the networks is as it was"
