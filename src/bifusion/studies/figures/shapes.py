"""What the records of a run hold, as far as studies read it.

A record of another shape is refused by name, before a figure is made of it. Records of versions that
knew less lack keys; null stands for none, but never for a count or a member of a list of texts.
"""

from __future__ import annotations

from typing import Any

from bifusion.errors import InputError
from bifusion.untrusted.names import brief

NUMBER, TEXT, COUNT = (int, float), (str,), (int,)
EACH = "*"
"""Key of what every entry of an object holds."""
NUMBERS = {EACH: NUMBER}
METRICS = {
    "miou": NUMBER, "iou": NUMBERS, "ap": NUMBER, "ap50": NUMBER, "ap25": NUMBER, "pq": NUMBER,
    "fusion_2d_ratio": NUMBER, "share_2d": NUMBER, "seen_share": NUMBER, "alignment": NUMBERS,
    "agnostic_ap": NUMBER, "mask_coverage": NUMBER, "per_class": {EACH: [NUMBER]}, "points": NUMBER,
}  # fmt: skip
RANGES = {
    "f2d_in": NUMBERS, "f3d_in": NUMBERS, "f2d": NUMBERS, "f3d": NUMBERS,
    "ratio_in": NUMBER, "ratio_out": NUMBER,
}  # fmt: skip
STEP = {
    "stage": TEXT, "scenes": [TEXT], "losses": NUMBERS, "weights": NUMBERS, "total": NUMBER,
    "lr": NUMBERS, "grad_norm": NUMBERS, "grad_norm_clipped": NUMBER, "cosine": NUMBER, "gate": NUMBERS,
    "ranges": RANGES, "seen_share": NUMBER, "seconds": NUMBER, "peak_memory_mb": NUMBER,
    "update_ratio": NUMBERS,
    "event": {"kind": TEXT, "phase": TEXT, "where": [TEXT], "action": TEXT},
    "alarms": [{"rule": TEXT, "where": [TEXT], "message": TEXT}],
}  # fmt: skip
EPOCH = {
    "stage": TEXT, "train": {"total": NUMBER}, "val": METRICS, "raw_nonfinite": NUMBER,
    "skipped": NUMBER, "rollbacks": NUMBER, "warnings": NUMBER, "seconds": NUMBER,
}  # fmt: skip
GATE_GROUPS = {EACH: NUMBERS}
GATE = {
    "points": NUMBER, "mean": NUMBER, "std": NUMBER, "std_within_scenes": NUMBER, "histogram": [NUMBER],
    "classes": GATE_GROUPS, "views": GATE_GROUPS, "distance": GATE_GROUPS, "outcome": GATE_GROUPS,
}  # fmt: skip
EVALUATION = {
    "full": METRICS, "views_withheld": METRICS, "shuffled_2d": METRICS, "flat_gate": METRICS,
    "seen": METRICS, "unseen": METRICS, "by_views": {EACH: METRICS}, "by_distance": {EACH: METRICS},
    "gate": GATE, "alignment_by_stage": {EACH: {"start": NUMBERS, "end": NUMBERS}},
}  # fmt: skip
STATUS = {
    "reason": TEXT, "epochs_done": NUMBER, "steps": NUMBER, "raw_nonfinite": NUMBER, "skipped": NUMBER,
    "rollbacks": NUMBER, "warnings": NUMBER, "finite_epochs_in_a_row": NUMBER, "seconds": NUMBER,
    "summary": TEXT,
}  # fmt: skip
MODEL = {
    "unet": {"kind": TEXT, "planes": [NUMBER], "function": TEXT},
    "fusion": {"dim": NUMBER, "gate_function": TEXT},
    "tower": {"kind": TEXT, "architecture": TEXT, "width": NUMBER}, "training_views": {},
}  # fmt: skip
PLAN = {"trains": {}, "weights": {}, "fixed_alpha": NUMBER, "fixed_alpha_until": NUMBER}
CONFIG = {
    "parameters": {EACH: COUNT}, "train_scenes": [TEXT], "val_scenes": [TEXT], "sources": [TEXT],
    "class_names": [TEXT], "fusion_type": TEXT, "tower": TEXT, "versions": {EACH: TEXT},
    "feature_dims": NUMBERS, "processes": {"scenes_a_step": NUMBER},
    "config": {
        "data": {"augment": {}}, "model": MODEL, "stages": {"stages": [PLAN]},
        "trainer": {"init": TEXT}, "optim": {},
    },
}  # fmt: skip


def check_shape(value: Any, shape: Any, where: str) -> None:
    """InputError naming `where` and the key, if something in `value` is of another type than in `shape`.

    `shape`: types of a value; a list of the one shape of its members; or an object's shapes by key.
    """
    if value is None:
        if shape == COUNT:
            raise _unwritten(value, where)
        return
    kind = type(shape) if isinstance(shape, list | dict) else shape
    if not isinstance(value, kind):
        raise _unwritten(value, where)
    if isinstance(shape, list):
        for number, member in enumerate(value):
            if member is None and shape[0] == TEXT:
                raise _unwritten(member, f"{where}[{number}]")
            check_shape(member, shape[0], f"{where}[{number}]")
    elif isinstance(shape, dict):
        for key in value if EACH in shape else value.keys() & shape.keys():
            check_shape(value[key], shape.get(key, shape.get(EACH)), f"{where}: {brief(key)}")


def _unwritten(value: Any, where: str) -> InputError:
    return InputError(f"{where}: found {brief(value)}; no run writes such a value: copy the file again")
