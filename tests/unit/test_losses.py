from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20
from bifusion.losses.context import CriterionConfig
from bifusion.losses.criterion import Criterion, check_weights
from bifusion.losses.matcher import MatcherConfig, NonFiniteCostError
from bifusion.losses.terms import LOSS_TERMS, acts_on_fusion, alignment_loss
from bifusion.recipes import ABLATIONS, RECIPES, get_recipe
from bifusion.types import Batch, FusionTrace, LayerPrediction, Prediction, Targets
from meta_models import meta_model
from small_batches import batch_of_superpoints, layer_terms, targets_of

INSTANCE_TERMS = {"instance_class", "mask_bce", "mask_dice", "score"}


def make_case(
    targets: list[Targets],
    queries: list[list[int]] | None = None,
    layers: int = 2,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Prediction, Batch, list[Tensor]]:
    """Random prediction for the targets, its batch, and the leaf tensors of the prediction."""
    generator = torch.Generator().manual_seed(0)
    leaves: list[Tensor] = []

    def leaf(*shape: int) -> Tensor:
        values = (torch.randn(*shape, generator=generator) * scale).to(dtype).requires_grad_()
        leaves.append(values)
        return values

    sizes = [len(target.semantic) for target in targets]
    rows = [torch.arange(s) for s in sizes] if queries is None else [torch.tensor(q) for q in queries]
    prediction = Prediction(
        layers=[
            LayerPrediction(
                class_logits=[leaf(len(q), 19) for q in rows],
                mask_logits=[leaf(len(q), s) for q, s in zip(rows, sizes, strict=True)],
                scores=[leaf(len(q), 1) for q in rows],
            )
            for _ in range(layers)
        ],
        semantic_logits=[leaf(len(q), 21) for q in rows],
        query_superpoints=rows,
        superpoint_features=torch.zeros(sum(sizes), 4),
    )
    return prediction, batch_of_superpoints([torch.arange(s) for s in sizes], targets), leaves


def terms_of(prediction: Prediction, batch: Batch, **config) -> dict[str, Tensor]:
    return Criterion(CriterionConfig(**config), SCANNET20)(prediction, batch)


def assert_trainable(terms: dict[str, Tensor], leaves: list[Tensor]) -> None:
    """Every term is a finite float32 scalar with a graph, and every gradient is finite."""
    for name, value in terms.items():
        assert value.dtype == torch.float32, name
        assert value.shape == (), name
        assert torch.isfinite(value), name
        assert value.requires_grad, name
    sum(terms.values()).backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


TWO_INSTANCES = targets_of([3, 7], [0, 0, 1, -1, 1])
NO_INSTANCE = targets_of([], [-1, -1, -1])


def test_terms_of_an_ordinary_batch():
    prediction, batch, leaves = make_case([TWO_INSTANCES, TWO_INSTANCES])
    terms = terms_of(prediction, batch)
    assert set(terms) == INSTANCE_TERMS | {"semantic"}
    assert_trainable(terms, leaves)


def test_terms_are_summed_over_layers():
    prediction, batch, _ = make_case([TWO_INSTANCES], layers=3)
    criterion = Criterion(CriterionConfig(), SCANNET20)
    layers = [layer_terms(criterion, prediction, batch, i) for i in range(3)]
    for name, value in criterion(prediction, batch).items():
        if name in INSTANCE_TERMS:
            assert value.item() == pytest.approx(sum(layer[name].item() for layer in layers), rel=1e-6)


def test_heads_that_are_off_give_no_term():
    prediction, batch, _ = make_case([TWO_INSTANCES])
    prediction.semantic_logits = None
    for layer in prediction.layers:
        layer.scores = None
    assert set(terms_of(prediction, batch)) == {"instance_class", "mask_bce", "mask_dice"}


def test_right_predictions_cost_little():
    target = targets_of([3, 7], [0, 0, 1, 1])
    prediction, batch, _ = make_case([target], layers=1)
    layer = prediction.layers[0]
    # superpoints 0 and 2 answer for the instances, 1 and 3 say "no object"
    answer = torch.tensor([3, 18, 7, 18])
    layer.class_logits = [20.0 * torch.nn.functional.one_hot(answer, 19)]
    layer.mask_logits = [40.0 * target.masks[[0, 0, 1, 1]] - 20.0]
    layer.scores = [torch.ones(4, 1)]
    prediction.semantic_logits = [20.0 * torch.nn.functional.one_hot(target.semantic, 21)]
    terms = terms_of(prediction, batch)
    assert {name: round(value.item(), 4) for name, value in terms.items()} == dict.fromkeys(terms, 0.0)


# --------------------------------------------------------------------------------- nothing to learn


@pytest.mark.parametrize(
    ("targets", "queries"),
    [
        pytest.param([NO_INSTANCE], None, id="no instance"),
        pytest.param([NO_INSTANCE, NO_INSTANCE], None, id="no instance in any scene"),
        pytest.param([TWO_INSTANCES], [[3]], id="no instance got a query"),
        pytest.param([targets_of([], [-1])], None, id="one superpoint, unlabelled"),
    ],
)
def test_nothing_matches(targets: list[Targets], queries: list[list[int]] | None):
    prediction, batch, leaves = make_case(targets, queries)
    terms = terms_of(prediction, batch)
    assert terms["mask_bce"].item() == terms["mask_dice"].item() == terms["score"].item() == 0
    assert terms["semantic"].item() == 0
    assert terms["instance_class"].item() > 0, "unmatched queries still learn to say 'no object'"
    assert_trainable(terms, leaves)


def test_scene_without_match_does_not_dilute_the_others():
    alone, batch_alone, _ = make_case([TWO_INSTANCES])
    prediction, batch, leaves = make_case([TWO_INSTANCES, NO_INSTANCE])
    for mine, other in zip(alone.layers, prediction.layers, strict=True):
        mine.mask_logits[0] = other.mask_logits[0]
        mine.class_logits[0] = other.class_logits[0]
    terms, terms_alone = terms_of(prediction, batch), terms_of(alone, batch_alone)
    for name in ("mask_bce", "mask_dice"):
        assert terms[name].item() == pytest.approx(terms_alone[name].item(), rel=1e-6)
    assert_trainable(terms, leaves)


def test_instance_without_query_is_skipped_and_the_other_learned():
    prediction, batch, leaves = make_case([TWO_INSTANCES], queries=[[2, 3, 4]])
    criterion = Criterion(CriterionConfig(), SCANNET20)
    ((_, instances),) = criterion.match(prediction, batch, [0])[0]
    assert instances.tolist() == [1]
    assert_trainable(criterion(prediction, batch), leaves)


def test_scene_with_one_class_and_one_superpoint():
    prediction, batch, leaves = make_case([targets_of([4], [0])])
    assert_trainable(terms_of(prediction, batch), leaves)


def test_batch_without_annotation_is_refused():
    prediction, batch, _ = make_case([TWO_INSTANCES])
    batch.targets = None
    with pytest.raises(ValueError, match="scene0"):
        terms_of(prediction, batch)


# ---------------------------------------------------------------------------------- broken numbers


@pytest.mark.parametrize("where", ["class_logits", "mask_logits"])
def test_nan_in_a_cost_is_raised_with_its_place(where: str):
    prediction, batch, _ = make_case([NO_INSTANCE, TWO_INSTANCES])
    logits = getattr(prediction.layers[1], where)
    logits[1] = torch.full_like(logits[1], torch.nan)
    with pytest.raises(NonFiniteCostError) as caught:
        terms_of(prediction, batch)
    assert (caught.value.scene, caught.value.layer) == ("scene1", 1)


def test_nan_where_nothing_is_matched_stays_visible_in_the_loss():
    prediction, batch, _ = make_case([NO_INSTANCE])
    prediction.layers[0].class_logits[0] = torch.full((3, 19), torch.nan)
    assert torch.isnan(terms_of(prediction, batch)["instance_class"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_of_any_size(dtype: torch.dtype):
    prediction, batch, leaves = make_case([TWO_INSTANCES, NO_INSTANCE], scale=1e4, dtype=dtype)
    assert_trainable(terms_of(prediction, batch), leaves)


def test_autocast_does_not_reach_the_losses():
    prediction, batch, _ = make_case([TWO_INSTANCES])
    outside = terms_of(prediction, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = terms_of(prediction, batch)
    assert {k: v.item() for k, v in inside.items()} == {k: v.item() for k, v in outside.items()}


# ----------------------------------------------------------------------------------------- details


def test_official_dice_scaling():
    prediction, batch, _ = make_case([TWO_INSTANCES, TWO_INSTANCES], layers=2)
    plain = Criterion(CriterionConfig(), SCANNET20)
    official = Criterion(CriterionConfig(official_dice_scaling=True), SCANNET20)
    for index, factor in enumerate((4 / 2, 4)):
        wanted = factor * layer_terms(plain, prediction, batch, index)["mask_dice"].item()
        found = layer_terms(official, prediction, batch, index)["mask_dice"].item()
        assert found == pytest.approx(wanted, rel=1e-6)


def test_score_learns_only_from_good_masks():
    target = targets_of([3, 7], [0, 0, 1, 1])
    prediction, batch, _ = make_case([target], layers=1)
    layer = prediction.layers[0]
    layer.mask_logits = [torch.tensor([[9.0, 9, -9, -9]] * 2 + [[9.0, 9, -9, 9]] * 2)]
    layer.scores = [torch.full((4, 1), 0.25)]
    # instance 0: IoU 1, learned; instance 1: IoU 1/4, not
    assert terms_of(prediction, batch)["score"].item() == pytest.approx(0.75**2, abs=1e-5)


def test_semantic_ignores_unlabelled_superpoints():
    prediction, batch, _ = make_case([TWO_INSTANCES])
    before = terms_of(prediction, batch)["semantic"].item()
    logits = prediction.semantic_logits[0].detach().clone()
    logits[3] += torch.arange(21.0)
    prediction.semantic_logits = [logits]
    assert terms_of(prediction, batch)["semantic"].item() == before
    logits[0] += torch.arange(21.0)
    assert terms_of(prediction, batch)["semantic"].item() != before


def test_no_object_weight_of_zero_is_no_division_by_zero():
    prediction, batch, leaves = make_case([NO_INSTANCE])
    terms = terms_of(prediction, batch, no_object_weight=0.0)
    assert terms["instance_class"].item() == 0
    assert_trainable(terms, leaves)


def test_hungarian_matcher_uses_queries_outside_the_instance():
    prediction, batch, leaves = make_case([TWO_INSTANCES], queries=[[3, 0]])
    criterion = Criterion(CriterionConfig(matcher=MatcherConfig(kind="hungarian")), SCANNET20)
    ((queries, instances),) = criterion.match(prediction, batch, [0])[0]
    assert queries.tolist() == [0, 1]
    assert sorted(instances.tolist()) == [0, 1]
    prediction.query_superpoints, prediction.semantic_logits = None, None
    assert_trainable(criterion(prediction, batch), [leaf for leaf in leaves if leaf.shape[-1] != 21])


def test_queries_without_superpoints_need_the_hungarian_matcher():
    prediction, batch, _ = make_case([TWO_INSTANCES])
    prediction.query_superpoints = None
    with pytest.raises(ValueError, match="own_superpoint"):
        terms_of(prediction, batch)


# --------------------------------------------------------------------------------------- alignment


def make_trace(seen: list[bool], pairs: list[tuple[Tensor, Tensor]]) -> FusionTrace:
    voxels = len(seen)
    nothing = torch.zeros(voxels, 2)
    return FusionTrace(
        seen=torch.tensor(seen),
        alpha=torch.zeros(voxels),
        gate=torch.zeros(voxels),
        seen_f2d_in=nothing[seen],
        f3d_in=nothing,
        seen_f2d=nothing[seen],
        f3d=nothing,
        alignment_pairs=pairs,
    )


def test_alignment_is_negative_cosine_times_the_share_seen():
    same = torch.tensor([[1.0, 0], [0, 2]])
    trace = make_trace([True, True, False, False], [(same, 3 * same)])
    assert alignment_loss(trace).item() == pytest.approx(-0.5)
    trace = make_trace([True, True], [(same, same), (same, -same)])
    assert alignment_loss(trace).item() == pytest.approx(0.0)


def test_alignment_of_no_seen_voxel_is_zero_with_a_graph():
    predicted = torch.zeros(0, 2, requires_grad=True)
    term = alignment_loss(make_trace([False, False], [(predicted, torch.zeros(0, 2))]))
    assert term.item() == 0
    assert term.requires_grad


def test_alignment_of_zero_features_has_a_bounded_gradient():
    predicted = torch.zeros(1, 2, requires_grad=True)
    alignment_loss(make_trace([True], [(predicted, torch.ones(1, 2))])).backward()
    assert predicted.grad.abs().max() <= 1e3


def test_alignment_joins_the_terms_where_the_trace_has_pairs():
    prediction, batch, _ = make_case([TWO_INSTANCES])
    prediction.fusion = make_trace([True], [])
    assert "alignment" not in terms_of(prediction, batch)
    prediction.fusion = make_trace([True], [(torch.ones(1, 2), torch.ones(1, 2))])
    assert terms_of(prediction, batch)["alignment"].item() == pytest.approx(-1.0)


# --------------------------------------------------------------------------------- table and weights


def test_over_outputs_mean_does_not_grow_with_the_decoder():
    prediction, batch, _ = make_case([TWO_INSTANCES], layers=3)
    summed, mean = terms_of(prediction, batch), terms_of(prediction, batch, over_outputs="mean")
    for name in INSTANCE_TERMS:
        assert mean[name].item() == pytest.approx(summed[name].item() / 3, rel=1e-6)
    assert mean["semantic"] == summed["semantic"], "one output has semantic logits"


def test_order_of_the_terms_is_the_order_of_their_sum():
    prediction, batch, _ = make_case([TWO_INSTANCES])
    assert list(terms_of(prediction, batch)) == [
        "instance_class",
        "mask_bce",
        "mask_dice",
        "score",
        "semantic",
    ]


def test_a_misspelt_weight_is_refused_with_the_name_that_was_meant():
    criterion = Criterion(CriterionConfig(), SCANNET20)
    with pytest.raises(InputError, match="'mask_dcie', which is no loss term .did you mean 'mask_dice'"):
        check_weights(["mask_bce", "mask_dcie"], criterion, {"scores", "semantic_logits"}, "a run")


@pytest.mark.parametrize("term", ["score", "semantic", "alignment"])
def test_a_weight_of_what_the_model_does_not_predict_is_refused(term):
    criterion = Criterion(CriterionConfig(), SCANNET20)
    with pytest.raises(InputError, match=f"'{term}', but predictions of a run have no"):
        check_weights(["mask_bce", term], criterion, set(), "a run")


@pytest.mark.parametrize("name", [*RECIPES, *ABLATIONS])
def test_every_recipe_weighs_terms_that_its_model_gives(name):
    config = get_recipe(name)
    criterion = Criterion(config.criterion, SCANNET20)
    weighted = [term for stage in config.stages.stages for term in stage.weights]
    check_weights(weighted, criterion, meta_model(config).optional_outputs(), name)


def test_the_alignment_may_be_negative_and_acts_past_the_gate():
    special = {name for name, term in LOSS_TERMS.items() if term.may_be_negative}
    assert special == {name for name in LOSS_TERMS if acts_on_fusion(name)} == {"alignment"}
    assert not acts_on_fusion("from_outside")
