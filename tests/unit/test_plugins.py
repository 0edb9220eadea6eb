"""Code from outside the package: what is imported, for whom, and what is said of what is wrong."""

import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from bifusion import plugins
from bifusion.commands.info import print_info
from bifusion.config.plain import from_plain
from bifusion.config.run import config_from_dict, config_to_dict
from bifusion.config.stages import unmatched_patterns
from bifusion.data.dataset import DataConfig, open_scenes
from bifusion.data.images import encoder_view
from bifusion.data.scene_source import OutsideScenes
from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20
from bifusion.losses.context import CriterionConfig
from bifusion.losses.criterion import Criterion
from bifusion.models.backbone import outside_backbone
from bifusion.models.bifusion import BiFusionConfig
from bifusion.models.build import build_model
from bifusion.models.fusion import FusionConfig
from bifusion.models.gate import outside_gate
from bifusion.models.mask3d import Mask3DConfig
from bifusion.models.towers.outside import OutsideTowerConfig, outside_tower
from bifusion.models.unet import UNetConfig
from bifusion.recipes import get_recipe
from bifusion.recipes.bifusion import bifusion_small
from bifusion.recipes.oneformer3d import oneformer3d_small
from bifusion.runs.check_config import check_config
from bifusion.runs.checkpoint import save_checkpoint
from bifusion.runs.trained_model import load_model
from bifusion.studies.ablation.run import AblationConfig, plan_ablation
from bifusion.studies.training_runs.plan import plan_runs
from my_rooms.networks import TwoLayers
from outside_rooms import make_own_rooms

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugins.VARIABLE, "")


@pytest.fixture
def allowed() -> None:
    plugins.allow("my_rooms")


# ----------------------------------------------------------------------------------------- names


def test_what_the_user_has_not_named_is_not_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "my_rooms.losses", raising=False)
    both = r"BIFUSION_PLUGINS=my_rooms bifusion …, or in Python bifusion.plugins.allow\('my_rooms'\)"
    with pytest.raises(InputError, match=both):
        plugins.load("my_rooms.losses:confident", "criterion.extra.confident")
    assert "my_rooms.losses" not in sys.modules


def test_packages_are_allowed_one_by_one(allowed):
    plugins.allow("other.part:function")
    assert os.environ[plugins.VARIABLE] == "my_rooms,other"
    assert callable(plugins.load("my_rooms.losses:confident", "a field"))
    with pytest.raises(InputError, match="code of the package os"):
        plugins.load("os:system", "a field")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_rooms.losses:confidant", "a field: my_rooms.losses .* has no .*did you mean 'confident'"),
        ("my_rooms.looses:confident", "a field: the module my_rooms.looses cannot be imported"),
        ("my_rooms.losses:weight", "is of type float, expected a function"),
        ("my_rooms.losses:os.system", "expected module:function"),
        ("my_rooms.losses:", "expected module:function"),
        (":confident", "expected module:function"),
    ],
)
def test_a_wrong_name_is_told(name, message, allowed):
    with pytest.raises(InputError, match=message):
        plugins.load(name, "a field")


def test_a_module_in_the_current_folder_is_found(tmp_path):
    """As `bifusion` is a script, Python by itself does not look there."""
    (tmp_path / "here_only.py").write_text("def small():\n    print('called')\n")
    code = (
        "import sys; from bifusion import plugins; sys.path = [p for p in sys.path if p]; "
        "plugins.load('here_only:small', 'a field')(); print(sys.path[-1])"
    )
    path = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
    environment = os.environ | {"PYTHONPATH": path, plugins.VARIABLE: "here_only"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["called", str(tmp_path)], done.stderr


# ---------------------------------------------------------------------------------------- recipes


def test_a_recipe_from_outside():
    config = get_recipe("my_rooms.recipes:small")
    assert (config.name, config.recipe) == ("my_rooms.recipes.small", "my_rooms.recipes:small")
    check_config(config)
    assert config_from_dict(config_to_dict(config)) == config
    groups = build_model(config.model, config.seed, config.labels).parameter_groups()
    assert {"tower.embed", "tower.block0"} < set(groups)
    assert unmatched_patterns(config.stages, groups) == []
    assert os.environ[plugins.VARIABLE] == "my_rooms", "asking for it is consent"


@pytest.mark.parametrize("ending", ["without_views", "naive", "lifted_rgb", "no_film", "no_isolation"])
def test_arms_and_ablations_of_a_recipe_from_outside(ending):
    name = f"my_rooms.recipes:small_{ending}"
    config = get_recipe(name)
    assert config.recipe == name and config.data.source == "my_rooms.data:scenes"
    assert config.arm != "staged"
    groups = build_model(config.model, config.seed, config.labels).parameter_groups()
    assert unmatched_patterns(config.stages, groups) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_rooms.recipes:smal", "did you mean 'small'"),
        ("my_rooms.recipes:nothing", "returned a NoneType, expected a bifusion.config.run.Config"),
        ("my_rooms.recipes:plain_no_film", "made of staged recipes"),
        ("no_rooms.recipes:small", "cannot be imported"),
        ("bifusion_smal", "did you mean 'bifusion_small'"),
    ],
)
def test_a_wrong_recipe_is_told(name, message):
    with pytest.raises(InputError, match=message):
        get_recipe(name)


def test_runs_and_ablations_of_a_recipe_from_outside_are_planned(tmp_path):
    (run,) = plan_runs(["my_rooms.recipes:small"], [1], tmp_path / "data", tmp_path / "out")
    assert run.folder.name == "my_rooms.recipes.small-seed1"
    wanted = AblationConfig(
        data=tmp_path, base="my_rooms.recipes:small", grid=("lr=1", "range=1", "precision=32-true")
    )
    plan, runs = plan_ablation(wanted)
    assert {"my_rooms.recipes:small_no_film", "my_rooms.recipes:small_naive"} <= {
        arm.recipe for arm in plan.arms
    }
    assert all(":" not in run.folder.name for run in runs)


# ------------------------------------------------------------------------- losses, towers, scenes


def test_a_loss_term_must_return_a_scalar_and_have_a_name_of_its_own(allowed):
    with pytest.raises(InputError, match="criterion.extra.score: score is a loss term of the package"):
        Criterion(CriterionConfig(extra={"score": "my_rooms.losses:confident"}), SCANNET20)
    extra = {"odd": "my_rooms.losses:not_a_scalar"}
    term = Criterion(CriterionConfig(extra=extra), SCANNET20).terms["odd"]
    context = type("Context", (), {"matched": [type("Matched", (), {"logits": torch.zeros(3, 5)})]})
    with pytest.raises(
        InputError, match=r"criterion.extra.odd, .* shape \(3,\), expected .* shape \(\)"
    ):
        term.function(None, None, context)  # type: ignore[arg-type]


def test_a_mistake_in_code_of_ones_own_is_told_with_the_field_that_names_it(allowed):
    extra = {"confident": "my_rooms.losses:confident"}
    term = Criterion(CriterionConfig(extra=extra), SCANNET20).terms["confident"]
    with pytest.raises(AttributeError) as raised:
        term.function(None, None, None)  # type: ignore[arg-type]
    (note,) = raised.value.__notes__
    assert note.startswith("criterion.extra.confident (my_rooms.losses:confident): raised in code from")
    with pytest.raises(TypeError) as raised:
        outside_gate("my_rooms.losses:confident", 8)
    assert raised.value.__notes__[0].startswith("model.fusion.gate_function (my_rooms.losses:confident)")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_tower", "my_rooms.towers:no_tower returned a Identity, expected a bifusion.models.towers"),
        ("forgetful", "Forgetful.parameter_groups: block.weight, block.bias must be in one group"),
        ("odd_name", "OddName with parameter groups stripes; expected tower.NAME"),
    ],
)
def test_a_wrong_tower_is_told(function, message, allowed):
    with pytest.raises(InputError, match=message):
        outside_tower(f"my_rooms.towers:{function}", None)


def with_network(function):
    config = oneformer3d_small()
    config.model.unet = UNetConfig(kind="outside", function=f"my_rooms.networks:{function}")
    return build_model(config.model, 1, config.labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: outside_gate("my_rooms.networks:no_gate", 8),
            "model.fusion.gate_function: my_rooms.networks:no_gate returned a Linear, expected a .*Gate",
        ),
        (
            lambda: outside_backbone("my_rooms.networks:no_network", 6),
            "model.unet.function: my_rooms.networks:no_network returned a Linear, expected a .*Backbone",
        ),
        (
            lambda: outside_backbone("my_rooms.networks:no_channels", 6),
            "returned a Backbone whose out_channels is None, expected a number above 0",
        ),
        (
            lambda: outside_gate("my_rooms.networks:lazy_gate", 8),
            "returned a WithPlace with linear.weight, linear.bias of no shape yet; expected layers that",
        ),
        (
            lambda: outside_backbone("my_rooms.networks:no_blocks", 6),
            r"whose recomputable\(\) names 'first', expected the blocks themselves",
        ),
        (
            lambda: with_network("growing"),
            "my_rooms.networks:growing returned networks of other tensors when it was called twice",
        ),
        (
            lambda: UNetConfig(kind="outside"),
            "unet.function: found none, expected module:function",
        ),
        (
            lambda: UNetConfig(function="my_rooms.networks:two_layers"),
            "unet.kind 'residual' calls none; leave it out, or set 'outside'",
        ),
        (
            lambda: Mask3DConfig(UNetConfig(kind="outside", function="my_rooms.networks:two_layers")),
            "found 'outside'; Mask3D reads the feature pyramid of 'res16'",
        ),
    ],
)
def test_a_wrong_network_or_gate_is_told(make, message, allowed):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("arm", [oneformer3d_small, bifusion_small])
def test_all_models_but_mask3d_take_a_network_of_ones_own(arm, allowed):
    config = arm()
    config.model.unet = UNetConfig(kind="outside", function="my_rooms.networks:two_layers")
    model = build_model(config.model, 1, config.labels)
    assert isinstance(model.unet, TwoLayers)
    again = build_model(config.model, 1, config.labels)
    assert torch.equal(model.unet.first.weight, again.unet.first.weight)


def test_parts_that_read_values_as_they_are_made_are_counted_and_named(allowed):
    config = get_recipe("my_rooms.recipes:small")
    config.model.unet.function = "my_rooms.networks:reading"
    screen = io.StringIO()
    print_info(config, Console(file=screen, width=100))
    for line in (
        "model.unet.function: my_rooms.networks:reading, from outside",
        "model.tower.function: my_rooms.towers:stripes, from outside",
        "model.fusion.gate_function: my_rooms.networks:with_place, from outside",
        "criterion.extra.confident: my_rooms.losses:confident, from outside",
    ):
        assert line in screen.getvalue()


def test_info_tells_a_loss_term_that_there_is_not(allowed):
    config = get_recipe("my_rooms.recipes:small")
    config.criterion.extra = {"confident": "my_rooms.losses:confidnt"}
    with pytest.raises(InputError, match="criterion.extra.confident.*did you mean 'confident'"):
        print_info(config, Console(file=io.StringIO()))


def test_a_gate_without_a_tower_is_told(allowed):
    fusion = FusionConfig(gate_function="my_rooms.networks:cosine")
    with pytest.raises(InputError, match="without model.tower nothing is fused; leave it out"):
        BiFusionConfig(tower=None, fusion=fusion)


def test_the_width_of_a_network_is_told(allowed):
    assert with_network("two_layers").feature_dims() == {"f3d_in": 8}


def test_a_tower_that_reads_values_as_it_is_made_is_loaded(allowed, tmp_path):
    config = get_recipe("my_rooms.recipes:small")
    config.model.tower = OutsideTowerConfig("my_rooms.towers:rated")
    model = build_model(config.model, 1, config.labels)
    save_checkpoint(tmp_path, model, config, None, step=1, links=["last"])
    loaded, _ = load_model(tmp_path / "last")
    assert loaded.tower.rates == pytest.approx([0, 0.1])
    wanted, found = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (
            {"kind": "timm_vti"},
            "found 'timm_vti', expected one of .*did you mean 'timm_vit'",
        ),
        ({"architecture": "small"}, "tower.kind: found 'None', expected one of clip, timm_vit"),
        ("dino", "tower.kind: found 'dino', expected one of clip"),
        ({"kind": "pixels", "width": 3}, "unknown field width of PixelsConfig"),
    ],
)
def test_an_unknown_kind_of_tower_is_told(stored, message):
    with pytest.raises(InputError, match=message):
        from_plain(BiFusionConfig, {"tower": stored}, "run.json.model")


def test_scenes_from_outside(tmp_path, allowed):
    make_own_rooms(tmp_path, train=2, val=1)
    data = DataConfig(root=tmp_path, source="my_rooms.data:scenes", max_views=2)
    scenes = open_scenes(data, "train")
    scene = scenes.scene(scenes.names[0])
    assert scenes.names == ["roomtrain0", "roomtrain1"] and len(scene.view_names) == 2
    assert scenes.view(scene.name, scene.view_names[0]).color.shape == (48, 64, 3)
    assert scenes.has_labels(scene.name) and scenes.has_views(scene.name)
    assert scenes.has_labelled_points(scene.name) and scene.segment is not None
    bare = open_scenes(data, "train", annotated=False)
    assert bare.scene(scene.name).segment is None and bare.scene(scene.name).instance is None
    assert not bare.has_labels(scene.name) and not bare.has_labelled_points(scene.name)


def test_views_from_outside_come_in_the_types_of_ours(tmp_path, allowed):
    make_own_rooms(tmp_path, train=1, val=1)
    data = DataConfig(root=tmp_path, source="my_rooms.data:scenes", max_views=2)
    scenes = OutsideScenes("my_rooms.data:scenes", tmp_path, "train", read_views=True)
    (name,) = scenes.names
    first, *_ = scenes.scene(name).view_names
    view = scenes.view(name, first)
    wanted = encoder_view(view, data.image_size, data.patch_size, data.depth_size).to_batch_view(0)
    flipped = np.ascontiguousarray(view.depth_m[::-1])[::-1].astype(np.float64)
    given = dataclasses.replace(view, depth_m=flipped, color_K=view.color_K.tolist())
    scenes._scenes.view = lambda *_: given
    found = scenes.view(name, first)
    batch = encoder_view(found, data.image_size, data.patch_size, data.depth_size).to_batch_view(0)
    for part in ("depth_m", "image_depth_m", "K", "image"):
        assert torch.equal(getattr(batch, part), getattr(wanted, part)), part
    assert batch.depth_m.dtype == batch.image_depth_m.dtype == torch.float32
    for depth, message in (
        (
            (1000 * view.depth_m).astype(np.uint16),
            "view .*: depth_m holds uint16; expected float metres",
        ),
        (torch.from_numpy(view.depth_m), "view .*: depth_m is a Tensor; expected a numpy array"),
    ):
        given = dataclasses.replace(view, depth_m=depth)
        with pytest.raises(InputError, match=message):
            scenes.view(name, first)


@pytest.mark.parametrize(
    ("array", "change", "message"),
    [
        ("coord", lambda coord: coord + np.array([5e5, 5e6, 0]), "coord holds float64 up to 5,000,0"),
        ("coord", lambda coord: coord.astype(str), "coord holds <U.*; expected numbers"),
        ("segment", lambda segment: segment + 0.5, "segment holds float64; expected whole numbers"),
        ("instance", lambda instance: instance.astype(float), "instance holds float64"),
        ("superpoint", lambda ids: ids.astype(float), "superpoint holds float64"),
    ],
)
def test_arrays_from_outside_of_other_kinds_are_told(array, change, message, tmp_path, allowed):
    make_own_rooms(tmp_path, train=1, val=1)
    scenes = OutsideScenes("my_rooms.data:scenes", tmp_path, "train", read_views=True)
    scene = scenes.scene(scenes.names[0])
    wrong = dataclasses.replace(scene, **{array: change(getattr(scene, array))})
    scenes._scenes.scene = lambda name: wrong
    with pytest.raises(InputError, match=message):
        scenes.scene(scene.name)


@pytest.mark.parametrize(
    ("function", "split", "message"),
    [
        ("no_scenes", "train", "returned a dict; expected names, scene"),
        ("scenes", "test", "names are \\[\\]; expected one or more"),
        ("wrong_scenes", "train", "scene roomtrain0 is a dict; expected a bifusion.types.Scene"),
    ],
)
def test_wrong_scenes_are_told(function, split, message, tmp_path, allowed):
    make_own_rooms(tmp_path, train=1, val=1)
    data = DataConfig(root=tmp_path, source=f"my_rooms.data:{function}")
    with pytest.raises(InputError, match=f"data.source my_rooms.data:{function} of .*{message}"):
        scenes = open_scenes(data, split)
        scenes.scene(scenes.names[0])
