"""What a reader should know of runs that may be compared, but were not made all alike."""

from __future__ import annotations

from collections.abc import Iterable

from bifusion.errors import listing
from bifusion.studies.figures.run import Run
from bifusion.wording import plural


def cautions(runs: Iterable[Run]) -> list[str]:
    """Versions of the software that differ between runs, as far as runs record them, and runs that went
    on after scenes or software had changed; a sentence each."""
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
    return told
