"""Guard and step: a non-finite number anywhere leaves weights, moments and statistics untouched."""

import copy

import pytest
import torch

from bifusion.training.guard import Guard, nonfinite_names
from bifusion.training.monitor import MovingAverage
from bifusion.training.optim import freeze_outside_stage, set_rates
from bifusion.training.run_folder import RunFolder
from bifusion.training.runtime import make_fabric
from bifusion.training.trainer import Trainer
from tiny_runs import make_tiny_data, tiny_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=2, val=1)


class Bench:
    """A tiny model with its optimiser after one good step, ready for a bad one."""

    def __init__(self, recipe, data, folder, epoch=2.5):
        config = tiny_config(recipe, data)
        self.trainer = Trainer(config, RunFolder(folder), make_fabric(config.trainer))
        self.model, self.optimizer = self.trainer.model.train(), self.trainer.optimizer
        self.batch = next(iter(self.trainer._loader()))
        self.state = self.trainer.timeline.at(epoch)
        freeze_outside_stage(self.trainer.groups, self.state)
        set_rates(self.optimizer, config.optim, self.trainer.base_rates, self.state, 0, 10)
        assert self.step().event is None

    def step(self):
        return self.trainer.take_step([self.batch], self.state)

    def snapshot(self):
        return (
            {name: tensor.clone() for name, tensor in self.model.state_dict().items()},
            copy.deepcopy(self.optimizer.state_dict()),
        )

    def unchanged_since(self, snapshot):
        weights, moments = snapshot
        now = self.optimizer.state_dict()["state"]
        same_weights = all(t.equal(weights[name]) for name, t in self.model.state_dict().items())
        same_moments = now.keys() == moments["state"].keys() and all(
            torch.equal(now[i][key], moments["state"][i][key]) for i in now for key in now[i]
        )
        return same_weights and same_moments


@pytest.fixture
def bench(data, tmp_path):
    return Bench("bifusion_small", data, tmp_path)


def put_nan(module, inputs, output):
    return output * float("nan")


def test_a_good_step_changes_weights_moments_and_statistics(bench):
    before = bench.snapshot()
    assert bench.step().event is None
    assert not bench.unchanged_since(before)
    statistics = [n for n in before[0] if n.endswith("running_mean")]
    now = bench.model.state_dict()
    assert statistics and any(not now[n].equal(before[0][n]) for n in statistics)


def test_nan_in_an_activation(bench):
    before = bench.snapshot()
    handle = bench.model.unet.register_forward_hook(put_nan)
    event = bench.step().event
    handle.remove()
    assert event.phase == "activation" and "f3d_in" in " ".join(event.where)
    assert sorted(event.scenes) == ["roomtrain0", "roomtrain1"]
    assert bench.unchanged_since(before)


def test_nan_inside_the_network_does_not_poison_batch_norm(bench):
    """The non-finite number passes BatchNorm before anyone sees it."""
    before = bench.snapshot()
    first = next(m for m in bench.model.unet.modules() if len(list(m.children())) == 0)
    handle = first.register_forward_hook(
        lambda m, i, out: (
            out.replace(out.feats * float("inf")) if hasattr(out, "feats") else out * float("inf")
        )
    )
    event = bench.step().event
    handle.remove()
    assert event is not None
    assert bench.unchanged_since(before)
    assert bench.step().event is None


def test_nan_in_one_loss_term(bench, monkeypatch):
    before = bench.snapshot()
    criterion = bench.trainer.take_step.criterion
    broken = lambda p, b: {**criterion(p, b), "mask_bce": torch.tensor(float("nan"))}  # noqa: E731
    monkeypatch.setattr(bench.trainer.take_step, "criterion", broken)
    outcome = bench.step()
    assert outcome.event.phase == "loss" and outcome.event.where == ["loss.mask_bce"]
    assert outcome.total is None
    assert bench.unchanged_since(before)


def test_nan_in_a_matching_cost(bench, monkeypatch):
    def nan_labels(*args, **kwargs):
        return torch.full((2, 2), float("nan"))

    before = bench.snapshot()
    monkeypatch.setattr("bifusion.losses.criterion.matching_cost", nan_labels)
    event = bench.step().event
    assert event.phase == "loss" and event.where == ["matching.cost"]
    assert bench.unchanged_since(before)


def test_nan_in_a_gradient(bench):
    before = bench.snapshot()
    weight = bench.model.fusion.head_3d[0].weight
    handle = weight.register_hook(lambda gradient: gradient * float("inf"))
    outcome = bench.step()
    handle.remove()
    assert outcome.event.phase == "gradient" and outcome.event.where == ["gradient.head_3d"]
    assert outcome.total is not None
    assert bench.unchanged_since(before)
    assert all(p.grad is None for p in bench.model.parameters())


def test_a_bad_batch_drops_the_whole_accumulated_step(bench):
    before = bench.snapshot()
    poisoned = copy.copy(bench.batch)
    poisoned.voxel_feats = bench.batch.voxel_feats * float("nan")
    outcome = bench.trainer.take_step([bench.batch, poisoned], bench.state)
    assert outcome.event is not None and outcome.total is None
    assert bench.unchanged_since(before)


def test_three_in_a_row_exhaust_and_a_good_step_resets(bench):
    guard = bench.trainer.guard
    bad = copy.copy(bench.batch)
    bad.voxel_feats = bench.batch.voxel_feats * float("nan")
    for expected in (1, 2):
        bench.trainer.take_step([bad], bench.state)
        assert guard.in_a_row == expected and not guard.exhausted
    bench.step()
    assert guard.in_a_row == 0 and guard.raw_nonfinite == 2
    for _ in range(3):
        bench.trainer.take_step([bad], bench.state)
    assert guard.exhausted and guard.raw_nonfinite == 5 and guard.skipped == 5


def test_counts_survive_a_checkpoint(bench):
    bench.trainer.guard.dropped()
    other = Guard(bench.model)
    other.load_state_dict(bench.trainer.guard.state_dict())
    assert other.raw_nonfinite == 1 and other.in_a_row == 1


def test_huge_finite_values_are_not_called_non_finite():
    huge = torch.full((4,), 3e38)
    assert not torch.isfinite(huge.sum())
    assert nonfinite_names({"huge": huge, "nan": torch.tensor([1.0, float("nan")])}) == ["nan"]
    assert nonfinite_names({"empty": torch.zeros(0)}) == []


def test_a_moving_average_is_never_poisoned():
    average = MovingAverage(decay=0.5)
    assert average.update(float("nan")) is None
    average.update(4.0)
    for bad in (float("nan"), float("inf"), -float("inf")):
        assert average.update(bad) == 4.0
    assert average.update(2.0) == 3.0


@pytest.mark.parametrize("epoch", [0.5, 1.5])
def test_stages_one_and_two_leave_the_tower_bit_identical(data, tmp_path, epoch):
    bench = Bench("bifusion_small", data, tmp_path, epoch=epoch)
    before = {n: p.clone() for n, p in bench.model.clip.named_parameters()}
    for _ in range(3):
        bench.step()
    assert all(p.grad is None and not p.requires_grad for p in bench.model.clip.parameters())
    assert [n for n, p in bench.model.clip.named_parameters() if not p.equal(before[n])] == []
    assert all(p not in bench.optimizer.state for p in bench.model.clip.parameters())


def test_stage_three_moves_the_end_of_the_tower_alone(data, tmp_path):
    bench = Bench("bifusion_small", data, tmp_path, epoch=2.5)
    before = {n: p.clone() for n, p in bench.model.clip.named_parameters()}
    for _ in range(2):
        bench.step()
    changed = {n for n, p in bench.model.clip.named_parameters() if not p.equal(before[n])}
    assert changed and all(n.startswith(("blocks.2.", "blocks.3.", "conv1_depth.")) for n in changed)
    assert "conv1_depth.weight" in changed


def test_without_views_never_touches_the_two_dimensional_branch(data, tmp_path):
    bench = Bench("bifusion_small_without_views", data, tmp_path, epoch=2.9)
    branch = {
        **dict(bench.model.clip.named_parameters()),
        **dict(bench.model.fusion.head_2d.named_parameters()),
    }
    before = {n: p.clone() for n, p in branch.items()}
    bench.step()
    assert all(p.equal(before[n]) for n, p in branch.items())


def test_float16_scaler_overflow_is_counted_apart(bench):
    """An infinite gradient is the scaler's business under a large loss scale, not under scale 1."""

    class Precision:
        def __init__(self, scale):
            self.scaler = self
            self.scale = scale

        def get_scale(self):
            return self.scale

        def get_backoff_factor(self):
            return 0.5

        def update(self, new_scale):
            self.scale = new_scale

        def unscale_gradients(self, optimizer):
            for part in optimizer.param_groups:
                for p in part["params"]:
                    if p.grad is not None:
                        p.grad.fill_(float("inf"))

    step = bench.trainer.take_step
    step.optimizer = _RecordsSteps(step.optimizer)
    for scale, overflow in ((65536.0, True), (1.0, False)):
        precision = Precision(scale)
        step.fabric = _WithPrecision(step.fabric, precision)
        outcome = bench.step()
        assert precision.scale == scale / 2, "the factor is lowered"
        assert outcome.scaler_overflow is overflow and (outcome.event is None) is overflow
    assert bench.trainer.guard.scaler_overflows == 1 and bench.trainer.guard.raw_nonfinite == 1
    assert step.optimizer.steps == 0, "nothing reaches the weights, not even by way of the scaler"


class _RecordsSteps:
    def __init__(self, optimizer):
        self.optimizer, self.steps = optimizer.optimizer, 0

    def step(self):
        self.steps += 1

    def zero_grad(self, set_to_none):
        self.optimizer.zero_grad(set_to_none=set_to_none)


class _WithPrecision:
    """A Fabric with another precision plugin."""

    def __init__(self, fabric, precision):
        self._fabric = fabric
        self.strategy = type("Strategy", (), {"precision": precision})()

    def __getattr__(self, name):
        return getattr(self._fabric, name)
