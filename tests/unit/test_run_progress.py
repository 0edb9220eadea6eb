"""The table of runs that train in other processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
