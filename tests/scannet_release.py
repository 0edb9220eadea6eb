"""A made-up scan as ScanNet releases them, and `prepare scannet` on it."""

import json

import numpy as np
from PIL import Image
from plyfile import PlyData, PlyElement

from bifusion.datasets.scannet.prepare import prepare_scannet
from scene_factory import look_at

NAME = "scene0001_00"
ALIGNMENT = np.array([[0, -1, 0, 1.5], [1, 0, 0, -0.5], [0, 0, 1, 0.1], [0, 0, 0, 1]], float)
COLOR_TO_DEPTH = np.array([[1, 0, 0, -0.04], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
K = np.array([[60.0, 0, 31.5], [0, 61, 23.5], [0, 0, 1]])


def write_matrix(path, matrix):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, matrix, fmt="%.6f")


def write_mesh(path, coord, *, colored=True, color_type="u1", color_step=1):
    """Two flat squares of 3×3 vertices each."""
    fields = [("x", "f4"), ("y", "f4"), ("z", "f4")]
    fields += [(c, color_type) for c in ("red", "green", "blue", "alpha")] if colored else []
    vertex = np.zeros(len(coord), fields)
    vertex["x"], vertex["y"], vertex["z"] = np.transpose(coord)
    if colored:
        vertex["red"] = np.arange(len(coord)) * color_step
    square = [[0, 1, 3], [1, 4, 3], [1, 2, 4], [2, 5, 4], [3, 4, 6], [4, 7, 6], [4, 5, 7], [5, 8, 7]]
    face = np.zeros(2 * len(square), [("vertex_indices", "i4", (3,))])
    face["vertex_indices"] = np.array(square + [[i + 9 for i in row] for row in square])
    elements = [PlyElement.describe(vertex, "vertex"), PlyElement.describe(face, "face")]
    PlyData(elements).write(path)


def make_scan(root):
    """A released scan of 18 vertices (a wall and a chair seat) with two posed images."""
    scan = root / "scans" / NAME
    scan.mkdir(parents=True)
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(3), indexing="ij"), -1).reshape(-1, 2) * 0.1
    coord = np.concatenate([np.insert(grid, 2, 0.0, axis=1), np.insert(grid, 2, 0.5, axis=1)])
    write_mesh(scan / f"{NAME}_vh_clean_2.ply", coord)
    segs = [40] * 9 + [7] * 6 + [900] * 3
    (scan / f"{NAME}_vh_clean_2.0.010000.segs.json").write_text(json.dumps({"segIndices": segs}))
    groups = [{"label": "wall", "segments": [40]}, {"label": "office chair", "segments": [7]}]
    (scan / f"{NAME}.aggregation.json").write_text(json.dumps({"segGroups": groups}))
    numbers = {
        "axisAlignment": ALIGNMENT, "colorToDepthExtrinsics": COLOR_TO_DEPTH,
        "fx_depth": 30, "fy_depth": 30, "mx_depth": 15.5, "my_depth": 11.5,
        "depthWidth": 32, "depthHeight": 24,
    }  # fmt: skip
    lines = [f"{key} = {' '.join(map(str, np.ravel(value)))}" for key, value in numbers.items()]
    (scan / f"{NAME}.txt").write_text("\n".join([*lines, "sceneType = Office"]))
    table = (
        "id\traw_category\tnyu40id\n1\twall\t1\n10\toffice chair\t5\n99\tbelt\t40\n2\toffice chair\t7\n"
    )
    (root / "labels.tsv").write_text(table)
    posed = root / "posed_images" / NAME
    for index in (0, 10):
        write_matrix(
            posed / f"{index:05d}.txt", look_at(np.array([0.1, -1.0, 0.3]), np.array([0.1, index, 0.3]))
        )
        Image.new("RGB", (64, 48), (index, 20, 30)).save(posed / f"{index:05d}.jpg")
        Image.fromarray(np.full((24, 32), 1500, np.uint16)).save(posed / f"{index:05d}.png")
    write_matrix(posed / "intrinsic.txt", np.pad(K, ((0, 1), (0, 1))) + np.diag([0, 0, 0, 1]))
    return root


def prepare(root, **changes):
    settings = {"labels": root / "labels.tsv", "posed_images": root / "posed_images", **changes}
    return prepare_scannet(root / "scans", root / "out", **settings)
