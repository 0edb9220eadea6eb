"""Folders that appear complete or not at all, and lose nothing that the product did not write.

Written beside, old aside, new in, old away. Users keep notes, labels, other programs' arrays beside
what the product writes: before a folder goes, what is not the product's moves into the one that takes
its place, and what is the product's is removed by its name, never a whole tree. Killed at any moment,
the old folder or the new one is whole, at its place or under a hidden name beside it, from where
`tidy` takes it up.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bifusion.errors import InputError, listing
from bifusion.storage.files import (
    NO_LINKS,
    beside_of,
    flush,
    free_bytes,
    full_disk_named,
    is_abandoned,
    is_left,
    remove_stale,
    seen_name,
)

Written = Callable[[Path], Sequence[str]]
"""What the product wrote into a folder: paths in it, of which the last one tells of all others; none
where the product did not write the folder. Names that are not there do no harm."""
DOING = ("replaced", "removing", "writing")
"""What hidden names say of folders, in the order in which they are taken up."""
NEW = "new"
"""Stands in hidden names for files that come into a folder together."""
NAMED = 5
"""Files named in a message."""


@contextmanager
def folder_written_beside(
    folder: Path, written: Written, *, needed: int | None = None
) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of `folder` when the block ends well.

    All in it is flushed first. It vanishes if the block ends in an error. `written` tells what may go
    of a folder that stood there; the rest of it moves into the new one.

    Raises:
        DiskFullError: no room, `needed` bytes at once.
        InputError: `folder` is none of the product's (`check_replaceable`), or holds files of others
            where the new one has its own.
    """
    for left in _left_of(folder):
        if is_abandoned(left):
            _take_up(left, written)
    check_replaceable(folder, written)
    with full_disk_named(folder, needed):
        beside = _name_beside(folder, "writing", written)
        beside.mkdir(parents=True)
        try:
            if needed is not None and needed > free_bytes(folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            yield beside
            for path in (*beside.rglob("*"), beside):
                flush(path)
            _check_apart(folder, beside, written)
            _replace(folder, beside, written)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def files_replaced(folder: Path, former: Collection[str]) -> Iterator[Path]:
    """An empty folder to fill; its files take the place of `former` when the block ends well.

    For a folder that is the user's, of which only files of these names are the product's. They are as
    they were until all new ones are written; then they go before a new one comes, so that files of two
    never stand together, even after a kill.

    Raises:
        DiskFullError: no room; nothing was changed.
        InputError: a folder has the name of one of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if folders := sorted(name for name in former if (folder / name).is_dir()):
        raise InputError(
            f"{folder}: {listing(folders, NAMED)}: a folder, where a file is to be written; nothing was "
            "changed. Move it away, or write to another place"
        )
    for left in _left_of(folder / NEW):
        if is_abandoned(left):
            shutil.rmtree(left)
    beside = beside_of(folder / NEW, "writing")
    with full_disk_named(folder):
        beside.mkdir()
        try:
            yield beside
            new = sorted(beside.iterdir())
            for path in new:
                flush(path)
            for name in former:
                (folder / name).unlink(missing_ok=True)
            for path in new:
                os.replace(path, folder / path.name)
            flush(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def check_replaceable(folder: Path, written: Written) -> None:
    """InputError if `folder` is there, holds something, and the product did not write it."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"{folder}: is a {'link' if folder.is_symlink() else 'file'}, expected a folder or nothing; "
            "move it away, or write to another place"
        )
    if not folder.is_dir() or written(folder):
        return
    found = sorted(path.name for path in folder.iterdir())
    if found:
        raise InputError(
            f"{folder}: holds {listing(found, NAMED)}, and nothing tells that bifusion wrote it; "
            "nothing there was changed. Move the folder away, or write to another place"
        )


def remove_folder(folder: Path, written: Written) -> None:
    """Removes what the product wrote into a folder, in one step as far as others can see; with the
    folder itself, unless something else is in it."""
    if not folder.is_dir() or not written(folder):
        return
    aside = _name_beside(folder, "removing", written)
    os.rename(folder, aside)
    _put_away(aside, folder, written)


def check_links(folder: Path) -> None:
    """InputError where symbolic links are refused in a folder: by FAT, exFAT and some network shares
    everywhere, by Windows without developer mode. Better told before hours of work than after."""
    trial = beside_of(folder / "link", "writing")
    trial.unlink(missing_ok=True)
    try:
        with full_disk_named(folder):
            trial.symlink_to(".")
    except OSError as error:
        if error.errno not in (*NO_LINKS, errno.EINVAL):  # what Windows says becomes EINVAL
            raise
        raise InputError(
            f"{folder}: no symbolic links can be made here ({error.strerror}), but a run has them to "
            "its checkpoints (last, best); expected a folder that takes them: on Windows turn on "
            "developer mode, elsewhere choose one on a disk of the system's own (not FAT, exFAT or a "
            "network share)"
        ) from error
    trial.unlink()


def switch_link(link: Path, target: str, written: Written) -> None:
    """Points the symbolic link at `target`, a folder beside it, in one step.

    A copy of a run may have a folder in the link's place; it goes, and what the product did not write
    of it moves into the target.
    """
    beside = beside_of(link, "writing")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    if link.is_symlink() or not link.is_dir():
        os.replace(beside, link)
    else:
        _replace(link, beside, written)


def tidy(parent: Path, written: Written, only: Collection[str] | None = None) -> list[Path]:
    """Takes up what killed processes left in a folder that no other process writes to; with `only`, of
    the folders of those names, which no other process writes.

    What was half-written or half-removed goes, an old folder that was aside with no new one in its
    place comes back. Returns the hidden paths there were.
    """
    left = _left_in(parent)
    if only is not None:
        left = [path for path in left if seen_name(path) in only]
    for path in left:
        _take_up(path, written)
    return [*left, *(remove_stale(parent) if only is None else ())]


def _left_in(parent: Path) -> list[Path]:
    """Folders of hidden names, in the order in which they are taken up."""
    folders = sorted(path for path in parent.glob(".*") if path.is_dir() and not path.is_symlink())
    return [path for doing in DOING for path in folders if is_left(path, doing)]


def _left_of(folder: Path) -> list[Path]:
    return [left for left in _left_in(folder.parent) if seen_name(left) == folder.name]


def _take_up(left: Path, written: Written) -> None:
    """What `tidy` does with one folder of a hidden name."""
    folder = left.with_name(seen_name(left))
    if is_left(left, "writing"):
        shutil.rmtree(left)  # nobody but the product has ever seen it
    elif is_left(left, "replaced") and not os.path.lexists(folder):
        os.rename(left, folder)
    else:
        _put_away(left, folder, written)


def _name_beside(folder: Path, doing: str, written: Written) -> Path:
    """A free hidden name beside `folder`; numbers of processes come again."""
    beside = beside_of(folder, doing)
    if beside.is_dir() and not beside.is_symlink():
        _take_up(beside, written)
    return beside


def _replace(folder: Path, new: Path, written: Written) -> None:
    """Puts `new`, a folder or a link beside it, in the place of `folder`."""
    if not folder.is_dir():
        os.rename(new, folder)
        flush(folder.parent)
        return
    aside = _name_beside(folder, "replaced", written)
    os.rename(folder, aside)
    try:
        os.rename(new, folder)
    finally:
        if not os.path.lexists(folder):
            os.rename(aside, folder)
    flush(folder.parent)
    _put_away(aside, folder, written)


def _put_away(aside: Path, folder: Path, written: Written) -> None:
    """Moves what is not the product's of `aside` into `folder` and removes the rest.

    From where it was interrupted it can go on. What finds its place taken stays where it is.
    """
    if is_left(aside, "replaced"):  # from here on it is no longer whole
        removing = _name_beside(folder, "removing", written)
        os.rename(aside, removing)
        aside = removing
    names = [name for name in written(aside) if _is_below(name)]
    _carry(aside, folder, {aside / name for name in names})
    if folder.is_dir():
        flush(folder)
    for name in names[:-1]:
        (aside / name).unlink(missing_ok=True)
    inner = [path for path in aside.rglob("*") if path.is_dir() and not path.is_symlink()]
    for path in sorted(inner, reverse=True):
        _remove_empty(path)
    for name in names[-1:]:
        (aside / name).unlink(missing_ok=True)
    _remove_empty(aside)


def _carry(old: Path, new: Path, ours: set[Path]) -> None:
    """Moves all of `old` but `ours` to the same places under `new`."""
    within = {parent for path in ours for parent in path.parents}
    for path in sorted(set(old.iterdir()) - ours):
        there = new / path.name
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder and (path in within or there.is_dir()):
            _carry(path, there, ours)
        elif not os.path.lexists(there):
            new.mkdir(parents=True, exist_ok=True)
            os.rename(path, there)


def _check_apart(folder: Path, new: Path, written: Written) -> None:
    """InputError if something of others would have to give way to what is new."""
    if not folder.is_dir():
        return
    ours = {*written(folder)}
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    others = sorted(str(path.relative_to(folder)) for path in files)
    taken = [name for name in others if name not in ours and _is_taken(new, name)]
    if taken:
        raise InputError(
            f"{folder}: {listing(taken, NAMED)}: not written by bifusion, which would now write a file "
            "of that name; nothing was changed. Move it away, or write to another place"
        )


def _is_taken(new: Path, name: str) -> bool:
    """Whether the file `name` finds a file of its name in `new`, or one in the place of its folder."""
    above = [new / parent for parent in Path(name).parents]
    return os.path.lexists(new / name) or any(path.exists() and not path.is_dir() for path in above)


def _is_below(name: str) -> bool:
    """Whether a name, read from a file that may be a stranger's, stays within its folder."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _remove_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()
