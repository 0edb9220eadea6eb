"""BiFusion wired together: stages of use, isolation of the tower, sizes, gradients."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from bifusion.labels.sets import SCANNET20, SCANNET200
from bifusion.models.bifusion import BiFusion, BiFusionConfig
from bifusion.models.build import build_model
from bifusion.models.fusion import FusionConfig
from bifusion.models.query_decoder import DecoderConfig
from bifusion.models.towers.clip import CLIP_MEAN, CLIP_STD, ClipConfig
from bifusion.models.towers.pixels import PixelsConfig
from bifusion.models.unet import UNetConfig
from bifusion.types import Batch, BatchView, FusionControl, Prediction
from small_batches import batch_of_superpoints

POINTS = 96


def small_config(**changes) -> BiFusionConfig:
    config = BiFusionConfig(
        unet=UNetConfig(kind="residual", in_channels=6, planes=(8, 16)),
        decoder=DecoderConfig(num_layers=1, dim=16, heads=2, ffn_dim=32, score_head=True),
        tower=ClipConfig("small", blocks=2, width=16, layers=2, heads=2, patch_size=8, image_size=32),
        fusion=FusionConfig(dim=16, hidden=24, film_hidden=16, gate_hidden=8, alignment_hidden=8),
    )
    return dataclasses.replace(config, **changes)


def make_model(**changes) -> BiFusion:
    torch.manual_seed(0)
    model = BiFusion(small_config(**changes), SCANNET20).eval()
    for group in ("film", "gate"):
        for parameter in model.parameter_groups().get(group, []):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def overhead_view(scene: int) -> BatchView:
    """A camera 1 m above the grid of voxels that looks down on its lower half; no occlusion test
    fails: the depth camera measured 1 m everywhere and all voxels lie within 5 cm of that."""
    world2cam = torch.tensor([[1.0, 0, 0, -0.175], [0, -1, 0, 0.1], [0, 0, -1, 1.0], [0, 0, 0, 1]])
    K = torch.tensor([[40.0, 0, 11.5], [0, 40.0, 7.5], [0, 0, 1]])
    generator = torch.Generator().manual_seed(scene)
    depth = torch.ones(1, 16, 24)
    image = torch.rand(3, 16, 24, generator=generator)
    return BatchView(scene, f"v{scene}", image, depth, K, world2cam, depth[0], K, world2cam)


def make_batch(views_of: tuple[int, ...] = (0, 1)) -> Batch:
    """Two scenes of 96 voxels (8 × 8 in the lowest layer) and one view of each named scene."""
    batch = batch_of_superpoints([torch.arange(POINTS) % 9, torch.arange(POINTS) % 7])
    return dataclasses.replace(batch, views=[overhead_view(scene) for scene in views_of])


def loss_of(prediction: Prediction) -> torch.Tensor:
    layer = prediction.layers[-1]
    outputs = [*layer.class_logits, *layer.mask_logits, *prediction.semantic_logits]
    return torch.stack([output.square().mean() for output in outputs]).sum()


def same(first: Prediction, second: Prediction) -> bool:
    return torch.allclose(first.superpoint_features, second.superpoint_features, atol=1e-5)


def test_full_size_has_89_million_parameters_each_in_one_group() -> None:
    for labels in (SCANNET20, SCANNET200):
        with torch.device("meta"):
            model = BiFusion(BiFusionConfig(), labels)
        grouped = [p for group in model.parameter_groups().values() for p in group]
        assert len({id(p) for p in grouped}) == len(grouped) == len(list(model.parameters()))
        assert abs(sum(p.numel() for p in grouped) - 89e6) < 1e6


def test_building_one_leaves_all_generators_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's too, which `torch.manual_seed` would begin anew and nothing would put back."""
    begun: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", begun.append)
    before = torch.get_rng_state()
    build_model(small_config(), 0, SCANNET20)
    assert torch.equal(before, torch.get_rng_state()) and not begun


def test_prediction_and_trace_have_their_shapes() -> None:
    batch = make_batch()
    prediction = make_model()(batch)
    trace = prediction.fusion
    assert prediction.superpoint_features.shape == (16, 16)
    assert [len(x) for x in prediction.layers[-1].class_logits] == [9, 7]
    assert trace.f2d_in.shape == (2 * POINTS, 16) and trace.f3d_in.shape == (2 * POINTS, 8)
    assert trace.f2d.shape == trace.f3d.shape == (2 * POINTS, 16)
    assert 0.3 < trace.seen.float().mean() < 1
    assert trace.learned and trace.alpha[trace.seen].std() > 0


def test_views_matter_and_their_order_does_not() -> None:
    model, batch = make_model(), make_batch()
    turned = dataclasses.replace(batch, views=batch.views[::-1])
    assert same(model(batch), model(turned))
    assert not same(model(batch), model(dataclasses.replace(batch, views=[])))


@pytest.mark.parametrize("control", [FusionControl(withhold_views=True), FusionControl(run_2d=False)])
def test_withheld_views_are_no_views(control: FusionControl) -> None:
    model, batch = make_model(), make_batch()
    withheld = model(batch, control)
    assert withheld.fusion is None
    assert same(withheld, model(dataclasses.replace(batch, views=[])))


def test_run_2d_off_does_not_run_the_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()

    def must_not_run(views: list) -> None:
        raise AssertionError("the tower ran")

    monkeypatch.setattr(model.tower, "encode_views", must_not_run)
    model(make_batch(), FusionControl(scale=0.0, run_2d=False))


def test_scale_zero_equals_alpha_zero() -> None:
    model, batch = (
        make_model(fusion=dataclasses.replace(small_config().fusion, squeeze_excitation=False)),
        make_batch(),
    )
    silent = model(batch, FusionControl(scale=0.0))
    assert same(silent, model(batch, FusionControl(fixed_alpha=0.0)))
    assert not same(silent, model(batch))


def test_shuffling_changes_the_prediction_and_repeats() -> None:
    model, batch = make_model(), make_batch()
    first, second = (model(batch, FusionControl(shuffle_seed=3)) for _ in range(2))
    assert same(first, second) and not same(first, model(batch))


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_isolation_and_scaling_of_the_towers_gradient(scale: float) -> None:
    """Isolated: no gradient at all, and weights bit-identical after a step. Else: scaled."""
    model = make_model().train()
    before = copy.deepcopy(model.tower.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    loss_of(model(make_batch(), FusionControl(tower_gradient_scale=scale))).backward()
    gradients = [p.grad for p in model.tower.parameters()]
    optimizer.step()
    identical = all(torch.equal(before[name], t) for name, t in model.tower.state_dict().items())
    if scale == 0:
        assert all(gradient is None for gradient in gradients) and identical
        return
    assert all(gradient is not None for gradient in gradients) and not identical
    other = make_model().train()
    loss_of(other(make_batch(), FusionControl(tower_gradient_scale=1.0))).backward()
    for gradient, full in zip(gradients, other.tower.parameters(), strict=True):
        assert torch.allclose(gradient, scale * full.grad, rtol=1e-3, atol=1e-9)


def test_gradients_are_bit_identical_when_repeated() -> None:
    def gradients() -> list[torch.Tensor]:
        model = make_model().train()
        loss_of(model(make_batch(), FusionControl(tower_gradient_scale=0.5))).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))


@pytest.mark.parametrize("views", ["no views", "nothing seen", "one scene only"])
@pytest.mark.parametrize(
    "control",
    [
        FusionControl(scale=0.0, run_2d=False),
        FusionControl(scale=0.5, fixed_alpha=0.5),
        FusionControl(tower_gradient_scale=0.1),
    ],
)
def test_poor_views_work_in_every_stage(views: str, control: FusionControl) -> None:
    batch = make_batch(views_of=(1,) if views == "one scene only" else ())
    if views == "nothing seen":
        view = overhead_view(0)
        batch.views = [dataclasses.replace(view, depth_m=torch.zeros(16, 24))]
    model = make_model().train()
    prediction = model(batch, control)
    loss_of(prediction).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    if control.run_2d:
        assert prediction.fusion.seen.any() == (views == "one scene only")
        assert all(p.grad is not None for p in model.fusion.head_2d.parameters())


def test_half_precision_forward_and_backward() -> None:
    model = make_model().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model(make_batch(), FusionControl(tower_gradient_scale=0.1))
        loss = loss_of(prediction)
    loss.backward()
    assert prediction.fusion.seen.any() and prediction.fusion.f2d_in.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in model.tower.parameters())


def test_plan_a_builds_no_2d_branch() -> None:
    model = make_model(tower=None)
    assert set(model.parameter_groups()) == {"head_3d", "backbone", "decoder"}
    assert model.describe_tower() is None
    with_views, without = model(make_batch()), model(make_batch(views_of=()))
    assert with_views.fusion is None and same(with_views, without)


def test_lifted_rgb_is_the_colour_of_the_pixels() -> None:
    """An image that tells its own pixel: red is x / 100, green y / 100."""
    model, batch = make_model(tower=PixelsConfig()), make_batch()
    for view in batch.views:
        view.image[0] = torch.arange(24) / 100
        view.image[1] = torch.arange(16)[:, None] / 100
    trace = model(batch).fusion
    assert trace.f2d_in.shape == (2 * POINTS, 3)
    assert not trace.f2d_in[~trace.seen].any()
    x, y, z = batch.voxel_position_m[trace.seen].T
    pixel = torch.stack([40 * (x - 0.175) / (1 - z) + 11.5, 40 * (0.1 - y) / (1 - z) + 7.5], dim=1)
    told = trace.f2d_in[trace.seen] * torch.tensor(CLIP_STD) + torch.tensor(CLIP_MEAN)
    assert torch.allclose(100 * told[:, :2], pixel, atol=1e-3)


def test_lifted_rgb_has_no_tower() -> None:
    model = make_model(tower=PixelsConfig())
    grouped = [p for group in model.parameter_groups().values() for p in group]
    assert len({id(p) for p in grouped}) == len(grouped) == len(list(model.parameters()))
    assert not any(name.startswith("tower") for name in [*model.parameter_groups(), *model.state_dict()])
    assert "no tower" in model.describe_tower()
    prediction = model(make_batch(), FusionControl(tower_gradient_scale=0.1))
    loss_of(prediction).backward()
    assert all(p.grad is not None for p in model.fusion.head_2d.parameters())


def test_alpha_of_one_hides_3d_features_where_a_view_sees() -> None:
    model, batch = make_model(), make_batch()
    trace = model(batch, FusionControl(fixed_alpha=1.0)).fusion
    assert torch.equal(trace.gate, trace.seen.float()) and not trace.learned


def test_alignment_learns_to_tell_3d_from_2d() -> None:
    """A few steps on the alignment term alone, tower isolated, raise the cosine."""
    model, batch = make_model().train(), make_batch()
    groups = model.parameter_groups()
    optimizer = torch.optim.AdamW(groups["head_2d"] + groups["align"], lr=1e-2)
    cosines = []
    for _ in range(40):
        ((predicted, target),) = model(batch, FusionControl()).fusion.alignment_pairs
        cosines.append(F.cosine_similarity(predicted, target, dim=1).mean())
        optimizer.zero_grad()
        (-cosines[-1]).backward()
        optimizer.step()
    assert cosines[-1] > cosines[0] + 0.3
