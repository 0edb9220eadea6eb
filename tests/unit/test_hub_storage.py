"""The hub's cache, and a hub that does not answer: told at once, not after the library's many trials."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import open_clip
import pytest

from bifusion.errors import InputError
from bifusion.models.towers.clip_weights import locate_weights
from bifusion.models.towers.timm_vit import TimmVitConfig
from bifusion.storage import hub

TAG = ("ViT-B-16", "laion2b_s34b_b88k", False)
REPOSITORY = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and libraries that would be caught trying."""

    def caught(*_: object, **__: object) -> None:
        pytest.fail("the library was asked, which tries for half a minute")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(open_clip, "download_pretrained", caught)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", caught)


@pytest.fixture
def port() -> Iterator[socket.socket]:
    """A place of this machine where a connection is taken and nothing is answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_weights_that_are_not_there_without_network(port, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address(port))
    port.close()
    told = r"not in the cache and cannot be downloaded \(http://127.0.0.1:\d+ does not answer: "
    with pytest.raises(InputError, match=told):
        locate_weights(*TAG)
    with pytest.raises(InputError, match=told):
        TimmVitConfig("vit_small_patch14_dinov2.lvd142m", "hub").build()


def test_a_hub_that_is_silent_is_not_waited_for(port, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address(port))
    monkeypatch.setattr(hub, "WAIT_S", 0.2)
    with pytest.raises(ConnectionError, match="does not answer: .*time"):
        hub.require_hub()


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_weights_that_are_there_ask_nobody(name, monkeypatch, tmp_path):
    monkeypatch.setattr("bifusion.models.towers.clip_weights.require_hub", lambda: pytest.fail("asked"))
    kept = tmp_path / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    file = kept / "snapshots" / "0123" / name
    for path, text in ((kept / "refs" / "main", "0123"), (file, "weights")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert locate_weights(*TAG) == file
