"""Frames of a video by their number, decoded with PyAV (extra `phone`), which brings its decoders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.errors import InputError
from bifusion.untrusted.pictures import MOST_PIXELS

NEAR = 60
"""Frames that are rather decoded and dropped than sought: phones have a key frame every second."""
MOST_FRAMES = 1_000_000


class Video:
    """The first video stream of a file.

    Frames are numbered in the order in which they are shown. Reading them in this order decodes each
    once; a jump decodes from the key frame before it.

    Raises InputError: no PyAV, no file, nothing that can be decoded, pictures too large.
    """

    def __init__(self, path: Path):
        self.path = path
        self.size: tuple[int, int] = (0, 0)
        """Width, height in pixels."""
        self._times = self._shown_at()
        self._process, self._next = 0, 0
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return len(self._times)

    def read(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB as stored, of frame `index`, 0 … len − 1."""
        av = _av(self.path)
        try:
            return self._read(index)
        except InputError:
            raise
        except (av.FFmpegError, StopIteration, ValueError, MemoryError) as error:
            self._process = 0
            raise InputError(
                f"{self.path}: frame {index} cannot be decoded ({error or 'the stream ends'}); copy it "
                "again"
            ) from None

    def _read(self, index: int) -> np.ndarray:
        forked = self._process != os.getpid()  # a decoder's place in the file is shared with the parent
        if forked or not 0 <= index - self._next <= NEAR:
            self._seek(index)
        time = self._times[index]
        while (frame := next(self._frames)).pts is None or frame.pts < time:
            pass
        self._next = index + 1
        if frame.pts != time:
            raise ValueError("it is missing from the stream")
        return frame.to_ndarray(format="rgb24")

    def _seek(self, index: int) -> None:
        self._container = _open(self.path)
        self._process = os.getpid()
        stream = self._container.streams.video[0]
        if index > 0:
            self._container.seek(self._times[index], stream=stream)
        self._frames = self._container.decode(stream)

    def _shown_at(self) -> list[int]:
        """When each frame is shown, in the stream's own unit; packets are not decoded."""
        av = _av(self.path)
        container = _open(self.path)
        times: list[int] = []
        try:
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError("its coding is not known")
            self.size = (stream.width, stream.height)
            if not 0 < stream.width * stream.height <= MOST_PIXELS:
                raise InputError(f"{self.path}: says it is {stream.width}×{stream.height} pixels")
            for packet in container.demux(stream):
                if packet.pts is not None and packet.size and not packet.is_discard:
                    times.append(packet.pts)
                if len(times) > MOST_FRAMES:
                    raise InputError(f"{self.path}: has more than {MOST_FRAMES:,} frames")
        except InputError:
            raise
        except (av.FFmpegError, ValueError, MemoryError) as error:
            if not times:
                raise InputError(f"{self.path}: {_UNREADABLE} ({error}); copy it again") from None
        finally:
            container.close()
        return sorted(set(times))


_UNREADABLE = "cannot be read as a video"


def _open(path: Path) -> Any:
    av = _av(path)
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: {_UNREADABLE} ({error}); copy it again") from None
    if not container.streams.video:
        container.close()
        raise InputError(f"{path}: {_UNREADABLE}: it holds no pictures; copy it again")
    return container


def _av(path: Path) -> Any:
    try:
        import av
    except ImportError:
        raise InputError(
            f"{path}: videos need the package av: pip install 'bifusion[phone]'; or write its frames "
            f"beside it: ffmpeg -i {path.name} -start_number 0 {path.stem}/%06d.jpg"
        ) from None
    return av
