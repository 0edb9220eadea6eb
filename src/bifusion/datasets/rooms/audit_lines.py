"""The audit of generated rooms in a few lines: what a terminal says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SENSES = {"voxels": "colour and geometry of voxels", "images": "pictures"}


def audit_lines(audit: Mapping[str, Any]) -> list[str]:
    """What `audit` found: what alone tells classes apart, how much views see, what superpoints allow.

    Accuracies are cross-validated, shares of 1; a group without instances is left out.
    """
    lines = [_probe_line(told, audit["probe"][sense]) for sense, told in SENSES.items()]
    seen = [
        f"{share['all']:.0%} of the points to {'train on' if split == 'train' else 'validate on'}"
        for split, share in audit["seen_share"].items()
        if share["all"] is not None
    ]
    lines.append(f"views see {', '.join(seen)}")
    oracle = audit["superpoint_oracle"]
    if oracle is not None:
        lines.append(
            f"the best that superpoints allow: mIoU {oracle['miou']:.2f}, AP {oracle['ap']:.2f}"
        )
    return lines


def _probe_line(told: str, groups: Mapping[str, Any]) -> str:
    said = [
        f"{name} {group['cross_validated']['accuracy']:.2f} (chance {group['chance']:.2f})"
        for name, group in groups.items()
        if group is not None
    ]
    return f"told apart by {told} alone: {', '.join(said) or 'nothing to tell apart'}"
