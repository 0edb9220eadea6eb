"""Which files does a scene pass through, from disk to mIoU? `python tools/follow_scene.py RECIPE DATA`

Follows one validation through the code as it runs and prints the package's files in the order in which a
function of theirs is first called, each with that function: what a new reader opens to trace one scene.
Building the model and loading the backend of sparse operations, once a process, come before and are not
followed; the network is as it is drawn from its seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import FrameType

import torch

import bifusion
from bifusion.config.stages import Timeline
from bifusion.data.dataset import with_labels
from bifusion.models.build import build_model
from bifusion.recipes import get_recipe
from bifusion.sparse.backends import backend_for
from bifusion.training.validation import count_share, validation_loader

PACKAGE = f"{Path(bifusion.__file__).parent}/"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("data", type=Path)
    wanted = parser.parse_args()
    files = follow(wanted.recipe, wanted.data)
    for number, (name, function) in enumerate(files.items(), 1):
        print(f"{number:3}  {name:44} {function}")


def follow(recipe: str, data: Path) -> dict[str, str]:
    """File below the package → the function of it that was called first, in order of these calls."""
    config = get_recipe(recipe)
    config.data.root = data
    config.data = with_labels(config.data)
    config.trainer.workers = 0
    control = Timeline(config.stages, config.trainer.epochs).at_end(float(config.trainer.epochs)).control
    model = build_model(config.model, config.seed, config.labels)
    backend_for(torch.device("cpu"))
    files: dict[str, str] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name != "<module>":
            files.setdefault(code.co_filename.removeprefix(PACKAGE), code.co_qualname)

    sys.setprofile(note)
    try:
        loader = validation_loader(config, max_views=config.data.max_views)
        count_share(model, loader, config, control).outcome()
    finally:
        sys.setprofile(None)
    return files


if __name__ == "__main__":
    main()
