"""What a loss of power leaves: nothing gets its name before its bytes are on the disk."""

import os
import stat
from pathlib import Path

import pytest
import torch

from bifusion.runs.checkpoint import save_checkpoint
from bifusion.storage.files import write_array, write_tensors, write_text, written_beside
from scene_factory import make_tiny_scene
from tiny_recipes import baseline


class Disk:
    """Knows what was forced to the disk. A rename to a name that is seen asks for all of what it names;
    what is removed asks for the names that came before."""

    def __init__(self, monkeypatch):
        self.flushed: dict[int, object] = {}
        """Inode → bytes of a file, names in a folder, when it was last flushed."""
        self.names: set[int] = set()
        """Folders in which something got a name that is not on the disk yet."""
        self.renamed: list[str] = []
        for name in ("fsync", "rename", "replace", "unlink"):
            monkeypatch.setattr(os, name, getattr(self, f"_{name}")(getattr(os, name)))

    def _fsync(self, work):
        def fsync(descriptor):
            about = os.fstat(descriptor)
            if stat.S_ISDIR(about.st_mode):
                self.flushed[about.st_ino] = set(os.listdir(descriptor))
                self.names.discard(about.st_ino)
            else:
                self.flushed[about.st_ino] = os.pread(descriptor, about.st_size, 0)
            work(descriptor)

        return fsync

    def _rename(self, work):
        def rename(old, new, **options):
            old, new = Path(old), Path(new)
            if not new.name.startswith("."):
                for path in (old, *old.rglob("*")):
                    assert path.is_symlink() or self._is_on_disk(path), f"{path} is {new} too soon"
                self.names.add(new.parent.stat().st_ino)
                self.renamed.append(new.name)
            work(old, new, **options)

        return rename

    _replace = _rename

    def _unlink(self, work):
        def unlink(path, **options):
            if os.path.lexists(path):
                assert not self.names, f"{path} goes before what takes its place is on the disk"
            work(path, **options)

        return unlink

    def _is_on_disk(self, path):
        now = {*os.listdir(path)} if path.is_dir() else path.read_bytes()
        return self.flushed.get(path.stat().st_ino) == now


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def write_an_array(path):
    with written_beside(path) as beside:
        write_array(beside, torch.arange(5).numpy())


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "text"),
        lambda path: write_tensors(path, {"x": torch.zeros(5)}),
        write_an_array,
        make_tiny_scene,
    ],
    ids=["text", "tensors", "array", "scene"],
)
def test_what_has_a_name_is_on_the_disk(tmp_path, disk, write):
    for _ in range(2):
        write(tmp_path / "new" / "x")
        assert disk.renamed[-1] == "x" and disk.names == set()


def test_a_checkpoint_goes_when_the_next_one_is_on_the_disk(tmp_path, disk):
    for step in (1, 2, 3):
        state = {"step": step, "time": float(step)}
        save_checkpoint(tmp_path, torch.nn.Linear(2, 2), baseline(), state, step=step, links=("last",))
        assert disk.names == set()
    assert disk.renamed.count("last") == 3
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000002", "step-00000003"]
