"""Colours of GLB files whose numbers trimesh would make others of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.datasets.mesh_files.textures import srgb_to_linear
from bifusion.errors import InputError
from glb_files import box, glb, textured_glb, with_stored_colors, with_tree


def refused(path: Path, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_mesh_file(path)


@pytest.mark.parametrize("width", [3, 4])
@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_glb_colours_of_more_than_8_bits_keep_their_shades(tmp_path, dtype, points, width):
    """trimesh takes the lower 8 bits of 16; of floats, 8 linear ones, which part sRGB's dark in 13s."""
    wanted = (np.arange(24, dtype=np.uint8) * 11).reshape(8, 3)
    most = 65535 if dtype == "uint16" else 1
    linear = np.ones((8, width))
    linear[:, :3] = srgb_to_linear(wanted / 255)
    stored = np.rint(linear * most) if dtype == "uint16" else linear
    path = with_stored_colors(
        glb(tmp_path / "m.glb", box((1, 2, 3))), stored.astype(dtype), points=points
    )
    assert np.array_equal(read_mesh_file(path).color, wanted)


def test_glb_colours_that_are_no_shares_of_1(tmp_path):
    path = glb(tmp_path / "m.glb", box((1, 2, 3)))
    refused(
        with_stored_colors(path, np.full((8, 3), 200, np.float32)),
        "go from 200 to 200; glTF has them as 0",
    )


def test_glb_colours_in_gloss_materials_are_refused(tmp_path):
    """trimesh makes white of them."""
    path = textured_glb(tmp_path / "m.glb")
    gloss = {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [1, 0, 0, 1]}}
    changed = with_tree(path, lambda tree: tree["materials"][0].update(extensions=gloss))
    refused(changed, "material 0 has its colours in KHR_materials_pbrSpecularGlossiness")


def test_glb_textures_of_one_channel_of_16_bits_are_refused(tmp_path):
    """Pillow cuts them off at 255."""
    deep = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    refused(textured_glb(tmp_path / "m.glb", image=deep), "one channel of more than 8 bits .I;16")


def test_glb_triangle_fans_are_refused(tmp_path):
    """trimesh leaves them out without a word."""
    path = textured_glb(tmp_path / "m.glb")

    def fan(tree) -> None:
        tree["meshes"][0]["primitives"][0]["mode"] = 6

    refused(with_tree(path, fan), "triangles as fans, which are not read; export single triangles")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_glb_places_in_a_texture_may_be_shares_in_whole_numbers(tmp_path, dtype):
    """glTF has them so without any extension; trimesh takes them for places as they are."""
    path = textured_glb(tmp_path / "m.glb")
    wanted = read_mesh_file(path)
    most = np.iinfo(dtype).max
    uv = np.rint(np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]]) * most).astype(dtype)
    found = read_mesh_file(with_stored_colors(path, uv, attribute="TEXCOORD_0"))
    assert found.color.tolist() == wanted.color.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
