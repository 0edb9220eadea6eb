"""Ends all processes of a run where one of them failed, was killed, or stands still, and says which.

Each keeps a connection to the first and tells it every second what it is at. A connection that breaks
is a process that is gone, an error that is told ends the others, and one that has been at the same thing
for too long hangs, most likely together with those that wait for it. `torch.distributed` alone would say
nothing for as long as its timeout, and then not who.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from bifusion.errors import InputError
from bifusion.training.processes import group
from bifusion.training.processes.lines import Lines, Selected, connect, listen
from bifusion.training.processes.table import Seen, Told, hang_told, who

ENDED_EXIT = 5
"""Exit status of a process that ends because of another one, or hangs."""
TICK_SECONDS = 0.5
VERDICT_SECONDS = 3.0
"""How long an error waits for the news that another process's end has caused it."""
PACKAGE = f"{Path(__file__).resolve().parents[2]}/"


class Watch:
    """Use as a context manager, in all processes at the same place; on a single one it does nothing.

    Attributes:
        hang_seconds: how long one may be at the same thing.
        leave: called with what ended this process because of another one; leaves with ENDED_EXIT.
        before_leaving: called before, with the same.
    """

    def __init__(
        self,
        hang_seconds: float,
        *,
        before_leaving: Callable[[str], None] = lambda reason: None,
        leave: Callable[[str], None] | None = None,
    ):
        self.hang_seconds, self.before_leaving = hang_seconds, before_leaving
        self.leave = leave or _leave
        self.number, self.count = group.number(), group.count()
        self._mark, self._what = 0, "starting"
        self._main = threading.get_ident()
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._reason: str | None = None
        """What this process tells the others as it ends; empty: nothing is wrong."""

    def at(self, what: str) -> None:
        """Says what this process is at from now on: a few words, such as "step 12"."""
        self._mark, self._what = self._mark + 1, what

    def __enter__(self) -> Watch:
        if self.count > 1:
            peers = self._connected()
            self._thread = threading.Thread(target=self._follow, args=(peers,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        if isinstance(error, RuntimeError):
            self._thread.join(VERDICT_SECONDS)  # most likely another one ended: it says so, and leaves
        self._reason = "" if error is None else f"{type(error).__name__}: {error}"
        self._ending.set()
        self._thread.join()

    def _connected(self) -> dict[int, Lines]:
        """Of the first process connections to all others, of these one to the first."""
        server, place = listen() if self.number == 0 else (None, None)
        place = group.gather(place)[0]
        assert place is not None
        if server is None:
            peers = {0: connect(place, self.number)}
        else:
            with server:
                peers = place.accept(server, self.count - 1)
        group.barrier()
        return peers

    def _told(self) -> Told:
        frame = sys._current_frames().get(self._main)
        return Told(self._mark, self._what, _innermost(frame), socket.gethostname(), os.getpid())

    def _follow(self, peers: dict[int, Lines]) -> None:
        """The life of the watching thread."""
        now = time.monotonic()
        seen = {number: Seen(Told(0, "starting", "", "", 0), now) for number in (self.number, *peers)}
        with Selected(peers) as selected:
            while peers:
                ending, told = self._ending.is_set(), self._told()
                seen[self.number].hear(told, time.monotonic())
                for lines in peers.values():
                    lines.send({"told": asdict(told)})
                    if ending:
                        lines.send({"ended": self._reason})
                if ending:
                    selected.finish(VERDICT_SECONDS)
                    return
                verdict = self._listen(selected, seen)
                if verdict is not None:
                    self._end(verdict, peers)
                    return

    def _listen(self, selected: Selected, seen: dict[int, Seen]) -> str | None:
        """Hears the others for a while. Why this process must end; None where it need not."""
        until = time.monotonic() + TICK_SECONDS
        while (left := until - time.monotonic()) > 0 and selected.peers:
            for peer, messages in selected.heard(left).items():
                for message in messages:
                    verdict = self._hear(peer, message, selected, seen)
                    if verdict is not None:
                        return verdict
                if peer in selected.peers and selected.peers[peer].broken:
                    return (
                        f"{who(peer, seen[peer].told)} is gone without a word (killed, as for want of "
                        f"memory, or its machine is down); it was at: {seen[peer].told.what}"
                    )
        patience = 0.0 if self.number == 0 else VERDICT_SECONDS  # the first one knows all of them
        return hang_told(seen, time.monotonic(), self.hang_seconds + patience)

    def _hear(
        self, peer: int, message: dict[str, Any], selected: Selected, seen: dict[int, Seen]
    ) -> str | None:
        """One message; why this process must end, None where it need not."""
        if "verdict" in message:
            return str(message["verdict"])
        if "told" in message:
            seen[peer].hear(Told(**message["told"]), time.monotonic())
        elif message["ended"]:
            return f"{who(peer, seen[peer].told)} ended: {message['ended']}"
        else:  # at its end, where the others will be soon
            selected.drop(peer)
            del seen[peer]
        return None

    def _end(self, verdict: str, peers: dict[int, Lines]) -> None:
        """Tells the others, and leaves."""
        for lines in peers.values():
            lines.send({"verdict": verdict})
        last_words = threading.Thread(target=self._last_words, args=(verdict,), daemon=True)
        last_words.start()
        last_words.join(VERDICT_SECONDS)  # not for ever, as the disk may be what hangs
        self.leave(f"rank {self.number} of {self.count} ends at: {self._what}; {verdict}")

    def _last_words(self, verdict: str) -> None:
        with suppress(OSError, InputError):  # such as a full disk
            self.before_leaving(verdict)


def _leave(line: str) -> None:
    """Ends this process from a thread, while the others wait for somebody who is gone."""
    print(f"bifusion: {line}\nrepeat the command with --resume", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(ENDED_EXIT)


def _innermost(frame: FrameType | None) -> str:
    """Where a thread stands, in this package: "step/step.py:101 in compute"."""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE):
            return f"{path.removeprefix(PACKAGE)}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""
