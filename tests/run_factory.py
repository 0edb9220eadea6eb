"""Plausible run folders for tests of whatever reads them: made in milliseconds, without a model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ["wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door"]
TEXTURE_CLASSES = ["door", "cabinet"]
LEVEL = {
    "baseline": 0.47,
    "without_views": 0.48,
    "naive": 0.52,
    "staged": 0.66,
    "plan_a": 0.4,
    "plan_b": 0.3,
    "mask3d": 0.45,
}
GROUPS_3D = {"backbone": 1_250_000, "decoder": 410_000}
GROUPS_2D = {
    "tower.conv1_rgb": 24_000,
    "tower.block0": 200_000,
    "head_2d": 60_000,
    "film": 30_000,
    "gate": 12_000,
}
AUDIT = {
    "voxel_size_m": 0.06,
    "rooms": {"train": 8, "val": 2},
    "texture_classes": TEXTURE_CLASSES,
    "probe": {
        sense: {
            "panels": {
                "classes": TEXTURE_CLASSES,
                "chance": 0.5,
                "val": {"accuracy": accuracy, "standard_error": 0.06, "instances": 40},
                "cross_validated": {"accuracy": accuracy, "standard_error": 0.03, "instances": 160},
            }
        }
        for sense, accuracy in (("voxels", 0.52), ("images", 0.94))
    },
    "superpoint_oracle": {
        "miou": 0.93,
        "ap": 0.88,
        "ap50": 0.95,
        "ap25": 0.97,
        "pq": 0.9,
        "iou": dict.fromkeys(CLASSES, 0.93),
    },
    "seen_share": {"val": {"all": 0.47, "per_class": dict.fromkeys(CLASSES, 0.47)}},
}


@dataclass
class FakeRun:
    """What a run folder should tell; `write` makes it."""

    arm: str = "staged"
    seed: int = 0
    epochs: int = 24
    epochs_done: int | None = None
    steps_per_epoch: int = 8
    nonfinite: dict[int, int] = field(default_factory=dict)
    """Epoch → non-finite steps in it."""
    state: str = "completed"
    evaluated: bool | None = None
    miou: float | None = None
    gate: float = 0.55
    withheld_cost: float = 0.12
    gate_learned: bool = True
    train_scenes: list[str] = field(default_factory=lambda: [f"train{i:02d}" for i in range(8)])
    val_scenes: list[str] = field(default_factory=lambda: ["val00", "val01"])
    sources: list[str] = field(default_factory=list)
    rollbacks: int = 0
    warnings: int = 0
    gradient_noise: float = 0.1
    spike_at: int | None = None
    alignment_rises: bool = True
    shuffled_retrieval: float = 0.02
    """How often a point is found by another point's image feature."""
    predictions: bool = False
    evaluation: dict[str, Any] = field(default_factory=dict)
    """What evaluation.json holds besides."""

    def write(self, root: Path) -> Path:
        """The folder, `root/ARM-seedK`."""
        folder = root / f"{self.arm}-seed{self.seed}"
        folder.mkdir(parents=True)
        rng = np.random.default_rng(self.seed * 100 + len(self.arm))
        done = self.epochs if self.epochs_done is None else self.epochs_done
        _dump(folder / "config.json", self._config())
        _lines(folder / "steps.jsonl", self._steps(done, rng))
        _lines(folder / "epochs.jsonl", [self._epoch(epoch, rng) for epoch in range(done)])
        raw = sum(self.nonfinite.values())
        status = {
            "state": self.state,
            "reason": "3 non-finite steps in a row" if self.state == "guard_stopped" else None,
            "epochs_done": done,
            "steps": done * self.steps_per_epoch,
            "raw_nonfinite": raw,
            "skipped": raw,
            "rollbacks": self.rollbacks,
            "warnings": self.warnings,
            "finite_epochs_in_a_row": done,
            "seconds": 20.0 * done,
        }
        _dump(folder / "status.json", status)
        if self.state == "completed" if self.evaluated is None else self.evaluated:
            _dump(folder / "evaluation.json", self._evaluation(done) | self.evaluation)
        if self.predictions:
            write_predictions(folder / "predictions", self.val_scenes[0], np.random.default_rng(0))
        return folder

    @property
    def _kind(self) -> str:
        kinds = {"baseline": "oneformer3d", "fine_voxels": "oneformer3d", "mask3d": "mask3d"}
        return kinds.get(self.arm, "bifusion")

    @property
    def _views(self) -> bool:
        return self._kind == "bifusion" and self.arm not in ("without_views", "plan_a")

    def _stages(self) -> list[dict[str, Any]]:
        if self._kind != "bifusion" or self.arm == "naive":
            return [{"name": "all", "first_epoch": 0, "end_epoch": self.epochs}]
        first, second = round(self.epochs * 21 / 128), round(self.epochs * 61 / 128)
        bounds = [0, max(first, 1), max(second, 2), self.epochs]
        names = ("stability", "alignment", "enhancement")
        return [
            {"name": name, "first_epoch": bounds[i], "end_epoch": bounds[i + 1]}
            for i, name in enumerate(names)
        ]

    def _config(self) -> dict[str, Any]:
        groups = GROUPS_3D | (GROUPS_2D if self._kind == "bifusion" else {})
        return {
            "name": f"{self.arm}_small",
            "recipe": f"{self.arm}_small",
            "arm": self.arm,
            "model_kind": self._kind,
            "seed": self.seed,
            "label_set": "scannet20",
            "epochs": self.epochs,
            "parameters": groups | {"total": sum(groups.values())},
            "train_scenes": self.train_scenes,
            "val_scenes": self.val_scenes,
            "sources": self.sources,
            "stages": self._stages(),
            "views_used": self._views,
            "fusion_type": {"plan_a": "simple"}.get(self.arm, "gate")
            if self._kind == "bifusion"
            else None,
            "class_names": CLASSES,
            "tower": "small tower, pretrained on 16 generated rooms"
            if self._kind == "bifusion"
            else None,
            "versions": {"bifusion": "0.1.0", "torch": "2.14.1"},
            "config": {
                "data": {"voxel_size_m": 0.06, "augment": {"flip_probability": 0.5}},
                "model": {
                    "unet": {"kind": "residual", "planes": [32, 64, 96, 128]},
                    "tower": {"architecture": "small", "width": 128},
                    "fusion": {"dim": 96},
                },
            },
        }

    def _stage_index(self, epoch: int) -> int:
        return next(i for i, stage in enumerate(self._stages()) if epoch < stage["end_epoch"])

    def _steps(self, done: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        last = max([done - 1, *self.nonfinite])
        for epoch in range(last + 1):
            for index in range(self.steps_per_epoch):
                bad = index < self.nonfinite.get(epoch, 0)
                records.append(self._step(len(records), epoch, bad, rng))
        return records

    def _step(self, step: int, epoch: int, bad: bool, rng: np.random.Generator) -> dict[str, Any]:
        progress = step / (self.epochs * self.steps_per_epoch)
        stage = self._stage_index(epoch) if self._views and self.arm != "naive" else 2
        noise = np.exp(rng.normal(0, self.gradient_noise, 8))
        size = 6 * np.exp(-2 * progress) + 1
        spike = 40.0 if step == self.spike_at else 1.0
        losses = {
            name: float(size * share * noise[i] * spike)
            for i, (name, share) in enumerate(
                {"semantic": 0.5, "instance_class": 0.8, "mask_bce": 0.4, "mask_dice": 0.7}.items()
            )
        }
        two_d = self._views and stage > 0
        norms: dict[str, float | None] = {
            "backbone": 0.8 * noise[4] * spike,
            "decoder": 1.4 * noise[5] * spike,
            "total": 1.7 * noise[6] * spike,
            "tower": 0.2 * noise[0] if two_d and stage == 2 else 0.0,
            "conv1": 0.05 * noise[1] if two_d and stage == 2 else 0.0,
            "head_2d": 0.5 * noise[2] if two_d else 0.0,
            "fusion": 0.3 * noise[3] if two_d else 0.0,
        }
        if bad:
            losses["mask_bce"] = None  # type: ignore[assignment]
            norms = dict.fromkeys(norms)
        return {
            "step": step,
            "epoch": epoch,
            "stage": self._stages()[self._stage_index(epoch)]["name"],
            "scenes": self.train_scenes[:2],
            "losses": losses,
            "weights": dict.fromkeys(losses, 1.0),
            "total": None if bad else float(sum(losses.values())),
            "lr": {
                "backbone": 1e-3,
                "tower.conv1_rgb": 0.0,
                "tower.block0": 1e-4 if two_d and stage == 2 else 0.0,
            },
            "grad_norm": norms,
            "grad_norm_clipped": None if bad else 1.0,
            "ranges": self._ranges(noise) if two_d else None,
            "cosine": float(np.tanh(2 * progress) * 0.7) if two_d else None,
            "gate": self._gate(progress, stage) if two_d else None,
            "seen_share": 0.47 if self._views else None,
            "seconds": 0.6 if two_d else 0.4,
            "peak_memory_mb": 900.0,
            "scaler_overflow": False,
            "event": {
                "kind": "nonfinite",
                "phase": "gradient",
                "where": ["gradient.fusion"],
                "scenes": self.train_scenes[:2],
                "action": "skip",
                "diagnosis": None,
                "bundle": None,
            }
            if bad
            else None,
            "alarms": [],
        }

    def _ranges(self, noise: np.ndarray) -> dict[str, Any]:
        rms = {"f2d_in": 4.2 * noise[0], "f3d_in": 0.7 * noise[1], "f2d": 1.02, "f3d": 0.99}
        entry: dict[str, Any] = {key: {"rms": float(v), "max": float(v * 6)} for key, v in rms.items()}
        ratios = {"ratio_in": float(rms["f2d_in"] / rms["f3d_in"]), "ratio_out": 1.03}
        return entry | ratios

    def _gate(self, progress: float, stage: int) -> dict[str, float]:
        learned = self.gate_learned and stage == 2
        mean = 0.5 + (self.gate - 0.5) * progress if learned else 0.5
        scale = 1.0 if stage == 2 else min(1.0, progress * 3)
        return {
            "scale": scale,
            "alpha_mean": mean,
            "alpha_std": 0.12 * progress if learned else 0.0,
            "gate_mean": scale * mean,
            "share_2d": 0.48,
        }

    def _final(self) -> float:
        return (
            LEVEL.get(self.arm, 0.5) + 0.01 * np.sin(7 * self.seed) if self.miou is None else self.miou
        )

    def _metrics(self, miou: float) -> dict[str, Any]:
        shift = np.linspace(0.15, -0.15, len(CLASSES))
        iou = {name: float(np.clip(miou + s, 0, 1)) for name, s in zip(CLASSES, shift, strict=True)}
        semantic = self._kind != "mask3d"
        return {
            "miou": miou if semantic else None,
            "iou": iou if semantic else {},
            "ap": 0.6 * miou,
            "ap50": 0.8 * miou,
            "ap25": 0.9 * miou,
            "pq": 0.7 * miou,
        }

    def _epoch(self, epoch: int, rng: np.random.Generator) -> dict[str, Any]:
        miou = self._final() * (1 - np.exp(-4 * (epoch + 1) / self.epochs)) + float(rng.normal(0, 0.005))
        fusion = (
            {"fusion_2d_ratio": self.gate, "share_2d": 0.48, "seen_share": 0.47} if self._views else {}
        )
        alignment = {"alignment": {"cosine": 0.5, "retrieval_at_1": 0.2}} if self._views else {}
        validated = epoch % 2 == 1 or epoch == self.epochs - 1
        return {
            "epoch": epoch,
            "stage": self._stages()[self._stage_index(epoch)]["name"],
            "train": {"total": 3.0},
            "val": self._metrics(miou) | fusion | alignment if validated else None,
            "raw_nonfinite": self.nonfinite.get(epoch, 0),
            "skipped": self.nonfinite.get(epoch, 0),
            "rollbacks": self.rollbacks if epoch == 0 else 0,
            "warnings": self.warnings if epoch == 0 else 0,
            "seconds": 20.0,
        }

    def _evaluation(self, done: int) -> dict[str, Any]:
        miou = self._final()
        record = {
            "epoch": done - 1,
            "full": self._metrics(miou),
            "views_withheld": None,
            "shuffled_2d": None,
            "seen": self._metrics(miou + 0.03),
            "unseen": self._metrics(miou - 0.06),
            "alignment_by_stage": {},
        }
        if self._views:
            record["full"] |= {"fusion_2d_ratio": self.gate, "share_2d": 0.48, "seen_share": 0.47}
            record["views_withheld"] = self._metrics(miou - self.withheld_cost)
            record["full"]["alignment"] = {"cosine": 0.5, "retrieval_at_1": 0.2}
            found = {"cosine": 0.1, "retrieval_at_1": self.shuffled_retrieval}
            record["shuffled_2d"] = self._metrics(miou - 0.2) | {"alignment": found}
            end = (
                {"cosine": 0.61, "retrieval_at_1": 0.35}
                if self.alignment_rises
                else {"cosine": 0.01, "retrieval_at_1": 0.01}
            )
            record["alignment_by_stage"] = {
                "alignment": {"start": {"cosine": 0.02, "retrieval_at_1": 0.012}, "end": end}
            }
        return record


def write_predictions(folder: Path, scene: str, rng: np.random.Generator) -> Path:
    """A box room with two pieces of furniture, and a prediction that errs here and there."""
    floor = rng.uniform([0, 0, 0], [5, 4, 0], (10_000, 3))
    walls = np.concatenate(
        [
            rng.uniform([0, 0, 0], [5, 0, 2.6], (6_000, 3)),
            rng.uniform([0, 4, 0], [5, 4, 2.6], (6_000, 3)),
            rng.uniform([0, 0, 0], [0, 4, 2.6], (5_000, 3)),
            rng.uniform([5, 0, 0], [5, 4, 2.6], (5_000, 3)),
        ]
    )
    table = rng.uniform([1, 1, 0.7], [2.4, 2, 0.75], (2_000, 3))
    bed = rng.uniform([3, 2, 0.0], [4.8, 3.8, 0.5], (4_000, 3))
    parts = [(floor, 1, -1), (walls, 0, -1), (table, 6, 0), (bed, 3, 1)]
    coord = np.concatenate([part for part, _, _ in parts]).astype(np.float32)
    semantic = np.concatenate([np.full(len(part), c) for part, c, _ in parts])
    instance = np.concatenate([np.full(len(part), i) for part, _, i in parts])
    wrong = (rng.random(len(coord)) < 0.03) | ((coord[:, 0] > 4) & (semantic == 3))
    tint = np.array([[200, 195, 185], [150, 120, 90], [90, 60, 40], [120, 150, 190]])[
        np.searchsorted([0, 1, 3, 6], semantic)
    ]
    folder.mkdir()
    path = folder / f"{scene}.npz"
    np.savez(
        path,
        coord=coord,
        color=tint.astype(np.uint8),
        truth_semantic=semantic,
        truth_instance=instance,
        semantic=np.where(wrong, 5, semantic),
        panoptic_instance=np.where(wrong, 7, instance),
    )
    return path


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, allow_nan=False))


def _lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record, allow_nan=False) + "\n" for record in records))


def name_parts(folder: Path, *, gate: str = "", network: str = "") -> None:
    """Makes the run's gate and 3D network those of functions from outside, by its config.json."""
    config = json.loads((folder / "config.json").read_text())
    model = config["config"]["model"]
    if gate:
        model.setdefault("fusion", {})["gate_function"] = gate
    if network:
        model["unet"] |= {"kind": "outside", "function": network}
    _dump(folder / "config.json", config)
