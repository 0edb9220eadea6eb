"""The image tower against open_clip's own, its weights files, and its refusals."""

from __future__ import annotations

import json
import runpy
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from pytest import approx
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import untrained_runs
from bifusion.errors import InputError
from bifusion.inference import word_tower
from bifusion.models.towers.clip import CLIP_MEAN, CLIP_STD, ClipConfig, ClipEncoder
from bifusion.models.towers.clip_architecture import image_tower_size
from bifusion.models.towers.clip_parts import resize_positions
from bifusion.models.towers.view_cache import tower_key
from bifusion.training.train import train
from bifusion.types import BatchView
from clip_files import as_transformers, normalized, open_clip_tower, small_config, visual_state
from clip_files import save_image_tower as saved


def view_of(image: Tensor, depth_m: float = 0.0) -> BatchView:
    nothing = torch.eye(4)
    depth = torch.full((1, *image.shape[1:]), depth_m)
    return BatchView(0, "v", image, depth, nothing[:3, :3], nothing, depth[0], nothing[:3, :3], nothing)


def tokens_before_ln_post(tower: nn.Module, images: Tensor) -> Tensor:
    """What enters ln_post in open_clip's own forward, class token first."""
    captured = []
    with tower.ln_post.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0])):
        tower(images)
    return captured[0]


@torch.no_grad()
def test_full_tower_equals_open_clip(tmp_path: Path) -> None:
    """ViT-B/16 with QuickGELU, all 12 blocks, square 224: the tokens before ln_post agree."""
    from open_clip.model import _build_vision_tower

    torch.manual_seed(0)
    table = open_clip.get_model_config("ViT-B-16-quickgelu")
    tower = _build_vision_tower(table["embed_dim"], table["vision_cfg"], table["quick_gelu"]).eval()
    config = ClipConfig(architecture="ViT-B-16-quickgelu", blocks=12, pretrained=saved(tower, tmp_path))
    ours = ClipEncoder(config).eval()
    image = torch.rand(1, 3, 224, 224)
    expected = tokens_before_ln_post(tower, normalized(image))
    assert torch.allclose(ours.tokens(image, torch.rand(1, 1, 224, 224)), expected, atol=1e-5)
    assert torch.equal(
        ours(image, image[:, :1]), ours.tokens(image, image[:, :1])[:, 1:].view(1, 14, 14, 768)
    )


@torch.no_grad()
def test_used_blocks_equal_open_clips_first_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = open_clip_tower()
    ours = ClipEncoder(small_config(pretrained=saved(tower, tmp_path))).eval()
    images = torch.rand(2, 3, 32, 32)
    tower.transformer.resblocks = tower.transformer.resblocks[:2]
    expected = tokens_before_ln_post(tower, normalized(images))
    assert torch.allclose(ours.tokens(images, torch.ones(2, 1, 32, 32)), expected, atol=1e-5)
    assert "made by a test" in ours.describe() and "2 of 3 blocks" in ours.describe()


def test_parameter_count_of_half_vit_b_16() -> None:
    with torch.device("meta"):
        groups = ClipEncoder(ClipConfig(depth_channel=False)).parameter_groups()
    count = sum(p.numel() for group in groups.values() for p in group)
    assert count == 43_270_656
    assert list(groups) == ["tower.conv1_rgb", "tower.embed", *(f"tower.block{i}" for i in range(6))]


def test_two_convolutions_are_one_with_four_channels() -> None:
    torch.manual_seed(0)
    tower = ClipEncoder(small_config())
    nn.init.normal_(tower.conv1_depth.weight)
    image, depth = torch.rand(1, 3, 16, 24), torch.rand(1, 1, 16, 24)
    weight = torch.cat([tower.conv1_rgb.weight, tower.conv1_depth.weight], dim=1)
    four = nn.functional.conv2d(torch.cat([normalized(image), depth / 5], dim=1), weight, stride=8)
    captured = []
    tower.ln_pre.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    tower(image, depth)
    positions = resize_positions(tower.positional_embedding, (2, 3))[1:]
    assert torch.allclose(captured[0][:, 1:], four.flatten(2).transpose(1, 2) + positions, atol=1e-5)


def test_depth_gets_a_gradient_though_its_weights_are_zero() -> None:
    tower = ClipEncoder(small_config())
    tower(torch.rand(1, 3, 16, 16), torch.rand(1, 1, 16, 16)).square().sum().backward()
    assert tower.conv1_depth.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in tower.parameters())


@pytest.mark.parametrize("grid", [(3, 9), (5, 5), (4, 4)])
def test_positions_are_resized_as_open_clip_does(grid: tuple[int, int]) -> None:
    from open_clip.model import resize_pos_embed

    torch.manual_seed(0)
    positions = torch.randn(17, 6)
    state = {"visual.positional_embedding": positions}
    holder = nn.Module()
    holder.visual = nn.Module()
    holder.visual.grid_size = grid
    resize_pos_embed(state, holder)
    assert torch.allclose(
        resize_positions(positions, grid), state["visual.positional_embedding"], atol=1e-5
    )


def test_views_of_different_sizes_keep_order_and_aspect() -> None:
    torch.manual_seed(0)
    tower = ClipEncoder(small_config()).eval()
    images = [torch.rand(3, 16, 24), torch.rand(3, 32, 16), torch.rand(3, 16, 24)]
    maps = tower.encode_views([view_of(image) for image in images])
    assert [tuple(m.shape) for m in maps] == [(2, 3, 32), (4, 2, 32), (2, 3, 32)]
    for image, feature_map in zip(images, maps, strict=True):
        alone = tower(image[None], torch.zeros(1, 1, *image.shape[1:]))[0]
        assert torch.allclose(feature_map, alone, atol=1e-5)


def test_image_that_is_no_multiple_of_the_patch_is_refused() -> None:
    with pytest.raises(InputError, match="20 × 16.*patch of 8"):
        ClipEncoder(small_config()).encode_views([view_of(torch.rand(3, 16, 20))])


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module", "compiled", "float16"])
def test_formats_of_pt_files(wrap: str, tmp_path: Path) -> None:
    tower = open_clip_tower()
    state: dict = visual_state(tower)
    if wrap == "module":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    if wrap == "compiled":
        state = {f"module._orig_mod.model.{name}": tensor for name, tensor in state.items()}
    if wrap == "float16":
        state = {name: tensor.half() for name, tensor in state.items()}
    if wrap == "state_dict":
        state = {"epoch": 3, "state_dict": state}
    torch.save(state, tmp_path / "clip.pt")
    ours = ClipEncoder(small_config(pretrained=str(tmp_path / "clip.pt")))
    assert ours.conv1_rgb.weight.dtype == torch.float32
    assert torch.allclose(ours.conv1_rgb.weight, tower.conv1.weight, atol=1e-3)


@pytest.mark.parametrize(
    "leading", ["vision_model.", "", "model.vision_model.", "module.clip.vision_model."]
)
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.filterwarnings("ignore:.*no config.json of the transformers library")
def test_names_of_the_transformers_library(leading: str, ending: str, tmp_path: Path) -> None:
    tower = open_clip_tower()
    path = tmp_path / f"model.{ending}"
    text = {
        "text_model.embeddings.token_embedding.weight": torch.ones(3, 2),
        "logit_scale": torch.ones(1),
    }
    state = {**text, **as_transformers(tower.state_dict(), leading)}
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    ours, theirs = (
        ClipEncoder(small_config(pretrained=str(at))) for at in (path, saved(tower, tmp_path))
    )
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())


def test_activation_of_the_transformers_library(tmp_path: Path) -> None:
    path, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    save_file(as_transformers(open_clip_tower().state_dict()), path)
    settings = small_config(pretrained=str(path))  # computes GELU
    with pytest.warns(UserWarning, match="no config.json.*whether it was trained with QuickGELU"):
        ClipEncoder(settings)
    config.write_text('{"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}')
    ClipEncoder(settings)
    for text in ('{"model_type": "clip", "vision_config": {}}', '{"model_type": "clip_vision_model"}'):
        config.write_text(text)
        with pytest.raises(InputError, match=r"config.json beside it\) were trained with QuickGELU"):
            ClipEncoder(settings)


def test_image_towers_that_are_not_meant(tmp_path: Path) -> None:
    state, path = visual_state(open_clip_tower()), tmp_path / "x.safetensors"
    two = {
        f"{who}.{name}": tensor.clone()
        for name, tensor in state.items()
        for who in ("student", "teacher")
    }
    save_file(two, path)
    with pytest.raises(
        InputError, match="several image towers, under 'student.visual.', 'teacher.visual.'"
    ):
        ClipEncoder(small_config(pretrained=str(path)))
    ema = {f"ema.{name}": tensor.clone() + 1 for name, tensor in state.items()}
    save_file({**ema, **state, "conv1.weight": torch.ones(1)}, path)
    with pytest.warns(
        UserWarning, match="under 'visual.' is taken, not the averages under 'ema.visual.'"
    ):
        tower = ClipEncoder(small_config(pretrained=str(path)))
    assert torch.equal(tower.conv1_rgb.weight, state["visual.conv1.weight"])
    save_file({"vision_model.embeddings.patch_embedding.weight": torch.ones(32, 3, 8, 8)}, path)
    with pytest.raises(InputError, match="without a class embedding, which is no CLIP"):
        ClipEncoder(small_config(pretrained=str(path)))


class _Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_archive_is_read_without_running_it(tmp_path: Path) -> None:
    """OpenAI's original ViT-B-16.pt is such a program, in half precision."""
    tower = open_clip_tower()
    root = nn.Module()
    for name, tensor in visual_state(tower).items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.register_buffer(leaf, tensor.half())
    torch.jit.script(root).save(str(tmp_path / "ViT.pt"))
    ours = ClipEncoder(small_config(pretrained=str(tmp_path / "ViT.pt")))
    assert torch.allclose(ours.conv1_rgb.weight, tower.conv1.weight, atol=1e-3)
    with pytest.raises(InputError, match="QuickGELU"):
        for mark in ("input_resolution", "context_length", "vocab_size"):
            root.register_buffer(mark, torch.tensor(1))
        torch.jit.script(root).save(str(tmp_path / "openai.pt"))
        ClipEncoder(small_config(pretrained=str(tmp_path / "openai.pt")))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_unreadable_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    script = tmp_path / "script.pt"
    torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)).save(str(script))
    (tmp_path / "cut.pt").write_bytes(script.read_bytes()[:200])
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00")
    torch.save({"state_dict": _Evil()}, tmp_path / "evil.pt")
    save_file({"text.weight": torch.zeros(2)}, tmp_path / "text.safetensors")
    expected = {
        "script.pt": "no CLIP image tower.*weight, bias",
        "cut.pt": "tower.pretrained.*cut.pt is no readable PyTorch file",
        "cut.safetensors": "no readable safetensors",
        "evil.pt": "no CLIP image tower.*no tensors",
        "text.safetensors": "no CLIP image tower.*text.weight",
        "missing.pt": "there is no file",
        ".": r"is a folder; give the file of the weights in it \(cut.pt, cut.safetensors, evil.pt",
        "model-00001-of-00002.safetensors": "weights saved in several parts; save them in one file",
        "model.safetensors.index.json": "weights saved in several parts; save them in one file",
    }
    for name, message in expected.items():
        with pytest.raises(InputError, match=message):
            ClipEncoder(small_config(pretrained=str(tmp_path / name)))
    assert "unpickled" not in capsys.readouterr().out


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    path = saved(open_clip_tower(), tmp_path)
    with pytest.raises(InputError, match="shape"):
        ClipEncoder(small_config(width=64, pretrained=path))
    with pytest.raises(InputError, match="resblocks.3"):
        ClipEncoder(small_config(layers=4, blocks=4, pretrained=path))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = visual_state(open_clip_tower())
    state["visual.conv1.weight"] *= torch.nan
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"'visual.conv1.weight' in .*x.pt holds .* not finite"):
        ClipEncoder(small_config(pretrained=str(tmp_path / "x.pt")))


def test_openai_weights_need_quick_gelu(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--model.tower.architecture ViT-B-16-quickgelu"):
        ClipEncoder(ClipConfig(architecture="ViT-B-16", pretrained="openai"))
    with pytest.raises(InputError, match="--model.tower.architecture ViT-B-16$"):
        ClipEncoder(ClipConfig(architecture="ViT-B-16-quickgelu", pretrained="laion2b_s34b_b88k"))
    marks = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save({**visual_state(open_clip_tower()), **marks}, tmp_path / "openai.pt")
    with pytest.raises(InputError, match="QuickGELU"):
        ClipEncoder(small_config(pretrained=str(tmp_path / "openai.pt")))


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(source: dict) -> str:
        raise FileNotFoundError("no network")

    monkeypatch.setattr("bifusion.models.towers.clip_weights.require_hub", lambda: None)
    monkeypatch.setattr("open_clip.download_pretrained", offline)
    with pytest.raises(InputError, match="https://huggingface.co/.*open_clip_model.safetensors.*PATH"):
        ClipEncoder(ClipConfig(blocks=1, pretrained="openai"))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="ViT-B-99.*did you mean 'ViT-B-32'.*'ViT-B-16-quickgelu'"):
        ClipEncoder(ClipConfig(architecture="ViT-B-99"))
    with pytest.raises(InputError, match="no plain ViT"):
        ClipEncoder(ClipConfig(architecture="RN50"))
    with pytest.raises(InputError, match="blocks is 13"):
        ClipEncoder(ClipConfig(blocks=13))
    with pytest.raises(InputError, match="'nonsense' is neither.*openai"):
        ClipEncoder(ClipConfig(blocks=1, pretrained="nonsense"))


@pytest.mark.filterwarnings("ignore:.*no config.json of the transformers library")
def test_case_clip_from_transformers(cases: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(cases / "clip_from_transformers" / "make.py"))
    ours = ClipEncoder(ClipConfig(pretrained="model.safetensors")).state_dict()
    stored, at = load_file("model.safetensors"), "vision_model.encoder.layers.5.self_attn."
    joined = torch.cat([stored[f"{at}{letter}_proj.weight"] for letter in "qkv"])
    assert torch.equal(ours["blocks.5.attn.in_proj_weight"], joined)


def accepted() -> list[tuple[str, str]]:
    """Every architecture of open_clip's table that a tower can be, with its tags."""
    found = []
    for architecture in open_clip.list_models():
        with suppress(InputError):
            image_tower_size(architecture)
            tags = open_clip.list_pretrained_tags_by_model(architecture)
            found += [(architecture, tag) for tag in tags]
    return found


def numbers(config: ClipConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    with torch.device("meta"):
        tower = ClipEncoder(replace(config, blocks=1))
    return tuple(tower.mean.flatten().tolist()), tuple(tower.std.flatten().tolist())


def test_images_are_normalised_as_the_table_says_of_every_tag() -> None:
    others = set()
    for architecture, tag in accepted():
        table = open_clip.get_pretrained_cfg(architecture, tag)
        config = ClipConfig(architecture).with_weights(tag)
        assert numbers(config) == (approx(table["mean"]), approx(table["std"])), (architecture, tag)
        config.check_weights()
        loaded = config.with_weights(None)  # as a checkpoint is, which brings its weights
        assert numbers(loaded) == numbers(config)
        if numbers(config)[0] != approx(CLIP_MEAN):
            others.add((architecture, tag))
            with pytest.raises(InputError, match="--model.tower.mean 0.5 0.5 0.5 --model.tower.std 0.5"):
                ClipConfig(architecture, tag).check_weights()
    assert others == {("ViT-L-14", "laion2b_s32b_b82k")}


def test_images_are_normalised_as_the_file_beside_says(tmp_path: Path) -> None:
    path, beside = saved(open_clip_tower(), tmp_path), tmp_path / "open_clip_config.json"
    config = small_config(pretrained=path)
    plain = ClipEncoder(config)
    for said in ({}, {"preprocess_cfg": {}}, {"preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD}}):
        beside.write_text(json.dumps(said))
        assert config.with_weights(path) == config
    beside.write_text(json.dumps({"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}))
    with pytest.warns(UserWarning, match="normalised by mean 0.5 0.5 0.5, std 0.25 0.25 0.25"):
        assert torch.equal(ClipEncoder(config).mean, plain.mean)
    tower = config.with_weights(path).build()
    assert "mean (0.5, 0.5, 0.5), std (0.25, 0.25, 0.25)" in tower.describe()
    assert "images of mean" not in plain.describe()
    images, depth_m = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    as_read = (images - 0.5) / 0.25 * plain.std + plain.mean
    assert torch.allclose(tower(images, depth_m), plain(as_read, depth_m), atol=1e-5)
    assert tower_key(tower, "") != tower_key(plain, "")  # kept maps are told apart
    for wrong in ([0.5, 0.5], [0.5, 0.5, "x"], [0.5, 0.5, 0], 0.5, None):
        beside.write_text(json.dumps({"preprocess_cfg": {"mean": [0.5] * 3, "std": wrong}}))
        with pytest.raises(InputError, match="open_clip_config.json .*expected three numbers each"):
            config.with_weights(path)


def test_a_run_does_not_begin_with_weights_trained_otherwise(tmp_path: Path) -> None:
    path = saved(open_clip_tower(), tmp_path)
    told = {"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told))
    config = untrained_runs.bifusion()
    config.data.patch_size = 8
    config.model = config.model.with_tower(small_config(pretrained=path))
    with pytest.raises(InputError, match="--model.tower.mean 0.5 0.5 0.5 --model.tower.std 0.5 0.5 0.5"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_words_are_looked_for_in_images_normalised_as_the_tag_was_trained(monkeypatch) -> None:
    built = []
    monkeypatch.setattr(word_tower, "ClipEncoder", lambda config: built.append(config) or nn.Identity())
    monkeypatch.setattr(word_tower, "TextTower", lambda *_: nn.Identity())
    monkeypatch.setattr(word_tower, "locate_weights", lambda *_: Path("there.pt"))
    for architecture in ("ViT-L-14", "ViT-B-16"):
        word_tower.load_word_tower(architecture)
    assert [config.pretrained for config in built] == ["laion2b_s32b_b82k", "laion2b_s34b_b88k"]
    assert [config.mean for config in built] == [(0.5, 0.5, 0.5), CLIP_MEAN]
    assert [config.std for config in built] == [(0.5, 0.5, 0.5), CLIP_STD]
