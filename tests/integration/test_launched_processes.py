"""A run of several processes, as torchrun and SLURM start them: shared out, watched, taken up again."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bifusion.config.run import save_config
from bifusion.inference.evaluate import evaluate_run
from bifusion.runs.trained_model import load_model
from bifusion.storage.json_files import to_json
from bifusion.training.processes.watch import ENDED_EXIT
from equality import same
from tiny_runs import make_tiny_data, tiny_config

TESTS = Path(__file__).resolve().parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SECONDS = 240


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """Three epochs of two steps on two processes; three scenes to validate on."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config("oneformer3d_small", make_tiny_data(folder / "rooms", train=4, val=3))
    config.trainer.devices, config.trainer.batch_size = 2, 1
    save_config(config, folder / "run.json")
    return folder / "run.json"


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    """The run, never interrupted, by torchrun."""
    run = tmp_path_factory.mktemp("whole") / "run"
    command = [*TORCHRUN, "-m", "bifusion", "train", str(config), "--out", str(run)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return run


def by_slurm(config: Path, run: Path, *options: str, broken: str = "", **more: str):
    """Exit status and stderr of two tasks that a step of SLURM's job 4711 would start."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tasks = {"NTASKS": 2, "STEP_NUM_TASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "NODEID": 0,
             "JOB_ID": 4711, "JOB_NAME": "run", "NODELIST": "127.0.0.1"}  # fmt: skip
    variables = {f"SLURM_{name}": str(value) for name, value in tasks.items()}
    if broken:
        more["BROKEN"] = broken
    command = [sys.executable, str(TESTS / "broken_process.py"), "train", str(config), "--resume"]
    started = [
        subprocess.Popen(
            [*command, "--out", str(run), *options],
            env=environment(
                **variables, SLURM_PROCID=rank, SLURM_LOCALID=rank, MASTER_PORT=str(port), **more
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=SECONDS)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], said


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_torchrun_trains_and_evaluates_with_the_figures_of_one_process(whole, tmp_path, monkeypatch):
    evaluation = json.loads((whole / "evaluation.json").read_text())
    alone = tmp_path / "run"
    shutil.copytree(whole, alone, symlinks=True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert to_json(evaluate_run(alone, device="cpu")) == evaluation
    finally:
        torch.set_num_threads(before)
    last = lines(whole / "epochs.jsonl")[-1]["val"]
    figures = ("miou", "ap", "ap50", "ap25", "pq", "iou")
    assert [last[name] for name in figures] == [evaluation["full"][name] for name in figures]
    written = sorted(path.name for path in (whole / "predictions").iterdir())
    assert written == ["roomval0.npz", "roomval1.npz"], "the first scenes, of both processes"


def test_warned_killed_and_taken_up_again_by_slurm_it_is_the_same_run(
    config, whole, tmp_path, monkeypatch
):
    """SLURM's warning in the first start, a process killed in the second, the rest in the third."""
    run, log, program = tmp_path / "run", tmp_path / "asked", tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\necho "JobState=RUNNING Requeue=1"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    statuses, said = by_slurm(config, run, broken="1 1 warn")
    assert statuses == [130, 130], said
    assert log.read_text().splitlines()[-1] == "requeue 4711" and "queued again" in said[0]
    assert json.loads((run / "status.json").read_text())["reason"] == "received SIGUSR1"

    statuses, said = by_slurm(config, run, broken="1 3 kill")
    assert statuses == [ENDED_EXIT, -signal.SIGKILL], said
    assert "rank 1 (" in said[0] and "is gone without a word" in said[0] and "it was at: " in said[0]
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "interrupted" and "rank 1 (" in status["reason"]

    statuses, said = by_slurm(config, run)
    assert statuses == [0, 0], said
    ours, theirs = (load_model(folder)[0].state_dict() for folder in (run, whole))
    assert same(ours, theirs)
    steps = [[step["losses"] for step in lines(folder / "steps.jsonl")] for folder in (run, whole)]
    assert steps[0] == steps[1] and len(steps[0]) == 6


@pytest.mark.slow
def test_a_process_that_hangs_ends_all_and_each_is_told_where_it_was(config, tmp_path):
    options = ("--trainer.hang-minutes", "0.25")
    statuses, said = by_slurm(config, tmp_path / "run", *options, broken="1 1 hang")
    assert statuses == [ENDED_EXIT, ENDED_EXIT], said
    for text in said:
        assert "the run hangs" in text and "rank 0 (" in text and "rank 1 (" in text
        assert "loading the batches of step 1" in text and "step 1, for" in text


@pytest.mark.slow
def test_a_full_disk_of_the_first_ends_the_others_naming_it(config, whole, tmp_path):
    run = tmp_path / "run"
    statuses, said = by_slurm(config, run, broken="0 1 full")
    assert statuses == [2, ENDED_EXIT], said
    assert "the disk is full" in said[0] and "Traceback" not in said[0]
    assert "rank 0 (" in said[1] and "the disk is full" in said[1]
    assert by_slurm(config, run)[0] == [0, 0]
    ours, theirs = (load_model(folder)[0].state_dict() for folder in (run, whole))
    assert same(ours, theirs)


@pytest.mark.slow
def test_another_configuration_in_one_process_ends_both_before_anything_is_trained(config, tmp_path):
    """Options that only the second task gets."""
    other = tmp_path / "other.json"
    stored = json.loads(config.read_text())
    stored["optim"]["lr"] = 0.5
    other.write_text(json.dumps(stored))
    link = tmp_path / "run.json"
    link.write_text(config.read_text())
    command = [*TORCHRUN, "--no-python", "sh", "-c"]
    choose = f"exec {sys.executable} -m bifusion train $([ $RANK = 1 ] && echo {other} || echo {link})"
    done = subprocess.run(
        [*command, f"{choose} --out {tmp_path / 'run'}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode != 0 and "optim.lr: rank 0 has" in done.stderr
    assert not (tmp_path / "run" / "steps.jsonl").exists()


@pytest.mark.slow
def test_torchrun_evaluates_a_run_of_one_process(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    (run / "evaluation.json").unlink()
    command = [*TORCHRUN, "-m", "bifusion", "evaluate", str(run)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert (run / "evaluation.json").read_text() == (whole / "evaluation.json").read_text()
