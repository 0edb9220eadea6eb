"""What `prepare scannet` refuses of a release, each with its message."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from bifusion.datasets.scannet.prepare import prepare_scannet
from bifusion.datasets.scannet.scan import read_label_table
from bifusion.datasets.scannet.views import ViewOptions
from bifusion.errors import InputError
from scannet_release import NAME, K, prepare, write_matrix, write_mesh


def fails(root, message, **changes):
    with pytest.raises(InputError, match=message):
        prepare(root, **changes)
    assert not (root / "out" / "train" / NAME).exists()


def test_scan_in_no_list(released):
    (released / "scannetv2_train.txt").write_text("scene0000_00\n")
    with pytest.raises(InputError, match=f"do not list {NAME}"):
        prepare(released, splits=released)
    (released / "scannetv2_train.txt").write_bytes(b"\xff\x00\x81")
    with pytest.raises(InputError, match="scannetv2_train.txt: is no text"):
        prepare(released, splits=released)


def test_scans_that_are_listed_but_not_there_are_told(released):
    absent = [f"scene{number:04d}_00" for number in (9, 8, 7, 6)]
    (released / "scannetv2_train.txt").write_text("\n".join([NAME, *absent]))
    (released / "scannetv2_val.txt").write_text(f"{NAME}\n")
    notes = {}
    prepare(released, splits=released, notes=notes)
    named = "scene0006_00, scene0007_00, scene0008_00 and 1 more"
    said = f"4 of 5 scans of the train list have no folder: {named}"
    assert notes == {"scannetv2_train.txt": [said]}


def test_mistyped_folders_and_tables_are_named(released, scan):
    fails(released, "nosuch: no such folder; expected one with scannetv2_", splits=released / "nosuch")
    fails(released, "none of the lists scannetv2_{train,val,test}.txt is there", splits=scan)
    (released / "one.json").write_text('{"a": 1}')
    fails(released, "has no row below its first, '{\"a\": 1}'", labels=released / "one.json")
    for scans, message in (
        (released, f"holds no scan, but the folder scans; give {scan.parent}$"),
        (released / "absent", "absent: no such folder; expected one folder a scan"),
        (scan, f"is one scan; give the folder that it lies in, {scan.parent}$"),
    ):
        with pytest.raises(InputError, match=message):
            prepare_scannet(scans, released / "out", labels=released / "labels.tsv")


def test_empty_folder_and_bad_frame_skip(released, tmp_path):
    (tmp_path / "empty" / "__MACOSX").mkdir(parents=True)
    with pytest.raises(InputError, match="empty: holds no scan"):
        prepare_scannet(tmp_path / "empty", tmp_path / "out", labels=released / "labels.tsv")
    for option, wrong in (("frame_skip", 0), ("long_side", -640), ("depth_scale", 0.0)):
        with pytest.raises(InputError, match=f"{option}: found {wrong}"):
            prepare(released, view_options=ViewOptions(**{option: wrong}))
    with pytest.raises(InputError, match="scale: found -1"):
        prepare(released, scale=-1.0)


@pytest.mark.parametrize(
    "ending", ["_vh_clean_2.ply", "_vh_clean_2.0.010000.segs.json", ".aggregation.json", ".txt"]
)
def test_missing_file(released, scan, ending):
    (scan / f"{NAME}{ending}").unlink()
    fails(released, f"{NAME}{ending}: missing")


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (0, "is empty"),
        (30, "no line 'end_header' within 30 bytes; the file is cut short"),
        (400, "18 × vertex of at least 16 bytes, but only"),
        (-20, "declares more than the file has"),
    ],
)
def test_truncated_mesh(released, scan, keep, words):
    mesh = scan / f"{NAME}_vh_clean_2.ply"
    mesh.write_bytes(mesh.read_bytes()[:keep])
    fails(released, f"_vh_clean_2.ply: .*{words}")


@pytest.mark.parametrize("ending", ["_vh_clean_2.0.010000.segs.json", ".aggregation.json"])
def test_truncated_annotation(released, scan, ending):
    path = scan / f"{NAME}{ending}"
    path.write_text(path.read_text()[:-9])
    fails(released, f"{NAME}{ending}: not valid JSON")
    path.write_text("{}")
    fails(released, f"{NAME}{ending}: has no 'seg")


@pytest.mark.parametrize("ending", [".txt", "_vh_clean_2.0.010000.segs.json", ".aggregation.json"])
def test_bytes_instead_of_text(released, scan, ending):
    (scan / f"{NAME}{ending}").write_bytes(b"\xff\x00\x81")
    fails(released, f"{NAME}{ending}: ")


@pytest.mark.parametrize(
    ("ending", "content", "message"),
    [
        ("_vh_clean_2.0.010000.segs.json", {"segIndices": [[1], 2]}, "segIndices is no list of whole"),
        ("_vh_clean_2.0.010000.segs.json", {"segIndices": [1.5] * 18}, "segIndices is no list of whole"),
        (".aggregation.json", {"segGroups": 3}, "segGroups is no list"),
        (".aggregation.json", {"segGroups": ["wall"]}, "has no 'label'"),
        (".aggregation.json", {"segGroups": [{"label": "wall"}]}, "has no 'segments'"),
        (
            ".aggregation.json",
            {"segGroups": [{"label": "wall", "segments": ["x"]}]},
            "object 0: segments is no list of whole",
        ),
        (".aggregation.json", {"segGroups": [{"label": ["wall"], "segments": [7]}]}, "is not in"),
    ],
)
def test_annotation_of_another_form(released, scan, ending, content, message):
    (scan / f"{NAME}{ending}").write_text(json.dumps(content))
    fails(released, f"{NAME}{ending}: .*{message}")


def test_mesh_without_colour(released, scan):
    write_mesh(scan / f"{NAME}_vh_clean_2.ply", np.zeros((18, 3)), colored=False)
    fails(released, "vertices lack red, green, blue")
    write_mesh(scan / f"{NAME}_vh_clean_2.ply", np.zeros((18, 3)), color_type="i2", color_step=1000)
    fails(released, "colours are stored as int16 from 0 to 17000; expected uchar")


def test_non_finite_vertex(released, scan):
    coord = np.zeros((18, 3))
    coord[4, 2] = np.inf
    write_mesh(scan / f"{NAME}_vh_clean_2.ply", coord)
    fails(released, "1 of 18 points have a coordinate that is not finite")


def test_counts_that_disagree(released, scan):
    path = scan / f"{NAME}_vh_clean_2.0.010000.segs.json"
    path.write_text(json.dumps({"segIndices": [1] * 17}))
    fails(released, "has 17 entries, but the mesh has 18 vertices")


def test_unknown_label_and_unknown_superpoint(released, scan):
    path = scan / f"{NAME}.aggregation.json"
    path.write_text(json.dumps({"segGroups": [{"label": "flux capacitor", "segments": [7]}]}))
    fails(released, "label 'flux capacitor' is not in .*labels.tsv; add a row")
    path.write_text(json.dumps({"segGroups": [{"label": "wall", "segments": [7, 8]}]}))
    fails(released, r"object 0 \(wall\) names superpoint 8, which segs.json has not")


def test_ids_of_rows_that_were_added_by_hand_may_have_blanks_and_zeros(tmp_path):
    path = tmp_path / "labels.tsv"
    path.write_text("id\traw_category\tnyu40id\n2 \tchair\t5 \n03\tfloor\t02\n\tnothing\t\n")
    table = read_label_table(path)
    assert table.classes["scannet20"] == {"chair": 4, "floor": 1, "nothing": -1} and not table.notes


def test_label_table_of_another_form(released):
    (released / "labels.tsv").write_text("raw_category,id\nwall,1\n")
    fails(released, "labels.tsv: has columns raw_category,id; expected id, nyu40id, raw_category")
    fails(released, "absent.tsv: no such file", labels=released / "absent.tsv")


def test_alignment_that_is_not_rigid(released, scan):
    (scan / f"{NAME}.txt").write_text(f"axisAlignment = {' '.join(['1.0'] * 16)}\n")
    fails(released, "axisAlignment: the pose is no rigid transform")
    (scan / f"{NAME}.txt").write_text("axisAlignment = 1 2 3\n")
    fails(released, "axisAlignment has 3 numbers; expected 16")


def test_bad_pose(released, posed):
    write_matrix(posed / "00010.txt", np.diag([2.0, 2, 2, 1]))
    fails(released, "00010.txt: the pose is no rigid transform")
    write_matrix(posed / "00010.txt", np.eye(3))
    fails(released, r"00010.txt: the pose has shape \(3, 3\)")
    (posed / "00010.txt").write_text("1 0 0\nnot a number 1\n")
    fails(released, "00010.txt: is no matrix of numbers")


def test_bad_intrinsics(released, posed):
    write_matrix(posed / "intrinsic.txt", np.eye(4)[:2])
    expected = "expected fx fy cx cy, a 3×3 or 4×4 matrix in a text file"
    fails(released, rf"intrinsic.txt: the intrinsics have shape \(2, 4\); {expected}")
    write_matrix(posed / "intrinsic.txt", K * [[2], [2], [1]])
    fails(released, "belong to another image size: cx = 63.0 in an image of 64×48")
    (posed / "intrinsic.txt").unlink()
    fails(released, "intrinsic.txt: missing")


def test_image_that_cannot_be_decoded_or_has_no_depth(released, posed):
    (posed / "00010.png").unlink()
    fails(released, "00010.png: the view has no depth")
    (posed / "00010.jpg").write_bytes(b"\xff\xd8\xff nothing")
    fails(released, "00010.jpg: cannot be decoded as an image")


def test_depth_of_another_shape_needs_its_own_intrinsics(released, posed):
    Image.fromarray(np.full((32, 32), 1500, np.uint16)).save(posed / "00000.png")
    fails(released, "00000.png: depth is 32×32 and colour 64×48 pixels.*intrinsic_depth.txt")


def test_scan_without_posed_images(released, posed):
    shutil.rmtree(posed)
    fails(released, f"{NAME}: no such folder; expected the scan's posed images")
    posed.mkdir()
    fails(released, f"{NAME}: holds no posed image")
