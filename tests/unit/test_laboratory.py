"""The laboratory must not be fooled: faults strike where they should, and its judgement can fail."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from laboratory.faults import Expected, Fault, Injection, Site, change_gradient, hurt
from laboratory.judge import Ending, judge
from laboratory.table import figures, summary
from laboratory.watch import Snapshot

from bifusion.runs.run_folder import RunStatus

SITE = Site(step=5, epoch=2, victim="attic", seed=3)
DIAGNOSIS = {"module": "unet.input_conv", "scenes": ["attic"], "verdict": "data"}
EVENT = {
    "kind": "nonfinite",
    "phase": "activation",
    "where": ["activation.f3d_in"],
    "scenes": ["attic", "cellar"],
    "action": "skip",
    "diagnosis": DIAGNOSIS,
}
ALARM = {"rule": "loss_spike", "where": ["loss.mask_bce"], "scenes": ["attic", "cellar"]}
IN_A_MODULE = Expected("must-alarm", module="unet.input_conv", scenes="victim", verdict="data")


class StubWatch:
    """A run of which each step leaves the state as `after` says."""

    def __init__(self, changed=(), poisoned=(), ends_finite=True):
        self.changed, self.poisoned, self.ends_finite = changed, poisoned, ends_finite
        self.after = {5: None}

    def changed_by(self, step):
        return list(self.changed)

    def poisoned_by(self, step):
        return list(self.poisoned)

    def take(self):
        return Snapshot({}, {"weights": self.ends_finite})


def judged(expected, *, event=None, alarms=(), healthy=(), step=5, state="completed", watch=None, **end):
    record = {"step": step, "scenes": ["attic", "cellar"], "event": event, "alarms": list(alarms)}
    ending = Ending([record], RunStatus(state=state, steps=9), None, None, watch or StubWatch())
    fault = Fault("a fault", "bifusion_small", expected, Injection(), "because")
    return judge(fault, SITE, dataclasses.replace(ending, **end), list(healthy))


@pytest.mark.parametrize("kind", ["nan", "inf", "spike", "range"])
def test_only_the_rows_aimed_at_are_struck(kind):
    tensor = torch.randn(6, 4)
    struck = hurt(tensor, kind, [torch.tensor([2, 3])], seed=1)
    same = (struck == tensor).all(dim=1)
    assert same.tolist()[:2] == [True, True] and same.tolist()[4:] == [True, True]
    assert not same.all()
    assert (struck != tensor).sum() == (8 if kind == "range" else 1)


def test_a_scene_is_struck_in_the_same_place_alone_and_among_others():
    tensor = torch.randn(6, 4)
    together = hurt(tensor, "nan", [torch.tensor([2, 3])], seed=1)[2:4]
    alone = hurt(tensor[2:4], "nan", [torch.tensor([0, 1])], seed=1)
    assert together.isnan().equal(alone.isnan())


def test_a_gradient_is_struck_on_its_way_back_only():
    x = torch.ones(3, requires_grad=True)
    out = change_gradient(x, lambda gradient: gradient * torch.nan)
    assert out.isfinite().all()
    out.sum().backward()
    assert x.grad is not None and x.grad.isnan().all()


def test_a_fault_found_named_and_survived_is_as_expected():
    result = judged(IN_A_MODULE, event=EVENT)
    answers = (result.detected, result.module, result.scenes, result.survived, result.untouched)
    assert answers == (True,) * 5 and result.verdict and result.as_expected


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"event": None}, "detected"),
        ({"alarms": [ALARM], "event": None}, "detected"),
        ({"step": 6}, "detected"),
        ({"event": {**EVENT, "diagnosis": {**DIAGNOSIS, "module": "unet.down.0.conv"}}}, "module"),
        ({"event": {**EVENT, "diagnosis": None}}, "module"),
        ({"event": {**EVENT, "diagnosis": {**DIAGNOSIS, "scenes": ["cellar"]}}}, "scenes"),
        ({"event": {**EVENT, "diagnosis": {**DIAGNOSIS, "verdict": "state"}}}, "verdict"),
        ({"state": "guard_stopped"}, "survived"),
        ({"watch": StubWatch(ends_finite=False)}, "survived"),
        ({"watch": StubWatch(changed=["optimizer"])}, "untouched"),
        ({"watch": StubWatch(poisoned=["weights"])}, "untouched"),
        ({"crash": "RuntimeError: no"}, "survived"),
        ({"refusal": "attic: bad"}, "survived"),
    ],
)
def test_each_shortcoming_is_seen(changes, answer):
    result = judged(IN_A_MODULE, **{"event": EVENT, **changes})
    assert getattr(result, answer) is False and not result.as_expected


def test_alarms_that_a_healthy_run_raises_too_do_not_count():
    expected = Expected("must-alarm", by="alarm", places=("loss.*",), scenes="among")
    healthy = [{"step": 5, "scenes": [], "event": None, "alarms": [ALARM]}]
    assert judged(expected, alarms=[ALARM]).as_expected
    assert not judged(expected, alarms=[ALARM], healthy=healthy).detected


def test_must_work_means_silence():
    assert judged(Expected("must-work")).as_expected
    assert not judged(Expected("must-work"), event=EVENT).as_expected


def test_what_must_work_may_warn_of_what_is_named_and_of_nothing_else():
    allowed = Expected("must-work", rules=(ALARM["rule"],))
    assert judged(allowed, alarms=[ALARM]).as_expected
    assert not judged(allowed, alarms=[ALARM | {"rule": "another"}]).as_expected
    assert not judged(allowed, event=EVENT).as_expected


def test_must_reject_means_an_error_that_names_the_scene():
    expected = Expected("must-reject", scenes="victim")
    refused = {"status": None, "watch": None}
    assert judged(expected, refusal="rooms/attic/coord.npy: NaN", **refused).as_expected
    assert not judged(expected, refusal="NaN somewhere", **refused).as_expected
    assert not judged(expected).as_expected


def test_figures_count_what_failed():
    good, bad = judged(IN_A_MODULE, event=EVENT), judged(IN_A_MODULE)
    counts = figures([good, bad])
    assert counts["must_alarm_detected"] == [1, 2] and counts["right_first_module"] == [1, 1]
    assert "must alarm detected 1 of 2 (50.0 %)" in summary([good, bad])
