"""Runs grouped into the arms of a comparison: one arm is one model and recipe over its seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bifusion.errors import InputError
from bifusion.studies.figures.metrics import Sample, over_seeds
from bifusion.studies.figures.run import Run

ROLES: dict[str, str] = {
    "baseline": "OneFormer3D",
    "mask3d": "Mask3D",
    "without_views": "BiFusion without views",
    "fine_voxels": "OneFormer3D, finer voxels",
    "2d_only": "BiFusion, 2D only",
    "gate_half": "BiFusion, gate fixed at 0.5",
    "lifted_rgb": "BiFusion on lifted RGB",
    "random_tower": "BiFusion, random tower",
    "naive": "Naive BiFusion",
    "plan_a": "BiFusion Plan A",
    "plan_b": "BiFusion Plan B",
    "ablation": "Staged BiFusion, one measure changed",
    "staged": "Staged BiFusion",
}
"""Role of an arm → how a reader knows it, in the order of tables."""
CONTROLS: dict[str, str] = {
    "fine_voxels": "control: 3D alone, at a finer voxel",
    "2d_only": "control: image features alone wherever a view sees the point",
    "gate_half": "control: α = 0.5 instead of a learned gate",
    "lifted_rgb": "control: the pixels' RGB lifted instead of a tower's features",
    "random_tower": "inverse control: its image tower started from random weights",
}
"""Role of an arm that is no rival, but shows where a gain comes from → what it is."""
FIRST_ROLE = "staged"
"""The arm the comparison is about; its verdicts come first."""
NUM_STAGES = 3
MIN_SEEDS = 3
"""Fewer seeds make a verdict indicative."""


@dataclass(frozen=True)
class Arm:
    """The runs of one arm, by seed."""

    key: str
    """Unique in a comparison: the role, with the configuration's name where a role occurs twice."""
    role: str
    label: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def finished(self) -> bool:
        """Every run has ended and, unless it broke down, been evaluated."""
        return all(map(has_result, self.runs))

    @property
    def control(self) -> str | None:
        """What the arm is a control of; None for models and their rivals."""
        return CONTROLS.get(self.role)

    @property
    def is_staged(self) -> bool:
        """Trained in the study's three stages."""
        return len(self.first.stages) == NUM_STAGES

    def over_seeds(self, figure: Callable[[Run], float]) -> Sample:
        """`figure` of each run, where finite."""
        return over_seeds({run.seed: figure(run) for run in self.runs})

    def by_seed(self) -> dict[int, Run]:
        return {run.seed: run for run in self.runs}


def has_result(run: Run) -> bool:
    """It has ended and, unless it broke down, been evaluated."""
    return run.state == "guard_stopped" or (run.state != "running" and run.evaluation is not None)


Keys = Mapping[tuple[str, str], str]
"""(role, name of the configuration) → key of its arm."""


def arm_keys(runs: Sequence[Run]) -> Keys:
    """The keys of the arms of `runs`: the role, with the name where the role occurs twice."""
    names_of_role: dict[str, set[str]] = {}
    for run in runs:
        names_of_role.setdefault(run.arm, set()).add(run.name)
    return {
        (role, name): role if len(names) == 1 else f"{role}:{name}"
        for role, names in names_of_role.items()
        for name in names
    }


def group_runs(runs: Sequence[Run], keys: Keys | None = None) -> list[Arm]:
    """Arms in the order of tables; `InputError` where two runs are the same arm and seed.

    `keys`: of more runs than these, where an arm is to have one key in several groups.
    """
    keys = arm_keys(runs) if keys is None else keys
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(keys[run.arm, run.name], []).append(run)
    arms = [_arm(key, members) for key, members in groups.items()]
    order = list(ROLES)
    return sorted(
        arms, key=lambda arm: (order.index(arm.role) if arm.role in order else len(order), arm.key)
    )


def _arm(key: str, members: list[Run]) -> Arm:
    by_seed: dict[int, Run] = {}
    for run in members:
        if run.seed in by_seed:
            raise InputError(
                f"{by_seed[run.seed].folder} and {run.folder} are both {key} with seed {run.seed}; "
                "compare one of them, or train the second with another seed"
            )
        by_seed[run.seed] = run
    role = members[0].arm
    one_of_many = key != role or role == "ablation"
    label = ROLES.get(role, role) + (f" ({members[0].name})" if one_of_many else "")
    return Arm(key, role, label, tuple(by_seed[seed] for seed in sorted(by_seed)))


def find_role(arms: list[Arm], role: str) -> Arm | None:
    """The first arm with `role`."""
    return next((arm for arm in arms if arm.role == role), None)
