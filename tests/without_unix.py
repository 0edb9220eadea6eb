"""`python without_unix.py …`: the command line without what Windows lacks; with NO_LINKS=1 symbolic
links are refused, as Windows does without developer mode and FAT does everywhere."""

import errno
import os
import signal
import sys
from types import SimpleNamespace
from typing import Any

MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")
SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGQUIT", "SIGCHLD", "SIGKILL", "SIGBUS")
OF_SIGNAL = ("pthread_sigmask", "sigtimedwait", "sigwait", "setitimer", "siginterrupt")
OF_OS = (
    "sysconf",
    "getuid",
    "geteuid",
    "getgid",
    "posix_fadvise",
    "sched_getaffinity",
    "chown",
    "mkfifo",
    "getloadavg",
    "nice",
    "uname",
)


def refuse(*args: Any, **options: Any) -> None:
    raise OSError(errno.EPERM, "a required privilege is not held by the client")


def main() -> None:
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    import multiprocessing.popen_fork  # no process is ended by it on Windows

    import torch.utils.data._utils.signal_handling as watch

    multiprocessing.popen_fork.signal = SimpleNamespace(**vars(signal))  # type: ignore[attr-defined]
    watch._set_SIGCHLD_handler = lambda: None  # as on Windows
    for module, names in ((signal, (*SIGNALS, *OF_SIGNAL)), (os, OF_OS)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    if os.environ.get("NO_LINKS"):
        os.symlink = refuse
    from bifusion.cli import main as command_line

    sys.argv[0] = "bifusion"
    command_line()


if __name__ == "__main__":
    main()
