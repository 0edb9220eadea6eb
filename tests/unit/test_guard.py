"""Guard and step: a non-finite number anywhere leaves weights, moments and statistics untouched."""

import copy

import pytest
import torch

from bifusion.config.guard import GuardConfig
from bifusion.diagnosis import bundle
from bifusion.diagnosis.bundle import read_bundle
from bifusion.step.checks import nonfinite_names
from bifusion.step.guard import Guard
from bifusion.training.display import MovingAverage
from step_bench import Bench
from tiny_runs import make_tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=2, val=1)


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
    """Nor does the diagnosis touch anything."""
    bench.trainer.guard.config.diagnose = True
    before = bench.snapshot()
    handle = bench.model.unet.register_forward_hook(put_nan)
    event = bench.step().event
    handle.remove()
    assert event.phase == "activation" and "f3d_in" in " ".join(event.where)
    assert sorted(event.scenes) == ["roomtrain0", "roomtrain1"]
    assert event.diagnosis["path"] == "3d"
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
    broken = lambda *a: {**criterion(*a), "mask_bce": torch.tensor(float("nan"))}  # noqa: E731
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
    assert event.phase == "matching" and event.where == ["matching.cost"]
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


@pytest.mark.parametrize(
    ("tensor", "where"),
    [
        ("voxel_feats", "input.voxel_feats"),
        ("voxel_position_m", "input.voxel_position_m"),
        ("scene_bounds_m", "input.scene_bounds_m"),
        ("image", "input.views.roomtrain1.{view}.image"),
        ("K", "input.views.roomtrain1.{view}.K"),
    ],
)
def test_bad_inputs_are_named_with_their_scene(bench, tensor, where):
    before, batch = bench.snapshot(), copy.deepcopy(bench.batch)
    scene = batch.names.index("roomtrain1")
    view = next(view for view in batch.views if view.scene == scene)
    if tensor in ("image", "K"):
        getattr(view, tensor).view(-1)[0] = float("inf")
    elif tensor == "scene_bounds_m":
        batch.scene_bounds_m[scene, 0, 0] = float("nan")
    else:
        row = (batch.voxel_coords[:, 0] == scene).nonzero()[0, 0]
        getattr(batch, tensor)[row, 0] = float("nan")
    event = bench.step(batch).event
    assert event.phase == "input" and event.where == [where.format(view=view.name)]
    assert event.scenes == ["roomtrain1"]
    assert bench.unchanged_since(before)


def test_a_bad_batch_drops_the_whole_accumulated_step(bench):
    before = bench.snapshot()
    outcome = bench.step(bench.batch, poisoned(bench.batch))
    assert outcome.event is not None and outcome.total is None
    assert bench.unchanged_since(before)


def poisoned(batch):
    bad = copy.copy(batch)
    bad.voxel_feats = batch.voxel_feats.clone()
    bad.voxel_feats[0, 0] = float("nan")
    return bad


def test_three_in_a_row_roll_back_and_a_good_step_starts_the_count_anew(bench):
    guard, bad = bench.trainer.guard, poisoned(bench.batch)
    for expected in (1, 2):
        assert bench.step(bad).event.action == "skip"
        assert guard.counts.in_a_row == expected
    bench.step()
    assert guard.counts.in_a_row == 0 and guard.counts.raw_nonfinite == 2
    actions = [bench.step(bad).event.action for _ in range(4)]
    assert actions == ["skip", "skip", "rollback", "skip"]
    assert (guard.counts.raw_nonfinite, guard.counts.skipped, guard.counts.rollbacks) == (6, 6, 1)


def test_a_rollback_brings_the_healthy_state_back_to_the_bit(bench):
    bench.step()
    bench.trainer.response.keep_healthy(2)
    before = bench.snapshot()
    bench.step()
    assert not bench.unchanged_since(before)
    bad = poisoned(bench.batch)
    for _ in range(3):
        outcome = bench.step(bad)
    assert outcome.event.action == "rollback"
    assert bench.unchanged_since(before)
    for _ in range(2):  # what follows does not write into the copy
        bench.step()
    for _ in range(3):
        bench.step(bad)
    assert bench.trainer.guard.counts.rollbacks == 2
    assert bench.unchanged_since(before)


@pytest.mark.parametrize("part", ["weights", "moments", "negative moments", "statistics"])
def test_a_poisoned_state_is_healed_by_a_rollback(bench, part):
    """A step cannot be at fault for what it finds; whatever it is, nothing of it spreads."""
    bench.trainer.response.keep_healthy(1)
    before = bench.snapshot()
    moments = next(iter(bench.optimizer.state.values()))
    statistics = next(b for b in bench.model.buffers() if b.is_floating_point())
    with torch.no_grad():
        target, value = {
            "weights": (next(bench.model.unet.parameters()), float("inf")),
            "moments": (moments["exp_avg"], float("nan")),
            "negative moments": (moments["exp_avg_sq"], -1.0),
            "statistics": (statistics, float("nan")),
        }[part]
        target.view(-1)[0] = value
    events = [bench.step().event for _ in range(3)]
    phase = {"weights": "activation", "statistics": "buffers"}.get(part, "optimizer")
    assert [event.phase for event in events] == [phase] * 3
    assert [event.action for event in events] == ["skip", "skip", "rollback"]
    assert bench.unchanged_since(before)
    assert bench.step().event is None


def test_a_poisoned_state_is_never_kept_as_healthy(bench):
    bench.trainer.response.keep_healthy(1)
    moments = next(iter(bench.optimizer.state.values()))
    moments["exp_avg"].view(-1)[0] = float("nan")
    bench.trainer.response.keep_healthy(2)
    assert bench.trainer.response.healthy.step == 1


def test_moments_that_would_overflow_the_update_are_refused(bench):
    """1e30 divided by eps is no float32."""
    moments = next(iter(bench.optimizer.state.values()))
    moments["exp_avg"].view(-1)[0] = 1e30
    moments["exp_avg_sq"].view(-1)[0] = 0.0
    event = bench.step().event
    assert event.phase == "optimizer" and len(event.where) == 1


def test_after_too_many_rollbacks_the_run_stops(bench):
    bench.trainer.guard.config = GuardConfig(rollback_after=1, max_rollbacks=2)
    bad = poisoned(bench.batch)
    assert [bench.step(bad).event.action for _ in range(3)] == ["rollback", "rollback", "stop"]
    assert bench.trainer.guard.counts.rollbacks == 2


def test_rates_ramp_up_linearly_after_a_rollback(bench):
    guard = bench.trainer.guard
    guard.config = GuardConfig(ramp_steps=4)
    assert guard.rate_factor(7) == 1.0
    guard.rolled_back(7)
    factors = [guard.rate_factor(step) for step in range(8, 14)]
    assert factors == pytest.approx([0.1, 0.325, 0.55, 0.775, 1.0, 1.0])
    guard.config = GuardConfig(ramp_steps=0)
    assert guard.rate_factor(8) == 1.0


def test_a_spike_is_skipped_where_that_is_asked_for(bench):
    """By default it is a warning: the step is taken."""
    before = bench.snapshot()
    rules = bench.trainer.guard.config.rules
    rules.loss_cap = 1e-3
    outcome = bench.step()
    assert outcome.event is None and [alarm.rule for alarm in outcome.alarms] == ["loss_spike"]
    assert not bench.unchanged_since(before)
    before, counts = bench.snapshot(), bench.trainer.guard.counts
    rules.actions["loss_spike"] = "skip"
    event = bench.step().event
    assert (event.rule, event.phase, event.action) == ("loss_spike", "loss", "skip")
    assert bench.unchanged_since(before)
    assert (counts.raw_nonfinite, counts.skipped, counts.warnings) == (0, 1, 1)


@pytest.mark.parametrize("error", ["no room", "raises"])
def test_a_replay_file_that_cannot_be_made_costs_no_more_than_itself(bench, monkeypatch, caplog, error):
    """The allocation that fails is a real one."""
    monkeypatch.setattr(
        bundle, "run_again", lambda *_: torch.empty(10**14) if error == "no room" else torch.zeros(2)[3]
    )
    before = bench.snapshot()
    event = bench.step(poisoned(bench.batch)).event
    assert event.action == "skip" and event.bundle is None
    assert "step 0 has no replay file" in caplog.text and len(caplog.records) == 1
    assert bench.unchanged_since(before) and bench.trainer.response.bundles == 0


def test_what_was_remembered_is_not_put_back_over_a_step_that_was_taken(bench):
    """An interruption may come before the next step has remembered anything."""
    before = bench.snapshot()
    bench.trainer.take_step.discard()
    assert bench.unchanged_since(before)


def test_counts_ramp_and_rules_survive_a_checkpoint(bench):
    guard = bench.trainer.guard
    bench.step(poisoned(bench.batch))
    guard.rolled_back(3)
    other = Guard(guard.config)
    other.load_state_dict(copy.deepcopy(guard.state_dict()))
    assert other.counts == guard.counts and other.rate_factor(5) == guard.rate_factor(5) < 1
    assert other.rules.state_dict() == guard.rules.state_dict()


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


def test_float16_scaler_overflow_is_counted_apart(bench):
    """An infinite gradient is the scaler's business where a loss scale of 1 has none, else a fault."""

    class Precision:
        def __init__(self, scale, largest):
            self.scaler = self
            self.state, self.largest = {"scale": scale, "_growth_tracker": 7}, largest

        def get_scale(self):
            return self.state["scale"]

        def get_backoff_factor(self):
            return 0.5

        def update(self, new_scale):
            self.state["scale"] = new_scale

        def state_dict(self):
            return dict(self.state)

        def load_state_dict(self, state):
            self.state = dict(state)

        def unscale_gradients(self, optimizer):
            for part in optimizer.param_groups:
                for p in part["params"]:
                    if p.grad is not None and self.get_scale() > self.largest:
                        p.grad.fill_(float("inf"))

    step = bench.trainer.take_step
    step.optimizer = _RecordsSteps(step.optimizer)
    bench.trainer.guard.config = GuardConfig(diagnose=False, bundles=0)
    for scale, largest, after, overflow in (
        (65536.0, 32768.0, {"scale": 32768.0, "_growth_tracker": 0}, True),
        (65536.0, 0.0, {"scale": 65536.0, "_growth_tracker": 7}, False),
        (1.0, 0.0, {"scale": 0.5, "_growth_tracker": 0}, False),
    ):
        precision, before = Precision(scale, largest), bench.snapshot()
        step.fabric = _WithPrecision(step.fabric, precision)
        outcome = bench.step()
        assert precision.state == after, "lowered where that may help; good steps are counted anew"
        assert outcome.scaler_overflow is overflow and (outcome.event is None) is overflow
        assert outcome.loss_scale == scale and bench.unchanged_since(before)
    counts = bench.trainer.guard.counts
    assert (counts.scaler_overflows, counts.raw_nonfinite) == (1, 2)
    assert step.optimizer.steps == 0, "nothing reaches the weights, not even by way of the scaler"


def test_a_gradient_of_float16_that_no_scale_makes_finite_is_a_fault_at_once(data, tmp_path):
    """Traced and kept for replay at the scale it was found at, where nothing else overflows."""
    bench = Bench("bifusion_small", data, tmp_path, precision="16-mixed")
    weight = dict(bench.model.named_parameters())["decoder.x_mask.2.weight"]
    handle = weight.register_hook(lambda g: g * float("nan"))
    bench.trainer.guard.config.diagnose = True
    before = bench.trainer.fabric.strategy.precision.state_dict()
    outcome = bench.step(step=1)
    handle.remove()
    assert not outcome.scaler_overflow and outcome.loss_scale == before["scale"]
    assert outcome.event.phase == "gradient" and outcome.event.where == ["gradient.decoder"]
    assert outcome.event.diagnosis["module"] == "decoder.x_mask.2"
    assert bench.trainer.guard.counts.raw_nonfinite == 1
    assert bench.trainer.fabric.strategy.precision.state_dict() == before
    kept = read_bundle(tmp_path / outcome.event.bundle)
    assert kept.scaler["scale"] == 1 and before["scale"] > 1


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
