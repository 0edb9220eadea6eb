"""The table of runs that train in other processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from bifusion.studies.training_runs.progress import RunCount

SHOWN = """
import sys
from pathlib import Path
from rich.console import Console
from bifusion.studies.training_runs.progress import RunTable
with RunTable([Path(sys.argv[1])], Console(width=200)) as table:
    table.update()
"""


def test_classes_of_any_language_under_any_locale(tmp_path: Path) -> None:
    """config.json is UTF-8 whatever the locale's encoding is, such as GB 18030."""
    config = {"epochs": 7, "config": {"data": {"labels": ["椅子"]}}}
    (tmp_path / "config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    epoch = {"epoch": 2, "stage": "s", "train": {"total": 1.5}, "val": None, "raw_nonfinite": 0}
    epoch["seconds"] = 3.0
    (tmp_path / "epochs.jsonl").write_text(json.dumps(epoch) + "\n", encoding="utf-8")
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", SHOWN, tmp_path],
        env=os.environ | ascii_locale | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 3/7" in done.stdout


def test_a_crashed_run_is_none_of_those_still_to_come(tmp_path: Path) -> None:
    folders, now = [tmp_path / name for name in ("one", "two", "three", "four")], [0.0]
    for folder in folders:
        folder.mkdir()
    console = Console(record=True, width=160)
    with RunCount(folders, console, lambda: now[0]) as count:
        now[0] = 120.0
        (folders[1] / "status.json").write_text('{"state": "guard_stopped", "raw_nonfinite": 1}')
        (folders[1] / "evaluation.json").write_text("{}")
        count.update([folders[0]])
        count.update([folders[0]])
    assert console.export_text().splitlines() == [
        "1/4 one: crashed; about 6 min left",
        "2/4 two: guard stopped, 1 non-finite; about 2 min left",
    ]
