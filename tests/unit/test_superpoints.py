"""Superpoints: the segmentation itself against a plain one, its edge weights, real segments."""

import json

import numpy as np
import pytest
from plyfile import PlyData
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import minimum_spanning_tree

import needs
from bifusion.datasets.superpoints.superpoints import edge_weights, graph_superpoints, vertex_normals
from bifusion.errors import InputError

REAL_DATA = needs.folder("BIFUSION_REAL_DATA", "data")


def plain_superpoints(coord, normal, edges, kthresh, min_points):
    """The paper's algorithm edge by edge, nothing skipped."""
    weight = edge_weights(coord, normal, edges)
    order = np.argsort(weight, kind="stable")
    component = np.arange(len(coord))
    threshold = dict.fromkeys(range(len(coord)), kthresh)
    for row in order:
        a, b = component[edges[row]]
        if a != b and weight[row] <= min(threshold[a], threshold[b]):
            component[component == b] = a
            threshold[a] = weight[row] + kthresh / (component == a).sum()
    for row in order:
        a, b = component[edges[row]]
        if a != b and min((component == a).sum(), (component == b).sum()) < min_points:
            component[component == b] = a
    return component


def adjusted_rand(a, b):
    """Hubert and Arabie's index: 1 for equal partitions, 0 in expectation for unrelated ones."""
    table = coo_matrix((np.ones(len(a)), (a, b))).tocsr()
    pairs = lambda counts: (counts * (counts - 1) / 2).sum()  # noqa: E731
    both, rows, columns = pairs(table.data), pairs(np.bincount(a)), pairs(np.bincount(b))
    expected = rows * columns / pairs(np.array([len(a)]))
    return (both - expected) / ((rows + columns) / 2 - expected)


def same_partition(a, b):
    return len(np.unique(a)) == len(np.unique(b)) == len(np.unique(np.stack([a, b]), axis=1).T)


def plane(size, spacing=0.04):
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).reshape(-1, 2) * spacing
    return np.concatenate([grid, np.zeros((len(grid), 1))], axis=1).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_plain_algorithm_on_random_graphs(seed):
    rng = np.random.default_rng(seed)
    coord = rng.uniform(size=(3000, 3)).astype(np.float32)
    normal = rng.normal(size=(3000, 3)) * 0.2 + (0, 0, 1)
    normal = (normal / np.linalg.norm(normal, axis=1, keepdims=True)).astype(np.float32)
    edges = rng.integers(0, 3000, (9000, 2))
    edges = edges[edges[:, 0] != edges[:, 1]]
    found = graph_superpoints(coord, normal, edges=edges, kthresh=0.05, min_points=5)
    assert same_partition(found, plain_superpoints(coord, normal, edges, 0.05, 5))


def test_a_spanning_tree_instead_of_all_edges_gives_other_segments():
    rng = np.random.default_rng(0)
    coord = rng.uniform(size=(600, 3)).astype(np.float32)
    normal = rng.normal(size=(600, 3)).astype(np.float32) * 0.3 + np.float32([0, 0, 1])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    edges = rng.integers(0, 600, (3000, 2))
    edges = edges[edges[:, 0] < edges[:, 1]]
    weight = edge_weights(coord, normal, edges).astype(np.float64) + 1e-9
    dense = np.zeros((600, 600))
    dense[edges[:, 0], edges[:, 1]] = weight
    tree = np.stack(minimum_spanning_tree(coo_matrix(dense)).nonzero(), axis=1)
    whole = graph_superpoints(coord, normal, edges=edges, kthresh=0.1, min_points=1)
    assert not same_partition(
        whole, graph_superpoints(coord, normal, edges=tree, kthresh=0.1, min_points=1)
    )


def test_inward_bends_weigh_more_than_outward_ones():
    normal = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0]], dtype=np.float32)
    inward = np.array([[0, 0, 0], [1, -1, 0], [0, 0, 0]], dtype=np.float32)
    assert edge_weights(inward, normal, np.array([[0, 1]])) == pytest.approx([1.0])
    outward = np.array([[0, 0, 0], [0, 0, 0], [0, 1, 0]], dtype=np.float32)
    assert edge_weights(outward, normal, np.array([[0, 2]])) == pytest.approx([0.16])


def test_floor_and_wall_are_two_superpoints():
    floor, wall = plane(12), plane(12)[:, [2, 1, 0]] + np.float32([-0.02, 0, 0.02])
    normal = np.repeat(np.eye(3, dtype=np.float32)[[2, 0]], 144, axis=0)
    found = graph_superpoints(np.concatenate([floor, wall]), normal)
    assert len(np.unique(found)) == 2
    assert len(np.unique(found[:144])) == 1


def test_color_separates_what_lies_in_one_plane():
    coord, normal = plane(12), np.tile(np.float32([0, 0, 1]), (144, 1))
    color = np.where(coord[:, :1] < 0.2, 40, 200).astype(np.uint8).repeat(3, axis=1)
    assert graph_superpoints(coord, normal).max() == 0
    found = graph_superpoints(coord, normal, color)
    assert same_partition(found, (coord[:, 0] < 0.2).astype(int))


def test_small_components_join_and_isolated_ones_stay():
    coord = np.concatenate([plane(10), plane(2) + 9])
    normal = np.tile(np.float32([0, 0, 1]), (104, 1))
    normal[44] = (1, 0, 0)
    edges = np.array(
        [[i, j] for i in range(104) for j in (i + 1, i + 10) if j < 100 or i >= 100 and j < 104]
    )
    found = graph_superpoints(coord, normal, edges=edges, min_points=5)
    assert found[44] == found[0] == 0
    assert set(found[100:]) == {1}


def test_one_point_is_one_superpoint():
    found = graph_superpoints(np.zeros((1, 3)), np.float32([[0, 0, 1]]))
    assert found.tolist() == [0]
    assert found.dtype == np.int32


def test_normals_of_a_crease_are_short_and_faces_without_area_count_as_nothing():
    coord = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [0, 1, 4]])
    normal = vertex_normals(coord, faces)
    assert normal[2] == pytest.approx([0.5, 0, 0.5])
    assert normal[3] == pytest.approx([1, 0, 0])
    assert normal[4] == pytest.approx([0, 0, 0])


def test_neither_normals_nor_faces_is_refused():
    with pytest.raises(InputError, match="normals nor faces"):
        graph_superpoints(np.zeros((5, 3)))


@pytest.mark.real_data
def test_equals_scannets_own_segments_on_a_real_scan():
    folder = REAL_DATA / "scannet" / "scans" / "scene0000_00"
    if not folder.exists():
        needs.lacking("real_data", folder)
    mesh = PlyData.read(str(folder / "scene0000_00_vh_clean_2.ply"))
    coord = np.stack([mesh["vertex"][axis] for axis in "xyz"], axis=1)
    faces = np.stack(mesh["face"]["vertex_indices"])
    official = json.loads((folder / "scene0000_00_vh_clean_2.0.010000.segs.json").read_text())
    segments = np.unique(official["segIndices"], return_inverse=True)[1]
    found = graph_superpoints(coord, faces=faces)
    assert adjusted_rand(found, segments) > 0.99  # ties of edge weights are broken differently
    assert abs(len(np.unique(found)) - len(np.unique(segments))) <= 5
