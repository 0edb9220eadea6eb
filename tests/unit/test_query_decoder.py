from __future__ import annotations

import dataclasses

import pytest
import torch

from bifusion.models.pooling import pool_superpoints
from bifusion.models.query_decoder import DecoderConfig, QueryDecoder, attention_mask
from small_batches import batch_of_superpoints

SMALL = DecoderConfig(num_layers=2, dim=16, heads=2, ffn_dim=32, score_head=True)


def small_decoder(config: DecoderConfig = SMALL) -> QueryDecoder:
    torch.manual_seed(0)
    return QueryDecoder(config, in_channels=6, num_things=18, num_semantic=20)


def batch_with(*superpoints_per_scene: int):
    return batch_of_superpoints([torch.arange(n) for n in superpoints_per_scene])


# ------------------------------------------------------------------------------------- layer scale


def test_a_layer_scale_of_one_is_the_decoder_without():
    """Its factors are not drawn: all other weights are the same."""
    plain, scaled = small_decoder(), small_decoder(dataclasses.replace(SMALL, layer_scale=1.0))
    features, batch = torch.randn(5, 6), batch_with(5)
    found, wanted = (d.eval()(features, batch).layers[-1].mask_logits[0] for d in (scaled, plain))
    assert torch.equal(found, wanted)
    extra = scaled.state_dict().keys() - plain.state_dict().keys()
    assert len(extra) == 3 * SMALL.num_layers and all(name.endswith("scale.gamma") for name in extra)


def test_with_a_small_layer_scale_a_block_is_nearly_its_norm():
    decoder = small_decoder(dataclasses.replace(SMALL, layer_scale=1e-4))
    queries = torch.randn(5, 16)
    for layer, arguments in (
        (decoder.cross_attn_layers[0], (torch.randn(7, 16), torch.zeros(5, 7, dtype=torch.bool))),
        (decoder.self_attn_layers[0], ()),
        (decoder.ffn_layers[0], ()),
    ):
        torch.testing.assert_close(layer(queries, *arguments), layer.norm(queries), atol=1e-3, rtol=0)
        layer(queries, *arguments).square().sum().backward()
        assert layer.scale.gamma.grad.abs().min() > 0


# ----------------------------------------------------------------------------------------- pooling


def test_pooling_is_the_mean_over_points_not_voxels():
    batch = batch_of_superpoints([torch.tensor([0, 0, 0, 1])])
    batch.point_to_voxel = torch.tensor([0, 0, 1, 1])
    pooled = pool_superpoints(torch.tensor([[3.0], [9.0]]), batch)
    assert pooled.tolist() == [[5.0], [9.0]]


def test_pooling_keeps_scenes_apart():
    batch = batch_of_superpoints([torch.tensor([0, 0]), torch.tensor([0, 1])])
    pooled = pool_superpoints(torch.tensor([[1.0], [3], [10], [20]]), batch)
    assert pooled.tolist() == [[2.0], [10.0], [20.0]]


def test_pooling_sums_half_precision_in_float32():
    batch = batch_of_superpoints([torch.zeros(4096, dtype=torch.int64)])
    pooled = pool_superpoints(torch.full((4096, 1), 1.5, dtype=torch.float16), batch)
    assert pooled.item() == 1.5


def test_pooling_gradient():
    batch = batch_of_superpoints([torch.tensor([0, 1, 0]), torch.tensor([0])])
    feats = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pool_superpoints(x, batch), feats)


# --------------------------------------------------------------------------------- attention masks


def test_attention_is_blocked_outside_the_predicted_mask():
    blocked = attention_mask(torch.tensor([[2.0, -2.0, 0.0]]))
    assert blocked.tolist() == [[False, True, False]]


def test_query_with_an_empty_mask_sees_everything():
    blocked = attention_mask(torch.tensor([[-1.0, -5.0], [1.0, -1.0]]))
    assert blocked.tolist() == [[False, False], [False, True]]


def test_decoder_still_looks_when_every_mask_is_empty():
    decoder = small_decoder()
    with torch.no_grad():
        decoder.out_norm.bias.fill_(1.0)
        decoder.out_norm.weight.fill_(0.01)
        decoder.x_mask[2].weight.zero_()
        decoder.x_mask[2].bias.fill_(-1.0)
    prediction = decoder(torch.randn(5, 6, requires_grad=True), batch_with(5))
    assert all((layer.mask_logits[0] < 0).all() for layer in prediction.layers)
    prediction.semantic_logits[0].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in decoder.parameters() if p.grad is not None)
    assert decoder.input_proj[0].weight.grad.abs().sum() > 0, "the keys were attended to"


# ------------------------------------------------------------------------------------------ shapes


def test_shapes_in_evaluation():
    decoder = small_decoder().eval()
    prediction = decoder(torch.randn(7, 6), batch_with(4, 3))
    assert len(prediction.layers) == 3
    for layer in prediction.layers:
        assert [tuple(x.shape) for x in layer.class_logits] == [(4, 19), (3, 19)]
        assert [tuple(x.shape) for x in layer.mask_logits] == [(4, 4), (3, 3)]
        assert [tuple(x.shape) for x in layer.scores] == [(4, 1), (3, 1)]
    assert [tuple(x.shape) for x in prediction.semantic_logits] == [(4, 21), (3, 21)]
    assert [rows.tolist() for rows in prediction.query_superpoints] == [[0, 1, 2, 3], [0, 1, 2]]


def test_heads_can_be_left_out():
    decoder = small_decoder(DecoderConfig(num_layers=1, dim=16, heads=2, semantic_head=False))
    prediction = decoder(torch.randn(3, 6), batch_with(3))
    assert prediction.semantic_logits is None
    assert prediction.layers[-1].scores is None


def test_scenes_do_not_influence_each_other():
    decoder = small_decoder().eval()
    features = torch.randn(7, 6)
    together = decoder(features, batch_with(4, 3)).layers[-1]
    alone = decoder(features[4:], batch_with(3)).layers[-1]
    assert torch.allclose(together.class_logits[1], alone.class_logits[0], atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_scene_of_one_superpoint(training: bool):
    decoder = small_decoder().train(training)
    prediction = decoder(torch.randn(1, 6), batch_with(1))
    assert prediction.query_superpoints[0].tolist() == [0]
    assert torch.isfinite(prediction.layers[-1].class_logits[0]).all()


# --------------------------------------------------------------------------------- query selection


def test_training_queries_are_a_random_share_of_the_superpoints():
    decoder = small_decoder()
    batch = batch_with(200)
    numbers = []
    for seed in range(40):
        batch.seeds = [seed]
        (rows,) = decoder(torch.randn(200, 6), batch).query_superpoints
        assert len(rows.unique()) == len(rows)
        numbers.append(len(rows))
    assert min(numbers) >= 100
    assert max(numbers) <= 200
    assert min(numbers) < 115 and max(numbers) > 185, "the share covers its whole range"


def test_queries_repeat_with_the_seed_and_ignore_the_global_generator():
    decoder = small_decoder()
    batch, features = batch_with(50), torch.randn(50, 6)
    first = decoder(features, batch).query_superpoints[0]
    torch.manual_seed(99)
    assert torch.equal(first, decoder(features, batch).query_superpoints[0])
    batch.seeds = [7]
    assert not torch.equal(first, decoder(features, batch).query_superpoints[0])
