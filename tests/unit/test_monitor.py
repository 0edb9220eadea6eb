"""The monitor's figures against numbers worked out by hand."""

import ctypes
import math
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import nn

from bifusion.device_memory import most_resident_mb
from bifusion.evaluation.fusion_figures import CANDIDATES, FusionFigures, share_of_2d
from bifusion.step.observe import (
    Fused,
    gradient_norms,
    norms_by_path,
    observe,
    record_of,
    rms_and_max,
)
from bifusion.types import FusionControl, FusionTrace, Prediction
from small_batches import batch_of_superpoints


def trace_of(seen, f2d, f3d, alpha, scale=1.0, learned=True):
    gate = torch.where(seen, scale * alpha, torch.zeros(()))
    return FusionTrace(seen, alpha, gate, f2d[seen], f3d, f2d[seen], f3d, learned=learned)


def observed_of(trace, control):
    figures = observe(Prediction([], None, None, torch.tensor([[3.0, 4.0]]), trace))
    record = record_of(
        {name: figure.item() for name, figure in figures.items()}, Fused.of(trace), control
    )
    assert record.pop("class_spread") is None  # no semantic head
    assert record.pop("decoder_in") == pytest.approx({"rms": math.sqrt(12.5), "max": 4.0})
    return record


def test_one_superpoint_alone_says_nothing_of_how_classes_spread():
    """Its deviation is 0, which had been told as a collapse of the classes."""
    one, two = torch.tensor([[1.0, 5.0, 9.0]]), torch.tensor([[0.0, 1.0, 9.0], [4.0, 3.0, -9.0]])

    def spread_of(*logits):
        figures = observe(Prediction([], list(logits), None, torch.ones(1, 1)))
        told = {name: figure.item() for name, figure in figures.items()}
        return record_of(told, None, FusionControl())["class_spread"]

    assert spread_of(one) is None and spread_of(one, one[:0]) is None
    assert spread_of(two) == spread_of(one, two) == pytest.approx(1.5)


def test_gradient_norms_by_path():
    """0 where a path trains and nothing came, None where it is frozen or not there."""
    groups = {name: [nn.Parameter(torch.zeros(2))] for name in ("tower.conv1_rgb", "tower.conv1_depth")}
    groups |= {"tower.embed": [nn.Parameter(torch.zeros(1))], "gate": [nn.Parameter(torch.zeros(1))]}
    groups["decoder"] = [nn.Parameter(torch.zeros(1))]
    groups["backbone"] = [nn.Parameter(torch.zeros(1), requires_grad=False)]
    groups["tower.conv1_rgb"][0].grad = torch.tensor([3.0, 0.0])
    groups["tower.conv1_depth"][0].grad = torch.tensor([0.0, 4.0])
    groups["gate"][0].grad = torch.tensor([12.0])
    norms = {name: norm.item() for name, norm in gradient_norms(groups).items()}
    assert norms_by_path(norms) == {
        "tower": 0.0, "conv1": 5.0, "head_2d": None, "head_3d": None, "backbone": None,
        "fusion": 12.0, "decoder": 0.0, "total": 13.0,
    }  # fmt: skip


def test_what_is_not_fused_has_no_gradient_of_fusion():
    """Plan A builds the 3D head and nothing of the fusion."""
    paths = norms_by_path({"backbone": 3.0, "head_3d": 4.0, "decoder": 1.0, "total": 26**0.5})
    assert paths["fusion"] is None and (paths["head_3d"], paths["backbone"]) == (4.0, 3.0)


def test_no_gradient_at_all():
    assert set(norms_by_path({}).values()) == {None}


def test_rms_and_max():
    rms, largest = rms_and_max(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
    assert (rms.item(), largest.item()) == (2.5, 4.0)
    assert [f.item() for f in rms_and_max(torch.zeros(0, 4))] == [0.0, 0.0]


def test_two_dimensional_figures_are_of_seen_voxels_only():
    seen = torch.tensor([True, False, True])
    f2d = torch.tensor([[2.0, 0.0], [100.0, 100.0], [0.0, 2.0]])
    f3d = torch.tensor([[1.0, 0.0], [9.0, 9.0], [1.0, 0.0]])
    observed = observed_of(
        trace_of(seen, f2d, f3d, torch.tensor([0.2, 1.0, 0.6]), scale=0.5), FusionControl(scale=0.5)
    )
    assert observed["ranges"]["f2d"] == pytest.approx({"rms": math.sqrt(2), "max": 2.0})
    assert observed["cosine"] == pytest.approx(0.5)
    gate = observed["gate"]
    assert gate["alpha_mean"] == pytest.approx(0.4) and gate["alpha_std"] == pytest.approx(0.2)
    assert gate["gate_mean"] == pytest.approx(0.2) and gate["scale"] == 0.5
    assert observed["seen_share"] == pytest.approx(2 / 3)


def test_nothing_seen_or_no_second_branch():
    nothing = torch.zeros(2, dtype=torch.bool)
    features = torch.ones(2, 3)
    observed = observed_of(trace_of(nothing, features, features, torch.zeros(2)), FusionControl())
    assert observed == {"ranges": None, "cosine": None, "gate": None, "seen_share": 0.0}
    assert set(observed_of(None, FusionControl()).values()) == {None}


def test_share_of_2d():
    gate = torch.tensor([0.5, 0.5, 0.0, 1.0])
    f2d = torch.tensor([[3.0], [1.0], [5.0], [0.0]])
    f3d = torch.tensor([[1.0], [1.0], [1.0], [7.0]])
    assert share_of_2d(gate, f2d, f3d).tolist() == pytest.approx([0.75, 0.5, 0.0, 0.0])


def test_fusion_ratio_counts_points_not_voxels_and_only_seen_ones():
    batch = batch_of_superpoints([torch.tensor([0, 0, 1])])
    batch.point_to_voxel = torch.tensor([0, 0, 0, 1, 2])
    batch.points_per_scene = [5]
    figures = FusionFigures(seed=0)
    seen = torch.tensor([True, True, False])
    ones = torch.ones(3, 2)
    figures.add(trace_of(seen, ones, ones, torch.tensor([0.2, 0.6, 1.0])), batch)
    values = figures.compute()
    assert values["fusion_2d_ratio"] == pytest.approx((3 * 0.2 + 0.6) / 4)
    assert values["seen_share"] == pytest.approx(4 / 5)
    assert values["alignment"]["cosine"] == pytest.approx(1.0)
    assert values["alignment"]["retrieval_at_1"] is None, "fewer than 100 seen voxels"


def test_a_fixed_gate_is_not_judged_and_no_view_gives_no_figures():
    batch = batch_of_superpoints([torch.tensor([0])])
    one = torch.ones(1, 2)
    fixed = FusionFigures(seed=0)
    fixed.add(trace_of(torch.tensor([True]), one, one, torch.tensor([0.5]), learned=False), batch)
    assert fixed.compute()["fusion_2d_ratio"] is None and fixed.compute()["share_2d"] == 0.5
    shut = FusionFigures(seed=0)
    shut.add(trace_of(torch.tensor([True]), one, one, torch.tensor([0.5]), 0.0, learned=False), batch)
    assert shut.compute()["fusion_2d_ratio"] is None and shut.compute()["share_2d"] == 0.0
    dead = FusionFigures(seed=0)  # what a sigmoid makes of −104: it is open, and nothing comes through
    dead.add(trace_of(torch.tensor([True]), one, one, torch.tensor([0.0])), batch)
    assert dead.compute()["fusion_2d_ratio"] == 0.0
    unseen = FusionFigures(seed=0)
    unseen.add(trace_of(torch.tensor([False]), one, one, torch.tensor([0.5])), batch)
    values = unseen.compute()
    assert values["seen_share"] == 0.0 and values["alignment"]["cosine"] is None
    assert FusionFigures(seed=0).compute()["seen_share"] is None


def test_retrieval_finds_matching_features_and_is_chance_for_others():
    number = 2 * CANDIDATES
    batch = batch_of_superpoints([torch.zeros(number, dtype=torch.int64)])
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(number, 16, generator=generator)
    other = torch.randn(number, 16, generator=generator)
    seen = torch.ones(number, dtype=torch.bool)
    for f2d, low, high in ((3 * features, 1.0, 1.0), (other, 0.0, 0.05)):
        figures = FusionFigures(seed=0)
        figures.add(trace_of(seen, f2d, features, torch.full((number,), 0.5)), batch)
        assert low <= figures.compute()["alignment"]["retrieval_at_1"] <= high


def test_agreement_through_the_predictor_stands_beside_the_direct_one():
    number = CANDIDATES
    batch = batch_of_superpoints([torch.zeros(number, dtype=torch.int64)])
    f2d = torch.randn(number, 16, generator=torch.Generator().manual_seed(0))
    trace = trace_of(torch.ones(number, dtype=torch.bool), f2d, -f2d, torch.full((number,), 0.5))
    trace.alignment_pairs = [(-2 * f2d, -f2d)]
    figures = FusionFigures(seed=0)
    figures.add(trace, batch)
    alignment = figures.compute()["alignment"]
    assert alignment["cosine"] == pytest.approx(-1.0) and alignment["retrieval_at_1"] == 0.0
    assert alignment["predicted_cosine"] == pytest.approx(1.0)
    assert alignment["predicted_retrieval_at_1"] == 1.0


def test_the_most_memory_of_a_process_is_its_own():
    """getrusage tells of a fork what its parent took, so that a trained run of a study would too."""
    taken = b"x" * (300 << 20)
    del taken
    with get_context("fork").Pool(1) as fork:
        assert fork.apply(most_resident_mb) < most_resident_mb() - 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of processes are Linux's")
def test_a_process_may_have_a_name_that_is_no_text():
    """That of a script is cut after 15 bytes, wherever in a letter that is."""
    system, set_name = ctypes.CDLL(None), 15
    before = Path("/proc/self/comm").read_bytes().rstrip(b"\n")
    system.prctl(set_name, "a训练脚本房间.py".encode())
    try:
        with pytest.raises(UnicodeDecodeError):
            Path("/proc/self/comm").read_text(encoding="utf-8")
        assert most_resident_mb() > 1
    finally:
        system.prctl(set_name, before)
