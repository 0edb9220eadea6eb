"""The short form of `make faults`: every kind of drawn fault once, a hand-made one of each family."""

from __future__ import annotations

import pytest
from laboratory.corpus import draw
from laboratory.handmade import handmade
from laboratory.run import Laboratory

SEED = 11
FAMILIES = (
    "image file cut short",
    "clipping at infinity",
    "wrong intrinsics",
    "infinite features in one scene of two",
    "NaN in the first moment",
    "NaN in a weight",
    "invalid matching cost in one scene",
    "no views",
    "single voxel",
)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory) -> Laboratory:
    return Laboratory(tmp_path_factory.mktemp("laboratory"))


def test_hand_made_faults(laboratory):
    faults = [f for f in handmade(SEED) if f.name.startswith(FAMILIES)]
    assert len(faults) == len(FAMILIES)
    results = [laboratory.run(fault, SEED) for fault in faults]
    assert {r.name: r.said for r in results if not r.as_expected} == {}


def test_faults_in_modules(laboratory):
    faults = draw(laboratory.workshop, "bifusion_small", SEED, draws=1)
    assert len(faults) == 8
    results = [laboratory.run(fault, SEED) for fault in faults]
    assert {r.name: r.said for r in results if not r.as_expected} == {}
