"""A process that leaves while a worker of its loader is only starting: `python late_worker.py`."""

import signal

if __name__ != "__main__":  # the worker, deaf as one is that a fork server started with signals held
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

import multiprocessing

from torch.utils.data import DataLoader

from bifusion.data.workers import end_with_process

KEPT = []


def main() -> None:
    multiprocessing.set_start_method("forkserver")
    loader = DataLoader([1, 2], num_workers=1, persistent_workers=True)
    end_with_process(loader)
    KEPT.extend([loader, iter(loader)])


if __name__ == "__main__":
    main()
