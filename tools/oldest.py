"""The oldest versions that pyproject.toml admits, as constraints for pip: one line a dependency."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
EXTRAS = ("test", "phone")


def oldest() -> list[str]:
    """name==version of every lower bound, those of the extras that tests use included."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"].get(extra, [])
    bound = re.compile(r"([\w.\-]+)(?:\[[\w,]+\])?>=([\w.]+)(?:;.*)?")  # for some platforms or for all
    found = (bound.fullmatch(line) for line in wanted)
    return sorted({f"{match[1]}=={match[2]}" for match in found if match is not None})


if __name__ == "__main__":
    print("\n".join(oldest()))
