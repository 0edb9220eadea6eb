"""Reading a configuration that a run, a checkpoint or `compare` stored."""

from __future__ import annotations

import json
from pathlib import Path

from bifusion.config.run import Config, config_from_dict
from bifusion.runs.old_names import current_config
from bifusion.types import InputError


def load_config(path: Path) -> Config:
    """Reads what `save_config` wrote, or a run's config.json (its "config" is taken), by this version
    or an earlier one.

    Raises InputError if the file is missing, no JSON, or does not describe a configuration.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a configuration that a run or `compare` wrote")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); write it again") from error
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"]
    return config_from_dict(current_config(value) if isinstance(value, dict) else value, str(path))
