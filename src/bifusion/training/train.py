"""A configuration and a run folder to a finished run: what is checked before, and in what it trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bifusion.config.run import Config
from bifusion.data.dataset import with_labels
from bifusion.runs.check_config import check_config
from bifusion.runs.run_data import RunData, read_data, threads_of
from bifusion.runs.run_folder import RunFolder, RunStatus
from bifusion.runs.same_run import is_to_go_on
from bifusion.step.runtime import alone_in_process, as_launched, deterministic, make_fabric
from bifusion.torch_defaults import as_torch_trains
from bifusion.training.preconditions import check_folder
from bifusion.training.processes.agreement import require_agreement, starting_facts
from bifusion.training.trainer import OnEpoch, Trainer


@as_torch_trains()
def train(
    config: Config,
    run_dir: Path,
    *,
    resume: bool = False,
    accept_changes: bool = False,
    verify_data: bool = False,
    on_epoch: OnEpoch | None = None,
) -> RunStatus:
    """Trains `config` into `run_dir` and returns how it ended.

    `resume` goes on from the folder's last checkpoint (from the start if none was saved), with another
    configuration as far as `check_same_run` allows; a run that is finished is left as it is, unless
    more epochs are wanted. Scenes and versions must be those it began with; `accept_changes` records
    what is not. `verify_data` reads every file of the data first. `on_epoch` gets every epoch's record
    once the epoch is saved; what it raises ends the run, which goes on with `resume`.
    SIGINT and SIGTERM save and leave with state "interrupted", at once but for the moment in which
    weights change or are saved.

    Raises:
        InputError: the data has other classes than `config`; the folder holds another run, another
            process trains in it, this process trains another run, or none of its checkpoints is
            intact; bad data or a dead data worker (then the run is saved first).
        DiskFullError: no room for a checkpoint or a record; the last checkpoint is intact.
    """
    config = check_config(config)
    trainer = as_launched(config.trainer)
    config = dataclasses.replace(config, data=with_labels(config.data), trainer=trainer)
    folder = RunFolder(run_dir)
    with threads_of(read_data(folder.root) if resume else None):
        data = check_folder(folder, config, resume, accept=accept_changes, read=verify_data)
        return _train(config, folder, data, resume, on_epoch)


def _train(
    config: Config,
    folder: RunFolder,
    data: RunData,
    resume: bool,
    on_epoch: OnEpoch | None,
) -> RunStatus:
    status = folder.read_status() if resume else None
    if status is not None and status.is_over and not is_to_go_on(folder, config):
        return status
    fabric = make_fabric(config.trainer)
    require_agreement(lambda: starting_facts(config, data), "start")
    with alone_in_process(), deterministic(config.trainer.deterministic, fabric.device):
        return Trainer(config, folder, fabric, data).run(on_epoch)
