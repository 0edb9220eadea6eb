"""What an installed wheel must do, run by tools/wheels.py in a fresh environment and an empty folder."""

import subprocess
import sys
from pathlib import Path

import torch

import bifusion
from bifusion.sparse.backends import describe_backend

COMMANDS = (
    "prepare synthetic --out rooms --train-rooms 2 --val-rooms 1 --views 2 --image-size 160 120 "
    "--depth-size 120 90 --point-spacing-m 0.08",
    "check rooms",
    "train oneformer3d_small --data.root rooms --trainer.epochs 2 --trainer.workers 0 "
    "--trainer.batch-size 1 --out run",
    "scan rooms/val/rooms0_val_0000 --run run --out labelled",
)


def main() -> None:
    """Leaves with status 1, saying what, where something is not as it should be."""
    place = Path(bifusion.__file__)
    if not place.is_relative_to(sys.prefix):
        sys.exit(f"bifusion is imported from {place}, not from the environment {sys.prefix}")
    backend = describe_backend(torch.device("cpu"))
    if "native" not in backend:
        sys.exit(f"the wheel has no engine: {backend}")
    refuse_by_the_engine()
    program = Path(sys.prefix) / "bin/bifusion"
    for command in COMMANDS:
        done = subprocess.run([program, *command.split()], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"bifusion {command}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    if not Path("labelled/view.html").is_file():
        sys.exit("no labelled/view.html")
    print(f"bifusion {bifusion.__version__}, torch {torch.__version__}: {backend}")


def refuse_by_the_engine() -> None:
    """An error from C++ to Python: the wheel says with older functions what exceptions need."""
    from bifusion.sparse.native import _native

    try:
        _native.use_isa("none")
    except ValueError:
        return
    sys.exit("the engine took an instruction set that there is not")


if __name__ == "__main__":
    main()
