"""Dense features in the space of words and test-time registers, against their formulas written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bifusion.config.plain import from_plain, to_plain
from bifusion.errors import InputError
from bifusion.models.towers.clip import ClipConfig, ClipEncoder
from bifusion.models.towers.clip_registers import find_register_neurons
from bifusion.models.towers.view_cache import tower_key
from clip_files import SMALL, normalized, open_clip_tower, save_image_tower, small_config

IMAGES = (2, 3, 32, 32)


def whole(tower: nn.Module, folder: Path, **changes) -> ClipEncoder:
    """Our tower of all blocks, with the weights of open_clip's."""
    path = save_image_tower(tower, folder)
    return ClipEncoder(small_config(blocks=3, pretrained=path, embed_dim=16, **changes)).eval()


def before_last_block(tower: nn.Module, images: Tensor) -> Tensor:
    """(V, L, D) tokens that enter the last block of open_clip's tower, by its own forward."""
    captured = []
    last = tower.transformer.resblocks[-1]
    with last.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0])):
        tower(normalized(images))
    return captured[0]


def in_words(tower: nn.Module, tokens: Tensor) -> Tensor:
    """Patch tokens after the last block to the space of words: (V, 4, 4, 16)."""
    return (tower.ln_post(tokens) @ tower.proj)[:, 1:].unflatten(1, (4, 4))


@torch.no_grad()
def test_last_layer_values_are_maskclips(tmp_path: Path) -> None:
    """Equation by equation: every token's value alone, then the rest of the block as it is."""
    tower = open_clip_tower()
    images = torch.rand(IMAGES)
    x, block = before_last_block(tower, images), tower.transformer.resblocks[-1]
    normed = block.ln_1(x)
    of_values = slice(2 * SMALL["width"], 3 * SMALL["width"])
    value = normed @ block.attn.in_proj_weight[of_values].T + block.attn.in_proj_bias[of_values]
    y = x + value @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    expected = in_words(tower, y + block.mlp(block.ln_2(y)))
    ours = whole(tower, tmp_path, dense="values")
    assert torch.allclose(ours(images, torch.zeros(2, 1, 32, 32)), expected, atol=1e-5)
    assert ours.out_channels == 16 and "last-layer values" in ours.describe()


@torch.no_grad()
def test_self_self_attention_is_clearclips(tmp_path: Path) -> None:
    """Head by head: softmax(q qᵀ / √d) v, projected, and neither residual nor feed-forward."""
    tower = open_clip_tower()
    images = torch.rand(IMAGES)
    x, block = before_last_block(tower, images), tower.transformer.resblocks[-1]
    query, _, value = (block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, 2)
    heads, d = SMALL["heads"], SMALL["width"] // SMALL["heads"]
    gathered = []
    for head in range(heads):
        channels = slice(head * d, (head + 1) * d)
        q, v = query[:, :, channels], value[:, :, channels]
        gathered.append(torch.softmax(q @ q.transpose(1, 2) / d**0.5, dim=2) @ v)
    expected = in_words(tower, block.attn.out_proj(torch.cat(gathered, dim=2)))
    ours = whole(tower, tmp_path, dense="self_attention")
    assert torch.allclose(ours(images, torch.zeros(2, 1, 32, 32)), expected, atol=1e-5)
    assert "self-self attention" in ours.describe()
    assert not [name for name in ours.state_dict() if name.startswith(("blocks.2.mlp", "blocks.2.ln_2"))]


@torch.no_grad()
def test_registers_take_the_neurons_activation_off_the_patches(tmp_path: Path) -> None:
    """By hand: an extra token of the patches' mean, and neurons moved after the activation."""
    tower = open_clip_tower()
    neurons = ((0, 5), (0, 70), (2, 127))
    ours = whole(tower, tmp_path, register_neurons=neurons)
    images = torch.rand(IMAGES)
    patches = tower.conv1(normalized(images)).flatten(2).transpose(1, 2)
    tokens = torch.cat([tower.class_embedding.expand(2, 1, -1), patches], dim=1)
    tokens = tokens + tower.positional_embedding
    x = tower.ln_pre(torch.cat([tokens, tokens[:, 1:].mean(dim=1, keepdim=True)], dim=1))
    for number, block in enumerate(tower.transformer.resblocks):
        normed = block.ln_1(x)
        x = x + block.attn(normed, normed, normed, need_weights=False)[0]
        hidden = block.mlp.gelu(block.mlp.c_fc(block.ln_2(x)))
        for _, unit in (neuron for neuron in neurons if neuron[0] == number):
            largest = hidden[:, :, unit].max(dim=1).values
            hidden[:, 1:-1, unit] = 0  # patches; the class token keeps its own
            hidden[:, -1, unit] = largest
        x = x + block.mlp.c_proj(hidden)
    nothing = torch.zeros(2, 1, 32, 32)
    assert torch.allclose(ours.tokens(images, nothing), x, atol=1e-5)
    assert torch.equal(ours(images, nothing), ours.tokens(images, nothing)[:, 1:-1].unflatten(1, (4, 4)))
    without = whole(tower, tmp_path)(images, nothing)
    assert not torch.allclose(ours(images, nothing), without, atol=1e-3)
    assert "3 register neurons" in ours.describe()


@torch.no_grad()
def test_register_neurons_are_those_active_at_outliers() -> None:
    """A neuron that writes a long vector into the patches it likes is found; one as active elsewhere,
    and one in a later block, is not."""
    torch.manual_seed(0)
    plain = ClipEncoder(small_config(blocks=3)).eval()
    first, last = plain.blocks[0].mlp, plain.blocks[2].mlp
    first.c_fc.weight[7] = 0
    first.c_fc.weight[7, 0] = 30.0  # likes tokens whose first channel is large, a few
    first.c_fc.bias[7] = -40.0
    first.c_proj.weight[:, 7] = 40.0
    last.c_fc.bias[3] = 500.0  # as active everywhere
    images = torch.rand(6, 3, 32, 32)
    tokens = plain.tokens(images, torch.zeros(6, 1, 32, 32))[:, 1:].norm(dim=2)
    far = float(tokens.median()) * 3
    assert 0 < int((tokens > far).sum()) < tokens.numel() / 2

    def run():
        for image in images.split(2):
            yield plain.tokens(image, torch.zeros(2, 1, 32, 32))

    found = find_register_neurons(plain.blocks, run(), count=1, top_block=1, outlier_norm=far)
    assert found == [(0, 7)]
    with pytest.raises(InputError, match="no patch token has a norm above 1e\\+06"):
        find_register_neurons(plain.blocks, run(), outlier_norm=1e6)
    moved = ClipEncoder(small_config(blocks=3, register_neurons=((0, 7),))).eval()
    moved.load_state_dict(plain.state_dict())
    after = moved(images, torch.zeros(6, 1, 32, 32)).flatten(1, 2).norm(dim=2)
    assert float(after.max()) < far  # the outliers have left the patches


def test_default_is_what_it_was() -> None:
    """The same modules, tensors, names and random numbers as without the choice."""
    torch.manual_seed(0)
    ours, drawn = ClipEncoder(small_config(depth_channel=False)), torch.rand(3)
    torch.manual_seed(0)
    from open_clip.transformer import VisionTransformer

    plain = VisionTransformer(**{**SMALL, "layers": 2}, mlp_ratio=4.0)
    assert torch.equal(drawn, torch.rand(3))
    state = {name.removeprefix("visual."): tensor for name, tensor in ours.open_clip_state().items()}
    expected = {
        name: tensor
        for name, tensor in plain.state_dict().items()
        if not name.startswith(("ln_post", "proj"))
    }
    assert state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


@pytest.mark.parametrize("dense", ["values", "self_attention"])
def test_all_that_is_built_learns_and_is_in_one_group(dense: str) -> None:
    tower = ClipEncoder(small_config(blocks=3, dense=dense, register_neurons=((0, 1),)))
    tower(torch.rand(1, 3, 16, 24), torch.rand(1, 1, 16, 24)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())
    grouped = [id(parameter) for group in tower.parameter_groups().values() for parameter in group]
    assert sorted(grouped) == sorted(map(id, tower.parameters()))
    assert any(tower.proj is p for p in tower.parameter_groups()["tower.block2"])


def test_a_view_cache_tells_the_kinds_apart() -> None:
    kinds = [
        {"dense": "values"}, {"dense": "self_attention"}, {}, {"register_neurons": ((0, 1),)},
        {"register_neurons": ((0, 2),)},
    ]  # fmt: skip
    keys = set()
    for kind in kinds:
        torch.manual_seed(0)
        keys.add(tower_key(ClipEncoder(small_config(blocks=3, **kind)), "cpu"))
    assert len(keys) == len(kinds)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'values', which is of CLIP's last block.*2 of 3.*blocks 3"):
        ClipEncoder(small_config(blocks=2, dense="values"))
    with pytest.raises(InputError, match=r"\(3, 0\); expected a block 0 … 2"):
        ClipEncoder(small_config(blocks=3, register_neurons=((3, 0),)))
    with pytest.raises(InputError, match=r"\(2, 0\); expected a block 0 … 1"):  # no feed-forward there
        ClipEncoder(small_config(blocks=3, dense="self_attention", register_neurons=((2, 0),)))
    with pytest.raises(InputError, match=r"\(0, 128\).*hidden unit 0 … 127"):
        ClipEncoder(small_config(blocks=3, register_neurons=((0, 128),)))
    with pytest.raises(InputError, match="named twice"):
        ClipEncoder(small_config(blocks=3, register_neurons=((0, 1), (0, 1))))
    with pytest.raises(InputError, match=r"visual.proj' in .* has shape \(32, 16\).*\(32, 20\)"):
        path = save_image_tower(open_clip_tower(), tmp_path)
        ClipEncoder(small_config(blocks=3, dense="values", embed_dim=20, pretrained=path))
    tower = open_clip_tower()
    del tower.proj
    with pytest.raises(InputError, match="'visual.proj', which leads into the space of words"):
        whole(tower, tmp_path, dense="values")
    with pytest.raises(InputError, match="dense: found 'value', expected .*did you mean 'values'"):
        from_plain(ClipConfig, {"dense": "value"}, "tower")


def test_the_choice_is_stored() -> None:
    config = small_config(blocks=3, dense="values", register_neurons=((0, 5), (1, 2)))
    plain = to_plain(config)
    assert plain.pop("kind") == "clip"
    assert from_plain(ClipConfig, plain, "tower") == config
    assert from_plain(ClipConfig, {"blocks": 6}, "tower").dense == "tokens"  # of an older run
