"""What a tower, a network and a gate of somebody's own must keep is looked at before a run starts."""

import pytest
import torch

from bifusion import plugins
from bifusion.errors import InputError
from bifusion.models.build import build_model
from bifusion.models.fusion import FusionConfig, LiteFusionGate
from bifusion.models.unet import UNetConfig, build_unet
from bifusion.official.import_checkpoint import read_checkpoint
from bifusion.recipes.tiny import bifusion_tiny
from bifusion.training.own_parts import check_backbone, check_gate, check_own_parts, check_tower
from my_rooms import networks, towers
from untrained_runs import save_run

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
        (networks.Sparse, r"made features of a SparseTensor of 432 voxels; expected \(432, 8\)"),
        (networks.Half, r"made features of type torch.float16 .* expected \(432, 8\), torch.float32"),
        (networks.InPlace, "changes x.feats in place, which others read after it"),
        (networks.Shifting, "changes x.coords in place"),
        (networks.Dropping, "makes other features of the same scene when it is computed again"),
        (networks.Remembering, "makes other features of the same scene when it is computed again"),
        (networks.Late, "makes last.weight, last.bias as it is called"),
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
        (networks.Whole, "7 voxels: found type torch.bool, expected .* floating point"),
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
    ("kind", "message"),
    [
        (networks.Taking, "changes f2d in place"),
        (networks.Chance, "makes another α of the same voxels when it is computed again, in evaluation"),
        (
            networks.OfMany,
            "cannot be asked for the α of 1 voxel in training, .*sparse.modules.BatchNorm",
        ),
        (networks.Running, "leaves NaN or infinity in mean in training where no view sees anything"),
    ],
)
def test_a_gate_that_does_more_than_weigh_is_told(kind, message):
    with pytest.raises(InputError, match=f"model.fusion.gate_function: a {kind.__name__} {message}"):
        check_gate(kind(16), 16, CPU)


@pytest.mark.parametrize("part", ["network", "gate"])
def test_a_part_that_a_function_gives_twice_is_told(part, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "my_rooms")
    config = bifusion_tiny()
    if part == "network":
        config.model.unet = UNetConfig(kind="outside", function="my_rooms.networks:one_network")
    else:
        config.model.fusion.gate_function = "my_rooms.networks:one_gate"
    model = build_model(config.model, 0, config.labels, load_pretrained=False)
    with pytest.raises(InputError, match=f"function: my_rooms.networks:one_{part} returned what"):
        check_own_parts(model, config, CPU)


@pytest.mark.parametrize(
    "gate",
    [
        networks.Cosine(),
        networks.WithPlace(16),
        networks.WithNorm(16),
        LiteFusionGate(FusionConfig(dim=16)),
    ],
)
def test_sound_gates_pass(gate):
    check_gate(gate, 16, CPU)


def test_a_checkpoint_of_a_network_that_reads_values_as_it_is_made_is_imported(tmp_path, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "my_rooms")
    config = bifusion_tiny()
    config.model.unet = UNetConfig(kind="outside", function="my_rooms.networks:reading")
    run = save_run(tmp_path, config)
    imported = read_checkpoint(run)
    assert imported.conversion.matched and not imported.conversion.missing
