"""`bifusion find`: words found in a scene, by a CLIP that was constructed to see red and blue."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData
from safetensors.torch import load_file, save_file

import bifusion as package
from bifusion.data.open_scene import open_folder
from bifusion.errors import InputError
from bifusion.inference.export import write_result
from bifusion.inference.find import FindOptions, find_words
from bifusion.inference.found import Instances
from bifusion.inference.word_tower import WordTower, load_word_tower
from bifusion.labels.sets import SCANNET20
from bifusion.sparse.backends import backend_for
from bifusion.types import SceneResult
from clip_files import COLOR_CLIP, write_color_clip
from scene_factory import BOXES, make_tiny_scene

RED_TOP, RED_SIDES, BLUE_TOP, BLUE_SIDES = 5, 6, 7, 8
"""Superpoints of the boxes of scene_factory."""
TABLE, CHAIR = 6, 4
OPTIONS = FindOptions(image_size=128)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_color_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_scene(tmp_path_factory.mktemp("data") / "val" / "room", color_size=(128, 96))


@pytest.fixture(scope="module")
def tower(clip: tuple[Path, Path]) -> WordTower:
    return load_word_tower(str(clip[0]), clip[1])


def predict(scene: Path, folder: Path) -> Path:
    """A prediction of the room: the red table, scored 0.6, and the blue chair, 0.9."""
    coord, segment = np.load(scene / "coord.npy"), np.load(scene / "segment20.npy")
    instance = np.load(scene / "instance.npy")
    masks = np.stack([instance == 1, instance == 0])
    result = SceneResult(
        name="room", num_points=len(coord), masks=np.packbits(masks, axis=1),
        labels=np.array([CHAIR, TABLE], np.int16), scores=np.array([0.9, 0.6], np.float32),
        semantic=segment, panoptic_semantic=segment,
        panoptic_instance=np.where(instance < 0, -1, 1 - instance).astype(np.int32),
    )  # fmt: skip
    write_result(folder, result, coord, SCANNET20)
    return folder


def call(bifusion, clip, scene, *more):
    return bifusion("find", scene, *more, "--tower", clip[0], "--weights", clip[1], "--image-size", 128)


@pytest.mark.parametrize("form", ["self_attention", "values"])
def test_the_red_box_comes_first(bifusion, clip, scene, tmp_path, form) -> None:
    out = tmp_path / "found"
    words = ("a red chair", "something blue")
    prediction = predict(scene, tmp_path / "prediction")
    asked = ("--form", form, "--prediction", prediction, "--out", out, "--label-set", "scannet20")
    called = call(bifusion, clip, scene, *words, *asked)
    assert called.status == 0, called.err
    listing = json.loads((out / "found.json").read_text())
    red, blue = listing["found"]
    assert red["superpoints"][0]["id"] in (RED_TOP, RED_SIDES)
    assert {one["id"] for one in red["superpoints"][:2]} == {RED_TOP, RED_SIDES}
    assert {one["id"] for one in blue["superpoints"][:2]} == {BLUE_TOP, BLUE_SIDES}
    assert red["superpoints"][1]["similarity"] > red["superpoints"][2]["similarity"] + 0.1
    assert [(one["class"], one["score"]) for one in red["objects"]] == [
        ("table", pytest.approx(0.6)), ("chair", pytest.approx(0.9)),
    ]  # fmt: skip
    assert red["objects"][0]["bounds_m"]["max"] == pytest.approx(BOXES[0][1], abs=0.06)
    assert blue["objects"][0]["class"] == "chair"
    assert 0.3 < listing["seen_share"] <= 1 and "no accuracy" in listing["about"]
    assert listing["words"] == [*words, *SCANNET20.class_names]
    table = called.out[called.out.index("a red chair") :]
    assert table.index("object 1 table") < table.index("object 0 chair")
    assert "red chair" in (out / "view.html").read_text()


def test_the_scene_of_a_scan_is_searched(bifusion, clip, scene, tmp_path) -> None:
    scan = tmp_path / "labelled"
    shutil.copytree(scene, scan / "scene")
    (scan / "scan.json").write_text('{"versions": {}}')
    called = call(bifusion, clip, scan, "red", "--out", tmp_path / "found")
    assert called.status == 0, called.err


def test_the_cloud_is_coloured_by_the_cosine(bifusion, clip, scene, tmp_path) -> None:
    (tmp_path / "found-3.ply").touch()
    call(bifusion, clip, scene, "red", "blue", "--out", tmp_path)
    assert (tmp_path / "found-2.ply").stat().st_size
    call(bifusion, clip, scene, "red", "--out", tmp_path)
    cloud = PlyData.read(str(tmp_path / "found-1.ply"))
    vertices = cloud["vertex"].data
    similarity = np.load(tmp_path / "similarity.npy")
    assert similarity.shape == (9, 1)
    superpoint = np.load(scene / "superpoint.npy")
    assert np.array_equal(vertices["superpoint"], superpoint)
    assert np.array_equal(vertices["similarity"], similarity[superpoint, 0], equal_nan=True)
    best = superpoint == np.nanargmax(similarity[:, 0])
    colors = np.column_stack([vertices[channel] for channel in ("red", "green", "blue")])
    assert (colors[best] == (253, 231, 37)).all() and not (colors[~best] == (253, 231, 37)).all(1).any()
    assert not (tmp_path / "found-2.ply").exists()  # the former search's
    assert (tmp_path / "found-3.ply").exists()  # of no search


def test_regions_are_the_mean_of_what_sees_them(tower: WordTower, scene: Path) -> None:
    """The cosine of an object by hand: its seen voxels' mean features against the word."""
    opened = open_folder(scene)
    instance = np.load(scene / "instance.npy")
    found = find_words(opened, ["red", "grey"], tower, OPTIONS, instances=Instances(instance))
    objects, superpoints = found.objects, found.superpoints
    assert objects is not None and objects.ids.tolist() == [0, 1]
    assert objects.num_points.tolist() == [(instance == 0).sum(), (instance == 1).sum()]
    # an object of two superpoints lies between them
    low, high = sorted(superpoints.similarity[[RED_TOP, RED_SIDES], 0])
    assert low - 1e-5 <= objects.similarity[0, 0] <= high + 1e-5
    # red of the table's top, by its colour alone
    red, green, blue = np.array([220, 40, 40]) / 255
    chroma = np.array([red - (green + blue) / 2, blue - (red + green) / 2, 0.3])
    expected = chroma[[0, 2]] / np.linalg.norm(chroma)
    assert superpoints.similarity[RED_TOP] == pytest.approx(expected, abs=0.12)
    assert found.best("red").sum() == objects.num_points[0]
    assert found.similarity("red").shape == instance.shape
    with pytest.raises(package.InputError, match="word 'green' was not searched for"):
        found.best("green")


def test_what_no_view_sees_is_not_ranked(tower: WordTower, scene: Path) -> None:
    opened = open_folder(scene)
    hidden = np.array(opened.coord) + np.where(np.load(scene / "superpoint.npy") == 2, 40, 0)[:, None]
    far = dataclasses.replace(opened, coord=hidden.astype(np.float32))
    found = find_words(far, ["red"], tower, OPTIONS)
    assert found.superpoints.seen[2] == 0 and np.isnan(found.superpoints.similarity[2, 0])
    assert 2 not in found.superpoints.ranking(0)
    gone = dataclasses.replace(opened, coord=np.array(opened.coord) + np.float32(40))
    with pytest.raises(package.InputError, match="2 views see none of its points"):
        find_words(gone, ["red"], tower, OPTIONS)


def test_from_python(clip, scene) -> None:
    found = package.find(scene, "a red chair", str(clip[0]), weights=clip[1])
    box = found.points[found.best("a red chair")]
    assert (box >= BOXES[0][0] - 0.05).all() and (box <= BOXES[0][1] + 0.05).all()
    tower = load_word_tower(str(clip[0]), clip[1])
    again = package.find(package.open_scene(scene), ["a red chair"], tower)
    assert np.array_equal(again.superpoints.similarity, found.superpoints.similarity, equal_nan=True)


def test_annotation_is_not_looked_at(clip, scene, tmp_path) -> None:
    """A single scene that was copied out of its data set, which says what its classes are."""
    alone = tmp_path / "alone"
    shutil.copytree(scene, alone)
    (alone / "segment200.npy").unlink(missing_ok=True)
    (alone / "segment20.npy").rename(alone / "segment.npy")
    with pytest.raises(InputError, match="nothing says its classes"):
        package.open_scene(alone)
    assert len(package.find(alone, "a red chair", str(clip[0]), weights=clip[1]).points)


def test_a_search_takes_the_page_of_the_former_one_away(tower, scene, tmp_path) -> None:
    """Not one that no search wrote."""
    found, page = find_words(open_folder(scene), ["red"], tower, OPTIONS), tmp_path / "view.html"
    for former in (False, True):
        page.write_text("of another word")
        found.write(tmp_path)
        assert page.exists() != former


@pytest.mark.wrong_types
def test_what_was_found_is_asked_in_words_and_places(tower: WordTower, scene: Path) -> None:
    found = find_words(open_folder(scene), ["red"], tower, OPTIONS)
    for ask, message in {
        lambda: found.best(0): "word: is a int; expected one of the words",
        lambda: found.superpoints.ranking(1): "word: found 1, expected 0 or more and less than 1, the",
        lambda: found.superpoints.ranking(-1): "word: found -1, expected 0 or more",
        lambda: found.superpoints.ranking("red"): "word: found 'red', expected a whole number",
        lambda: found.write(None): "folder: is a NoneType; expected a path",
        lambda: found.write("out", most="all"): "most: found 'all', expected a whole number",
    }.items():
        with pytest.raises(package.InputError, match=message):
            ask()


def test_registers_are_found_on_the_views(bifusion, clip, scene, tmp_path) -> None:
    called = call(bifusion, clip, scene, "red", "--registers", 2, "--out", tmp_path / "found")
    assert called.status == 2 and "no patch token has a norm above 30" in called.err
    state = load_file(clip[1])
    mlp = "visual.transformer.resblocks.0.mlp."
    state[f"{mlp}c_fc.bias"] = torch.zeros(32).index_fill(0, torch.tensor([3, 9]), 20.0)
    state[f"{mlp}c_proj.weight"] = torch.full((8, 32), 3.0)
    save_file(state, tmp_path / "loud.safetensors")
    # of one block, whose feed-forward self-self attention leaves out
    called = call(bifusion, (clip[0], tmp_path / "loud.safetensors"), scene, "red", "--registers", 2,
                  "--form", "values", "--out", tmp_path / "found")  # fmt: skip
    assert called.status == 0, called.err
    assert "2 register neurons" in called.out


def test_what_is_wrong_is_said(bifusion, clip, scene, tmp_path) -> None:
    blind = make_tiny_scene(tmp_path / "val" / "blind", num_views=0)
    wrong = {
        (scene, " "): "words: found 1 without a letter",
        (scene,): "words",
        (blind, "red"): "scene blind: has no views",
        (tmp_path / "no", "red"): "no",
        (scene, "red", "--prediction", tmp_path): "nothing that `bifusion predict` or `bifusion scan`",
        (scene, "red", "--views", 0): "views: found 0, expected above 0; change --views",
        (scene, "red", "--registers", -1): "registers: found -1",
        (scene, "red", "--registers", 2, "--form", "token"): "found 'token', expected one of",
        (scene, "red", "--label-set", "scannet2"): "scannet2",
        (scene, "one two three four five six seven"): "has 7 tokens; expected at most 6",
    }
    for args, message in wrong.items():
        called = call(bifusion, clip, *args)
        assert called.status == 2 and message in called.err, (args, called.err)
    for option in (("--prediction", tmp_path), ("--views", 0)):  # before a tower is looked for
        called = call(bifusion, (clip[0], tmp_path / "none.safetensors"), scene, "red", *option)
        assert called.status == 2 and "none.safetensors" not in called.err
    other = predict(make_tiny_scene(tmp_path / "val" / "other", seed=3), tmp_path / "other")
    np.save(tmp_path / "val" / "other" / "x.npy", np.zeros(1))
    with pytest.raises(package.InputError, match="prediction: is of 3 points, scene room has"):
        package.find(scene, "red", load_word_tower(str(clip[0]), clip[1]),
                     prediction=Instances(np.zeros(3, np.int64)))  # fmt: skip
    assert other.is_dir()


def test_the_command_keeps_freed_memory(bifusion, clip, tmp_path, monkeypatch) -> None:
    """Each view's activations take the memory of those of the one before."""
    asked = []
    backend = backend_for(torch.device("cpu"))
    monkeypatch.setattr(backend, "keep_freed_memory", lambda: asked.append(True))
    call(bifusion, clip, tmp_path / "no", "red")
    assert asked == [True]


def test_towers_and_weights_that_cannot_be_had(clip, scene, tmp_path, monkeypatch) -> None:
    def refused(message: str, *arguments: object, **options: object) -> None:
        with pytest.raises(package.InputError, match=message) as told:
            load_word_tower(*arguments, **options)
        words = str(told.value)
        assert "tower.pretrained" not in words and "--model" not in words and "scratch" not in words

    refused("tower 'ViT-B-61'.*did you mean 'ViT-B-16'", "ViT-B-61")
    refused("tower 'RN50' is no plain ViT", "RN50")
    refused("tower 'roberta-ViT-B-32' has no plain CLIP text", "roberta-ViT-B-32", clip[1])
    refused("form: found 'tokens'; expected one of self_attention, values", form="tokens")
    refused("weights: there is no file .*no.pt", str(clip[0]), tmp_path / "no.pt")
    refused("weights: none are known for the tower .*color_clip.json", str(clip[0]))
    refused("of another size|shape", "ViT-B-16", clip[1])
    state = load_file(clip[1])
    save_file({k: v for k, v in state.items() if "token_emb" not in k}, tmp_path / "a.safetensors")
    refused("holds an image tower alone", str(clip[0]), tmp_path / "a.safetensors")
    save_file({k: v for k, v in state.items() if k != "visual.proj"}, tmp_path / "b.safetensors")
    refused(
        "'visual.proj', which leads into the space of words", str(clip[0]), tmp_path / "b.safetensors"
    )

    def offline(source: dict) -> str:
        raise FileNotFoundError("no network")

    monkeypatch.setattr("bifusion.models.towers.clip_weights.require_hub", lambda: None)
    monkeypatch.setattr("open_clip.download_pretrained", offline)
    refused("fetch https://huggingface.co/.*pass it with --weights PATH$")
    refused("use --tower ViT-B-16-quickgelu", "ViT-B-16", "openai")
    (tmp_path / "half.json").write_text("{}")
    refused("no architecture in open_clip's format", str(tmp_path / "half.json"))
    wide = {**COLOR_CLIP, "vision_cfg": {**COLOR_CLIP["vision_cfg"], "width": 10**12}}
    (tmp_path / "wide.json").write_text(json.dumps(wide))
    refused("wide.json' is no plain ViT", str(tmp_path / "wide.json"))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    refused("deep.json: not valid JSON", str(tmp_path / "deep.json"))
    (tmp_path / "cut.json").write_text("{")
    refused("cut.json: not valid JSON", str(tmp_path / "cut.json"))
