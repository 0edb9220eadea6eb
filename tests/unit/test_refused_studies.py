"""A study that is refused leaves nothing behind, not even the folder that it would have made."""

import pytest
from rich.console import Console

from bifusion.datasets.rooms import RoomsConfig
from bifusion.datasets.rooms.pretraining.config import TowerPretrainConfig
from bifusion.datasets.rooms.pretraining.crops import CropConfig
from bifusion.errors import InputError
from bifusion.studies.comparison.run import ComparisonConfig, compare_runs
from bifusion.studies.demo import DemoConfig, PretrainTower, run_demo, run_pretraining
from run_factory import FakeRun


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": ()}, "--seeds"),
        ({"seeds": (0, 0)}, "each once"),
        ({"jobs": -1}, "--jobs: found -1"),
        ({"recipes": ()}, "--recipes is empty"),
        ({"recipes": ("bifusion_smal",)}, "'bifusion_smal' is unknown"),
        ({"recipes": ("mask3d_small",) * 2}, "mask3d_small-seed0: asked for more than once"),
        ({"epochs": 2}, "trainer.epochs is 2, but the plan has 3 stages"),
        ({"epochs": 0}, "trainer.epochs is 0, but the plan has"),
        ({"rooms": RoomsConfig(train_rooms=0)}, "--rooms.train-rooms: found 0"),
        ({"rooms": RoomsConfig(val_rooms=0)}, "--rooms.val-rooms: found 0"),
        ({"pretraining_rooms": 0}, "--pretraining-rooms: found 0"),
        ({"pretraining": TowerPretrainConfig(batch_size=0)}, "--pretraining.batch-size"),
        ({"pretraining": TowerPretrainConfig(label_set="none")}, "label set 'none' is unknown"),
    ],
)
def test_a_demo(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        run_demo(DemoConfig(out=tmp_path / "demo", **settings), Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_a_demo_whose_tower_was_pretrained_on_something_else(tmp_path):
    (tmp_path / "tower-small.safetensors").write_bytes(b"none")
    with pytest.raises(InputError, match="is no tower"):
        run_demo(DemoConfig(out=tmp_path), Console(quiet=True))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_rooms": 0}, "--num-rooms: found 0"),
        ({"config": TowerPretrainConfig(warmup_steps=0)}, "--config.warmup-steps"),
        ({"config": TowerPretrainConfig(crop=CropConfig(size=150))}, "config.crop.size: found 150"),
    ],
)
def test_a_pretraining_of_the_tower(tmp_path, settings, message):
    places = {"out": tmp_path / "tower.safetensors", "rooms": tmp_path / "rooms"}
    with pytest.raises(InputError, match=message):
        run_pretraining(PretrainTower(**places, **settings), Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_a_comparison_of_what_is_no_run(tmp_path):
    wanted = ComparisonConfig(runs=(tmp_path / "nothing",), out=tmp_path / "compare")
    with pytest.raises(InputError, match="is no run folder"):
        compare_runs(wanted, Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_a_comparison_of_one_run_twice(tmp_path):
    run = FakeRun(epochs=2).write(tmp_path)
    wanted = ComparisonConfig(runs=(run, run), out=tmp_path / "compare")
    with pytest.raises(InputError, match="are both .* with seed"):
        compare_runs(wanted, Console(quiet=True))
    assert not (tmp_path / "compare").exists()
