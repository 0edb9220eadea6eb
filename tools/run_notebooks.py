"""Executes the notebooks of the documentation, each in an empty folder of its own.

    python tools/run_notebooks.py [NAME ...] [--keep FOLDER]

What they make is thrown away, and so is what they print, unless --keep names a folder for the executed
notebooks, to be looked at. A cell that raises ends it with status 1.
"""

import argparse
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
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("names", nargs="*", metavar="NAME")
    options.add_argument("--keep", type=Path, metavar="FOLDER")
    wanted = options.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in wanted.names or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")):
        started = time.perf_counter()
        executed = execute(name)
        if wanted.keep is not None:
            wanted.keep.mkdir(parents=True, exist_ok=True)
            nbformat.write(executed, wanted.keep / f"{name}.ipynb")
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


def execute(name: str) -> nbformat.NotebookNode:
    """The notebook with its outputs; leaves with status 1, showing the cell, where one raises."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": folder}})
        try:
            return client.execute()
        except CellExecutionError as error:
            sys.exit(f"{name}: {error}")


if __name__ == "__main__":
    main()
