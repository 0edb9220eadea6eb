"""Figures of a step reach the host together, and what was watched for them is let go of."""

import torch

from bifusion.step.figures import Figures


def test_figures_come_back_by_place_and_name():
    figures = Figures()
    figures.put("loss", {"a": torch.tensor(1.5), "b": torch.tensor(-2.0)})
    figures.put("nothing", {})
    figures.fetch()
    figures.put("later", {"c": torch.tensor(float("inf"))})
    figures.fetch()
    assert figures.at("loss") == {"a": 1.5, "b": -2.0}
    assert figures.at("later") == {"c": float("inf")}
    assert figures.at("nothing") == figures.at("unknown") == {}
    assert "nothing" in figures and "unknown" not in figures


def test_what_is_not_finite_is_named_once_and_huge_numbers_are_not():
    bad, huge = torch.tensor([1.0, float("nan")]), torch.full((4,), 3e38)
    figures = Figures()
    figures.watch("x", [("a", bad), ("a", bad), ("b", huge), ("c", torch.zeros(0)), ("d", -bad / 0)])
    figures.fetch()
    assert figures.nonfinite("x") == ["a", "d"]
    assert figures.nonfinite("unknown") == []


def test_figures_are_those_of_when_they_were_put():
    value = torch.zeros(3)
    figures = Figures()
    figures.watch("before", [("value", value)])
    value[0] = torch.nan
    figures.watch("after", [("value", value)])
    figures.fetch()
    assert (figures.nonfinite("before"), figures.nonfinite("after")) == ([], ["value"])


def test_nothing_is_held_once_it_was_looked_at():
    """Activations of a batch are as large as the batch."""
    figures = Figures()
    figures.watch("x", [("value", torch.ones(3))])
    assert figures._watched["x"][0].numel() == 3
    figures.fetch()
    assert not figures._watched and not figures._tensors
