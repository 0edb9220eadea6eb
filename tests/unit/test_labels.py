"""Label sets: what they refuse, labels.json, tables, and those that are built in."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest

from bifusion.cli import main
from bifusion.config.old_names import update_config
from bifusion.config.run import config_from_dict, config_to_dict
from bifusion.data.dataset import DataConfig, with_labels
from bifusion.errors import InputError
from bifusion.labels.files import label_set_from_json, labels_of_data, labels_text, read_labels
from bifusion.labels.label_set import LabelClass, LabelSet, check_labels, differences
from bifusion.labels.palette import class_palette
from bifusion.labels.sets import BUILT_IN, LABEL_SETS, REPLICA, S3DIS, SCANNET20, SCANNETPP100
from bifusion.labels.table import read_table
from bifusion.recipes import get_recipe
from own_classes import ROOMS7

DOOR, LAMP = LabelClass("door"), LabelClass("lamp")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((DOOR,), r"'own': has 1 classes \('door'\); expected two or more"),
        ((), r"has 0 classes \(none\)"),
        ((DOOR, LAMP, DOOR), r"classes 0, 2 are all called 'door'"),
        ((LabelClass("wall", "stuff"), LabelClass("floor", "stuff")), "all 2 classes are stuff"),
        ((DOOR, LabelClass("lamp", color=(0, 256, 0))), r"class 1 'lamp': colour is \[0, 256, 0\]"),
        ((DOOR, LabelClass("a\nb")), r"class 1 'a\\nb': expected a name of one line"),
        ((LabelClass("a", id=3), LabelClass("b", id=3)), "id 3 is that of 'a' and 'b'"),
        ((LabelClass("a", id=3), DOOR), "class 'door' has no id, though others have"),
    ],
)
def test_sets_that_nothing_can_be_trained_on(classes, message):
    with pytest.raises(InputError, match=message):
        LabelSet("own", classes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "labels.json: not valid JSON"),
        ("[]", 'labels.json: found list; expected an object with "name"'),
        ('{"classes": []}', 'labels.json: found classes; expected an object with "name"'),
        (
            '{"version": 1, "name": "x", "classes": [], "stuff": [0]}',
            "labels.json: unknown version, stuff; known are name, classes",
        ),
        ('{"name": "x", "classes": [], "clases": 1}', r"clases \(did you mean 'classes'\?\); known"),
        ('{"name": 7, "classes": []}', "labels.json: name is 7; expected an object"),
        ('{"name": "x", "classes": {}}', "labels.json: classes is no list"),
        ('{"name": "x", "classes": ["door"]}', "class 0: found 'door'; expected an object, such as"),
        ('{"name": "x", "classes": [{"colour": 1, "name": "door"}]}', "class 0 'door': unknown colour"),
        (
            '{"name": "x", "classes": [{"name": "door", "color": "red"}]}',
            "class 0 'door': colour is 'red'",
        ),
        pytest.param(
            '{"name": "x", "classes": [{"name": "door", "kind": "both"}]}',
            "'door': kind is 'both'",
            marks=pytest.mark.wrong_types,
        ),
        ('{"name": "x", "classes": [{"name": "door"}]}', "labels.json: label set 'x': has 1 classes"),
        ('{"name": "nyu40", "classes": [{"name": "a"}, {"name": "b"}]}', "Give these classes a name of"),
    ],
)
def test_files_that_are_no_label_set(tmp_path, content, message):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(InputError, match=message):
        labels_of_data(tmp_path, "scannet20")


def test_a_file_keeps_all_of_a_set(tmp_path):
    full = LabelSet(
        "Räume",
        (LabelClass("Stühle", "thing", (1, 2, 3), 7, "häufig"), LabelClass("b", "stuff", id=8)),
    )
    (tmp_path / "labels.json").write_text(labels_text(full), encoding="utf-8")
    assert read_labels(tmp_path / "labels.json") == full
    assert full.groups == {"häufig": (0,)} and full.source_ids == (7, 8) and full.stuff_classes == (1,)


def test_the_file_of_the_data_goes_before_the_recipe(tmp_path):
    assert labels_of_data(tmp_path, "scannet20") is SCANNET20
    (tmp_path / "labels.json").write_text(labels_text(ROOMS7))
    found = with_labels(DataConfig(root=tmp_path))
    assert found.labels == ROOMS7 and found.label_set == "rooms7"
    assert with_labels(found) is found
    with pytest.raises(InputError, match="'rooms8' is not that of .*labels.json, which is 'rooms7'"):
        with_labels(DataConfig(root=tmp_path, label_set="rooms8"))


def test_an_unknown_name_is_told_what_there_is(tmp_path):
    with pytest.raises(
        InputError, match=r"'rooms7' is not built in, and .*has no labels.*scannet20, .*replica"
    ):
        labels_of_data(tmp_path, "rooms7")


def test_differences_name_the_classes():
    names = ("ceiling", "floor", "wall", "gate", "desk", "chair")
    other = LabelSet.of("rooms6", names, stuff_classes=(0, 1))
    assert differences(ROOMS7, other) == [
        "2 'wall' is a stuff class and a thing class",
        "3 is 'door' and 'gate'",
        "6 is 'machine' and none",
    ]
    looks = [dataclasses.replace(one, color=None, group="x") for one in ROOMS7.classes]
    assert differences(ROOMS7, LabelSet("renamed", tuple(looks))) == []


# ------------------------------------------------------------------------------------- built in


def test_every_built_in_set_has_source_terms_and_distinct_colours():
    assert list(LABEL_SETS) == ["scannet20", "scannet200", "nyu40", "s3dis", "scannetpp100", "replica"]
    assert [one.num_classes for one in LABEL_SETS.values()] == [20, 200, 40, 13, 100, 101]
    for one in BUILT_IN:
        assert one.source and one.stuff and one.licence
        assert len(np.unique(class_palette(one.labels), axis=0)) == one.labels.num_classes


def test_what_the_benchmarks_count_as_instances():
    assert SCANNETPP100.num_things == 84
    assert [S3DIS.class_names[c] for c in S3DIS.thing_classes] == [
        "table", "chair", "sofa", "bookcase", "board",
    ]  # fmt: skip
    assert REPLICA.source_ids[REPLICA.class_names.index("wall")] == 93
    nyu40 = LABEL_SETS["nyu40"]
    assert [nyu40.class_names[i - 1] for i in SCANNET20.source_ids[:14]] == [*SCANNET20.class_names[:14]]


# ---------------------------------------------------------------------------- tables, the command


def test_a_table_makes_a_set(tmp_path):
    path = tmp_path / "rooms.csv"
    path.write_text("id,name,kind,color,note\n3,wall,stuff,#0a0B0c,x\n5,lamp,,1 2 3,\n")
    labels, unused = read_table(path, "rooms")
    wall = LabelClass("wall", "stuff", (10, 11, 12), 3)
    assert labels == LabelSet("rooms", (wall, LabelClass("lamp", "thing", (1, 2, 3), 5)))
    assert unused == ["note"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,kind\nwall,stuff\n", "has the columns label, kind; expected name"),
        ("name;kind\nwall;stuff\n", "columns are separated by semicolons; expected .* commas"),
        ("name\tkind\nwall\tstuff\n", "columns are separated by tabs; expected .* commas"),
        ("name,id\nwall,x\nlamp,2\n", "line 2 'wall': id is 'x'"),
        ("name,color\nwall,red\nlamp,\n", "line 2 'wall': colour is 'red'"),
        ("name,kind\nwall\n", "line 2: has 1 fields, the line of column names has 2"),
        ("name,kind\nwall,white,stuff\n", "line 2: has 3 fields, the line of column names has 2"),
        ("name,kind\n,stuff\n", "line 2: the name is empty"),
        ("name\nwall\n", "rooms.csv: label set 'rooms': has 1 classes"),
    ],
)
def test_tables_that_make_none(tmp_path, content, message):
    (tmp_path / "rooms.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "rooms.csv", "rooms")


def test_spaces_after_separators_belong_to_nothing(tmp_path):
    (tmp_path / "rooms.csv").write_text('name, kind, id\n"wall, white", stuff, 3\nlamp, thing, 5\n')
    labels, unused = read_table(tmp_path / "rooms.csv", "rooms")
    wall, lamp = LabelClass("wall, white", "stuff", id=3), LabelClass("lamp", id=5)
    assert labels == LabelSet("rooms", (wall, lamp)) and not unused


@pytest.mark.parametrize("column", ["Kind", "kinds", "KIND ", "colour"])
def test_columns_that_are_nearly_ours_are_not_passed_over(tmp_path, column):
    (tmp_path / "rooms.csv").write_text(f"name,{column}\nwall,\nlamp,\n")
    with pytest.raises(InputError, match=f"column '{column}' is unknown .did you mean"):
        read_table(tmp_path / "rooms.csv", "rooms")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"stuff_classes": ["wall"]}, "stuff_classes: found 'wall', expected a whole number"),
        ({"stuff_classes": [2]}, "stuff_classes: found 2; expected numbers of classes, 0 … 1"),
        ({"stuff_classes": [-1]}, "stuff_classes: found -1"),
        ({"source_ids": [1]}, "source_ids: has 1 entries for 2 class_names"),
        ({"source_ids": [1, 2, 3]}, "source_ids: has 3 entries"),
        ({"source_ids": [1.0, 2.0]}, "source_ids: found 1.0, expected a whole number"),
        ({"colors": [(1, 2, 3)]}, "colors: has 1 entries"),
        ({"colors": [(0.5, 0.5, 0.5)] * 2}, "colors: found 0.5, expected a whole number"),
        ({"colors": [(1, 2, 3, 4)] * 2}, "colors: found .*; expected red, green, blue"),
        ({"group_of": {"door": "head"}}, "group_of: 'door' is none of class_names"),
    ],
)
@pytest.mark.wrong_types
def test_columns_that_do_not_fit_the_names(columns, message):
    with pytest.raises(InputError, match=message):
        LabelSet.of("own", ["wall", "lamp"], **columns)


def test_columns_may_be_numpys():
    ids, colors = np.array([3, 5]), np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    made = LabelSet.of("own", ["wall", "lamp"], ids, np.array([0]), colors=colors)
    wall = LabelClass("wall", "stuff", (1, 2, 3), 3)
    assert label_set_from_json(json.loads(labels_text(made)), "x") == made
    assert made.classes == (wall, LabelClass("lamp", "thing", (4, 5, 6), 5))


def test_names_that_look_alike_are_one_name():
    with pytest.raises(InputError, match="classes 0, 1 are all called"):
        LabelSet.of("own", ["T\u00fcr", "Tu\u0308r", "lamp"])


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("latin-1", "maybe in Latin-1"), ("utf-16", "but in UTF-16: save it as UTF-8")],
)
def test_tables_of_another_encoding_are_told_so(tmp_path, encoding, said):
    (tmp_path / "rooms.csv").write_text("name\nTür\nFenster\n", encoding=encoding)
    with pytest.raises(InputError, match=f"rooms.csv: is no text in UTF-8.*{said}"):
        read_table(tmp_path / "rooms.csv", "rooms")


def test_the_command(tmp_path, monkeypatch, capsys):
    table, out = tmp_path / "rooms.tsv", tmp_path / "data" / "labels.json"
    out.parent.mkdir()
    table.write_text("name\tkind\nwall\tstuff\nlamp\tthing\n")
    assert run(monkeypatch, "labels", "--from", table, "--out", out) == 0
    assert labels_of_data(out.parent, "scannet20").class_names == ("wall", "lamp")
    capsys.readouterr()
    assert run(monkeypatch, "labels", "s3dis") == 0
    assert label_set_from_json(json.loads(capsys.readouterr().out), "printed") == S3DIS
    assert run(monkeypatch, "labels", "s3dis", "--out", out) == 2
    assert "says something else" in capsys.readouterr().err
    assert run(monkeypatch, "labels") == 0
    assert "top100.txt" in capsys.readouterr().out
    taken = table.rename(tmp_path / "scannet20.tsv")
    assert run(monkeypatch, "labels", "--from", taken, "--out", tmp_path / "labels.json") == 2
    assert "a name of their own: bifusion labels NAME --from" in capsys.readouterr().err
    assert not (tmp_path / "labels.json").exists()


def test_a_table_without_kinds_is_told_what_it_makes(tmp_path, monkeypatch, capsys):
    (tmp_path / "rooms.csv").write_text("name\nwall\nchair\n")
    assert run(monkeypatch, "labels", "--from", tmp_path / "rooms.csv") == 0
    called = capsys.readouterr()
    assert called.err.startswith("all 2 classes are things: a column kind says which are stuff")
    assert called.err.count("\n") == 1 and json.loads(called.out)["name"] == "rooms"
    (tmp_path / "rooms.csv").write_text("name,kind\nwall,stuff\nchair,thing\n")
    assert run(monkeypatch, "labels", "--from", tmp_path / "rooms.csv") == 0
    assert capsys.readouterr().err == ""


def test_a_path_that_cannot_be_is_told_so(monkeypatch, capsys):
    assert run(monkeypatch, "check", "a" * 300) == 2
    assert "File name too long; name another path" in capsys.readouterr().err


@pytest.mark.parametrize("model_too", [True, False])
def test_train_with_an_unknown_label_set(tmp_path, monkeypatch, capsys, model_too):
    options = ["--data.root", "ANY", "--data.label-set", "rooms7", "--out", tmp_path / "x"]
    options += ["--model.label-set", "rooms7"] if model_too else []
    assert run(monkeypatch, "train", "oneformer3d_small", *options) == 2
    told = capsys.readouterr().err
    assert "scannet20, scannet200, nyu40, s3dis, scannetpp100, replica" in told
    assert told.count("\n") == 1 and not (tmp_path / "x").exists()


def test_a_label_set_that_the_data_overrule_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "labels.json").write_text(labels_text(ROOMS7))
    asked = ("train", "oneformer3d_small", "--data.root", tmp_path, "--print-config")
    assert run(monkeypatch, *asked) == 0
    assert run(monkeypatch, *asked, "--data.label_set", ROOMS7.name) == 0
    capsys.readouterr()
    assert run(monkeypatch, *asked, "--data.label-set=nyu40") == 2
    told = capsys.readouterr().err
    assert f"--data.label-set nyu40: {tmp_path / 'labels.json'} states the classes" in told


def run(monkeypatch, *args) -> int:
    monkeypatch.setattr(sys, "argv", ["bifusion", *map(str, args)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


# --------------------------------------------------------------------------- in configurations


def test_a_configuration_keeps_the_set_whole(tmp_path):
    (tmp_path / "labels.json").write_text(labels_text(ROOMS7))
    config = get_recipe("bifusion_small")
    config.data = with_labels(dataclasses.replace(config.data, root=tmp_path))
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))).labels == ROOMS7


def test_configurations_of_earlier_versions_load():
    config = get_recipe("oneformer3d_scannet200")
    stored = config_to_dict(config)
    del stored["data"]["labels"]
    stored["model"]["label_set"] = "scannet200"
    loaded = config_from_dict(update_config(stored))
    assert loaded.data.labels == LABEL_SETS["scannet200"] and loaded.model == config.model
    assert update_config(config_to_dict(config)) == config_to_dict(config)


IDS = LabelSet.of("rooms", ("wall", "floor", "chair"), source_ids=(3, 7, 40), stuff_classes=(0, 1))


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        ([3, 40, -1, 0], "they are ids of the classes: replace each by its position"),
        ([1, 2, 3], "subtract 1, if they count from 1"),
        ([0, 1, 2, 3], "subtract 1, if they count from 1"),
        ([0, 1, 255], "255 marks points without a class elsewhere: write -1"),
        ([3, 7, -100], "-100 marks .*: write -1 in its place; they are ids"),
        ([0, 5], "map them to positions first"),
    ],
)
def test_labels_that_are_no_positions_are_told_what_they_are(found, advice):
    with pytest.raises(InputError, match=advice) as told:
        check_labels(np.array(found), IDS, "segment.npy")
    assert ("subtract" in str(told.value)) == ("subtract" in advice)
    assert ("ids of" in str(told.value)) == ("ids" in advice)
