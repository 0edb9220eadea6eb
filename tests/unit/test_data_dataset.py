"""Voxels, targets and samples: brute-force comparisons and the named edge cases."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import needs
from bifusion.data.batching import collate
from bifusion.data.dataset import Cache, DataConfig, SceneDataset, open_scenes, scene_sample
from bifusion.data.scene_folder import write_scene
from bifusion.data.transforms import AugmentConfig, SceneStream
from bifusion.data.voxels import clean_labels, compact_ids, superpoint_labels, voxelize
from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20, SCANNET200
from bifusion.types import Scene
from scene_factory import make_tiny_scene

REFERENCE = needs.folder("BIFUSION_REFERENCE", "reference")
STREAM = SceneStream(0, 0, "room")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("a", "b")):
        make_tiny_scene(folder / "train" / name, seed=seed)
    make_tiny_scene(folder / "val" / "c", seed=2, annotated=False)
    make_tiny_scene(folder / "val" / "d", seed=3)
    return folder


def config(root, **changes):
    return dataclasses.replace(
        DataConfig(root=root, voxel_size_m=0.1, max_views=2, image_size=64), **changes
    )


def write_points(folder, count, *, segment=None, instance=None, color=None):
    rng = np.random.default_rng(0)
    scene = Scene(
        name=folder.name,
        coord=rng.uniform(0, 1, (count, 3)).astype(np.float32),
        color=rng.integers(0, 256, (count, 3)).astype(np.uint8) if color is None else color,
        superpoint=np.zeros(count, np.int32),
        instance=instance,
    )
    segments = {} if segment is None else {SCANNET20: segment}
    write_scene(folder, scene, segments=segments, source="test")
    return folder


# ------------------------------------------------------------------------------------------- voxels


@pytest.mark.parametrize("origin", ["min", "world"])
def test_voxels_equal_brute_force(origin):
    rng = np.random.default_rng(0)
    coord = rng.uniform(-1, 1, (300, 3)).astype(np.float32)
    feats = rng.normal(size=(300, 4)).astype(np.float32)
    voxels = voxelize(coord, 0.25, origin)
    grid = np.floor((coord - coord.min(0) if origin == "min" else coord) / 0.25).astype(int)
    assert np.array_equal(voxels.coords[voxels.point_to_voxel], grid)
    assert [tuple(row) for row in voxels.coords] == sorted({tuple(row) for row in grid})
    for row, mean in enumerate(voxels.mean(feats)):
        np.testing.assert_allclose(mean, feats[voxels.point_to_voxel == row].mean(axis=0), atol=1e-6)


def test_one_point_and_one_voxel():
    assert voxelize(np.float32([[3, -2, 1]]), 0.02).coords.tolist() == [[0, 0, 0]]
    voxels = voxelize(np.full((5, 3), 0.3, np.float32), 0.2, "world")
    assert voxels.coords.tolist() == [[1, 1, 1]] and voxels.counts.tolist() == [5]


def test_coordinates_in_millimetres_are_noticed():
    with pytest.raises(InputError, match="voxel_size_m: .*metres"):
        voxelize(np.float32([[0, 0, 0], [30000, 0, 0]]), 0.02)


@pytest.mark.parametrize("model", ["oneformer3d_scannet20", "oneformer3d_scannet200"])
def test_voxel_count_is_the_official_one(model):
    cases = sorted((REFERENCE / "models").glob(f"{model}.case*.npz"))
    if not cases:
        needs.lacking("reference", f"no case of {model} in {REFERENCE}")
    for path in cases:
        case = np.load(path)
        voxels = voxelize(case["points"], 0.02, "min" if model.endswith("20") else "world")
        assert len(voxels.coords) == int(case["voxels"])


# ------------------------------------------------------------------------------------------- labels


def test_superpoint_targets_by_hand():
    """Superpoints: 0 all chair; 1 half chair, half table; 2 two thirds table; 3 unlabelled; 4 wall."""
    superpoint = np.array([0, 0, 1, 1, 2, 2, 2, 3, 4, 4])
    segment = np.array([4, 4, 4, 6, 6, 6, -1, -1, 0, 0])
    instance = np.array([7, 7, 7, 9, 9, 9, -1, 3, 5, 5])
    segment, instance = clean_labels(segment, instance, SCANNET20, "test", 10)
    assert instance.tolist() == [7, 7, 7, 9, 9, 9, -1, -1, -1, -1]
    labels = superpoint_labels(segment, instance, superpoint, 5, SCANNET20)
    assert labels.semantic.tolist() == [4, 20, 6, 20, 0]
    assert labels.masks.tolist() == [
        [True, False, False, False, False],
        [False, False, True, False, False],
    ]
    assert [SCANNET20.thing_classes[label] for label in labels.labels] == [4, 6]


def test_instance_that_wins_no_superpoint_is_left_out():
    segment, instance = np.array([4, 4, 4]), np.array([0, 1, 1])
    labels = superpoint_labels(segment, instance, np.zeros(3, int), 1, SCANNET20)
    assert labels.masks.tolist() == [[True]] and len(labels.labels) == 1


def test_scannet200_stuff_is_wall_and_floor():
    assert [SCANNET200.class_names[c] for c in SCANNET200.stuff_classes] == ["wall", "floor"]
    assert (
        SCANNET200.num_classes
        == 200
        == len(set(SCANNET200.class_names))
        == len(set(SCANNET200.source_ids))
    )
    assert SCANNET200.class_names[:6] == ("wall", "chair", "floor", "table", "door", "couch")
    splits = SCANNET200.groups
    assert {name: len(classes) for name, classes in splits.items()} == {
        "head": 66,
        "common": 68,
        "tail": 66,
    }
    assert sorted(sum(splits.values(), ())) == list(range(200))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.int8])
def test_unsigned_instance_ids_have_none_too(kind):
    """As 16-bit pictures have them: −1 must not become 65,535, an instance of all stuff."""
    segment, instance = np.array([4, 0, -1, 6]), np.array([1, 0, 0, 2], kind)
    _, cleaned = clean_labels(segment, instance, SCANNET20, "test", 4)
    assert cleaned.dtype == np.int64 and cleaned.tolist() == [1, -1, -1, 2]


def test_labels_outside_the_set_are_refused():
    with pytest.raises(InputError, match="test: labels go from 3 to 20"):
        clean_labels(np.array([3, 20]), None, SCANNET20, "test", 2)


def test_superpoint_ids_are_compacted():
    for ids in ([5, 2, 5, 9], [5, 2, 5, 10**9]):
        compact, count = compact_ids(np.array(ids, np.int32), "test")
        assert compact.tolist() == [1, 0, 1, 2] and count == 3
    with pytest.raises(InputError, match="superpoint id -1 found"):
        compact_ids(np.array([0, -1]), "superpoint.npy")


# ------------------------------------------------------------------------------------------ samples


def test_features_are_colour_then_centred_xyz(root):
    plain = config(root, voxel_size_m=0.001, max_views=0)
    sample = SceneDataset(plain, "train", 0, training=False).sample(0, 0)
    coord, color = (np.load(root / "train" / "a" / f"{name}.npy") for name in ("coord", "color"))
    feats = sample.voxel_feats[sample.point_to_voxel]
    np.testing.assert_allclose(feats[:, :3], (color - 127.5) / 127.5, atol=1e-6)
    np.testing.assert_allclose(feats[:, 3:], coord - coord.mean(axis=0), atol=1e-5)
    without_xyz = dataclasses.replace(plain, use_xyz=False)
    sample = SceneDataset(without_xyz, "train", 0, training=False).sample(0, 0)
    assert sample.voxel_feats.shape[1] == 3 == without_xyz.feature_channels


def test_batch_concatenates_scenes_in_order(root):
    dataset = SceneDataset(config(root), "train", 0, training=True)
    samples = [dataset.sample(index, epoch=2) for index in (1, 0)]
    batch = collate(samples)
    assert batch.names == ["b", "a"] and batch.truths is None
    first = len(samples[0].voxel_coords)
    assert (batch.voxel_coords[:first, 0] == 0).all() and (batch.voxel_coords[first:, 0] == 1).all()
    assert batch.voxel_coords.dtype == torch.int32 and batch.point_to_voxel.dtype == torch.int64
    points = batch.points_per_scene
    assert (batch.point_to_voxel[: points[0]] < first).all() and (
        batch.point_to_voxel[points[0] :] >= first
    ).all()
    assert batch.superpoints_per_scene == [9, 9] and batch.num_superpoints == 18
    assert batch.point_to_superpoint[points[0] :].min() == 9 and batch.point_to_superpoint.max() == 17
    assert [t.masks.shape for t in batch.targets] == [(2, 9), (2, 9)]
    assert [v.scene for v in batch.views] == sorted(v.scene for v in batch.views)
    assert batch.scene_bounds_m.shape == (2, 2, 3) and len(set(batch.seeds)) == 2
    coord = np.load(root / "train" / "b" / "coord.npy")
    np.testing.assert_allclose(batch.scene_bounds_m[0], [coord.min(0), coord.max(0)])


def test_samples_repeat_and_differ_by_epoch(root):
    same = [SceneDataset(config(root, cache_mb=mb), "train", 5, True).sample(0, 3) for mb in (0, 100)]
    assert np.array_equal(same[0].voxel_feats, same[1].voxel_feats) and same[0].seed == same[1].seed
    other = SceneDataset(config(root), "train", 5, True).sample(0, 4)
    assert other.seed != same[0].seed and other.voxel_feats.shape != same[0].voxel_feats.shape


def test_validation_has_truths_and_no_augmentation(root):
    dataset = SceneDataset(config(root), "val", 0, training=False)
    batch = collate([dataset.sample(1, 0)])
    again = collate([dataset.sample(1, 9)])
    assert torch.equal(batch.voxel_feats, again.voxel_feats)
    assert batch.truths[0].name == "d" and len(batch.truths[0].semantic) == batch.points_per_scene[0]
    assert set(np.unique(batch.truths[0].instance)) == {-1, 0, 1} and len(batch.views) == 2


def test_unannotated_scene(root):
    validation = SceneDataset(config(root), "val", 0, training=False)
    alone = collate([validation.sample(0, 0)])
    assert alone.targets is None and alone.truths is None
    mixed = collate([validation.sample(0, 0), validation.sample(1, 0)])
    assert (mixed.targets[0].semantic == 20).all() and mixed.targets[0].masks.shape == (0, 9)
    assert (mixed.truths[0].semantic == -1).all()
    training = collate([SceneDataset(config(root), "val", 0, training=True).sample(0, 0)])
    assert (training.targets[0].semantic == 20).all() and training.truths is None


@pytest.mark.parametrize(
    ("count", "segment", "instance"),
    [
        (1, [4], [0]),
        (1, None, None),
        (6, [-1] * 6, [-1] * 6),
        (6, [0] * 6, [3] * 6),
        (6, [4] * 6, None),
        (6, [4] * 6, [-1] * 6),
    ],
    ids=[
        "one point",
        "one point, no label",
        "all unlabelled",
        "walls only",
        "no instance file",
        "no instance",
    ],
)
def test_poor_scenes_just_work(tmp_path, count, segment, instance):
    arrays = {
        "segment": None if segment is None else np.array(segment),
        "instance": None if instance is None else np.array(instance),
    }
    grey = np.full((count, 3), 128, np.uint8)
    write_points(tmp_path / "train" / "poor", count, color=grey, **arrays)
    sample = SceneDataset(config(tmp_path, voxel_size_m=9.0), "train", 0, training=True).sample(0, 0)
    batch = collate([sample])
    assert torch.isfinite(batch.voxel_feats).all() and batch.views == []
    assert batch.targets[0].masks.shape == (1 if segment == [4] else 0, 1)
    scenes = open_scenes(config(tmp_path), "train")
    assert len(scene_sample(scenes, "poor", config(tmp_path), STREAM).voxel_coords) >= 1


def test_what_is_not_used_is_not_read(root, tmp_path):
    shutil.copytree(root / "train" / "a", tmp_path / "train" / "a")
    (tmp_path / "train" / "a" / "views" / "cameras.npz").write_bytes(b"broken")
    without = config(tmp_path, max_views=0)
    assert SceneDataset(without, "train", 0, training=True).sample(0, 0).views == []
    with pytest.raises(InputError, match="cameras.npz: not a readable .npz"):
        SceneDataset(config(tmp_path), "train", 0, training=True).sample(0, 0)


def test_only_chosen_views_are_read(root, tmp_path):
    shutil.copytree(root / "train" / "a", tmp_path / "train" / "a")
    (tmp_path / "train" / "a" / "views" / "00000.jpg").unlink()
    dataset = SceneDataset(config(tmp_path, max_views=1), "train", 0, training=False)
    assert [view.name for view in dataset.sample(0, 0).views] == ["00001"]


def test_non_finite_coordinate_of_a_foreign_folder(root, tmp_path):
    folder = shutil.copytree(root / "train" / "a", tmp_path / "train" / "a")
    coord = np.load(folder / "coord.npy")
    coord[3, 1] = np.nan
    np.save(folder / "coord.npy", coord)
    with pytest.raises(InputError, match="coord.npy: 1 of .* not finite .first: point 3"):
        SceneDataset(config(tmp_path), "train", 0, training=True).sample(0, 0)


def test_missing_split_and_empty_split(tmp_path):
    with pytest.raises(InputError, match="train: no such folder"):
        SceneDataset(config(tmp_path), "train", 0, training=True)
    for name in ("Val", "training"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"train: no such folder.*; {tmp_path} holds Val, training$"):
        SceneDataset(config(tmp_path), "train", 0, training=True)
    for name in (".half.writing-1", "__MACOSX", "@eaDir"):
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(InputError, match="train: holds no scene folder"):
        SceneDataset(config(tmp_path), "train", 0, training=True)


def test_augmentation_can_be_switched_off(root):
    off = config(root, augment=AugmentConfig(enabled=False))
    trained = SceneDataset(off, "train", 0, training=True).sample(0, 0)
    plain = SceneDataset(off, "train", 0, training=False).sample(0, 0)
    assert np.array_equal(trained.voxel_coords, plain.voxel_coords) and len(trained.views) == len(
        plain.views
    )


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_scenes_that_are_kept_hold_no_file_open(root):
    dataset = SceneDataset(config(root), "train", seed=0, training=True)
    kept = [dataset.sample(index, 0) for index in range(len(dataset))]
    opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert len(dataset.cache.entries) >= len(kept) == 2
    assert not [path for path in opened if path.startswith(str(root.resolve()))]


def test_cache_is_bounded_and_drops_the_least_recently_used():
    cache, made = Cache(10), []

    def make(key, size):
        made.append(key)
        return key, size

    for key in ("a", "b", "a", "c", "a", "b"):
        assert cache.get(key, lambda key=key: make(key, 5)) == key
    assert made == ["a", "b", "c", "b"] and cache.size == 10
    cache.get("huge", lambda: make("huge", 11))
    assert "huge" not in cache.entries and cache.size == 10
