"""What the hub answers, over HTTP, to the library that is installed: found, unknown, not the hub, gone.

A small server on this machine stands for the hub, and a process of its own asks it: the library reads
where the hub is when it is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

CONTENT = {"model.safetensors": b"weights", "config.json": b"{}"}
SUMS = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in CONTENT.items()}
FILES = {**CONTENT, "README.md": b"# a card", "sums.json": json.dumps(SUMS).encode()}
HERE, GONE, PRIVATE, PORTAL = "ada/here", "ada/gone", "ada/private", "ada/portal"
FOREIGN, SWOLLEN, FLOOD, TALK = "ada/foreign", "ada/swollen", "ada/flood", "ada/talk"
VAST = {**SUMS, "run.json": {"bytes": 1 << 40, "sha256": "0" * 64}}
REPOSITORIES = {
    HERE: {**FILES, "optimizer.pt": b"of no use here"},
    FOREIGN: {"model.safetensors": b"of another software"},
    SWOLLEN: {**FILES, "model.safetensors": b"weights and much more"},
    FLOOD: {**FILES, "sums.json": FILES["sums.json"].ljust(1 << 17)},
    TALK: {**FILES, "sums.json": json.dumps(VAST).encode(), "run.json": b"{}"},
}
SAID = {(TALK, "run.json"): 1 << 40}
"""Sizes that are told of files that nobody is to fetch."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ASK = """
import sys
from bifusion.errors import InputError
from bifusion.official.stores import open_store
for name in sys.argv[1:]:
    try:
        print(*sorted(path.name for path in open_store().get(name).iterdir()))
    except InputError as error:
        print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: repositories, their trees, their files."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        name = next((name for name in REPOSITORIES if f"/{name}/" in f"{path}/"), None)
        files = REPOSITORIES.get(name or "", {})
        if name is None:
            self._refuse(path)
        elif "/resolve/" in path:
            self._answer(files[path.rpartition("/")[2]])
        elif "/tree/" in path:
            tree = [
                {"type": "file", "path": file, "size": _size(name, file), "oid": _oid(data)}
                for file, data in files.items()
            ]
            self._answer(json.dumps(tree).encode())
        else:
            siblings = [{"rfilename": file, "size": _size(name, file)} for file in files]
            self._answer(json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())

    def _refuse(self, path: str) -> None:
        if PORTAL in path:
            self._answer(b"<html>Please log in to this network</html>", kind="text/html")
        elif PRIVATE in path:
            self._answer(b"{}", 403, "GatedRepo")
        else:
            self._answer(b"{}", 404, "RepoNotFound")

    def _answer(
        self, data: bytes, status: int = 200, error: str = "", kind: str = "application/json"
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), "X-Error-Code": error}
        headers |= {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": COMMIT}
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _size(name: str, file: str) -> int:
    return SAID.get((name, file), len(REPOSITORIES[name][file]))


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.server_close()


def ask(server: ThreadingHTTPServer, home: Path, *names: str) -> list[str]:
    """What each name gives: its files, or the refusal."""
    address = f"http://127.0.0.1:{server.server_port}"
    environment = {k: v for k, v in os.environ.items() if k.lower() not in PROXIES}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(home), "BIFUSION_HUB": ""}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *names], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "hf_hub_offline", "hf_token")


def test_what_a_hub_answers_with_network_and_without(server: ThreadingHTTPServer, tmp_path: Path):
    found, gone, private, portal = ask(server, tmp_path, HERE, GONE, PRIVATE, PORTAL)
    assert found == "README.md config.json model.safetensors sums.json"
    assert gone.startswith("hf://ada/gone: the hub has no such name, or it is private; look at")
    assert private.startswith("hf://ada/private: its owner lets in whom they know")
    assert portal.startswith("hf://ada/portal: what answers is not the hub")
    server.shutdown()
    server.server_close()
    cached, unknown = ask(server, tmp_path, HERE, GONE)
    assert cached == found
    assert unknown.startswith("hf://ada/gone: the hub cannot be reached and its cache does not have it")


def test_only_what_is_a_shared_run_is_fetched(server: ThreadingHTTPServer, tmp_path: Path):
    foreign, swollen = ask(server, tmp_path, FOREIGN, SWOLLEN)
    assert foreign.startswith("hf://ada/foreign: was not stored by `bifusion push`")
    assert swollen.startswith(
        "hf://ada/swollen: model.safetensors has 21 bytes there, expected at most 7"
    )
    fetched = {path.name for path in tmp_path.rglob("snapshots/*/*")}
    assert fetched == {"sums.json"}


def test_what_is_read_whole_is_fetched_up_to_a_size(server: ThreadingHTTPServer, tmp_path: Path):
    """Nothing vouches for the checksums, and what they say is the owner's word alone."""
    flood, talk = ask(server, tmp_path, FLOOD, TALK)
    assert flood.startswith("hf://ada/flood: sums.json has 131,072 bytes there, expected at most 65,536")
    assert talk.startswith("hf://ada/talk: run.json has 1,099,511,627,776 bytes there, expected at most")
    fetched = [path.parts[-4:] for path in tmp_path.rglob("snapshots/*/*")]
    assert [(parts[0], parts[-1]) for parts in fetched] == [("models--ada--talk", "sums.json")]
