"""The table of image towers: that it measures what it says, and names tests that there are."""

from pathlib import Path

from benchmarks.towers import ROWS, Row, measured, table

from bifusion.models.towers.clip import ClipConfig

UNIT = Path(__file__).parent


def test_a_row_is_measured_and_told() -> None:
    tower = ClipConfig("small", blocks=1, width=16, layers=1, heads=2, patch_size=8, image_size=32)
    found = measured(Row(tower, (48, 32), "test_clip_encoder.py"))
    assert found["map"] == [4, 6, 16] and found["parameters"] > 1000
    assert found["seconds"]["seconds"] > 0 and found["memory_mb"] >= 0
    line = table({"tiny": found}).splitlines()[-1]
    assert line.startswith("| tiny | 0.0 M | 48 × 32, 6 × 4 × 16 | ") and line.endswith("encoder.py |")


def test_the_tests_that_it_names_are_there() -> None:
    names = {name for row in ROWS.values() for name in row.tests.split(", ")}
    assert names and all((UNIT / name).is_file() for name in names)
    assert all(row.config.patch is None or row.size[0] % row.config.patch == 0 for row in ROWS.values())
