"""What a reader should know of runs that may be compared, but were not made all alike."""

from __future__ import annotations

from collections.abc import Iterable

from bifusion.errors import listing
from bifusion.evaluation.semantic import one_class_for_all
from bifusion.studies.figures.run import Run
from bifusion.wording import plural


def cautions(runs: Iterable[Run]) -> list[str]:
    """Versions of the software that differ between runs, as far as runs record them, runs that went on
    after scenes or software had changed, and runs that say one class for all; a sentence each."""
    runs = list(runs)
    versions: dict[str, set[str]] = {}
    for run in runs:
        for package, version in (run.config.get("versions") or {}).items():
            versions.setdefault(package, set()).add(version)
    mixed = [
        f"{name} {' and '.join(sorted(found))}" for name, found in versions.items() if len(found) > 1
    ]
    changed = [run.folder.name for run in runs if run.accepted_changes]
    told = []
    if mixed:
        told.append(f"Not all runs were trained by the same versions: {listing(mixed)}.")
    if changed:
        told.append(
            f"{plural(len(changed), 'run')} went on after scenes or software had changed, which was "
            f"accepted: {listing(changed, 8)}."
        )
    for what, names in _single_classes(runs).items():
        told.append(f"In {plural(len(names), 'run')} {what}: {listing(names, 8)}.")
    return told


def _single_classes(runs: Iterable[Run]) -> dict[str, list[str]]:
    """What is to be said of evaluated runs that are right in one class alone → their names."""
    found: dict[str, list[str]] = {}
    for run in runs:
        iou = ((run.evaluation or {}).get("full") or {}).get("iou") or {}
        if what := one_class_for_all(iou):
            found.setdefault(what, []).append(run.folder.name)
    return found
