"""Mutated files for every reader: each is read or refused with an InputError, within time and memory.

Samples are written by what the tests write them with.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
