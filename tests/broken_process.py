"""The command line, in a process to which something happens as it comes to a step.

BROKEN="RANK STEP WHAT" in the environment says to which, when, and what: "kill" (SIGKILL), "warn"
(SIGUSR1, as SLURM sends it), "hang" while loading, "full" (a disk without room for the next checkpoint).
"""

import errno
import os
import signal
import time

from bifusion.cli import main
from bifusion.storage.files import full_disk_named
from bifusion.training import saving
from bifusion.training.trainer import Trainer

RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")


def happen(what: str) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "warn":
        os.kill(os.getpid(), signal.SIGUSR1)
    elif what == "hang":
        time.sleep(600)
    elif what == "full":
        saving.save_checkpoint = no_room


def no_room(folder, *args, **others):
    with full_disk_named(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def break_at(step: int, what: str) -> None:
    """Just before the batches of `step` are used."""
    prepare = Trainer._prepare

    def prepared(self, batches):
        if self.progress.step == step:
            happen(what)
        return prepare(self, batches)

    Trainer._prepare = prepared


if __name__ == "__main__":
    rank = next(os.environ[name] for name in RANKS if name in os.environ)
    of, at, wanted = os.environ.get("BROKEN", "-1 -1 nothing").split()
    if rank == of:
        break_at(int(at), wanted)
    main()
