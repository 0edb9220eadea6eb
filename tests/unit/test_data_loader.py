"""Loader: the same batches from any number of workers, resuming, and errors that keep their message."""

import pytest
import torch

from bifusion.data.dataset import DataConfig, SceneDataset
from bifusion.data.loader import make_loader
from bifusion.types import InputError
from scene_factory import make_tiny_scene


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed in range(5):
        make_tiny_scene(folder / "train" / f"room{seed}", seed=seed, num_views=1)
    return folder


@pytest.fixture
def dataset(root):
    config = DataConfig(root=root, voxel_size_m=0.2, max_views=1, image_size=32)
    return SceneDataset(config, "train", seed=1, training=True)


def batches(dataset, *, epoch=0, workers=0, batch_size=2, shuffle=True, skip_batches=0):
    loader = make_loader(
        dataset,
        epoch=epoch,
        batch_size=batch_size,
        workers=workers,
        shuffle=shuffle,
        seed=1,
        skip_batches=skip_batches,
    )
    result = list(loader)
    assert len(loader) == len(result)
    return result


def names(result):
    return [batch.names for batch in result]


def assert_same(left, right):
    assert names(left) == names(right)
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.voxel_feats, b.voxel_feats) and torch.equal(a.voxel_coords, b.voxel_coords)
        assert a.seeds == b.seeds and [v.name for v in a.views] == [v.name for v in b.views]
        assert all(torch.equal(v.image, w.image) for v, w in zip(a.views, b.views, strict=True))


def test_order_follows_from_seed_and_epoch(dataset):
    assert names(batches(dataset)) == names(batches(dataset))
    orders = {str(names(batches(dataset, epoch=epoch))) for epoch in range(6)}
    assert len(orders) > 3
    assert sorted(sum(names(batches(dataset)), [])) == dataset.names
    assert [len(n) for n in names(batches(dataset))] == [2, 2, 1]
    assert sum(names(batches(dataset, shuffle=False)), []) == dataset.names


def test_workers_change_nothing_over_epochs(dataset):
    for epoch in (0, 1):
        assert_same(batches(dataset, epoch=epoch), batches(dataset, epoch=epoch, workers=2))


def test_resuming_within_an_epoch(dataset):
    for workers in (0, 1):
        assert_same(batches(dataset)[1:], batches(dataset, workers=workers, skip_batches=1))
    assert batches(dataset, skip_batches=3) == []


def test_abandoned_epoch_does_not_leak_into_the_next(dataset):
    loader = make_loader(dataset, epoch=0, batch_size=1, workers=2, shuffle=True, seed=1)
    next(iter(loader))
    assert_same(batches(dataset, epoch=1, workers=2), batches(dataset, epoch=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_scene_keeps_its_message(dataset, tmp_path, workers):
    make_tiny_scene(tmp_path / "train" / "bad")
    (tmp_path / "train" / "bad" / "views" / "00001.png").unlink()
    config = DataConfig(root=tmp_path, voxel_size_m=0.2, max_views=2, image_size=32)
    broken = SceneDataset(config, "train", seed=1, training=False)
    with pytest.raises(InputError) as error:
        batches(broken, workers=workers)
    assert str(error.value).startswith(str(tmp_path / "train" / "bad" / "views" / "00001.png"))
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_global_generator_is_left_alone(dataset, workers):
    state = torch.get_rng_state()
    batches(dataset, workers=workers)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"workers": -1}, {"skip_batches": -1}])
def test_options_out_of_range(dataset, option):
    with pytest.raises(InputError, match=f"{next(iter(option))}: found"):
        batches(dataset, **option)
