"""Points of LAS and LAZ files; those of LAZ decoded in a process of their own, under a limit of memory.

Of some damaged files lazrs panics, or takes the gigabytes that the length of a layer asks for, or aborts
where these cannot be had: nothing that a process could catch of itself. `python -m` this module with a
path writes to stdout what `decode_apart` reads.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from bifusion.errors import InputError

CHUNK = 1_000_000
SPARE_BYTES = 512 << 20
"""That the decoder may take, besides …"""
POINT_BYTES = 200
"""… so many for each point of a chunk: as it is stored, decoded, and as columns."""
THREADS = 4
"""Of the decoder: memory of their own is mapped for each."""
MOST_TOLD = 300
COUNT = struct.Struct("<q")


def read_points(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(n, 3) float64 coordinates, NaN of points that are marked withheld, and (n, 3) uint16 colours,
    `CHUNK` points at a time. Raises InputError for a file that is damaged."""
    import laspy

    try:
        with laspy.open(path) as reader:
            for chunk in reader.chunk_iterator(CHUNK):
                yield _columns(chunk)
    except (
        laspy.errors.LaspyException, struct.error, ValueError, RuntimeError, KeyError, IndexError,
        TypeError, OverflowError, OSError, MemoryError, UnicodeDecodeError,
    ) as error:  # fmt: skip
        raise InputError(f"{path}: cannot be read as LAS ({error}); copy it again") from None


def decode_apart(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `read_points` yields, from another process; InputError where that one ends badly."""
    command = [sys.executable, "-m", __name__, str(path.resolve())]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAYON_NUM_THREADS": str(min(THREADS, os.cpu_count() or 1)),
    }
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, env=environment) as decoder:
            assert decoder.stdout is not None
            yield from _received(decoder.stdout)
        if decoder.returncode:
            said.seek(0)
            words = said.read(MOST_TOLD).decode(errors="replace").strip()
            if decoder.returncode == REFUSED:
                raise InputError(words)
            told = [line for line in words.splitlines() if not line.startswith("thread ")]
            raise InputError(
                f"{path}: its decoder ended with {decoder.returncode} "
                f"({told[0] if told else 'without a word'}); copy it again"
            )


REFUSED = 2
"""Exit status with which stderr says why."""


def _received(stream: IO[bytes]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while len(head := stream.read(COUNT.size)) == COUNT.size:
        (count,) = COUNT.unpack(head)
        columns = stream.read(count * 24), stream.read(count * 6)
        if len(columns[1]) == count * 6:
            coord, color = np.frombuffer(columns[0], np.float64), np.frombuffer(columns[1], np.uint16)
            yield coord.reshape(-1, 3), color.reshape(-1, 3)


def _columns(chunk: Any) -> tuple[np.ndarray, np.ndarray]:
    coord = np.stack([np.asarray(chunk[axis], np.float64) for axis in "xyz"], axis=1)
    coord[np.asarray(chunk["withheld"], bool)] = np.nan
    return coord, np.stack([np.asarray(chunk[name]) for name in ("red", "green", "blue")], axis=1)


def _limit_memory() -> None:
    """Where the system tells how much is mapped (Linux): no more than a chunk of points takes."""
    mapped = Path("/proc/self/statm")
    if mapped.exists():
        import resource

        size = int(mapped.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        most = size + SPARE_BYTES + POINT_BYTES * CHUNK
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _main() -> None:
    import laspy  # noqa: F401  # what is imported counts as mapped before
    import lazrs  # noqa: F401

    _limit_memory()
    try:
        for coord, color in read_points(Path(sys.argv[1])):
            for part in (COUNT.pack(len(coord)), coord.tobytes(), color.astype("<u2").tobytes()):
                sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
    except InputError as error:
        sys.stderr.write(str(error))
        sys.exit(REFUSED)


if __name__ == "__main__":
    _main()
