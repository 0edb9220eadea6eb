"""What configurations of earlier versions said otherwise, so that their runs still load."""

from __future__ import annotations

from typing import Any

from bifusion.labels.files import label_set_to_json
from bifusion.labels.sets import get_label_set


def current_config(value: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration (`config_to_dict`) as this version writes it.

    InputError for a label set that is not built in.
    """
    return _labels_whole(value)


def _labels_whole(value: dict[str, Any]) -> dict[str, Any]:
    """Classes were the name of a built-in set, told to the model and to the data; now the data has them
    whole."""
    model, data = value.get("model"), value.get("data")
    if not isinstance(model, dict) or not isinstance(data, dict) or "label_set" not in model:
        return value
    name = model["label_set"]
    if data.get("label_set", name) != name:
        return value  # never was consistent; refused with the field named
    model = {key: item for key, item in model.items() if key != "label_set"}
    data = {**data, "label_set": name, "labels": label_set_to_json(get_label_set(name))}
    return {**value, "model": model, "data": data}
