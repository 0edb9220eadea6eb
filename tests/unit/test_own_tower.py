"""What a tower of somebody's own must keep is looked at before a run starts."""

import pytest
import torch

from bifusion.errors import InputError
from bifusion.training.own_tower import check_tower
from my_rooms import towers

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (towers.Normed, "another map of the same view in training than in evaluation"),
        (towers.Dropping, "another map of the same view when .* it is computed again"),
        (towers.Columns, "a map of 4 rows and 3 columns of an image of 48 rows and 64 columns"),
        (towers.WrongMaps, r"made maps of shapes \[\(8, 3, 4\)"),
    ],
)
def test_maps_that_depend_on_more_than_their_view_are_told(kind, message):
    with pytest.raises(InputError, match=f"model.tower: 'stripes, from scratch' .*{message}"):
        check_tower(kind(8), 64, 16, CPU)


@pytest.mark.parametrize("kind", [towers.Stripes, towers.Still])
def test_a_sound_tower_is_left_as_it_was(kind):
    tower = kind(8)
    before, random = {n: t.clone() for n, t in tower.state_dict().items()}, torch.get_rng_state()
    mode = tower.training
    check_tower(tower, 64, 16, CPU)
    assert all(torch.equal(before[n], t) for n, t in tower.state_dict().items())
    assert tower.training == mode and all(p.requires_grad for p in tower.parameters())
    assert torch.equal(random, torch.get_rng_state())
