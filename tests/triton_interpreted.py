"""The GPU engine in Triton's interpreter: how far each result lies from plain torch's in float64.

Run as `TRITON_INTERPRET=1 python triton_interpreted.py`, a process of its own, because Triton reads the
variable when it is imported. Prints a JSON object a case: its name, and the largest difference over the
largest value of the output and of both gradients.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
from torch import Tensor

from bifusion.sparse import reference, triton
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.triton import kernels, launch, plan
from bifusion.sparse.triton.configurations import Configuration
from kernel_maps import kernel_map_of


def random_voxels(side: int, share: float, scenes: int = 1) -> Tensor:
    """(M, 4), shuffled, some coordinates negative."""
    generator = torch.Generator().manual_seed(0)
    filled = torch.rand(scenes, side, side, side, generator=generator) < share
    coords = filled.nonzero() - torch.tensor([0, side // 2, side // 2, side // 2])
    return coords[torch.randperm(len(coords), generator=generator)].int()


VOXELS = {
    "none": torch.zeros(0, 4, dtype=torch.int32),
    "one": torch.tensor([[0, 3, -4, 5]], dtype=torch.int32),
    "isolated": torch.tensor([[0, 9 * i, 0, -9 * i] for i in range(20)], dtype=torch.int32),
    "two scenes": random_voxels(4, 0.4, scenes=2),
    "several tiles": random_voxels(7, 0.5),
}
SHORT, LONG = torch.float16, torch.float32
CASES = [
    # voxels, map, channels in and out, dtype
    ("none", "kernel 3", 4, 8, LONG),
    ("one", "kernel 3", 4, 8, LONG),
    ("one", "strided 2", 4, 8, LONG),
    ("isolated", "kernel 3", 6, 20, LONG),
    ("isolated", "inverse 2", 6, 20, LONG),
    ("two scenes", "kernel 2", 5, 33, LONG),
    ("two scenes", "kernel 3", 33, 18, LONG),
    ("two scenes", "kernel 3", 33, 18, SHORT),
    ("two scenes", "kernel 3", 16, 32, SHORT),
    ("two scenes", "kernel 5", 3, 20, LONG),
    ("two scenes", "strided 2", 20, 33, LONG),
    ("two scenes", "strided 2", 20, 33, SHORT),
    ("two scenes", "strided 3", 20, 7, LONG),
    ("two scenes", "inverse 2", 20, 33, LONG),
    ("two scenes", "inverse 2", 20, 33, SHORT),
    ("two scenes", "inverse 3", 7, 20, LONG),
    ("several tiles", "strided 2", 3, 150, LONG),
    ("several tiles", "inverse 2", 70, 40, SHORT),
]
SMALL = Configuration(16, 16, 16, 4, 1)
"""Many tiles and blocks of channels of few voxels and channels."""


def outcome(
    backend, feats: Tensor, weight: Tensor, upstream: Tensor, kernel_map: KernelMap
) -> list[Tensor]:
    """Result and both gradients for a gradient `upstream` of the result."""
    feats, weight = feats.detach().requires_grad_(), weight.detach().requires_grad_()
    out = backend.conv(feats, weight, kernel_map)
    return [out.detach(), *torch.autograd.grad(out, (feats, weight), upstream)]


def errors_of(
    kernel_map: KernelMap, channels_in: int, channels_out: int, dtype: torch.dtype, wider: bool = False
) -> list[float]:
    """Largest difference over the largest value, of the result and both gradients.

    wider: the weights are float32, as under autocast (their values are still those of `dtype`).
    """
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    feats, upstream = (
        random(kernel_map.num_inputs, channels_in),
        random(kernel_map.num_outputs, channels_out),
    )
    weight = random(kernel_map.volume, channels_in, channels_out)
    weight = weight.float() if wider else weight
    found = outcome(triton, feats, weight, upstream, kernel_map)
    expected = outcome(reference, feats.double(), weight.double(), upstream.double(), kernel_map)
    assert [tensor.dtype for tensor in found] == [dtype, dtype, weight.dtype]
    return [_error(a, b) for a, b in zip(found, expected, strict=True)]


def _error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    if expected.numel() == 0:
        return 0.0
    scale = expected.abs().max().clamp(min=1e-30)
    return float((found.double() - expected).abs().max() / scale)


@contextmanager
def changed_kernels(before: str, after: str) -> Iterator[None]:
    """The engine with a change in the text of its kernels."""
    text = Path(kernels.__file__).read_text()
    assert text.count(before) == 1
    with TemporaryDirectory() as folder:
        file = Path(folder) / "changed_kernels.py"
        file.write_text(text.replace(before, after))
        spec = importlib.util.spec_from_file_location("changed_kernels", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with mock.patch.object(launch, "kernels", module):
            yield


def finished_errors() -> list[float]:
    """Of bias, residual and ReLU after a convolution: together, each alone, and a NaN that must stay."""
    kernel_map = kernel_map_of(VOXELS["two scenes"], "kernel 3")
    generator = torch.Generator().manual_seed(3)
    feats = torch.randn(kernel_map.num_inputs, 18, generator=generator)
    weight = torch.randn(27, 18, 24, generator=generator)
    bias, residual = torch.randn(24, generator=generator), torch.randn(len(feats), 24)
    residual[2, 3] = torch.nan
    errors = []
    for finish in (
        (bias, residual, True),
        (bias, None, False),
        (None, residual, False),
        (None, None, True),
    ):
        found = triton.conv_finished(feats, weight, kernel_map, *finish)
        expected = reference.conv_finished(feats.double(), weight.double(), kernel_map, *finish)
        assert torch.equal(found.isnan(), expected.isnan())
        errors.append(_error(found.nan_to_num(), expected.nan_to_num()))
    return errors


def index_errors(voxels: str, kernel_size: int, stride: int) -> list[float]:
    """Entries of the neighbours' table that differ from plain torch's."""
    coords = VOXELS[voxels]
    others = torch.div(coords.flip(0), torch.tensor([1, stride, stride, stride]), rounding_mode="floor")
    found = triton.index_voxels(coords).table(others.int(), kernel_size, stride)
    expected = reference.index_voxels(coords).table(others.int(), kernel_size, stride)
    return [float((found != expected).sum())]


def table_of(tiles: plan.Tiles, rows: int) -> Tensor:
    """The map's table again, from its tiles: only the offsets that count."""
    number, volume, height = tiles.table.shape
    table = torch.full((rows, volume), -1, dtype=torch.int32)
    for tile in range(number):
        places = tiles.out_rows[tile * height : (tile + 1) * height]
        for line in range(int(tiles.counts[tile])):
            met = tiles.table[tile, line]
            assert (met >= 0).any()
            assert (met[places < 0] == -1).all()
            table[places[places >= 0].long(), tiles.offsets[tile, line].long()] = met[places >= 0]
    return table


def tile_errors(kernel_map: KernelMap, height: int) -> list[float]:
    """Entries of the table that its tiles do not hold, tiles that do not come in turn."""
    tiles = plan.tiles_of(kernel_map, height)
    assert plan.tiles_of(kernel_map, height) is tiles
    lost = (table_of(tiles, kernel_map.num_outputs) != kernel_map.neighbors).sum()
    assert sorted(tiles.turns.tolist()) == list(range(len(tiles.counts)))
    few = len(tiles.counts) <= plan._TILES_AT_ONCE
    out_of_turn = tiles.turns.diff() != 1 if few else tiles.counts[tiles.turns].diff() > 0
    return [float(lost), float(out_of_turn.sum())]


def tiled_share(kernel_map: KernelMap, height: int) -> list[float]:
    """Offsets that a tile walks through, over those it would with rows as they come."""
    met = kernel_map.neighbors >= 0
    as_they_come = met[: len(met) // height * height].view(-1, height, met.shape[1]).any(1).sum()
    return [float(plan.tiles_of(kernel_map, height).counts.sum() / as_they_come)]


def order_errors(volume: int) -> list[float]:
    """Rows lost, runs of equal masks that are torn, equal rows out of turn, of random masks."""
    met = torch.rand(300, volume, generator=torch.Generator().manual_seed(0)) < 1.5 / volume
    order = plan.order_by_mask(met.int() - 1).tolist()
    masks = [tuple(met[row].tolist()) for row in order]
    runs = [list(run) for _, run in itertools.groupby(range(300), key=masks.__getitem__)]
    assert len(set(masks)) < 300
    turned = sum(order[a] > order[b] for run in runs for a, b in itertools.pairwise(run))
    return [float(sorted(order) != list(range(300))), float(len(runs) - len(set(masks))), float(turned)]


def gray_errors() -> list[float]:
    """Neighbours among all masks of eight offsets, in order, that differ in more than one offset."""
    met = torch.cartesian_prod(*[torch.tensor([0, 1])] * 8)
    ordered = met[plan.order_by_mask(met.int() - 1)]
    return [float((ordered.diff(dim=0).abs().sum(1) != 1).sum())]


def report(name: str, errors: list[float]) -> None:
    print(json.dumps({"case": name, "errors": errors}), flush=True)


def main() -> None:
    torch.set_num_threads(1)
    triton.check("cpu")
    launch._PROGRAMS = launch._FEWEST_CHUNKS = 12  # the interpreter runs one after the other
    plan._TILES_AT_ONCE = 4
    for voxels, name, channels_in, channels_out, dtype in CASES:
        kernel_map = kernel_map_of(VOXELS[voxels], name)
        title = f"{voxels}, {name}, {channels_in} to {channels_out}, {dtype}"
        report(title, errors_of(kernel_map, channels_in, channels_out, dtype))
    kernel_map = kernel_map_of(VOXELS["two scenes"], "kernel 2")
    with (
        mock.patch.object(launch, "choose_convolve", lambda *_: SMALL),
        mock.patch.object(launch, "choose_weight_gradient", lambda *_: SMALL),
    ):
        report("small tiles", errors_of(kernel_map, 20, 24, LONG))
    for voxels in ("one", "isolated", "two scenes"):
        for kernel_size, stride in ((3, 1), (2, 2), (5, 1)):
            title = f"index of {voxels}, kernel {kernel_size}, stride {stride}"
            report(title, index_errors(voxels, kernel_size, stride))
    for name in ("kernel 2", "kernel 3", "kernel 5", "strided 2", "strided 3", "inverse 2", "inverse 3"):
        for height in (16, 64):
            kernel_map = kernel_map_of(VOXELS["several tiles"], name)
            report(f"tiles of {height} rows, {name}", tile_errors(kernel_map, height))
    sparse = kernel_map_of(random_voxels(16, 0.1, scenes=2), "kernel 3")
    report("share of offsets", tiled_share(sparse, 16))
    for volume in (8, 27, 125):
        report(f"order of {volume} offsets", order_errors(volume))
    report("Gray code", gray_errors())
    report("finished", finished_errors())
    report("weights wider than features", errors_of(kernel_map, 8, 16, SHORT, wider=True))
    # another one that there is: what lies beyond the weights may be anything, NaN too
    with changed_kernels(
        "offset = tl.load(tile_offsets + line)", "offset = tl.load(tile_offsets + line) >> 1"
    ):
        report("broken: another offset", errors_of(kernel_map, 4, 8, LONG))
    with changed_kernels("inside = pairs < last", "inside = pairs < last - 1"):
        report("broken: a pair left out", errors_of(kernel_map, 4, 8, LONG))


if __name__ == "__main__":
    sys.exit(main())
