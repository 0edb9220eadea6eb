"""What the benchmark of whole scans measures on, and how it shows and keeps what it measured."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from benchmarks import segment
from benchmarks.operations import gflop_of
from benchmarks.segment import Cell, markdown
from benchmarks.segment_cell import with_objects
from benchmarks.segment_scans import cropped, repeated

from bifusion.data.voxels import voxelize
from bifusion.labels.sets import SCANNET20
from bifusion.models.postprocess import PostprocessConfig, select_instances
from bifusion.sparse.modules import SubmanifoldConv3d
from bifusion.sparse.tensor import SparseTensor
from bifusion.types import LayerPrediction, Prediction, Scene


def scan(points: int = 500) -> Scene:
    coord = np.random.default_rng(0).random((points, 3)).astype(np.float32)
    return Scene("scan", coord, np.zeros((points, 3), np.uint8), np.arange(points, dtype=np.int32) // 10)


def test_copies_lie_apart_and_are_cut_to_size():
    tile = scan()
    voxels = len(voxelize(tile.coord, 0.02).coords)
    whole = repeated(tile, 3)
    assert len(voxelize(whole.coord, 0.02).coords) == pytest.approx(3 * voxels, rel=0.02)
    assert len(np.unique(whole.superpoint)) == 150
    part = cropped(whole, voxels + 100)
    assert len(voxelize(part.coord, 0.02).coords) == pytest.approx(voxels + 100, rel=0.02)
    assert part.coord[:, 0].max() < whole.coord[:, 0].max()
    assert np.array_equal(np.unique(part.superpoint), np.arange(part.superpoint.max() + 1))


def test_untrained_masks_become_objects():
    queries, superpoints, things = 40, 200, SCANNET20.num_things
    layer = LayerPrediction(
        [torch.zeros(queries, things + 1)], [torch.full((queries, superpoints), -1.0)]
    )
    prediction = with_objects(Prediction([layer], None, None, torch.zeros(superpoints, 4)))
    last = prediction.layers[-1]
    sizes = torch.full((superpoints,), 100)
    found = select_instances(last.class_logits[0], last.mask_logits[0], None, sizes, PostprocessConfig())
    assert len(found.scores) == 600
    assert set(found.masks.sum(dim=1).tolist()) <= {3, 4, 5, 6}


RECORD = {"seconds": 2.34, "peak_mb": 2648.0, "imported_mb": 600.0}


def test_table_has_what_there_is():
    cells = [
        Cell("bifusion_scannet200", views, size, 2) for size in (20_000, 40_000) for views in (1, 4)
    ]
    done = {cells[0].key: RECORD, cells[1].key: {"failed": "killed: out of memory"}}
    done[cells[3].key] = {**RECORD, "peak_mb": 700.0}
    assert markdown(cells, done).splitlines() == [
        "| | 20,000 | 40,000 |",
        "| --- | --- | --- |",
        "| BiFusion, 89 M parameters, 1 view | 2.3 s, 2.0 GB | not measured |",
        "| BiFusion, 89 M parameters, 4 views | killed: out of memory | 2.3 s, 100 MB |",
    ]


def test_cells_that_are_done_stay_done(tmp_path, monkeypatch, capsys):
    """Interrupted in the second cell, then within a budget that is spent at once, then to the end."""
    asked: list[str] = []

    def run_cell(cell: Cell, work) -> dict:
        asked.append(cell.key)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return RECORD

    monkeypatch.setattr(segment, "run_cell", run_cell)
    out = tmp_path / "segment.json"
    options = [
        "--networks",
        "bifusion_scannet200",
        "--voxels",
        "20",
        "--threads",
        "1",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["segment", *options])
    with pytest.raises(SystemExit, match="130"):
        segment.main()
    assert "2 of 3 cells left, the same command goes on" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["segment", *options, "--budget-minutes", "0"])
    segment.main()
    assert "2 of 3 cells left" in capsys.readouterr().out and len(asked) == 2
    monkeypatch.setattr(sys, "argv", ["segment", *options])
    segment.main()
    assert len(asked) == 4 and asked[1] == asked[2] and len(json.loads(out.read_text())) == 3


def test_operations_of_a_network_are_counted():
    """By hand: two of each product of a pair and two channels; a layer that the engine gives to torch's
    products is not counted twice."""
    coords = torch.tensor([[0, x, 0, 0] for x in range(5)], dtype=torch.int32)
    x = SparseTensor(torch.ones(5, 3), coords)
    network = torch.nn.Sequential(SubmanifoldConv3d(3, 4, 3), SubmanifoldConv3d(4, 7, 1))
    pairs = 5 + 2 * 4
    assert gflop_of(network, lambda: network(x)) == 2 * (pairs * 3 * 4 + 5 * 4 * 7) / 1e9
    dense = torch.nn.Linear(4, 6)
    assert gflop_of(dense, lambda: dense(torch.ones(9, 4))) == 2 * 9 * 4 * 6 / 1e9
    query = torch.ones(1, 2, 16, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert gflop_of(dense, lambda: attend(query, query, query)) == 2 * 2 * 2 * 16 * 16 * 8 / 1e9
