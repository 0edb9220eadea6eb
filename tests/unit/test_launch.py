"""The batch file with which a cluster trains on several machines."""

import shlex
import subprocess

import pytest

TRAIN = ["oneformer3d_small", "--data.root", "data/my rooms", "--trainer.workers", "3"]


def test_the_file_asks_for_what_the_run_needs(bifusion):
    called = bifusion("launch", "--slurm", *TRAIN, "--nodes", 2, "--devices=4", "--time", "8:00:00")
    assert called.status == 0, called.err
    settings = [line.removeprefix("#SBATCH ") for line in called.out.splitlines() if "#SBATCH" in line]
    for setting in (
        "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=4", "--time=8:00:00",
        "--signal=USR1@180", "--requeue", "--open-mode=append",
    ):  # fmt: skip
        assert setting in settings
    command = shlex.split(called.out.splitlines()[-1])
    assert command[:3] == ["srun", "--cpus-per-task=4", "--kill-on-bad-exit=1"]
    assert command[4:7] == ["-m", "bifusion", "train"] and command[7:12] == TRAIN
    assert command[12:] == ["--trainer.devices", "4", "--trainer.nodes", "2", "--resume"]
    assert subprocess.run(["bash", "-n"], input=called.out, text=True).returncode == 0


def test_what_a_cluster_asks_for_besides_is_handed_on(bifusion):
    given = ("--account", "me", "--mem=64G", "--qos", "long", "--constraint", "a100")
    called = bifusion("launch", "--slurm", *TRAIN, *given, "--time", "2-0", "--warning", 3600)
    for setting in ("account=me", "mem=64G", "qos=long", "constraint=a100", "time=2-0"):
        assert f"#SBATCH --{setting}\n" in called.out, called.err


def test_without_gpus_none_are_asked_for(bifusion):
    called = bifusion("launch", *TRAIN, "--slurm", "--trainer.accelerator", "cpu", "--devices", 2)
    assert called.status == 0, called.err
    assert "gpus" not in called.out and "--trainer.nodes" not in called.out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([*TRAIN], "Expected --slurm"),
        (["--slurm", *TRAIN, "--nodes", "0"], "nodes: found 0"),
        (["--slurm", *TRAIN, "--trainer.epoch", "3"], "option --trainer.epoch is unknown"),
        (["--slurm", *TRAIN, "--trainer.devices", "3"], "--trainer.devices is given by"),
        (["--slurm", *TRAIN, "--resume"], "--resume is given by"),
        (["--slurm", "--seed", "3"], "--seed before the recipe"),
        (["--slurm", "bifusion_tiny", "--trainer.epochs", "2"], "the plan has 3 stages"),
        (["--slurm", *TRAIN, "--trainer.batch-size", "0"], "trainer.batch_size"),
        (["--slurm", *TRAIN, "--time", "8h"], "time: found '8h'"),
        (["--slurm", *TRAIN, "--time", "2:30"], "expected less than the time, 150 seconds"),
        (["--slurm", *TRAIN, "--warning", "70000"], "and than 65536"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_queued(bifusion, args, words):
    called = bifusion("launch", *args)
    assert called.status == 2 and words in called.err and called.out == ""
