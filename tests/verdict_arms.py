"""Runs made for a verdict, as arms of a comparison."""

import json

from bifusion.studies.comparison.performance import judge_performance
from bifusion.studies.figures.arms import find_role, group_runs
from bifusion.studies.figures.run import load_run
from run_factory import FakeRun


def arms_of(root, *fakes):
    return group_runs([load_run(fake.write(root)) for fake in fakes])


def seeds(count=3, **settings):
    return [FakeRun(seed=seed, **settings) for seed in range(count)]


def performance(root, *fakes, role="staged"):
    arms = arms_of(root, *fakes)
    arm = find_role(arms, role)
    assert arm is not None
    return judge_performance(arm, arms)


def rivals(count=3, **settings):
    return [*seeds(count, arm="baseline", **settings), *seeds(count, arm="without_views", **settings)]


def set_in_config(folder, value, *keys):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    inner = config["config"]
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    inner[keys[-1]] = value
    path.write_text(json.dumps(config))
