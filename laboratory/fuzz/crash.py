"""A finding in a file that replays it, on any machine with the same samples."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from laboratory.fuzz.run import try_one
from laboratory.fuzz.target import Sample, Target, changed_file, make_sample
from laboratory.fuzz.worker import Finding

REPORT = "finding.json"


def keep(target: Target, sample: Sample, finding: Finding, out: Path) -> Path:
    """Writes what was found and the changed file; returns the archive."""
    changed, content = changed_file(target, sample, finding.number)
    path = out / f"{target.name.replace(' ', '-')}-{finding.number}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(REPORT, json.dumps({**asdict(finding), "changed": str(changed)}, indent=1))
        archive.writestr("changed", content)
    return path


def replay(path: Path, targets: Sequence[Target]) -> Finding | None:
    """Reads the sample with the changed file of a finding once more."""
    with zipfile.ZipFile(path) as archive:
        report, content = json.loads(archive.read(REPORT)), archive.read("changed")
    target = next(one for one in targets if one.name == report["target"])
    with tempfile.TemporaryDirectory(prefix="bifusion-fuzz-") as place:
        sample = make_sample(target, Path(place) / "sample")
        return try_one(target, sample, (Path(report["changed"]), content), Path(place) / "work")
