"""One table of the models' parts, which every recipe's parameters are in."""

import pytest
import torch
from torch import nn

from bifusion.commands.info import parameter_counts
from bifusion.errors import InputError
from bifusion.models.parts import (
    BY_NAME,
    PARTS,
    check_groups,
    part_of_group,
    part_of_module,
    tower_block,
)
from bifusion.recipes import RECIPES, get_recipe
from bifusion.step.observe import norms_by_path


class TwoParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.unet, self.decoder = nn.Linear(2, 2), nn.Linear(2, 2)


def test_every_group_of_every_recipe_is_of_a_part():
    """Many recipes share a model."""
    models = {repr(get_recipe(name).model): name for name in RECIPES}
    groups = {group for name in models.values() for group in parameter_counts(get_recipe(name))}
    assert {"tower.conv1_depth", "backbone", "decoder", "align"} <= groups
    assert [group for group in groups if part_of_group(group) is None] == []


def test_a_model_with_an_unknown_group_is_refused():
    model = TwoParts()
    groups = {"backbone": list(model.unet.parameters()), "head_4d": list(model.decoder.parameters())}
    with pytest.raises(InputError, match=r"TwoParts.*: head_4d is of no known part.*models/parts\.py"):
        check_groups(model, groups)


@pytest.mark.parametrize("times", [0, 2])
def test_a_parameter_in_no_group_or_in_two_is_refused(times):
    model = TwoParts()
    groups = {"backbone": list(model.unet.parameters()), "decoder": list(model.decoder.parameters())}
    check_groups(model, groups)
    groups["decoder"] = [model.decoder.weight, *[model.decoder.bias] * times]
    with pytest.raises(InputError, match=f"decoder.bias must be in one group.*found in {times}"):
        check_groups(model, groups)


def test_the_recorded_norm_is_that_of_all_groups_together():
    """No group is left out or counted twice."""
    torch.manual_seed(0)
    groups = list(parameter_counts(get_recipe("bifusion_small")))
    norms = dict(zip(groups, torch.rand(len(groups)).tolist(), strict=True))
    recorded = norms_by_path(norms)
    assert set(recorded) == {*BY_NAME, "total"}
    squares = sum(norm * norm for part, norm in recorded.items() if part != "total" and norm)
    assert squares == pytest.approx(sum(norm * norm for norm in norms.values()))


@pytest.mark.parametrize(
    ("group", "part"),
    [
        ("tower.conv1_depth", "conv1"),
        ("tower.block11", "tower"),
        ("tower.embed", "tower"),
        ("tower.anything", "tower"),
        ("align", "fusion"),
        ("head_3d", "head_3d"),
    ],
)
def test_part_of_a_group(group, part):
    assert part_of_group(group) is BY_NAME[part]


def test_a_part_lies_where_its_modules_do():
    for part in PARTS:
        for module in part.modules:
            assert part_of_module(module) == part_of_module(f"{module}.0.weight") == part
    assert part_of_module("fusion") == part_of_module("fusion.head") == BY_NAME["fusion"]
    assert part_of_module("elsewhere") is None and part_of_module("decoders") is None


def test_blocks_of_the_tower():
    assert tower_block("tower.block12") == 12
    assert tower_block("tower.block") is None and tower_block("decoder.block1") is None
