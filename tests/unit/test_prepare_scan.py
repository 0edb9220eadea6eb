"""Scene folders of many inputs: in processes, resumably, in shards."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import room_meshes as rooms
from bifusion.data.scene_folder import scene_complete
from bifusion.datasets.processes import Died, run_in_processes
from bifusion.datasets.scan.options import ScanOptions
from bifusion.datasets.scan.prepare import prepare_scan, prepare_scans
from bifusion.datasets.shards import Shard, locked_shard, parse_shard
from bifusion.errors import InputError


def test_prepare_takes_many_and_names_what_failed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        rooms.write_ply(tmp_path / f"{name}.ply", rooms.room_mesh(0.1))
    (tmp_path / "cut.ply").write_bytes((tmp_path / "one.ply").read_bytes()[:2000])
    paths = [tmp_path / f"{name}.ply" for name in ("one", "cut", "two")]
    out = tmp_path / "out"
    told: list[int] = []
    first = prepare_scans(
        paths, out, ScanOptions(), jobs=2, done=lambda so_far, count: told.append(count)
    )
    assert sorted(first.written) == ["one", "two"] and "cut.ply" in first.failed["cut"]
    assert told == [3, 3, 3] and all(scene_complete(out / name) for name in ("one", "two"))
    second = prepare_scans(paths, out, ScanOptions())
    assert sorted(second.kept) == ["one", "two"] and list(second.failed) == ["cut"]
    shards = [
        prepare_scans(paths, tmp_path / "shards", ScanOptions(), shard=Shard(k, 2)) for k in (1, 2)
    ]
    assert [list(one.written) for one in shards] == [["one", "two"], []]
    with pytest.raises(InputError, match="both become scene one"):
        prepare_scans([paths[0], tmp_path / "one.obj"], out, ScanOptions())


def test_prepare_keeps_no_scene_of_another_input(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        rooms.write_ply(tmp_path / folder / "room.ply", rooms.room_mesh(0.2))
    first, second = (tmp_path / folder / "room.ply" for folder in ("first", "second"))
    out = tmp_path / "out"
    assert prepare_scan(str(first), str(out / "room"))  # pyright: ignore[reportArgumentType]
    assert prepare_scans([first], out, ScanOptions()).kept == ["room"]
    for path, options in ((second, ScanOptions()), (first, ScanOptions(up="z"))):
        again = prepare_scans([path], out, options)
        words = again.failed["room"]
        assert "is there already" in words and f"made of {first}" in words and "--overwrite" in words
        assert f"one made of {path}" in words and not again.kept and not again.written
    written = prepare_scans([second], out, ScanOptions(up="z"), overwrite=True)
    assert list(written.written) == ["room"]
    assert prepare_scans([second], out, ScanOptions(up="z")).kept == ["room"]
    with pytest.raises(InputError, match="jobs: found 0"):
        prepare_scans([first], out, ScanOptions(), jobs=0)


def called(task: Callable[[], object]) -> object:
    return task()


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_happens_to_one_process_happens_to_no_other(jobs: int) -> None:
    dead, crashed = partial(signal.raise_signal, signal.SIGKILL), partial(int, "no number")
    outcomes = dict(run_in_processes(called, [dead, crashed, partial(list, ["fine"])], jobs))
    assert outcomes == {0: Died(-signal.SIGKILL), 1: Died(1), 2: ["fine"]}
    assert str(outcomes[0]) == "was killed by SIGKILL, as for want of memory"
    assert "ended with status 1, by an error of the software" in str(outcomes[1])


def test_shards() -> None:
    assert parse_shard("2/4") == Shard(2, 4)
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "²/3"):
        with pytest.raises(InputError, match="shard"):
            parse_shard(text)


def hold(out: Path, shard: Shard, end: Connection) -> None:
    """Holds a shard's lock until it is told something."""
    with locked_shard(out, shard):
        end.send("held")
        end.recv()


@pytest.mark.parametrize(
    ("held", "free", "refused"),
    [
        ("1/2", ["2/2"], {"1/2": "is writing here", "2/3": "writing shard 1/2", "1/1": "is writing"}),
        ("1/1", [], {"1/2": "is writing here", "1/1": "is writing here"}),
    ],
)
def test_shards_that_share_inputs_exclude_each_other(
    held: str, free: list[str], refused: dict[str, str], tmp_path: Path
) -> None:
    processes = multiprocessing.get_context("forkserver")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=hold, args=(tmp_path, parse_shard(held), theirs))
    process.start()
    assert ours.recv() == "held"
    for text in free:
        with locked_shard(tmp_path, parse_shard(text)):
            pass
    for text, words in refused.items():
        with pytest.raises(InputError, match=words), locked_shard(tmp_path, parse_shard(text)):
            pass
    ours.send("end")
    process.join()
    for text in (held, *free, *refused):  # locks go with their process
        with locked_shard(tmp_path, parse_shard(text)):
            pass
