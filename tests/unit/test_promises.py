"""The page of promises names tests and commands that are there; its trials see what they look for."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

from load_tool import load_tool

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_test_that_is_named_exists(file, test):
    assert test in names_in(file)


def test_every_promise_names_what_holds_it():
    promised = PAGE.partition("\n## What was run\n")[0]
    rows = [line for line in promised.splitlines() if line.startswith("| ") and "Held by" not in line]
    promises = [row for row in rows if not row.startswith("| ---")]
    assert len(promises) > 20
    assert [row for row in promises if "::" not in row] == []


def test_a_command_that_is_named_exists():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    named = set(re.findall(r"`make ([\w-]+)`", PAGE))
    assert {"chaos", "kill-trial", "resume-test", "soak"} <= named <= set(targets)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"trainer_mb": 0.0009}, []),
        ({"trainer_mb": 0.002}, ["memory rises by 2.00 MB"]),
        ({"workers_mb": 0.0011}, ["memory rises by 1.10 MB"]),
        ({"files": 0.001, "shared": 0.01}, ["files", "shared"]),
        ({"processes": 0.001}, ["processes"]),
    ],
)
def test_the_soak_sees_what_rises(changes, told):
    soak = load_tool("soak")
    start = {
        "trainer_mb": 900.0,
        "workers_mb": 1200.0,
        "heap_mb": 500.0,
        "kept_mb": 30.0,
        "files": 30,
        "processes": 5,
        "shared": 0,
    }
    looks = [
        soak.Look(
            steps, **{n: type(v)(v + changes.get(n, 0) * steps) for n, v in start.items()}, stage="one"
        )
        for steps in range(1000, 10000, 10)
    ]
    found = soak.problems_of(looks)
    assert len(found) == len(told) and all(text in one for text, one in zip(told, found, strict=True))


def test_what_a_stage_needs_more_is_no_rise():
    soak = load_tool("soak")
    looks = []
    for steps in range(0, 6000, 10):
        stage = steps // 3000
        trainer = 900.0 + 50 * stage - 30 * (steps % 3000 < 800) + 0.0005 * steps
        looks.append(soak.Look(steps, trainer, 0.0, 1.0, 1.0, 3, 1, 0, f"stage {stage}"))
    later = soak.settled(looks, settle=1000)
    assert [later[0].steps, len(later)] == [1000, 400] and soak.problems_of(later) == []
    for of_stage in soak.by_stage(later).values():
        assert soak.rise(of_stage, "trainer_mb") == pytest.approx(0.5)
    assert soak.problems_of(looks) != []


def test_each_stage_of_a_soak_is_judged_alone():
    """A stage that rises is seen beside a long one that does not."""
    soak = load_tool("soak")
    looks = [soak.Look(n, 900.0, 0.0, 1.0, 1.0, 3, 1, 0, "long") for n in range(0, 9000, 10)]
    looks += [
        soak.Look(n, 900.0 + 0.002 * n, 0.0, 1.0, 1.0, 3, 1, 0, "short") for n in range(9000, 9500, 10)
    ]
    (told,) = soak.problems_of(looks)
    assert told.startswith("short: memory rises by 2.00 MB")


def test_a_soak_looks_at_all_processes(tmp_path):
    soak = load_tool("soak")
    looks, state = soak.soak(tmp_path, steps=30, workers=1)
    assert state == "completed" and [one.steps for one in looks] == [10, 20, 30]
    assert all(one.processes >= 2 and one.trainer_mb > 50 < one.workers_mb for one in looks)


def test_a_soak_does_not_gather_by_looking(monkeypatch):
    """What a look has Python remember fills the table of such strings, which then doubles: 3.7 MB."""
    soak, remembered, intern = load_tool("soak"), list[str](), sys.intern
    soak.look(10, "one")
    monkeypatch.setattr(sys, "intern", lambda text: remembered.append(text) or intern(text))
    soak.look(20, "one")
    assert remembered == []


def test_chaos_meets_a_command_with_everything():
    chaos = load_tool("chaos")
    assert set(chaos.DISTURBANCES) == {"killed", "asked to end", "child killed", "disk full"}
    assert len(chaos.COMMANDS) >= 10
