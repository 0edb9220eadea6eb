"""CLIP's text side against open_clip's own, from every layout in which whole CLIPs are stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from bifusion.errors import InputError
from bifusion.models.towers.clip import ClipConfig, ClipEncoder
from bifusion.models.towers.clip_text import TextTower, check_words, clip_tokenizer
from clip_files import as_transformers, normalized

TABLE = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 9, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
WORDS = ["a red chair", "lamp", "café table"]


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    from open_clip.model import CLIP

    torch.manual_seed(0)
    return CLIP(**TABLE).eval()


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("clip") / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": TABLE, "preprocess_cfg": {}}))
    return str(path)


def in_layout(clip: nn.Module, layout: str) -> dict[str, Tensor]:
    """The tensors of a whole CLIP by the names of a library."""
    state = {name: tensor.detach().clone() for name, tensor in clip.state_dict().items()}
    text = {name: tensor for name, tensor in state.items() if not name.startswith(("visual.", "logit"))}
    image = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
    if layout == "custom":
        return {**image, **{f"text.{name}": tensor for name, tensor in text.items()}}
    if layout == "wrapped":
        return {f"module.student.{name}": tensor for name, tensor in state.items()}
    if layout == "half":
        return {name: tensor.half() for name, tensor in state.items()}
    if layout == "transformers":
        projections = {
            "visual_projection.weight": image.pop("visual.proj").T.contiguous(),
            "text_projection.weight": text.pop("text_projection").T.contiguous(),
        }
        plain = {name.removeprefix("visual."): tensor for name, tensor in image.items()}
        sides = as_transformers(plain, "vision_model.") | as_transformers(text, "text_model.")
        return sides | projections
    return state


@torch.no_grad()
@pytest.mark.parametrize("layout", ["open_clip", "custom", "wrapped", "half", "transformers"])
@pytest.mark.filterwarnings("ignore:.*no config.json of the transformers library")
def test_words_are_encoded_as_by_open_clip(clip, architecture, layout, tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    save_file(in_layout(clip, layout), path)
    tokens = clip_tokenizer(9)(WORDS)
    expected = F.normalize(clip.encode_text(tokens), dim=1)
    tower = TextTower(architecture, path)
    accuracy = 2e-2 if layout == "half" else 1e-5
    assert torch.allclose(tower(WORDS), expected, atol=accuracy)
    assert torch.allclose(tower([f"  {WORDS[0]} ", WORDS[0]]), expected[:1], atol=accuracy)
    # and the image side of the same file leads into the same space
    config = ClipConfig(architecture, str(path), blocks=2, depth_channel=False, dense="values")
    ours = ClipEncoder(config).eval()
    assert torch.allclose(ours.proj, clip.visual.proj, atol=accuracy)
    image = torch.rand(1, 3, 32, 32)
    ours.blocks[-1] = clip.visual.transformer.resblocks[-1]  # the plain block: the class token is CLIP's
    class_token = ours.tokens(image, image[:, :1])[:, 0]
    encoded = ours.ln_post(class_token) @ ours.proj
    assert torch.allclose(encoded, clip.encode_image(normalized(image)), atol=accuracy)


def test_words_that_cannot_be_searched_for(clip, architecture, tmp_path: Path) -> None:
    assert check_words(["a  red\nchair ", "a red chair", "lamp"]) == ["a red chair", "lamp"]
    assert check_words("lamp") == ["lamp"]
    for words in ([], [""], ["lamp", " \t"]):
        with pytest.raises(InputError, match='words: found .*expected one or more, such as "a red'):
            check_words(words)
    path = tmp_path / "clip.safetensors"
    save_file(in_layout(clip, "open_clip"), path)
    with pytest.raises(InputError, match="words: 'one two.*has 8 tokens; expected at most 7"):
        TextTower(architecture, path)(["one two three four five six seven eight"])


def test_weights_and_architectures_that_do_not_fit(clip, architecture, tmp_path: Path) -> None:
    state, path = in_layout(clip, "open_clip"), tmp_path / "clip.safetensors"
    save_file({**state, "ln_final.weight": torch.ones(3)}, path)
    with pytest.raises(InputError, match=r"'ln_final.weight' of the text side.*found \(3,\)"):
        TextTower(architecture, path)
    save_file({name: tensor for name, tensor in state.items() if name != "text_projection"}, path)
    with pytest.raises(InputError, match="'text_projection'.*no such tensor"):
        TextTower(architecture, path)
    words = {**TABLE, "text_cfg": {**TABLE["text_cfg"], "vocab_size": 1000}}
    (tmp_path / "other.json").write_text(json.dumps(words))
    with pytest.raises(InputError, match="a vocabulary of 1000 tokens; expected CLIP's own of 49408"):
        TextTower(str(tmp_path / "other.json"), path)
