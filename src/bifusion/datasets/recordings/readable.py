"""Going through a recording although some of its frames cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bifusion.datasets.recordings.frame import Frame, Recording
from bifusion.errors import InputError

MOST_NAMED = 3


def readable_frames(
    recording: Recording, indices: Iterable[int] | None = None
) -> Iterator[tuple[int, Frame]]:
    """Number and frame of those of `indices` (None: all) that can be read, one at a time.

    Those that cannot are counted in `recording.notes` at the end, the first of them with what is wrong.
    Raises InputError, also at the end: none can be read.
    """
    errors: list[str] = []
    tried = 0
    for index in range(len(recording)) if indices is None else indices:
        tried += 1
        try:
            frame = recording.frame(index)
        except InputError as error:
            errors.append(str(error))
            continue
        yield index, frame
    if errors and len(errors) == tried:
        raise InputError(f"none of {tried} frames of {recording.name} can be read: {errors[0]}")
    if errors:
        named = "; ".join(errors[:MOST_NAMED])
        more = " …" if len(errors) > MOST_NAMED else ""
        recording.notes.append(f"{len(errors)} of {tried} frames left out: {named}{more}")
