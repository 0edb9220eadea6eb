"""Libraries of image towers are imported where it works, whatever device a network is built on."""

import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip import transformer

from bifusion.models.towers import clip_architecture
from bifusion.models.towers.clip_parts import Block
from bifusion.models.towers.libraries import library

COMPUTES = "import torch\nTHREE = (torch.ones(3).sum()).item()\n"
"""What torch 2.6's `torch._dynamo` does as it is imported, and the libraries import it."""


def test_a_library_that_computes_as_it_is_imported_is_imported_under_the_meta_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("library_as_it_is", "library_on_meta"):
        (tmp_path / f"{name}.py").write_text(COMPUTES)
    monkeypatch.syspath_prepend(str(tmp_path))
    with torch.device("meta"):
        with pytest.raises(RuntimeError, match="meta"):
            import library_as_it_is  # pyright: ignore[reportMissingImports] # noqa: F401
        assert library("library_on_meta").THREE == 3
        assert torch.ones(1).is_meta, "the device of the networks is as it was"


def test_networks_with_a_clip_are_laid_out_without_the_libraries() -> None:
    """Their import, and that of torch's compiler, would be most of a command's start."""
    program = """
import sys
from bifusion.models.build import build_bare
from bifusion.recipes import get_recipe

for name in ("bifusion_scannet200", "bifusion_small", "mask3d_small", "oneformer3d_scannet20"):
    config = get_recipe(name)
    model = build_bare(config.model, config.seed, config.labels)
    assert all(parameter.is_meta for parameter in model.parameters())
slow = ("open_clip", "timm", "torchvision", "torch._dynamo", "sympy")
print([name for name in slow if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_the_table_is_open_clips() -> None:
    """It is read from that library's files, which change with its versions."""
    for architecture in open_clip.list_models():
        assert clip_architecture._table(architecture) == open_clip.get_model_config(architecture)


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("narrow", [True, False])
def test_a_block_equals_open_clips_to_the_bit(quick_gelu: bool, narrow: bool) -> None:
    """What comes out and all gradients, under autocast too."""
    torch.manual_seed(0)
    activation = transformer.QuickGELU if quick_gelu else torch.nn.GELU
    ours, theirs = (
        Block(64, 4, quick_gelu),
        transformer.ResidualAttentionBlock(64, 4, act_layer=activation),
    )
    theirs.load_state_dict(ours.state_dict())
    given, made = torch.randn(2, 17, 64), []
    for block in (ours, theirs):
        x = given.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            out = block(x)
        out.float().square().sum().backward()
        made.append([out, x.grad, *(parameter.grad for parameter in block.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))
