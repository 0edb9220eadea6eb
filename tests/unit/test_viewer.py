"""What the page shows of scene folders and predictions, and how it is packed; without a browser."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import shutil
import socket
import struct
import threading
import zlib

import numpy as np
import pytest

from bifusion.cli import main
from bifusion.data.view_files import load_cameras
from bifusion.datasets.ply.mesh import Mesh
from bifusion.errors import InputError
from bifusion.inference.export import write_result
from bifusion.labels.label_set import LabelSet
from bifusion.labels.sets import SCANNET20
from bifusion.types import SceneResult
from bifusion.viewer.packing import pack
from bifusion.viewer.page import content_policy, is_own_page, render_view
from bifusion.viewer.prediction import open_scan, show_prediction
from bifusion.viewer.scene import show_scene
from bifusion.viewer.serve import page_server
from bifusion.viewer.shown_scan import ShownScan, segmentation, shown_classes
from scene_factory import make_tiny_scene

ROOM = LabelSet.of("room", ("wall", "Stühle 机"), stuff_classes=(0,))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_tiny_scene(tmp_path_factory.mktemp("data") / "val" / "room", num_views=3)


def write_prediction(folder, coord, labels=SCANNET20, thing=4):
    """One object of class `thing` on the first half of the points, wall on the others."""
    inside = np.arange(len(coord)) < len(coord) // 2
    semantic = np.where(inside, thing, 0).astype(np.int16)
    result = SceneResult(
        name="room",
        num_points=len(coord),
        masks=np.packbits(inside[None], axis=1),
        labels=np.array([thing], np.int16),
        scores=np.array([0.75], np.float32),
        semantic=semantic,
        panoptic_semantic=semantic,
        panoptic_instance=np.where(inside, 0, -1).astype(np.int32),
    )
    write_result(folder, result, coord, labels)
    return folder


def unpacked(described, content):
    """The columns, by the description alone."""
    raw, count, columns = np.frombuffer(zlib.decompress(content), np.uint8), described["points"], {}
    for name, width in described["columns"]:
        planes, raw = raw[: width * count].reshape(width, count), raw[width * count :]
        differences = sum(planes[k].astype(np.uint64) << np.uint64(8 * k) for k in range(width))
        columns[name] = np.cumsum(differences) % 256**width
    assert len(raw) == 0
    return columns


def test_a_packed_scan_holds_every_point_and_what_belongs_to_it():
    rng = np.random.default_rng(0)
    coord = rng.uniform(-3, 400, (700, 3))
    instance = rng.choice([-1, *range(0, 4000, 11)], 700)  # more than a byte of objects
    semantic = rng.integers(-1, 2, 700)
    scan = ShownScan(
        name="hall", coord=coord, color=rng.integers(0, 256, (700, 3), dtype=np.uint8),
        classes=shown_classes(ROOM), predicted=segmentation(coord, semantic, instance),
        seen=rng.integers(0, 300, 700),
    )  # fmt: skip
    described, content, faces = pack(scan)
    assert faces is None and described["faces"] == 0
    columns = unpacked(described, content)
    steps = np.column_stack([columns[axis] for axis in "xyz"]).astype(float)
    found = np.array(described["low"]) + steps / 65535 * np.array(described["size"])
    nearest = np.abs(found[:, None] - coord[None]).max(axis=2).argmin(axis=1)
    assert sorted(nearest) == list(range(700))
    assert np.abs(found - coord[nearest]).max() <= 403 / 65535 / 2 * 1.001
    assert np.array_equal(np.column_stack([columns[c] for c in "rgb"]), scan.color[nearest])
    assert np.array_equal(columns["predicted_class"], semantic[nearest] + 1)
    assert np.array_equal(columns["seen"], np.minimum(scan.seen, 255)[nearest])
    ids = np.array([-1, *(one["id"] for one in described["sources"]["predicted"]["objects"])])
    assert np.array_equal(ids[columns["predicted_object"].astype(int)], instance[nearest])
    json.dumps(described, allow_nan=False)


def test_a_scan_far_away_is_told_from_its_corner():
    coord = np.array([[5e5, 4e6, 12], [5e5 + 1, 4e6 + 2, 15.0]])
    parts = segmentation(coord, np.zeros(2, int), np.zeros(2, int))
    described, *_ = pack(ShownScan("far", coord, None, shown_classes(ROOM), predicted=parts))
    assert described["origin"] == coord[0].tolist() and described["low"] == [0, 0, 0]
    (one,) = described["sources"]["predicted"]["objects"]
    assert (one["low"], one["high"]) == ([0, 0, 0], [1, 2, 3])


@pytest.mark.parametrize("far_m", [50.0, 1e5])
def test_a_stray_point_leaves_the_others_where_they_are(far_m):
    """Positions are steps of the scan's box: of one to a point 100 km away they would be 1.5 m."""
    rng = np.random.default_rng(0)
    coord = rng.uniform((0, 0, 0), (6, 5, 3), (500, 3))
    coord[7] = (far_m, 1, 1)
    faces = np.array([[0, 1, 2], [3, 4, 7]])
    described, content, packed = pack(ShownScan("room", coord, None, faces=faces))
    columns = unpacked(described, content)
    shown = described["low"] + np.stack([columns[a] for a in "xyz"], 1) / 65535 * described["size"]
    there = np.array([np.linalg.norm(shown - point, axis=1).min() for point in coord])
    assert np.delete(there, 7).max() < 0.005
    moved = far_m > 1000
    assert (there[7] > 1) == moved
    assert packed is not None and packed.count == (1 if moved else 2)
    note = "1 point lies far from the rest, shown at its border."
    assert described["notes"] == [note] * moved


def test_an_object_has_its_box_its_points_and_its_commonest_class():
    coord = np.array([[0, 0, 0], [1, 2, 0], [1, 1, 3], [9, 9, 9.0]])
    found = segmentation(coord, np.array([1, 1, 0, 0]), np.array([7, 7, 7, -1]), scores={7: 0.5})
    (one,) = found.objects
    assert (one.id, one.label, one.num_points, one.score) == (7, 1, 3, 0.5)
    assert (one.low_m, one.high_m) == ((0, 0, 0), (1, 2, 3))
    assert segmentation(coord, np.zeros(4, int), np.full(4, -1)).objects == ()


def test_a_scene_folder_is_shown_with_annotation_and_views(scene):
    shown = show_scene(scene)
    assert shown.name == "room" and shown.predicted is None and shown.notes == ()
    assert [one.name for one in shown.classes] == list(SCANNET20.class_names)
    assert {shown.classes[one.label].name for one in shown.annotated.objects} == {"table", "chair"}
    assert [view.name for view in shown.views] == load_cameras(scene).names
    assert all(view.thumbnail[:2] == b"\xff\xd8" for view in shown.views)
    assert shown.seen.max() <= 3 and 0.3 < (shown.seen > 0).mean() < 1


def test_damage_is_told_on_the_page_and_the_rest_is_shown(scene, tmp_path):
    folder = shutil.copytree(scene, tmp_path / "val" / "room")
    (folder / "views" / "00001.jpg").write_bytes(b"no picture")
    np.save(folder / "segment20.npy", np.full(3, 99))
    stored = dict(np.load(folder / "views" / "cameras.npz"))
    stored["depth_cam2world"][2] = np.linalg.inv(stored["depth_cam2world"][2])
    stored["color_cam2world"][2] = stored["depth_cam2world"][2]
    np.savez(folder / "views" / "cameras.npz", **stored)
    shown = show_scene(folder)
    assert shown.annotated is None and [view.name for view in shown.views] == ["00000", "00002"]
    assert [view.warning is None for view in shown.views] == [True, False]
    annotation, unreadable, inverted = shown.notes
    assert "segment20.npy" in annotation and "00001.jpg" in unreadable
    assert "View 00002" in inverted and "inverted" in inverted
    shutil.rmtree(folder / "views")
    shutil.copytree(scene / "views", folder / "views")
    (folder / "views" / "cameras.npz").write_bytes(b"none")
    assert "No views are shown" in show_scene(folder).notes[1]
    with pytest.raises(InputError, match="coord.npy"):
        (folder / "coord.npy").write_bytes(b"none")
        show_scene(folder)


def test_a_prediction_is_shown_alone_and_with_its_scene(scene, tmp_path):
    coord = np.load(scene / "coord.npy")
    folder = write_prediction(tmp_path / "out", coord)
    alone, whole = open_scan(folder), open_scan(folder, scene)
    assert alone.color is None and alone.annotated is None and alone.views == ()
    assert whole.color is not None and len(whole.annotated.objects) == 2 and len(whole.views) == 3
    for shown in (alone, whole):
        (one,) = shown.predicted.objects
        assert (shown.classes[one.label].name, one.num_points) == ("chair", len(coord) // 2)
        assert one.score == pytest.approx(0.75)
        assert np.array_equal(shown.coord, coord)
    mesh = Mesh(coord, np.zeros((len(coord), 3), np.uint8), np.array([[0, 1, 2]]))
    with_color = show_prediction(folder, mesh=mesh)
    assert with_color.faces is mesh.faces and alone.faces is None
    assert with_color.color is not None and with_color.annotated is None


def test_classes_have_their_own_colours_predicted_or_not(scene, tmp_path):
    folder = write_prediction(tmp_path / "out", np.load(scene / "coord.npy"))
    shown = show_prediction(folder, scene)
    assert [one.color for one in shown.classes] == [one.color for one in SCANNET20.classes]


def test_annotation_of_other_classes_is_left_out_and_said(scene, tmp_path):
    folder = write_prediction(tmp_path / "out", np.load(scene / "coord.npy"), ROOM, thing=1)
    shown = open_scan(folder, scene)
    assert shown.annotated is None and "scannet20" in shown.notes[0]
    assert [one.name for one in shown.classes] == ["wall", "Stühle 机"]


def test_what_cannot_be_shown_is_named(scene, tmp_path):
    folder = write_prediction(tmp_path / "out", np.load(scene / "coord.npy")[:-1])
    other = make_tiny_scene(tmp_path / "val" / "other", num_views=0)
    for path, of, said in (
        (tmp_path / "nowhere", None, "no such folder"),
        (tmp_path, None, "is no scene folder but holds some: val/other"),
        (scene, other, "is a scene folder itself"),
        (folder, scene, "the prediction is of"),
    ):
        with pytest.raises(InputError, match=said):
            open_scan(path, of)
    for name, content in (
        ("instances.json", "[]"),
        ("instances.json", "{"),
        ("instance.ply", "ply\nformat ascii 1.0\nelement vertex 0\nend_header\n"),
        ("semantic.ply", "nothing"),
    ):
        broken = shutil.copytree(folder, tmp_path / "broken", dirs_exist_ok=True)
        (broken / name).write_text(content)
        with pytest.raises(InputError, match=name):
            open_scan(broken)
    with pytest.raises(InputError, match="finite"):
        ShownScan("x", np.array([[0, np.nan, 0]]), None)
    with pytest.raises(InputError, match="triangles join points 0 … 3, but there are 2"):
        ShownScan("x", np.zeros((2, 3)), None, faces=np.array([[0, 1, 3]]))
    with pytest.raises(InputError, match="color of 2 points"):
        ShownScan("x", np.zeros((1, 3)), np.zeros((2, 3), np.uint8))


def test_the_command_writes_a_page_whole_or_not_at_all(scene, tmp_path, monkeypatch, capsys):
    page = tmp_path / "new" / "room.html"
    for args, status in (
        ([scene, "--html", page], 0),
        ([scene, "--html", tmp_path], 2),
        ([tmp_path / "nowhere", "--html", page], 2),
        ([scene, "--port", 65536], 2),
    ):
        monkeypatch.setattr("sys.argv", ["bifusion", "view", *map(str, args)])
        with pytest.raises(SystemExit, match=str(status)):
            main()
    assert page.read_text() == render_view(show_scene(scene))
    assert [path.name for path in page.parent.iterdir()] == ["room.html"]
    told = capsys.readouterr()
    assert "is a folder" in told.err and "no such folder" in told.err and "65536" in told.err


def test_the_server_answers_this_machine_alone():
    with page_server("<p>page</p>", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port

        def ask(method: str, path: str, host: str) -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(method, path, headers={"Host": host})
            answer = connection.getresponse()
            found = answer.status, answer.read()
            connection.close()
            return found

        assert ask("GET", "/", f"127.0.0.1:{port}") == (200, b"<p>page</p>")
        assert ask("HEAD", "/", f"localhost:{port}") == (200, b"")
        assert ask("GET", "/../etc/passwd", f"localhost:{port}")[0] == 404
        assert ask("GET", "/", f"stranger.example:{port}")[0] == 404
        with pytest.raises(InputError, match=f"--port {port}: cannot be had"):
            page_server("", port)
        server.shutdown()


def test_a_served_page_runs_no_script_but_ours(scene):
    page = render_view(show_scene(scene))
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    with page_server("<script>alert(1)</script>", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request("GET", "/")
        policy = connection.getresponse().headers["Content-Security-Policy"]
        connection.close()
        server.shutdown()
    assert f"default-src 'none'; script-src 'sha256-{digest}';" in policy and f'"{policy}"' in page
    assert is_own_page(page)


def test_a_tab_closed_while_it_loads_is_no_error(monkeypatch):
    with page_server("x" * 50_000_000, 0) as server:
        done, failures, end = threading.Event(), [], server.shutdown_request
        monkeypatch.setattr(server, "handle_error", lambda *request: failures.append(request))
        monkeypatch.setattr(server, "shutdown_request", lambda request: (end(request), done.set()))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as tab:
            tab.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            tab.recv(100)
            tab.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert done.wait(60) and failures == []
        server.shutdown()


def test_what_scan_wrote_is_served_as_it_lies_there_if_it_is_ours(tmp_path, bifusion):
    (tmp_path / "scan.json").write_text('{"versions": {}}')
    (tmp_path / "view.html").write_text(f"<!-- {content_policy()} --><script>alert(1)</script>")
    called = bifusion("view", tmp_path, "--scene", tmp_path)
    assert called.status == 2 and "--scene does not go with what `bifusion scan` wrote" in called.err
    for options in ((), ("--html", tmp_path / "page.html")):
        called = bifusion("view", tmp_path, *options)
        assert called.status == 2 and "is not of this version" in called.err
    assert not (tmp_path / "page.html").exists()


def test_classes_that_nothing_names_are_told(scene, tmp_path):
    folder = shutil.copytree(scene, tmp_path / "val" / "room")
    for name in ("segment20", "segment200"):
        (folder / f"{name}.npy").replace(folder / "segment.npy")
    shown = show_scene(folder)
    assert shown.annotated is None
    assert shown.notes == ("The annotation is not shown: nothing says the classes of segment.npy.",)
