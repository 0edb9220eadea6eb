"""Which scenes make a batch, and which process gets which."""

from __future__ import annotations

import numpy as np
import pytest

from bifusion.data.dealing import deal, like_sized, scene_sizes, waiting_share
from bifusion.data.scene_source import SceneFolders
from bifusion.errors import InputError
from bifusion.training.preconditions import check_devices
from scene_factory import make_tiny_scene

SIZES = [int(size) for size in np.random.default_rng(0).lognormal(11, 0.6, 200)]


def test_the_largest_scenes_go_apart():
    assert deal([10, 9, 2, 1], 2) == [[0, 3], [1, 2]]
    assert deal([5, 5, 5, 5], 2) == [[0, 2], [1, 3]]
    assert deal([7], 3) == [[0], [], []]


@pytest.mark.parametrize("count", [1, 3, 4, 7, 8])
def test_every_scene_is_dealt_once_and_none_gets_more_than_its_share(count):
    for start in range(0, 160, 8):
        dealt = deal(SIZES[start : start + count], 4)
        assert sorted(place for places in dealt for place in places) == list(range(count))
        assert max(map(len, dealt)) == -(-count // 4)
        assert min(map(len, dealt)) >= (count >= 4)


def test_dealing_by_size_waits_less_than_dealing_by_turns():
    batches = [list(range(start, start + 16)) for start in range(0, 192, 16)]
    by_turns = [sum(max(sum(SIZES[i] for i in b[p::4]) for p in range(4)) for b in batches)]
    dealt = waiting_share(batches, SIZES, 4)
    total = sum(SIZES[i] for b in batches for i in b) / 4
    assert dealt < 0.04 < 0.2 < 1 - total / by_turns[0]


def test_like_sized_batches_hold_every_scene_once_and_wait_less():
    order = np.random.default_rng(1).permutation(200).tolist()
    dealt = like_sized(order, SIZES, 8, seed=3, epoch=2)
    assert sorted(dealt) == list(range(200)) and dealt == like_sized(order, SIZES, 8, 3, 2)
    assert sorted(dealt[:128]) == sorted(order[:128]) and dealt[200 // 8 * 8 :] == order[200 // 8 * 8 :]
    assert dealt != like_sized(order, SIZES, 8, seed=3, epoch=3)
    drawn, liked = ([o[i : i + 8] for i in range(0, 200, 8)] for o in (order, dealt))
    assert waiting_share(liked, SIZES, 8) < 0.15 < 0.4 < waiting_share(drawn, SIZES, 8)


def test_sizes_are_those_on_the_disk(tmp_path):
    """As scene.json says; of a foreign folder, as the array does; a damaged one waits for its error."""
    for index, name in enumerate(("a", "b", "c")):
        make_tiny_scene(tmp_path / name, seed=index)
    points = [len(np.load(tmp_path / name / "coord.npy")) for name in ("a", "b")]
    (tmp_path / "b" / "scene.json").unlink()
    (tmp_path / "c" / "scene.json").write_text("{")
    assert scene_sizes(SceneFolders(tmp_path, None, read_views=False)) == [*points, 1]


def test_more_processes_than_scenes_are_refused():
    check_devices(4, 4)
    with pytest.raises(InputError, match=r"is 8, more processes than the 4 scenes"):
        check_devices(4, 8)
