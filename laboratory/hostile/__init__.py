"""Hostile inputs by kind, in place of every file that a reader opens: each is read or refused with an
InputError, within time and memory.

Samples and readers are those of fuzzing, which changes files at random; here every kind that has harmed
a reader once is tried on every file that it can stand for.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
