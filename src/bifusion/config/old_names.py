"""Names that files of earlier versions use: the only table of them, and its use on what is read.

Run folders, checkpoints and bundles written before a rename load as if written after it. Only the places
named here are looked at, so that a scene or class of the same name stays as it is. What is read is not
changed on disk, but for the records that a resumed run is going to write anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bifusion.labels.files import label_set_to_json
from bifusion.labels.sets import get_label_set


@dataclass(frozen=True)
class OldNames:
    """What has another name in one kind of file. Paths are dotted, "*" is every item of a list."""

    fields: Mapping[str, str]
    """Path of a field as it was -> its name now."""
    parts: tuple[str, ...] = ()
    """Paths (of the new names) of text that names parts of the model or their parameter groups, of lists
    of such text, and of objects with such keys."""
    places: tuple[str, ...] = ()
    """Paths of lists of places of a fault, "PHASE.NAME", which name a part unless they are of an input:
    then a scene and its view, which may be called as a part was."""

    def updated(self, value: Any, path: str = "") -> Any:
        """A copy of `value` with the names of today."""
        if path in self.parts:
            return _update_parts(value)
        if path in self.places:
            return [_update_place(item) for item in value] if isinstance(value, list) else value
        if isinstance(value, Mapping):
            items = ((*self._field(path, key), item) for key, item in value.items())
            return {name: self.updated(item, at) for name, at, item in items}
        if isinstance(value, list):
            return [self.updated(item, f"{path}.*" if path else "*") for item in value]
        return value

    def _field(self, path: str, key: Any) -> tuple[Any, str]:
        prefix = f"{path}." if path else ""
        name = self.fields.get(f"{prefix}{key}", key)
        return name, f"{prefix}{name}"


CONFIG = OldNames(
    fields={
        "model.clip": "tower",
        "optim.clip_layer_decay": "tower_layer_decay",
        "trainer.clip_cache": "tower_cache",
        "trainer.clip_cache_gb": "tower_cache_gb",
        "trainer.clip_cache_dir": "tower_cache_dir",
        "stages.stages.*.clip_gradient_scale": "tower_gradient_scale",
    },
    parts=("optim.rates", "stages.stages.*.trains"),
)
"""A configuration."""
DESCRIPTION = OldNames(
    fields={"clip": "tower", **{f"config.{path}": name for path, name in CONFIG.fields.items()}},
    parts=("parameters", *(f"config.{path}" for path in CONFIG.parts)),
)
"""A run's config.json."""
RECORD = OldNames(
    fields={},
    parts=("grad_norm", "lr", "update_ratio", "event.diagnosis.module"),
    places=("alarms.*.where", "event.where"),
)
"""A line of steps.jsonl or epochs.jsonl."""
TRAINING_STATE = OldNames(
    fields={},
    parts=("optimizer.param_groups.*.name", "guard.rules.windows", "guard.rules.latches"),
)
"""A checkpoint's training state."""


BUNDLE = OldNames(fields={}, parts=("rates", "events.*.diagnosis.module"), places=("events.*.where",))
"""The description of a step to replay, but for its configuration."""


def update_config(value: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as this version writes it. InputError for a label set that is not built in."""
    return with_kind_of_tower(with_whole_labels(CONFIG.updated(value)))


def update_description(value: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config.json as this version writes it."""
    description = DESCRIPTION.updated(value)
    if isinstance(description.get("config"), dict):
        description["config"] = with_kind_of_tower(description["config"])
    return description


def with_kind_of_tower(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose image tower was CLIP's, unless `use_clip` and `image_features` said that
    there was none, or what stood in its place; now `model.tower` says so by its kind."""
    model = config.get("model")
    if config.get("model_kind") != "bifusion" or not isinstance(model, dict):
        return config
    tower = model.get("tower", {})
    if not isinstance(tower, dict) or "kind" in tower:
        return config
    features, tower = model.get("image_features", "clip"), {"kind": "clip", **tower}
    if not model.get("use_clip", True):
        tower = None
    elif features == "rgb":
        tower = {"kind": "pixels"}
    elif features != "clip":
        tower = {"kind": "outside", "function": features, "pretrained": tower.get("pretrained")}
    model = {key: item for key, item in model.items() if key not in ("use_clip", "image_features")}
    return {**config, "model": {**model, "tower": tower}}


def with_whole_labels(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose classes were the name of a built-in set, told to the model and to the data;
    now the data has them whole."""
    model, data = config.get("model"), config.get("data")
    if not isinstance(model, dict) or not isinstance(data, dict) or "label_set" not in model:
        return config
    name = model["label_set"]
    if data.get("label_set", name) != name:
        return config  # never was consistent; refused with the field named
    model = {key: item for key, item in model.items() if key != "label_set"}
    data = {**data, "label_set": name, "labels": label_set_to_json(get_label_set(name))}
    return {**config, "model": model, "data": data}


def update_tensor_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of a model's state dict by their names of today."""
    return {re.sub(r"^clip\.", "tower.", name): tensor for name, tensor in tensors.items()}


def _update_place(value: Any) -> Any:
    named_part = isinstance(value, str) and not value.startswith("input.")
    return _update_parts(value) if named_part else value


def _update_parts(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub(r"\bclip\b", "tower", value)
    if isinstance(value, Mapping):
        return {_update_parts(key): item for key, item in value.items()}
    return [_update_parts(item) for item in value] if isinstance(value, list) else value
