"""Fusion: what it starts as, whom it leaves alone, and where gradients may go."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion import plugins
from bifusion.errors import InputError
from bifusion.geometry import Sightings
from bifusion.models.fusion import (
    FiLM,
    Fusion,
    FusionConfig,
    LiteFusionGate,
    SqueezeExcitation,
    scale_gradient,
    shuffle_seen,
)
from bifusion.models.geometric_code import CODE_CHANNELS, geometric_code
from bifusion.types import Batch, BatchView, FusionControl

SMALL = FusionConfig(dim=32, hidden=16)
CHANNELS_3D, CHANNELS_2D, VOXELS = 12, 20, 40


def inputs(seen_share: float = 0.5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    seen = torch.rand(VOXELS, generator=generator) < seen_share
    f2d_in = torch.randn(VOXELS, CHANNELS_2D, generator=generator)[seen]
    return {
        "f3d_in": torch.randn(VOXELS, CHANNELS_3D, generator=generator),
        "f2d_in": f2d_in,
        "seen": seen,
        "scene": (torch.arange(VOXELS) >= VOXELS // 2).long(),
        "code": torch.randn(VOXELS, CODE_CHANNELS, generator=generator),
    }


def fusion(config: FusionConfig = SMALL, seed: int = 0) -> Fusion:
    torch.manual_seed(seed)
    return Fusion(config, CHANNELS_3D, CHANNELS_2D)


def awake(module: Fusion) -> Fusion:
    """The same module with every weight random: nothing is an identity any more."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module


def test_film_starts_as_the_identity() -> None:
    f2d, f3d = torch.randn(3, 32), torch.randn(5, 32)
    out2d, out3d = FiLM(SMALL)(f2d, f3d, torch.randn(5, CODE_CHANNELS), torch.tensor([0, 2, 4]))
    assert torch.equal(out2d, f2d) and torch.equal(out3d, f3d)


def test_film_modulates_each_branch_by_its_own_voxels_code() -> None:
    film = FiLM(SMALL).double()  # products of two rows and of five are not rounded alike
    torch.nn.init.normal_(film.for_2d.weight)
    torch.nn.init.normal_(film.for_3d.weight)
    code, seen = torch.randn(5, CODE_CHANNELS).double(), torch.tensor([1, 3])
    gamma2d, beta2d = film.for_2d(film.hidden(code)).chunk(2, dim=1)
    gamma3d, beta3d = film.for_3d(film.hidden(code)).chunk(2, dim=1)
    f2d, f3d = torch.randn(2, 32).double(), torch.randn(5, 32).double()
    out2d, out3d = film(f2d, f3d, code, seen)
    assert torch.allclose(out2d, (1 + gamma2d[seen]) * f2d + beta2d[seen])
    assert torch.allclose(out3d, (1 + gamma3d) * f3d + beta3d)


def test_gate_starts_at_one_half_and_excitation_at_one() -> None:
    features = torch.randn(7, 32)
    gate = LiteFusionGate(SMALL)
    assert torch.equal(gate(features, -features, torch.randn(7, CODE_CHANNELS)), torch.full((7,), 0.5))
    factors = SqueezeExcitation(32)(features, torch.zeros(7, dtype=torch.int64), 1)
    assert torch.equal(factors, torch.ones(7, 32))


def test_a_gate_of_ones_own_gets_the_features_and_places_of_the_seen_voxels(monkeypatch) -> None:
    monkeypatch.setenv(plugins.VARIABLE, "my_rooms")
    module = fusion(dataclasses.replace(SMALL, gate_function="my_rooms.networks:with_place"))
    given = inputs()
    _, trace = module(**given, control=FusionControl())
    f3d, code = trace.f3d[given["seen"]], given["code"][given["seen"]]
    assert module.gate is not None
    assert torch.equal(trace.alpha[given["seen"]], module.gate(trace.seen_f2d, f3d, code))
    assert trace.learned and module.parameter_groups()["gate"][0] is module.gate.linear.weight
    with pytest.raises(InputError, match="with model.fusion.fusion_type 'simple' nothing asks a gate"):
        FusionConfig(fusion_type="simple", gate_function="my_rooms.networks:with_place")


def test_a_gate_with_nothing_to_train_is_a_group_of_none(monkeypatch) -> None:
    """Stages name the group "gate"; without excitation it would be unknown to them."""
    monkeypatch.setenv(plugins.VARIABLE, "my_rooms")
    own = {"gate_function": "my_rooms.networks:cosine", "squeeze_excitation": False}
    groups = fusion(dataclasses.replace(SMALL, **own)).parameter_groups()
    assert groups["gate"] == []
    plain = {"fusion_type": "simple", "squeeze_excitation": False, "film": False}
    assert not {"gate", "film"} & fusion(dataclasses.replace(SMALL, **plain)).parameter_groups().keys()


@torch.no_grad()
def test_a_broken_tower_does_not_reach_what_is_fused_before_the_gate_opens() -> None:
    """As in the validations of a first stage, which run the 2D branch."""
    module, given = awake(fusion()), inputs()
    off = FusionControl(scale=0.0)
    sound, _ = module(**given, control=off)
    given["f2d_in"] = torch.full_like(given["f2d_in"], torch.nan)
    fused, trace = module(**given, control=off)
    assert torch.equal(fused, sound) and trace.seen_f2d.isnan().all()


def test_excitation_squeezes_each_scene_apart() -> None:
    excitation = SqueezeExcitation(32)
    torch.nn.init.normal_(excitation.mlp[-1].weight)
    features, scene = torch.randn(7, 32), torch.tensor([0, 0, 0, 2, 2, 2, 2])
    both = excitation(features, scene, 3)
    alone = excitation(features[3:], torch.zeros(4, dtype=torch.int64), 1)
    assert torch.allclose(both[3:], alone, atol=1e-6)
    assert excitation(features[:0], scene[:0], 3).shape == (0, 32)


def test_full_size_gate_and_excitation_are_light() -> None:
    groups = Fusion(FusionConfig(), 96, 768).parameter_groups()
    assert sum(p.numel() for p in groups["gate"]) < 100_000


def test_at_the_start_it_is_the_mean_of_both_heads_where_seen() -> None:
    module, values = fusion(), inputs()
    fused, trace = module(**values, control=FusionControl())
    f2d, f3d = module.head_2d(values["f2d_in"]), module.head_3d(values["f3d_in"])
    seen = values["seen"]
    mean = f3d.clone()
    mean[seen] = (f2d + f3d[seen]) / 2
    assert torch.allclose(fused, mean, atol=1e-6)
    assert torch.equal(trace.gate, 0.5 * values["seen"]) and torch.equal(trace.alpha, trace.gate)
    assert torch.allclose(trace.f2d[seen], f2d, atol=1e-6) and torch.equal(trace.f3d, f3d)
    assert not trace.f2d[~seen].any() and torch.equal(trace.f2d_in[seen], values["f2d_in"])
    assert trace.learned


@pytest.mark.parametrize("norm", [True, False])
def test_heads_norm_brings_both_ranges_together(norm: bool) -> None:
    values = inputs(seen_share=1.0)
    values["f2d_in"] = values["f2d_in"] * 1000
    _, trace = fusion(dataclasses.replace(SMALL, head_norm=norm))(**values, control=FusionControl())
    ratio = trace.f2d.norm() / trace.f3d.norm()
    assert (0.9 < ratio < 1.1) if norm else ratio > 50


def test_outliers_stand_out_of_the_2d_features_alone() -> None:
    config = dataclasses.replace(SMALL, range_2d=2.0, outliers_2d=30.0)
    given, control = inputs(), FusionControl(scale=1.0)
    _, usual = fusion()(**given, control=control)
    _, trace = fusion(config)(**given, control=control)
    factors = torch.full((CHANNELS_2D,), 2.0)
    factors[0] = 60.0  # one channel in 64
    torch.testing.assert_close(trace.f2d_in, usual.f2d_in * factors)
    assert torch.equal(trace.f3d_in, usual.f3d_in)


@pytest.mark.parametrize("film", [True, False])
@torch.no_grad()
def test_in_use_blocks_of_voxels_give_what_all_at_once_gives(film, monkeypatch) -> None:
    config = dataclasses.replace(SMALL, film=film, squeeze_excitation=False)  # which is float32 alone
    module, values = awake(fusion(config)).double(), inputs()
    values = {n: v.double() if v.is_floating_point() else v for n, v in values.items()}
    with torch.enable_grad():
        whole, trace = module(**values, control=FusionControl())
        alone = module.without_2d(values["f3d_in"], values["code"])
    blocks = []
    module.head_3d.register_forward_hook(lambda _, given, made: blocks.append(len(made)))
    monkeypatch.setattr("bifusion.models.rows.BLOCK_ROWS", 7)
    found, traced = module(**values, control=FusionControl())
    assert blocks == [7, 7, 7, 7, 6, 6]
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(traced.f2d, trace.f2d)
    torch.testing.assert_close(module.without_2d(values["f3d_in"], values["code"]), alone)


def test_scale_zero_shows_the_decoder_3d_features_alone() -> None:
    module, values = awake(fusion()), inputs()
    fused, trace = module(**values, control=FusionControl(scale=0.0))
    assert torch.equal(fused, trace.f3d)
    assert torch.equal(trace.gate, torch.zeros(VOXELS))
    assert trace.alpha[values["seen"]].min() > 0
    assert torch.allclose(fused, module.without_2d(values["f3d_in"], values["code"]), atol=1e-6)


def test_unseen_voxels_keep_their_3d_features() -> None:
    module, values = awake(fusion()), inputs()
    fused, trace = module(**values, control=FusionControl())
    unseen = ~values["seen"]
    assert torch.equal(fused[unseen], trace.f3d[unseen])
    assert torch.equal(trace.gate[unseen], torch.zeros(int(unseen.sum())))


def test_gate_is_scaled_and_mixes_as_the_formula_says() -> None:
    module = awake(fusion(dataclasses.replace(SMALL, squeeze_excitation=False)))
    values = inputs()
    fused, trace = module(**values, control=FusionControl(scale=0.3))
    g = trace.gate[:, None]
    assert torch.allclose(trace.gate, 0.3 * trace.alpha)
    assert torch.allclose(fused, g * trace.f2d + (1 - g) * trace.f3d, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "control", "alpha"),
    [
        (SMALL, FusionControl(fixed_alpha=0.25), 0.25),
        (dataclasses.replace(SMALL, fusion_type="simple"), FusionControl(), 0.5),
    ],
)
def test_fixed_gates(config: FusionConfig, control: FusionControl, alpha: float) -> None:
    module, values = awake(fusion(config)), inputs()
    _, trace = module(**values, control=control)
    assert torch.equal(trace.alpha[values["seen"]], torch.full((int(values["seen"].sum()),), alpha))
    assert not trace.learned


def test_groups_of_smaller_variants() -> None:
    bare = FusionConfig(
        dim=32, hidden=16, fusion_type="simple", film=False, squeeze_excitation=False, alignment=False
    )
    assert set(fusion(bare).parameter_groups()) == {"head_2d", "head_3d"}
    assert set(Fusion(SMALL, CHANNELS_3D, None).parameter_groups()) == {"head_3d"}
    assert set(fusion().parameter_groups()) == {"head_2d", "head_3d", "film", "gate", "align"}


@pytest.mark.parametrize("config", [SMALL, dataclasses.replace(SMALL, head_norm=False)])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_nothing_seen_gives_3d_features_and_zero_gradients(config: FusionConfig, scale: float) -> None:
    module, values = awake(fusion(config)), inputs(seen_share=0.0)
    fused, trace = module(**values, control=FusionControl(scale=scale))
    assert torch.equal(fused, trace.f3d) and not trace.alignment_pairs
    fused.square().sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in module.head_2d.parameters())
    assert all(p.grad.abs().sum() > 0 for p in module.head_3d.parameters())


def test_alignment_pairs_pull_2d_only_and_only_where_seen() -> None:
    module, values = awake(fusion(dataclasses.replace(SMALL, film=False))), inputs()
    _, trace = module(**values, control=FusionControl(scale=0.0))
    ((predicted, target),) = trace.alignment_pairs
    assert predicted.shape == target.shape == (int(values["seen"].sum()), 32)
    assert torch.equal(target, trace.f3d[values["seen"]])
    (1 - F.cosine_similarity(predicted, target, dim=1)).mean().backward()
    groups = module.parameter_groups()
    assert all(p.grad is None for p in groups["head_3d"] + groups["gate"])
    assert all(p.grad.abs().sum() > 0 for p in groups["head_2d"] + groups["align"])


def test_every_part_gets_a_gradient_when_all_act() -> None:
    module, values = awake(fusion()), inputs()
    fused, trace = module(**values, control=FusionControl())
    (fused.square().sum() + trace.alignment_pairs[0][0].sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_l2_normalisation_comes_after_fusion_only() -> None:
    module, values = fusion(dataclasses.replace(SMALL, l2_normalize=True)), inputs()
    fused, trace = module(**values, control=FusionControl())
    assert torch.allclose(fused.norm(dim=1), torch.ones(VOXELS), atol=1e-5)
    assert trace.f3d.norm(dim=1).min() > 2


def test_shuffling_permutes_seen_voxels_within_scenes() -> None:
    values = inputs()
    features, scene = values["f2d_in"], values["scene"][values["seen"]]
    shuffled = shuffle_seen(features, scene, seed=7)
    assert torch.equal(shuffled, shuffle_seen(features, scene, seed=7))
    assert not torch.equal(shuffled, features)
    for number in (0, 1):
        rows = scene == number
        assert torch.equal(shuffled[rows].sort(dim=0).values, features[rows].sort(dim=0).values)


@pytest.mark.parametrize("factor", [0.1, 1.0])
def test_scale_gradient_keeps_values(factor: float) -> None:
    x = torch.randn(4, requires_grad=True)
    y = x * 2
    (scaled,) = scale_gradient([y], factor)
    assert torch.equal(scaled, x.detach() * 2)
    scaled.sum().backward()
    assert torch.allclose(x.grad, torch.full((4,), 2 * factor))


def code_batch(views: list[BatchView]) -> Batch:
    position = torch.tensor([[1.0, 2.0, 0.5], [3.0, 2.0, 2.5], [11.0, 12.0, 3.0]])
    return Batch(
        names=["a", "b"],
        voxel_coords=torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.int32),
        voxel_feats=torch.zeros(3, 3),
        voxel_position_m=position,
        point_to_voxel=torch.arange(3),
        point_to_superpoint=torch.arange(3),
        points_per_scene=[2, 1],
        superpoints_per_scene=[2, 1],
        scene_bounds_m=torch.tensor([[[0.0, 0, 0], [4, 4, 4]], [[10, 10, 2], [14, 14, 6]]]),
        seeds=[0, 1],
        views=views,
    )


def test_geometric_code_by_hand() -> None:
    world2cam = torch.eye(4)
    world2cam[:3, :3] = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    cam2world = torch.linalg.inv(world2cam)
    cam2world[:3, 3] = torch.tensor([2.0, 6.0, 2.0])
    world2cam = torch.linalg.inv(cam2world)
    nothing = torch.zeros(1, 2, 2)
    view = BatchView(0, "v", nothing.repeat(3, 1, 1), nothing, world2cam[:3, :3], world2cam, nothing[0],
                     world2cam[:3, :3], world2cam)  # fmt: skip
    pixel = torch.zeros(2, 2)
    sightings = Sightings(torch.tensor([0, 0]), torch.tensor([0, 1]), pixel, torch.tensor([2, 0, 0]))
    code = geometric_code(code_batch([view, view]), sightings)
    assert code.shape == (3, 64)
    assert torch.allclose(code[:, :3], torch.tensor([[-1.0, 0, -1.5], [1, 0, 0.5], [-1, 0, -1]]) / 4)
    assert torch.allclose(code[:, 3:6], torch.ones(3, 3))
    assert torch.allclose(code[:, 6], torch.tensor([0.5, 2.5, 1.0]) / 4)
    assert torch.allclose(code[0, 7 + 4], torch.tensor(-1.0), atol=1e-5), "x = -1 m at 4 m wavelength"
    pose = torch.cat([torch.tensor([0.0, 1.0, 0.0]), cam2world[:3, 0], cam2world[:3, 1]])
    assert torch.allclose(code[0, 55:], pose, atol=1e-6)
    assert torch.equal(code[1:, 55:], torch.zeros(2, 9))
    assert code.abs().max() <= 2


def test_geometric_code_without_views() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    code = geometric_code(
        code_batch([]), Sightings(nothing, nothing, torch.zeros(0, 2), torch.zeros(3).long())
    )
    assert code.shape == (3, 64) and torch.equal(code[:, 55:], torch.zeros(3, 9))
