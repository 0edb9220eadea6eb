"""A page served to the machine's own browser until Ctrl-C; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bifusion.errors import InputError
from bifusion.viewer.page import content_policy

HOST = "127.0.0.1"
ALLOWED = (HOST, "localhost")
"""Names by which a browser on this machine asks; another is a stranger's page that wants to read."""


def page_server(page: str, port: int) -> ThreadingHTTPServer:
    """A server of the page at / on this machine alone; `port` 0 takes any that is free.

    The page may come from a stranger's folder: the browser is told to run this package's script alone.

    Raises InputError where the port cannot be had.
    """
    content = page.encode()

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):  # a tab closed while it loads
                super().handle()

        def do_GET(self) -> None:
            self._answer(self.wfile.write)

        def do_HEAD(self) -> None:
            self._answer(lambda body: None)

        def _answer(self, send: Callable[[bytes], object]) -> None:
            known = self.headers.get("Host", "").partition(":")[0] in ALLOWED
            found = known and self.path == "/"
            body = content if found else b"not here\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8" if found else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", content_policy())
            self.end_headers()
            send(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: the terminal keeps the address."""

    if not 0 <= port < 2**16:
        raise InputError(f"--port: found {port}; expected 0 … 65535")
    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise InputError(
            f"--port {port}: cannot be had ({error.strerror}); name another, or 0 for any that is free"
        ) from None
