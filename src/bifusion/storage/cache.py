"""Where what can be made again is kept: one folder a user, outside the user's own folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "BIFUSION_CACHE"
"""Environment variable that names another folder."""


def cache_folder() -> Path:
    """BIFUSION_CACHE; else `bifusion` in the platform's cache folder (XDG_CACHE_HOME or ~/.cache,
    ~/Library/Caches on macOS). It may be deleted at any time."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification has relative ones ignored
        base = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(base) / "bifusion"
