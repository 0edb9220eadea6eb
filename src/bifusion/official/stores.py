"""Where runs are shared: the Hugging Face hub, or a folder that stands for it (BIFUSION_HUB)."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bifusion.errors import InputError, first_line
from bifusion.official.shared_files import FILES, MOST_SUM_BYTES, read_sums, written
from bifusion.runs.checkpoint import SUMS, WEIGHTS
from bifusion.spelling import did_you_mean
from bifusion.storage.files import full_disk_named
from bifusion.storage.folders import folder_written_beside
from bifusion.storage.hub import transport_error
from bifusion.untrusted.files import MOST_TEXT_BYTES

VARIABLE = "BIFUSION_HUB"
"""Environment variable: a folder in the hub's place, for trials and for groups that share a disk."""
NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?/[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?")

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@runtime_checkable
class Store(Protocol):
    """Folders of files by name, "user/name"."""

    def put(self, folder: Path, name: str, *, private: bool) -> str:
        """Stores what is in `folder`; returns the address to look at it."""
        ...

    def get(self, name: str) -> Path:
        """A folder with the files last stored under the name; on the disk, maybe from a cache."""
        ...


def check_name(name: str) -> None:
    """InputError unless it is "user/name", as the hub wants it."""
    if not NAME.fullmatch(name) or "--" in name or ".." in name:
        raise InputError(
            f"hub name: found {name!r}; expected user/name of letters, digits, '-', '_' and '.', such "
            "as ada/bifusion-workshop"
        )


def check_licence(licence: str) -> None:
    """InputError for what cannot be one of the hub's names of licences; which there are, it knows."""
    if not LICENCE.fullmatch(licence):
        small = licence.lower().replace(" ", "-")
        meant = f" (did you mean {small!r}?)" if LICENCE.fullmatch(small) else ""
        raise InputError(
            f"licence: found {licence!r}{meant}; expected it as the hub spells it, in small letters "
            "without blanks: apache-2.0, cc-by-nc-4.0, or other"
        )


def open_store() -> Store:
    """The folder that BIFUSION_HUB names, else the hub."""
    named = os.environ.get(VARIABLE)
    return FolderStore(Path(named).expanduser().absolute()) if named else HubStore()


@dataclass(frozen=True)
class FolderStore:
    """A folder of folders: root/user/name."""

    root: Path

    def put(self, folder: Path, name: str, *, private: bool) -> str:
        """InputError where something else than an earlier push, and notes beside it, is in the place."""
        place = self.root / name
        with folder_written_beside(place, written) as beside:
            shutil.copytree(folder, beside, dirs_exist_ok=True)
        return str(place)

    def get(self, name: str) -> Path:
        place = self.root / name
        if not place.is_dir():
            known = [f"{path.parent.name}/{path.name}" for path in self.root.glob("*/*")]
            raise InputError(f"hf://{name}: {self.root} has no such run{did_you_mean(name, known)}")
        return place


class HubStore:
    """The Hugging Face hub, through its own library: its login, its cache, its mirrors."""

    def put(self, folder: Path, name: str, *, private: bool) -> str:
        from huggingface_hub import HfApi

        with _told(name):
            api = HfApi()
            api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="bifusion push")
        return f"hf://{name}"

    def get(self, name: str) -> Path:
        """Of the repository only the files of a shared run, once their checksums and sizes say that it
        is one."""
        from huggingface_hub import constants, snapshot_download

        with _told(name), full_disk_named(Path(constants.HF_HUB_CACHE)):
            folder = _with_sums(name)
            sums = read_sums(folder, name)
            if not all((folder / file).is_file() for file in sums):
                commit = folder.name
                _refuse_larger(name, commit, _most_bytes(sums))
                snapshot_download(name, revision=commit, allow_patterns=list(FILES))
        return folder


def _with_sums(name: str) -> Path:
    """The folder in the hub's cache of the newest commit, or, where the hub does not answer, of the one
    that was fetched last; its checksums lie in it, if it has any."""
    from huggingface_hub import errors, snapshot_download

    try:
        _refuse_larger(name, None, {SUMS: MOST_SUM_BYTES})
    except (transport_error(), errors.OfflineModeIsEnabled) as error:
        try:
            return Path(snapshot_download(name, allow_patterns=[SUMS], local_files_only=True))
        except errors.LocalEntryNotFoundError:
            if isinstance(error, errors.HfHubHTTPError | json.JSONDecodeError):  # it did say something
                raise error from None
            raise
    return Path(snapshot_download(name, allow_patterns=[SUMS]))


def _most_bytes(sums: dict[str, dict[str, Any]]) -> dict[str, int]:
    """What each file of a shared run with these checksums may have; text no more than will be read."""
    told = {file: sums[file]["bytes"] for file in sums}
    texts = {file: min(told.get(file, MOST_TEXT_BYTES), MOST_TEXT_BYTES) for file in FILES}
    return texts | {WEIGHTS: told[WEIGHTS], SUMS: MOST_SUM_BYTES}


def _refuse_larger(name: str, commit: str | None, most: dict[str, int]) -> None:
    """InputError for files of `most` that are larger at `commit` (None: the newest) than it says."""
    from huggingface_hub import HfApi

    for one in HfApi().model_info(name, revision=commit, files_metadata=True).siblings or []:
        if one.size is not None and one.size > most.get(one.rfilename, one.size):
            raise InputError(
                f"hf://{name}: {one.rfilename} has {one.size:,} bytes there, expected at most "
                f"{most[one.rfilename]:,}; it is not fetched: it was stored damaged, tell its owner"
            )


@contextmanager
def _told(name: str) -> Iterator[None]:
    """InputError that says what to do for what the hub's library raises."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(
            f"hf://{name}: its owner lets in whom they know; ask there, then `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"hf://{name}: the hub has no such name, or it is private; look at the spelling, or log in "
            "with `hf auth login`"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise InputError(
            f"hf://{name}: the hub cannot be reached and its cache does not have it; on a machine with "
            "network load it once and copy the cache (HF_HOME), or give the folder that it was copied to"
        ) from error
    except errors.LocalTokenNotFoundError as error:
        raise InputError(f"hf://{name}: nobody is logged in; `hf auth login` first") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"hf://{name}: what answers is not the hub; does this network want a login, or is "
            "HF_ENDPOINT another address?"
        ) from error
    except errors.HfHubHTTPError as error:
        raise InputError(f"hf://{name}: the hub refused it: {first_line(error)}") from error
    except transport_error() as error:
        raise InputError(
            f"hf://{name}: the hub cannot be reached ({first_line(error)}); try again with network, or "
            f"share by a folder: {VARIABLE}=FOLDER"
        ) from error
