"""Which scans there are in a folder, and to which split the benchmark's lists deal each."""

from __future__ import annotations

from pathlib import Path

from bifusion.errors import InputError, listing
from bifusion.untrusted.files import is_leftover, read_text

SPLITS = ("train", "val", "test")
LISTS = "scannetv2_{train,val,test}.txt"
MESH = "_vh_clean_2.ply"


def scan_names(scans: Path) -> list[str]:
    """Names of the scans in a folder that has one folder for each.

    InputError where there is none, or where the folder above or below was meant.
    """
    expected = "expected one folder a scan, like scene0000_00"
    if not scans.is_dir():
        raise InputError(f"{scans}: no such folder; {expected}")
    names = sorted(path.name for path in scans.iterdir() if path.is_dir() and not is_leftover(path))
    if "scans" in names:
        raise InputError(f"{scans}: holds no scan, but the folder scans; give {scans / 'scans'}")
    folder = scans.resolve()
    if (folder / f"{folder.name}{MESH}").exists():
        raise InputError(f"{scans}: is one scan; give the folder that it lies in, {folder.parent}")
    if not names:
        raise InputError(f"{scans}: holds no scan; {expected}")
    return names


def read_lists(folder: Path) -> dict[str, set[str]]:
    """Split → names of its scans, of those of the benchmark's lists that are in a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with {LISTS}")
    paths = {split: folder / f"scannetv2_{split}.txt" for split in SPLITS}
    lists = {
        split: set(read_text(path, advice="download it again").split())
        for split, path in paths.items()
        if path.exists()
    }
    if not lists:
        raise InputError(
            f"{folder}: none of the lists {LISTS} is there; download them from ScanNet's repository, or "
            "leave --splits out: all scans go to train then"
        )
    return lists


def splits_of_scans(
    names: list[str], lists: dict[str, set[str]], folder: Path
) -> dict[str, tuple[str, ...]]:
    """Scan → its splits, nearly always one. InputError, naming the lists' folder, for one without."""
    splits_of = {name: tuple(s for s, members in lists.items() if name in members) for name in names}
    unlisted = [name for name, splits in splits_of.items() if not splits]
    if unlisted:
        raise InputError(
            f"{folder}: the lists there ({_files(lists)}) do not list {', '.join(unlisted[:5])}"
            f"{' …' if len(unlisted) > 5 else ''}; add them to a list, or leave --splits out: all scans "
            "go to train then"
        )
    return splits_of


def absent_notes(names: list[str], lists: dict[str, set[str]]) -> dict[str, str]:
    """Split → what to say of scans that its list names and that have no folder: half a download would
    pass for a data set."""
    notes = {}
    for split, members in lists.items():
        absent = sorted(members.difference(names))
        if absent:
            notes[split] = (
                f"{len(absent):,} of {len(members):,} scans of the {split} list have no folder: "
                f"{listing(absent, 3)}"
            )
    return notes


def _files(lists: dict[str, set[str]]) -> str:
    """Those that were read, which need not be all."""
    return ", ".join(f"scannetv2_{split}.txt" for split in lists)
