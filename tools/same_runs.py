"""Do two commits train the same to the bit? `python tools/same_runs.py OLD [NEW]`

Trains every small recipe for 20 steps with the code of each commit (NEW: the work tree, if left out), on
the same generated rooms, on one thread, and compares what must not move when code only moves: every
step's losses and gradient norm, and the bytes of the final weights. Tensors are compared without their
names, which may change. Exit status 1 if anything differs.

What a commit gave is kept in build/same-runs/, so that a series of commits takes one run each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from bifusion.sparse.native import _native

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "same-runs"
ENGINE = Path("src/bifusion/sparse/native")
RUN = """
import sys
sys.meta_path = [f for f in sys.meta_path if not type(f).__module__.startswith("_editable")]
from bifusion.cli import main
sys.exit(main())
"""
"""The command line of the tree on PYTHONPATH, whatever tree is installed."""
EPOCHS = 10
"""Of two steps each: four rooms, two a step."""
RECIPES = (
    "oneformer3d_small",
    "mask3d_tiny",
    "bifusion_tiny",
    "bifusion_tiny_without_views",
    "bifusion_tiny_naive",
    "bifusion_tiny_plan_a",
    "bifusion_small",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("old")
    parser.add_argument("new", nargs="?")
    wanted = parser.parse_args()
    old, new = record_of_commit(wanted.old), None
    new = record_of_commit(wanted.new) if wanted.new else record_of_work_tree()
    same = True
    for recipe in RECIPES:
        differing = [key for key in old[recipe] if old[recipe][key] != new[recipe].get(key)]
        same &= not differing
        first = f"differs: {', '.join(differing[:4])}" if differing else "the same to the bit"
        print(f"{recipe:32} {len(old[recipe]['losses']):3} steps  {first}")
    return 0 if same else 1


def record_of_commit(name: str) -> dict:
    """What the commit's code trains, made once."""
    commit = _git("rev-parse", f"{name}^{{commit}}")
    kept = KEPT / f"{commit}.json"
    if not kept.exists():
        tree = fresh_folder(commit[:12])
        _git("worktree", "prune")
        _git("worktree", "add", "--detach", "--force", str(tree), commit)
        try:
            shutil.copy(_native.__file__, tree / ENGINE)  # nothing of it is built again
            record = record_of_tree(tree, tree / "runs")
        finally:
            _git("worktree", "remove", "--force", str(tree))
        kept.write_text(json.dumps(record), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def record_of_work_tree() -> dict:
    """What the code in the work tree trains."""
    engine = ROOT / ENGINE / Path(_native.__file__).name
    shutil.copy(_native.__file__, engine)
    try:
        return record_of_tree(ROOT, fresh_folder("tree"))
    finally:
        engine.unlink()


def record_of_tree(tree: Path, runs: Path) -> dict:
    """Recipe -> what 20 steps of it give with the code in `tree`."""
    rooms = KEPT / "rooms"
    if not (rooms / "train").is_dir():
        options = ["--out", str(rooms), "--train-rooms", "4", "--val-rooms", "1"]
        _bifusion(tree, "prepare", "synthetic", *options)
    return {recipe: _trained(tree, recipe, rooms, runs / recipe) for recipe in RECIPES}


def _trained(tree: Path, recipe: str, rooms: Path, run: Path) -> dict:
    options = {
        "data.root": rooms,
        "trainer.epochs": EPOCHS,
        "trainer.batch-size": 2,
        "trainer.workers": 0,
        "trainer.eval-every": EPOCHS,
        "trainer.save-every": 0,
        "trainer.save-epochs": EPOCHS,
        "trainer.accelerator": "cpu",
        "out": run,
    }
    _bifusion(tree, "train", recipe, *(text for k, v in options.items() for text in (f"--{k}", str(v))))
    lines = (run / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    weights = load_file(run / "checkpoints" / "last" / "model.safetensors")
    return {
        "losses": [sorted(step["losses"].items()) for step in steps],
        "gradient norms": [step["grad_norm"]["total"] for step in steps],
        "weights": sorted(
            [list(w.shape), hashlib.sha256(w.contiguous().numpy().tobytes()).hexdigest()]
            for w in weights.values()
        ),
    }


def _bifusion(tree: Path, *arguments: str) -> None:
    command = [sys.executable, "-c", RUN]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments], env=environment, cwd=tree, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)} in {tree}: status {done.returncode}\n{done.stdout[-3000:]}")


def fresh_folder(name: str) -> Path:
    folder = KEPT / name
    shutil.rmtree(folder, ignore_errors=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    return folder


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
