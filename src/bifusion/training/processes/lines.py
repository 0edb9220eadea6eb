"""Connections between the processes of a run over which they send JSON, a line a message."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

HERE = "127.0.0.1"
CONNECT_SECONDS = 60.0
MOST_BYTES = 1 << 20
"""Of a line."""


@dataclass(frozen=True)
class Place:
    """Where the first process listens, and what who connects must say."""

    host: str
    port: int
    token: str

    def accept(self, server: socket.socket, count: int) -> dict[int, Lines]:
        """`count` connections, by the number that each gives; who lacks the token is sent away."""
        server.settimeout(CONNECT_SECONDS)
        peers: dict[int, Lines] = {}
        while len(peers) < count:
            connection, _ = server.accept()
            lines = Lines(connection)
            connection.settimeout(CONNECT_SECONDS)
            number = self._number_of(lines)
            if number is None:
                lines.close()
            else:
                peers[number] = lines
        return peers

    def _number_of(self, lines: Lines) -> int | None:
        """Who has connected; None: a stranger."""
        try:
            hello = _first(lines)
        except (ValueError, RecursionError):  # no JSON; brackets without end
            return None
        known = isinstance(hello, dict) and hello.get("token") == self.token
        return int(hello["number"]) if known else None


def listen() -> tuple[socket.socket, Place]:
    """A socket on a free port: of this machine alone where no other takes part, as MASTER_ADDR tells."""
    host = os.environ.get("MASTER_ADDR", HERE)
    if host in (HERE, "localhost"):
        server, host = socket.create_server((HERE, 0)), HERE
    elif socket.has_dualstack_ipv6():
        server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        server = socket.create_server(("", 0))
    return server, Place(host, server.getsockname()[1], secrets.token_hex())


def connect(place: Place, number: int) -> Lines:
    """A connection of process `number` to the first."""
    lines = Lines(socket.create_connection((place.host, place.port), timeout=CONNECT_SECONDS))
    lines.send({"token": place.token, "number": number})
    return lines


class Lines:
    """One end of a connection."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.broken = False
        """The other end is gone."""
        self._left = b""

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message, if somebody is there."""
        try:
            self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.broken = True

    def receive(self) -> list[dict[str, Any]]:
        """Waits for messages, or the end of the connection: it is `broken` then, with none perhaps."""
        try:
            data = self.connection.recv(1 << 16)
        except OSError:
            data = b""
        self.broken |= not data or len(self._left) > MOST_BYTES
        *lines, self._left = (self._left + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        self.connection.close()


def _first(lines: Lines) -> Any:
    """The first message, in however many pieces it comes; None where it does not within some time."""
    until = time.monotonic() + CONNECT_SECONDS
    while not (messages := lines.receive()) and not lines.broken and time.monotonic() < until:
        pass
    return messages[0] if messages else None


class Selected:
    """Waits for several connections, by the numbers of their processes."""

    def __init__(self, peers: dict[int, Lines]):
        self.peers = peers
        self._selector = selectors.DefaultSelector()
        for number, lines in peers.items():
            self._selector.register(lines.connection, selectors.EVENT_READ, number)

    def __enter__(self) -> Selected:
        return self

    def __exit__(self, *error: object) -> None:
        self._selector.close()
        for lines in self.peers.values():
            lines.close()

    def drop(self, number: int) -> None:
        """Closes a connection."""
        lines = self.peers.pop(number)
        self._selector.unregister(lines.connection)
        lines.close()

    def finish(self, seconds: float) -> None:
        """Sends nothing more, and gives the others some time to hear what was sent and to close: a
        connection that is closed with something unread in it may take that along."""
        for lines in self.peers.values():
            with suppress(OSError):
                lines.connection.shutdown(socket.SHUT_WR)
        until = time.monotonic() + seconds
        while self.peers and (left := until - time.monotonic()) > 0:
            for number in self.heard(left):
                if self.peers[number].broken:
                    self.drop(number)

    def heard(self, seconds: float) -> dict[int, list[dict[str, Any]]]:
        """What came from whom within some time, at least one message unless it is up."""
        ready = self._selector.select(seconds)
        return {key.data: self.peers[key.data].receive() for key, _ in ready}
