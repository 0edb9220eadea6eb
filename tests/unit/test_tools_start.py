"""Every tool of tools/ finds what it imports when it is run by its path, as the Makefile does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"
STARTED_ALONE = """
import runpy, sys
from pathlib import Path

root, usual = Path(sys.argv[1]), list(sys.path)
ours = [str(root / name) for name in ("tools", "tests", "laboratory", "benchmarks")]
for tool in sorted((root / "tools").glob("*.py")):
    sys.path[:] = [str(tool.parent), *usual]
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(tuple(ours)):
            del sys.modules[name]
    try:
        runpy.run_path(str(tool), run_name="started")
    except ModuleNotFoundError as error:
        print(f"{tool.name}: {error}")
"""
EXTRAS = {"nbformat", "nbclient", "mkdocs", "mkdocs_gen_files", "nbconvert"}
"""What `make release-check` and `make docs` install."""


def test_every_tool_finds_what_it_imports(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-P", "-c", STARTED_ALONE, str(TOOLS.parent)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lacking = [line for line in run.stdout.splitlines() if line.split("'")[1] not in EXTRAS]
    assert lacking == []
