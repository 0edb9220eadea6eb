"""Asks SLURM to start a job again that it warned or ended before its run was done."""

from __future__ import annotations

import os
import re
import subprocess

ASKING = ("SIGUSR1", "SIGTERM")
"""Signals after which a saved run is to go on in a new start of its job."""
SECONDS = 30.0


def signal_of(reason: str | None) -> str | None:
    """The signal that a run's status gives as the reason of its end; None: another reason."""
    found = re.fullmatch(r"received (SIG\w+)", reason or "")
    return found[1] if found else None


def requeue(signal_name: str | None) -> str | None:
    """Requeues this process's job after a signal, and says what came of it; None where that is not asked
    for: another signal, no job of SLURM's, one that may not be requeued (`sbatch --requeue`), or that
    its user has cancelled. To be called by the first process, after the run has been saved.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if signal_name not in ASKING or job is None:
        return None
    try:
        told = _scontrol("show", "job", job, "--oneliner")
    except (OSError, subprocess.SubprocessError) as error:
        return f"job {job} is not started again: SLURM does not answer ({_shown(error)})"
    state = re.search(r"\bJobState=(\w+)", told)
    if not re.search(r"\bRequeue=1\b", told) or (state is not None and state[1] == "CANCELLED"):
        return None
    try:
        _scontrol("requeue", job)
    except (OSError, subprocess.SubprocessError) as error:
        return f"job {job} is not started again: SLURM refuses it ({_shown(error)})"
    return f"job {job} is queued again and will go on"


def _scontrol(*args: str) -> str:
    done = subprocess.run(
        ["scontrol", *args], capture_output=True, text=True, check=True, timeout=SECONDS
    )
    return done.stdout


def _shown(error: Exception) -> str:
    told = getattr(error, "stderr", None)
    return told.strip() if isinstance(told, str) and told.strip() else str(error)
