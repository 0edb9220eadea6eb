"""After how many epochs a checkpoint was saved: what evaluation and prediction go by."""

import pytest
from safetensors.torch import save_file

from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20
from bifusion.models.build import build_model
from bifusion.runs.checkpoint import save_checkpoint, trained_epochs
from tiny_runs import tiny_config


@pytest.fixture
def config(tmp_path):
    return tiny_config("bifusion_small", tmp_path)


def saved(folder, config):
    """A model, and its checkpoint after two epochs and a half."""
    model = build_model(config.model, config.seed, SCANNET20)
    state = {"step": 1, "time": 2.5}
    return model, save_checkpoint(folder, model, config, state, step=1, links=("last",))


def test_when_it_was_saved_is_known_from_the_weights_alone(tmp_path, config, monkeypatch):
    _, checkpoint = saved(tmp_path, config)
    monkeypatch.setattr("bifusion.runs.checkpoint.load_training_state", None)  # it is not read
    assert trained_epochs(checkpoint, config) == 2.5
    (checkpoint / "training.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match="training.pt: has 7 bytes instead of"):
        trained_epochs(checkpoint, config)
    (checkpoint / "training.pt").unlink()
    assert trained_epochs(checkpoint, config) == 2.5


def test_a_checkpoint_of_a_former_version_says_it_in_its_training_state(tmp_path, config):
    model, checkpoint = saved(tmp_path, config)
    (checkpoint / "sums.json").unlink()
    save_file(model.state_dict(), checkpoint / "model.safetensors")
    assert trained_epochs(checkpoint, config) == 2.5
    (checkpoint / "training.pt").unlink()
    assert trained_epochs(checkpoint, config) == config.trainer.epochs
    save_file(model.state_dict(), checkpoint / "model.safetensors", {"epochs": "many"})
    with pytest.raises(InputError, match="model.safetensors: cannot be read"):
        trained_epochs(checkpoint, config)
