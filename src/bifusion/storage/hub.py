"""The Hugging Face hub as a place of files: what its cache has, and whether it answers.

Its library asks again and again for half a minute, for each of a file's names, before it says that there
is no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

WAIT_S = 5.0
"""For each part of an answer: a connection, its first bytes."""


def cached_file(repository: str, names: Sequence[str]) -> Path | None:
    """The first of `names` in "user/repository" that was fetched before; nobody is asked."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, name) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def require_hub() -> None:
    """ConnectionError, with the reason, unless the hub (HF_ENDPOINT) answers soon, whatever it says."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=WAIT_S)
    except (transport_error(), OSError) as error:
        raise ConnectionError(f"{constants.ENDPOINT} does not answer: {error}") from error


def transport_error() -> type[Exception]:
    """The base of what the library below the hub's raises, which was another one in earlier versions."""
    from huggingface_hub import errors

    below = errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0]
    bases = [one for one in errors.HfHubHTTPError.__mro__ if one.__module__.partition(".")[0] == below]
    return cast("type[Exception]", bases[-1])
