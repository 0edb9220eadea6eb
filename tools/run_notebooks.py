"""Executes the notebooks of the documentation, each in an empty folder of its own.

    python tools/run_notebooks.py [NAME ...]

What they make and print is thrown away; a cell that raises ends it with status 1.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = Path(__file__).resolve().parents[1] / "docs/notebooks"
CELL_SECONDS = 3600
"""A cell that hangs ends; one on a busy machine does not."""


def main() -> None:
    """All of them, or those named."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    wanted = sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    for name in wanted:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        nbformat.validate(notebook)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            resources = {"metadata": {"path": folder}}
            client = NotebookClient(notebook, timeout=CELL_SECONDS, resources=resources)
            try:
                client.execute()
            except CellExecutionError as error:
                sys.exit(f"{name}: {error}")
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
