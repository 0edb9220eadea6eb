"""`bifusion check`: everything that is wrong with a data set, split or scene folder, told at once."""

from bifusion.datasets.check.opened import Finding
from bifusion.datasets.check.run import DataReport, SceneReport, check_data

__all__ = ["DataReport", "Finding", "SceneReport", "check_data"]
