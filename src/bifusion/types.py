"""The typed contract between data, models, losses, evaluation and training.

Read this file first: everything that crosses a module border is one of these dataclasses.
Frames, units and pixel conventions are those of CONVENTIONS.md: metres, z up, poses are
`cam2world` in the OpenCV camera frame (x right, y down, z forward), the centre of the top-left
pixel is (0, 0), label -1 means "none".

Letters used in shapes: N points, M voxels, S superpoints, Q queries, G annotated instances,
P predicted instances, C semantic classes, T thing classes (those with instances), B scenes of a
batch, V views, D feature channels. The subscript _b means "of scene b".
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bifusion.wording import plural

# What holds arrays is equal to itself alone: arrays have no single answer to ==.

# ---------------------------------------------------------------------------------- on disk, numpy


@dataclass(eq=False)
class View:
    """One posed RGB-D image of a scene. Colour and depth cameras may differ."""

    name: str
    color: np.ndarray
    """(H, W, 3) uint8 RGB."""
    depth_m: np.ndarray
    """(Hd, Wd) float32 metres along the camera's z axis, 0 where nothing was measured."""
    color_K: np.ndarray
    """(3, 3) float64 pinhole matrix in pixels of `color`."""
    depth_K: np.ndarray
    """(3, 3) float64 pinhole matrix in pixels of `depth_m`."""
    color_cam2world: np.ndarray
    """(4, 4) float64 rigid transform, colour camera to scene frame."""
    depth_cam2world: np.ndarray
    """(4, 4) float64 rigid transform, depth camera to scene frame."""


@dataclass(repr=False, eq=False)
class Scene:
    """One scan as stored in a scene folder; arrays may be read-only memory maps."""

    name: str
    coord: np.ndarray
    """(N, 3) float32 metres, z up."""
    color: np.ndarray
    """(N, 3) uint8 RGB."""
    superpoint: np.ndarray
    """(N,) int32, ids 0 … S-1, each used."""
    segment: np.ndarray | None = None
    """(N,) int16 semantic class in the label set's order, -1 unlabelled; None: not annotated."""
    instance: np.ndarray | None = None
    """(N,) int32 instance id, -1 none; None: not annotated."""
    normal: np.ndarray | None = None
    """(N, 3) float32 unit vectors."""
    view_names: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        annotated = "not annotated" if self.segment is None else "annotated"
        return (
            f"<{type(self).__name__} {self.name}: {len(self.coord):,} points, "
            f"{plural(len(self.view_names), 'view')}, {annotated}>"
        )


@dataclass(eq=False)
class SceneTruth:
    """Annotation of one scene at its points, for the evaluators."""

    name: str
    semantic: np.ndarray
    """(N,) int, class 0 … C-1, -1 unannotated."""
    instance: np.ndarray
    """(N,) int, instance id, -1 none (walls and floors have none)."""


@dataclass(eq=False)
class SceneResult:
    """What a model says about one scene, at its points, after post-processing."""

    name: str
    num_points: int
    masks: np.ndarray
    """(P, ceil(N/8)) uint8, numpy.packbits of the point masks along axis 1."""
    labels: np.ndarray
    """(P,) int16 semantic class of each instance (0 … C-1, things only)."""
    scores: np.ndarray
    """(P,) float32, descending."""
    semantic: np.ndarray | None = None
    """(N,) int16 class of each point, None for models without a semantic head."""
    panoptic_semantic: np.ndarray | None = None
    """(N,) int16."""
    panoptic_instance: np.ndarray | None = None
    """(N,) int32, -1 for stuff."""

    def point_masks(self) -> np.ndarray:
        """(P, N) bool: the instance masks, unpacked."""
        return np.unpackbits(self.masks, axis=1, count=self.num_points).astype(bool)


# ------------------------------------------------------------------------------- in a batch, torch


@dataclass(eq=False)
class Targets:
    """Annotation of one scene, on its superpoints (S_b of them)."""

    semantic: Tensor
    """(S_b,) int64, class 0 … C-1, C where unlabelled."""
    masks: Tensor
    """(G, S_b) bool, superpoints of each annotated instance of a thing class; G may be 0."""
    labels: Tensor
    """(G,) int64, index 0 … T-1 into the label set's thing_classes."""


@dataclass(frozen=True)
class DisagreeingView:
    """A view whose colour or depth does not fit the geometry of its scene."""

    scene: str
    view: str
    figure: str
    """What was measured: "depth_fit", "support", "in_front", "color_fit" or "color"."""
    value: float
    threshold: float
    message: str
    """What it is and what to check, in words that name the view."""


@dataclass(eq=False)
class BatchView:
    """One view of a batch, resized for the image encoder; `K` belongs to the resized image."""

    scene: int
    """Index of its scene in the batch."""
    name: str
    image: Tensor
    """(3, H, W) float32 RGB in [0, 1], not yet normalised for CLIP."""
    image_depth_m: Tensor
    """(1, H, W) float32: depth seen by the *colour* camera at the image's pixels, 0 none."""
    K: Tensor
    """(3, 3) float32, pixels of `image`."""
    world2cam: Tensor
    """(4, 4) float32, scene frame (before augmentation) to colour camera."""
    depth_m: Tensor
    """(Hd, Wd) float32 depth map of the depth camera, for the occlusion test, 0 none."""
    depth_K: Tensor
    """(3, 3) float32, pixels of `depth_m`."""
    depth_world2cam: Tensor
    """(4, 4) float32."""
    disagreement: DisagreeingView | None = None
    """What contradicts the scene's geometry; None: nothing does, or nobody looked."""


@dataclass(eq=False)
class Batch:
    """B scenes, concatenated; voxels, points and superpoints of scene b lie in one run, in order."""

    names: list[str]
    """B scene names."""
    voxel_coords: Tensor
    """(M, 4) int32: scene index, x, y, z in voxels (after augmentation)."""
    voxel_feats: Tensor
    """(M, channels) float32: input features averaged over the points of each voxel."""
    voxel_position_m: Tensor
    """(M, 3) float32: mean of the voxel's points in the scene frame, *before* augmentation."""
    point_to_voxel: Tensor
    """(N,) int64 row of `voxel_coords`."""
    point_to_superpoint: Tensor
    """(N,) int64, 0 … S-1 over the whole batch."""
    points_per_scene: list[int]
    superpoints_per_scene: list[int]
    scene_bounds_m: Tensor
    """(B, 2, 3) float32: smallest and largest coordinate of each scene, scene frame."""
    seeds: list[int]
    """One number a scene, derived from (run seed, epoch, scene): source of all randomness in the
    model for that scene (query sampling), so that a step can be repeated."""
    voxel_augmented_m: Tensor | None = None
    """(M, 3) float32: mean of the voxel's points *after* augmentation; None: not augmented."""
    targets: list[Targets] | None = None
    """B entries; None when predicting without annotation."""
    truths: list[SceneTruth] | None = None
    """B entries, point labels for evaluation; only filled for validation."""
    views: list[BatchView] = field(default_factory=list)
    """Views of all scenes; may be empty."""
    counts: bool = True
    """False: it stands in on a process that has no scene of its own in this step, to keep pace with the
    others; neither losses nor BatchNorm count it."""
    voxels_counted: list[int] | None = field(default=None, repr=False)
    """`voxels_per_scene`, once somebody has asked."""

    @property
    def voxels_per_scene(self) -> list[int]:
        if self.voxels_counted is None:
            scene = self.voxel_coords[:, 0]
            self.voxels_counted = torch.bincount(scene, minlength=len(self.names)).tolist()
        return self.voxels_counted

    @property
    def num_superpoints(self) -> int:
        return sum(self.superpoints_per_scene)

    def to(self, device: torch.device | str) -> Batch:
        """A copy whose tensors lie on `device`; it knows how many voxels each scene has, for which the
        host would have to wait there."""
        return move_tensors(dataclasses.replace(self, voxels_counted=self.voxels_per_scene), device)


def move_tensors(value: Any, device: torch.device | str) -> Any:
    """`value` with every tensor in it (dataclasses, lists, dicts) on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        moved = {f.name: move_tensors(getattr(value, f.name), device) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **moved)
    if isinstance(value, list):
        return [move_tensors(item, device) for item in value]
    if isinstance(value, dict):
        return {key: move_tensors(item, device) for key, item in value.items()}
    return value


# ------------------------------------------------------------------------------------ model output


@dataclass
class FusionControl:
    """How the fusion acts in this step; set by the training stage, the default is inference."""

    scale: float = 1.0
    """s in [0, 1]: the gate that acts is s · α. 0: the decoder sees 3D features alone."""
    fixed_alpha: float | None = None
    """α on seen points instead of the learned one (0.5 while s ramps; 0 for "without views")."""
    run_2d: bool = True
    """Compute the 2D branch at all. False in stage 1 and for "without views"."""
    tower_gradient_scale: float = 0.0
    """Factor on the gradient that reaches the image tower; 0 isolates it (it runs under no_grad)."""
    withhold_views: bool = False
    """Evaluate as if no view existed."""
    shuffle_seed: int | None = None
    """Sanity check: permute the lifted 2D features among the seen points of each scene."""


@dataclass(eq=False)
class FusionTrace:
    """What happened at the fusion, for losses, monitor and evaluation. M voxels; graph attached."""

    seen: Tensor
    """(M,) bool: at least one view sees the voxel."""
    alpha: Tensor
    """(M,) in [0, 1]: α as it is before s, 0 where unseen."""
    gate: Tensor
    """(M,) s · α where seen, else 0."""
    seen_f2d_in: Tensor
    """(K, D2) lifted tower features entering the 2D head, of the voxels that a view sees."""
    f3d_in: Tensor
    """(M, D3) U-Net output entering the 3D head."""
    seen_f2d: Tensor
    """(K, D) 2D head output after FiLM, likewise."""
    f3d: Tensor
    """(M, D) 3D head output after FiLM."""
    alignment_pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """(predicted, target) pairs, each (K, D) on the K seen voxels, for the cosine loss; the target is
    without gradient unless `alignment_stop_gradient` is off (models/fusion.py). Empty: none is made."""
    learned: bool = True
    """alpha comes from the learned gate and acts; False: s is 0 (the gate is shut), or alpha is fixed by
    the stage, or 0.5 where there is no gate."""
    rows: Tensor | None = None
    """(K,) int64 where `seen`, as the model found them; None: to be found."""

    @property
    def seen_rows(self) -> Tensor:
        """(K,) int64, ascending: the voxels that a view sees."""
        return self.seen.nonzero()[:, 0] if self.rows is None else self.rows

    @property
    def f2d_in(self) -> Tensor:
        """(M, D2): `seen_f2d_in`, 0 where unseen. Made when asked for: few voxels may be seen."""
        return self._of_all(self.seen_f2d_in)

    @property
    def f2d(self) -> Tensor:
        """(M, D): `seen_f2d`, 0 where unseen; likewise."""
        return self._of_all(self.seen_f2d)

    def _of_all(self, of_seen: Tensor) -> Tensor:
        nothing = of_seen.new_zeros(len(self.seen), *of_seen.shape[1:])
        return nothing.index_copy(0, self.seen_rows, of_seen)


@dataclass
class LayerPrediction:
    """Output of one decoder layer; one entry a scene in each list."""

    class_logits: list[Tensor]
    """B × (Q_b, T+1), the last column is "no object"."""
    mask_logits: list[Tensor]
    """B × (Q_b, S_b)."""
    scores: list[Tensor] | None = None
    """B × (Q_b, 1) predicted IoU, None without a score head."""


Output = Literal["scores", "semantic_logits", "alignment_pairs"]
"""A part of a prediction that not every model gives."""


@dataclass
class Prediction:
    """What every model returns from `forward(batch, control)`."""

    layers: list[LayerPrediction]
    """One an output of the decoder, the last is final."""
    semantic_logits: list[Tensor] | None
    """B × (Q_b, C+1) of the superpoints in `query_superpoints`, last column "unlabelled"; None for
    models without a semantic head."""
    query_superpoints: list[Tensor] | None
    """B × (Q_b,) int64: the superpoint (within its scene) each query was made of. In evaluation all
    of them in order. None for models whose queries are not superpoints."""
    superpoint_features: Tensor
    """(S, D) features entering the decoder."""
    fusion: FusionTrace | None = None
    """None where no 2D branch ran."""

    def optional_outputs(self) -> set[Output]:
        """The optional parts that are there."""
        outputs: dict[Output, bool] = {
            "scores": self.layers[-1].scores is not None,
            "semantic_logits": self.semantic_logits is not None,
            "alignment_pairs": self.fusion is not None and bool(self.fusion.alignment_pairs),
        }
        return {name for name, there in outputs.items() if there}

    def answers_with_nan(self) -> Tensor:
        """() bool on its device. A class logit or score that is infinite counts too: softmax makes NaN
        of the one, by which the candidate is dropped in silence, and the other is no score. Masks, and
        classes of points, take infinity for what it means."""
        last = self.layers[-1]
        nan = [t.isnan() for t in (*last.mask_logits, *(self.semantic_logits or []))]
        wild = [~t.isfinite() for t in (*last.class_logits, *(last.scores or []))]
        return torch.stack([flawed.any() for flawed in (*nan, *wild)]).any()
