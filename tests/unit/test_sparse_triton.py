"""The GPU engine without a GPU: its numbers in Triton's interpreter, its plans of a kernel map."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import needs
from bifusion.precision import dot_precision, float32_products
from bifusion.sparse import backends
from bifusion.sparse.functional import compute_dtype
from bifusion.sparse.kernel_map import KernelMap
from kernel_maps import kernel_map_of

needs.module("triton", "triton")
from bifusion.sparse.triton import configurations, plan  # noqa: E402

INTERPRETED = Path(__file__).parents[1] / "triton_interpreted.py"


@pytest.fixture(scope="module")
def interpreted() -> dict[str, list[float]]:
    """Errors of every case, from one run in a process of its own."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, str(INTERPRETED)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {case["case"]: case["errors"] for case in found}


def test_forward_and_both_gradients_equal_float64(interpreted: dict[str, list[float]]) -> None:
    cases = {
        name: errors for name, errors in interpreted.items() if " to " in name or name == "small tiles"
    }
    assert len(cases) >= 19
    for name, errors in cases.items():
        assert len(errors) == 3
        assert max(errors) <= (1e-3 if "float16" in name else 1e-6), (name, errors)


def test_weight_gradient_is_not_rounded_to_the_type_of_the_features(interpreted) -> None:
    out, grad_feats, grad_weight = interpreted["weights wider than features"]
    assert max(out, grad_feats) <= 1e-3
    assert grad_weight <= 1e-6


def test_bias_residual_and_relu_follow_in_the_same_launch(interpreted) -> None:
    assert len(interpreted["finished"]) == 4
    assert max(interpreted["finished"]) <= 1e-6


def test_sorted_index_equals_bisection(interpreted: dict[str, list[float]]) -> None:
    cases = {name: errors for name, errors in interpreted.items() if name.startswith("index of")}
    assert len(cases) == 9
    assert all(errors == [0.0] for errors in cases.values()), cases


def test_tiles_hold_the_table_the_longest_first(interpreted: dict[str, list[float]]) -> None:
    cases = {name: errors for name, errors in interpreted.items() if name.startswith("tiles of")}
    assert len(cases) == 14
    assert all(errors == [0.0, 0.0] for errors in cases.values()), cases


def test_sorted_rows_meet_fewer_offsets_than_rows_as_they_come(interpreted) -> None:
    assert interpreted["share of offsets"][0] < 0.7


def test_rows_that_meet_the_same_offsets_are_neighbours(interpreted: dict[str, list[float]]) -> None:
    cases = {name: errors for name, errors in interpreted.items() if name.startswith("order of")}
    assert len(cases) == 3
    assert all(errors == [0.0, 0.0, 0.0] for errors in cases.values()), cases


def test_all_masks_in_order_are_a_gray_code(interpreted: dict[str, list[float]]) -> None:
    """Of all masks of few offsets each differs from the next in one offset."""
    assert interpreted["Gray code"] == [0.0]


@pytest.mark.parametrize(
    ("volume", "first", "last"),
    [(8, [7], [0]), (27, [0, 2, 6, 8, 18, 20, 24, 26], [13]), (125, [0], [62])],
)
def test_offsets_are_ranked_from_the_corners_to_the_centre(
    volume: int, first: list[int], last: list[int]
) -> None:
    ranked = plan.farthest_first(volume, torch.device("cpu")).tolist()
    assert sorted(ranked) == list(range(volume))
    assert ranked[: len(first)] == first
    assert ranked[-len(last) :] == last


def test_a_kernel_with_a_wrong_offset_or_pair_is_seen(interpreted: dict[str, list[float]]) -> None:
    out, grad_feats, _ = interpreted["broken: another offset"]
    assert min(out, grad_feats) > 0.1
    assert interpreted["broken: a pair left out"][2] > 0.01


def random_map(name: str, side: int = 6, share: float = 0.4) -> KernelMap:
    filled = torch.rand(2, side, side, side, generator=torch.Generator().manual_seed(0)) < share
    return kernel_map_of(filled.nonzero().int(), name)


MAPS = ["kernel 2", "kernel 3", "kernel 5", "strided 2", "strided 3", "inverse 2", "inverse 3"]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("number", [1, 7, 400])
def test_chunks_hold_every_pair_once(name: str, number: int) -> None:
    kernel_map = random_map(name)
    pairs, chunks = plan.pairs_of(kernel_map), plan.chunks_of(kernel_map, number, 16)
    table = torch.full_like(kernel_map.neighbors, -1)
    firsts = chunks.offset_first.tolist()
    assert firsts[-1] <= len(chunks.first) == number + kernel_map.volume
    for offset in range(kernel_map.volume):
        for chunk in range(firsts[offset], firsts[offset + 1]):
            run = slice(int(chunks.first[chunk]), int(chunks.last[chunk]))
            assert run.stop > run.start
            table[pairs.out_rows[run].long(), offset] = pairs.in_rows[run]
    assert torch.equal(table, kernel_map.neighbors)
    assert (chunks.first[firsts[-1] :] == chunks.last[firsts[-1] :]).all()  # idle
    lengths = chunks.last - chunks.first
    assert lengths.sum() == (kernel_map.neighbors >= 0).sum()


def test_pairs_are_shared_with_the_transposed_map() -> None:
    down = random_map("strided 2")
    pairs, back = plan.pairs_of(down), plan.pairs_of(down.transposed)
    assert back.in_rows is pairs.out_rows
    assert back.out_rows is pairs.in_rows


@pytest.mark.parametrize("products", ["ieee", "tf32", "narrow"])
@pytest.mark.parametrize("channels", [1, 3, 6, 16, 17, 32, 48, 64, 96, 128, 160, 192, 256, 384])
def test_rule_finds_a_candidate(products: configurations.Products, channels: int) -> None:
    for other in (3, 32, 96, 256):
        for pair in ((channels, other), (other, channels)):
            chosen = configurations.choose_convolve(*pair, products)
            assert chosen in configurations.CONVOLVE[products]
            chosen = configurations.choose_weight_gradient(*pair, products)
            assert chosen in configurations.WEIGHT_GRADIENT[products]


@pytest.mark.parametrize(
    ("channels", "width"), [(3, 16), (32, 32), (48, 64), (96, 128), (160, 64), (256, 128)]
)
def test_rule_fills_its_columns(channels: int, width: int) -> None:
    assert configurations.choose_convolve(32, channels, "narrow").block_n == width


@pytest.mark.parametrize(("channels", "width"), [(32, 32), (64, 64), (96, 128), (128, 64), (256, 64)])
def test_rule_keeps_blocks_of_plain_cores_narrow_where_they_fit(channels: int, width: int) -> None:
    assert configurations.choose_convolve(64, channels, "ieee").block_n == width


@pytest.mark.parametrize(("channels", "split"), [(32, False), (96, False), (128, True), (256, True)])
def test_rule_splits_tf32_gradients_of_wide_layers(channels: int, split: bool) -> None:
    chosen = configurations.choose_weight_gradient(channels, channels, "tf32")
    assert (configurations.gradient_precision(chosen, "tf32", "tf32") == "split") == split
    assert configurations.gradient_precision(chosen, "narrow", "tf32") == "tf32"


def test_autocast_type_is_followed_by_the_gpu_engine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(cpu, torch.float32) == torch.float32
        monkeypatch.setattr(backends.backend_for(cpu), "follows_autocast", True)
        assert compute_dtype(cpu, torch.float32) == torch.bfloat16
        assert compute_dtype(cpu, torch.float64) == torch.float64
    assert compute_dtype(cpu, torch.float32) == torch.float32


def test_products_of_float32_are_chosen_for_a_block_and_on_a_gpu_alone() -> None:
    cuda, images = torch.device("cuda"), torch.backends.cudnn.allow_tf32
    with float32_products("tf32", cuda):
        assert dot_precision() == "tf32" and torch.backends.cudnn.allow_tf32
        with float32_products("ieee", cuda):
            assert dot_precision() == "ieee" and not torch.backends.cudnn.allow_tf32
        assert dot_precision() == "tf32"
    assert dot_precision() == "ieee" and torch.backends.cudnn.allow_tf32 == images
    with float32_products("tf32", torch.device("cpu")):
        assert dot_precision() == "ieee"
