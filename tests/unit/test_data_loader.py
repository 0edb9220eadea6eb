"""Loader: the same batches from any number of workers, resuming, and errors that keep their message."""

import functools
import gc
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bifusion.data.dataset import DataConfig, SceneDataset
from bifusion.data.loader import _workers_of, make_loader
from bifusion.data.workers import WorkerEndedError, heed_the_parent_alone
from bifusion.errors import InputError
from left_processes import left_running
from scene_factory import make_tiny_scene


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed in range(5):
        make_tiny_scene(folder / "train" / f"room{seed}", seed=seed, num_views=1)
    return folder


@pytest.fixture
def dataset(root):
    config = DataConfig(root=root, voxel_size_m=0.2, max_views=1, image_size=32)
    return SceneDataset(config, "train", seed=1, training=True)


@pytest.fixture
def many(tmp_path):
    """More scenes than workers load ahead: one that is killed leaves some of them unread, however long
    this process was kept waiting before."""
    for seed in range(12):
        make_tiny_scene(tmp_path / "train" / f"room{seed}", seed=seed, num_views=0)
    return SceneDataset(DataConfig(root=tmp_path, voxel_size_m=0.2), "train", seed=1, training=True)


def batches(dataset, *, epoch=0, workers=0, batch_size=2, shuffle=True):
    loader = make_loader(
        dataset, epoch=epoch, batch_size=batch_size, workers=workers, shuffle=shuffle, seed=1
    )
    result = list(loader)
    assert len(loader) == len(result)
    return result


def names(result):
    return [batch.names for batch in result]


def assert_same(left, right):
    assert names(left) == names(right)
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.voxel_feats, b.voxel_feats) and torch.equal(a.voxel_coords, b.voxel_coords)
        assert a.seeds == b.seeds and [v.name for v in a.views] == [v.name for v in b.views]
        assert all(torch.equal(v.image, w.image) for v, w in zip(a.views, b.views, strict=True))


def test_order_follows_from_seed_and_epoch(dataset):
    assert names(batches(dataset)) == names(batches(dataset))
    orders = {str(names(batches(dataset, epoch=epoch))) for epoch in range(6)}
    assert len(orders) > 3
    assert sorted(sum(names(batches(dataset)), [])) == dataset.names
    assert [len(n) for n in names(batches(dataset))] == [2, 2, 1]
    assert sum(names(batches(dataset, shuffle=False)), []) == dataset.names


def test_workers_change_nothing_over_epochs(dataset):
    for epoch in (0, 1):
        assert_same(batches(dataset, epoch=epoch), batches(dataset, epoch=epoch, workers=2))


def test_abandoned_epoch_does_not_leak_into_the_next(dataset):
    loader = make_loader(dataset, epoch=0, batch_size=1, workers=2, shuffle=True, seed=1)
    next(iter(loader))
    assert_same(batches(dataset, epoch=1, workers=2), batches(dataset, epoch=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_scene_keeps_its_message(dataset, tmp_path, workers):
    make_tiny_scene(tmp_path / "train" / "bad")
    (tmp_path / "train" / "bad" / "views" / "00001.png").unlink()
    config = DataConfig(root=tmp_path, voxel_size_m=0.2, max_views=2, image_size=32)
    broken = SceneDataset(config, "train", seed=1, training=False)
    with pytest.raises(InputError) as error:
        batches(broken, workers=workers)
    assert str(error.value).startswith(str(tmp_path / "train" / "bad" / "views" / "00001.png"))
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_global_generator_is_left_alone(dataset, workers):
    state = torch.get_rng_state()
    batches(dataset, workers=workers)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"workers": -1}])
def test_options_out_of_range(dataset, option):
    with pytest.raises(InputError, match=f"{next(iter(option))}: found"):
        batches(dataset, **option)


def worker_processes():
    gc.collect()  # those of earlier tests end with their dataset
    return [child for child in multiprocessing.active_children() if child.daemon]


def test_killed_worker_is_named_and_replaced(many):
    loader = make_loader(many, epoch=0, batch_size=1, workers=2, shuffle=True, seed=1)
    running = iter(loader)
    first = next(running)
    for worker in worker_processes():
        os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerEndedError) as error:
        list(running)
    assert re.search(
        r"data worker [12] of 2 \(process \d+\) was killed by SIGKILL, as the system does when memory "
        r"runs out; it had room\d.* to load. .*--trainer.workers",
        str(error.value),
    )
    assert not worker_processes()
    assert names([first]) + names(list(loader))[1:] == names(batches(many, batch_size=1))


def test_another_watch_on_workers_does_not_hide_the_name(many):
    """Torch sets one up, once in a process, and it raises wherever the program stands."""

    def torchs(number, frame):
        raise RuntimeError("DataLoader worker is killed by signal")

    running = iter(make_loader(many, epoch=0, batch_size=1, workers=2, shuffle=True, seed=1))
    next(running)
    kill_first_worker()
    previous = signal.signal(signal.SIGCHLD, torchs)
    try:
        with pytest.raises(WorkerEndedError, match="was killed by SIGKILL"):  # and ends the other
            list(running)
    finally:
        signal.signal(signal.SIGCHLD, previous)


def kill_first_worker():
    """When it returns the system has said that it ended."""
    worker = worker_processes()[0]
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)


def test_workers_that_die_at_once_are_all_reaped(many, monkeypatch):
    """Else the number of one stays among the living ones, and is killed at exit whoever has it then."""
    reap = os.waitpid

    def and_the_next_dies(pid, options):
        reaped = reap(pid, options)
        signal.raise_signal(signal.SIGCHLD)
        return reaped

    running = iter(make_loader(many, epoch=0, batch_size=1, workers=2, shuffle=True, seed=1))
    next(running)
    for worker in worker_processes():
        os.kill(worker.pid, signal.SIGKILL)
        multiprocessing.connection.wait([worker.sentinel])
    with monkeypatch.context() as patch:
        patch.setattr(os, "waitpid", and_the_next_dies)
        with pytest.raises(WorkerEndedError, match="worker 1 of 2 .* was killed by SIGKILL"):
            list(running)
    assert not worker_processes()


def test_a_worker_killed_with_a_lock_that_all_share_is_noticed(many):
    """That of the event by which torch ends workers: each takes it for a moment before each batch."""
    loader = make_loader(many, epoch=0, batch_size=1, workers=2, shuffle=True, seed=1)
    running = iter(loader)
    next(running)
    _workers_of(many, 2)[0]._iterator._workers_done_event._cond.acquire()  # and nobody gives it back
    os.kill(worker_processes()[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerEndedError, match="was killed by SIGKILL"):
        list(running)
    assert not worker_processes()


def test_workers_are_born_deaf_to_a_schedulers_sigterm(dataset, monkeypatch):
    """It may come before they have set themselves up."""
    late = functools.partial(set_up_late, heed_the_parent_alone)
    monkeypatch.setattr("bifusion.data.loader.heed_the_parent_alone", late)
    running = iter(make_loader(dataset, epoch=0, batch_size=1, workers=2, shuffle=True, seed=1))
    assert len(list(running)) == 5


class Garbage:
    """Only a collection of garbage finds it."""

    def __init__(self, folder):
        self.folder, self.itself = folder, self

    def __del__(self):
        (self.folder / str(os.getpid())).touch()


def test_workers_leave_the_garbage_of_their_parent_alone(dataset, tmp_path, monkeypatch):
    """A destructor that raises, as that of an older loader does in a fork, disturbed what was read."""
    sample = SceneDataset.sample

    def collecting(self, index, epoch):
        gc.collect()
        return sample(self, index, epoch)

    monkeypatch.setattr(SceneDataset, "sample", collecting)
    gc.collect()
    gc.disable()
    try:
        Garbage(tmp_path)
        assert len(batches(dataset, workers=1)) == 3
    finally:
        gc.enable()
    assert not list(tmp_path.iterdir())
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


def set_up_late(set_up, worker):
    subprocess.run(["kill", "-TERM", str(os.getpid())], check=True)
    time.sleep(0.2)
    set_up(worker)


def test_worker_killed_between_epochs_is_named(dataset):
    assert batches(dataset, workers=2)
    os.kill(worker_processes()[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerEndedError, match="was killed by SIGKILL"):
        batches(dataset, workers=2, epoch=1)
    assert_same(batches(dataset, workers=2, epoch=1), batches(dataset, epoch=1))


def test_worker_killed_in_the_middle_of_sending_is_noticed(dataset, monkeypatch):
    """What it has sent of a batch stays in the pipe: reading on would wait for ever."""

    def send_half(self, index, epoch):
        reached_pipe = multiprocessing.current_process()
        threading.Timer(0.3, os.kill, (reached_pipe.pid, signal.SIGKILL)).start()
        return np.zeros(2**28, np.uint8)

    monkeypatch.setattr(SceneDataset, "sample", send_half)
    with pytest.raises(WorkerEndedError, match="worker 1 of 1 .* was killed by SIGKILL"):
        batches(dataset, workers=1)


def test_a_dead_worker_disturbs_nothing_else_than_waiting(dataset):
    """Torch would raise an error here, in the middle of whatever is done with the batch."""
    running = iter(make_loader(dataset, epoch=0, batch_size=1, workers=1, shuffle=True, seed=1))
    next(running)
    os.kill(worker_processes()[0].pid, signal.SIGKILL)
    time.sleep(0.1)
    with pytest.raises(WorkerEndedError):
        list(running)


def test_ctrl_c_of_the_terminal_leaves_workers_alone(dataset):
    """It reaches every process; the parent decides, and may need what they are loading."""
    running = iter(make_loader(dataset, epoch=0, batch_size=1, workers=2, shuffle=True, seed=1))
    next(running)
    for worker in worker_processes():
        os.kill(worker.pid, signal.SIGINT)
    assert len(list(running)) == 4


def test_a_schedulers_sigterm_leaves_workers_alone(dataset):
    """It too reaches every process. The parent's own ends them, as at its exit."""
    running = iter(make_loader(dataset, epoch=0, batch_size=1, workers=2, shuffle=True, seed=1))
    next(running)
    workers = worker_processes()
    subprocess.run(["kill", "-TERM", *(str(worker.pid) for worker in workers)], check=True)
    time.sleep(0.2)
    assert len(list(running)) == 4 and all(worker.is_alive() for worker in workers)
    workers[0].terminate()
    workers[0].join(timeout=300)
    assert not workers[0].is_alive()
    with pytest.raises(WorkerEndedError, match="worker [12] of 2 .* ended with status 1"):
        batches(dataset, workers=2, epoch=1)


def load_for_ever(dataset, tell):
    """In a process of its own: tells the numbers of its workers, and takes no more of their batches."""
    running = iter(make_loader(dataset, epoch=0, batch_size=1, workers=2, shuffle=True, seed=1))
    next(running)
    tell.send([worker.pid for worker in worker_processes()])
    time.sleep(600)


def test_workers_of_a_killed_process_end(dataset):
    """With batches that nobody will read, more than a pipe holds."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([])  # conftest.py says which
    heard, tell = processes.Pipe(duplex=False)
    process = processes.Process(target=load_for_ever, args=(dataset, tell))
    process.start()
    workers = heard.recv()
    time.sleep(0.2)
    process.kill()
    process.join()
    assert len(workers) == 2 and left_running(workers, 60) == [], "they would wait for ever"


def test_a_signal_waits_until_all_workers_have_started(dataset, monkeypatch):
    """Torch could not clean up otherwise, and would leave the ones that have."""
    start, order = multiprocessing.Process.start, []

    def start_and_signal(self):
        start(self)
        order.append("started")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(multiprocessing.Process, "start", start_and_signal)
    previous = signal.signal(signal.SIGTERM, lambda number, frame: order.append("signal"))
    try:
        assert len(batches(dataset, workers=2)) == 3
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert order[:2] == ["started", "started"] and "signal" in order


def test_a_worker_that_only_starts_as_its_process_leaves_says_nothing():
    """Its semaphores are gone then; it would print a traceback."""
    script = Path(__file__).parent.parent / "late_worker.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
