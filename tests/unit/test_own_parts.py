"""What a tower, a network and a gate of somebody's own must keep is looked at before a run starts."""

import pytest
import torch

from bifusion.errors import InputError
from bifusion.models.fusion import FusionConfig, LiteFusionGate
from bifusion.models.unet import UNetConfig, build_unet
from bifusion.training.own_parts import check_backbone, check_gate, check_tower
from my_rooms import networks, towers

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


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (networks.Short, r"made features of shape \(431, 8\) of 432 voxels; expected \(432, 8\)"),
        (networks.Mixing, "makes other features of a scene where another one is beside it"),
        (networks.Unfit, "made features with NaN or infinity"),
    ],
)
def test_features_that_are_no_features_of_the_voxels_are_told(kind, message):
    with pytest.raises(InputError, match=f"model.unet.function: a {kind.__name__} {message}"):
        check_backbone(kind(6), 6, CPU)


def test_sound_networks_are_left_as_they_were():
    small = [UNetConfig(planes=(8, 16)), UNetConfig(kind="res16", planes=(8, 16, 16, 8))]
    for network in (networks.TwoLayers(6), *map(build_unet, small)):
        before = {n: t.clone() for n, t in network.state_dict().items()}
        check_backbone(network, 6, CPU)
        assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (networks.Unbounded, r"7 voxels: found .* to .*, expected shape \(7,\) with values in \[0, 1\]"),
        (networks.Column, r"7 voxels: found shape \(7, 1\), expected shape \(7,\)"),
    ],
)
def test_shares_that_are_none_are_told(kind, message):
    torch.manual_seed(0)
    with pytest.raises(
        InputError, match=f"model.fusion.gate_function: the α that a {kind.__name__} .*{message}"
    ):
        check_gate(kind(16), 16, CPU)


@pytest.mark.parametrize(
    "gate", [networks.Cosine(), networks.WithPlace(16), LiteFusionGate(FusionConfig(dim=16))]
)
def test_sound_gates_pass(gate):
    check_gate(gate, 16, CPU)
