"""What a stage trains moves, and nothing else does."""

import pytest

from step_bench import Bench
from tiny_runs import make_tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=2, val=1)


@pytest.mark.parametrize("epoch", [0.5, 1.5])
def test_stages_one_and_two_leave_the_tower_bit_identical(data, tmp_path, epoch):
    bench = Bench("bifusion_small", data, tmp_path, epoch=epoch)
    before = {n: p.clone() for n, p in bench.model.tower.named_parameters()}
    for _ in range(3):
        bench.step()
    assert all(p.grad is None and not p.requires_grad for p in bench.model.tower.parameters())
    assert [n for n, p in bench.model.tower.named_parameters() if not p.equal(before[n])] == []
    assert all(p not in bench.optimizer.state for p in bench.model.tower.parameters())


def test_stage_three_moves_the_end_of_the_tower_alone(data, tmp_path):
    bench = Bench("bifusion_small", data, tmp_path, epoch=2.5)
    before = {n: p.clone() for n, p in bench.model.tower.named_parameters()}
    for _ in range(2):
        bench.step()
    changed = {n for n, p in bench.model.tower.named_parameters() if not p.equal(before[n])}
    assert changed and all(n.startswith(("blocks.2.", "blocks.3.", "conv1_depth.")) for n in changed)
    assert "conv1_depth.weight" in changed


def test_without_views_never_touches_the_two_dimensional_branch(data, tmp_path):
    bench = Bench("bifusion_small_without_views", data, tmp_path, epoch=2.9)
    branch = {
        **dict(bench.model.tower.named_parameters()),
        **dict(bench.model.fusion.head_2d.named_parameters()),
    }
    before = {n: p.clone() for n, p in branch.items()}
    bench.step()
    assert all(p.equal(before[n]) for n, p in branch.items())
