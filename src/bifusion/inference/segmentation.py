"""What a model says about one scene, as arrays and as files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bifusion.arguments import path_of, place_of
from bifusion.inference.export import point_segments, write_result
from bifusion.labels.label_set import LabelSet
from bifusion.types import SceneResult
from bifusion.wording import plural


@dataclass(frozen=True, repr=False)
class Segmentation:
    """A segmented scene of N points, with P candidates for instances of a label set's C classes.

    The `masks` of the candidates, best score first, may overlap, and most are of low score; evaluation
    looks at all. Those that hold points of their own in `instances`, each point at most one's, are the
    scene's objects. An id in `instances` is a row of `masks`, `scores` and `classes`.
    """

    name: str
    """The scene's."""
    points: np.ndarray
    """(N, 3) metres where the input had them; float32, or float64 where that is far from the origin.
    Of a .glb file or with `up="y"` they are upright, z up; what was taken off them to bring them near
    the origin is given back."""
    semantic: np.ndarray
    """(N,) int16 class of each point, a position in `class_names`. Of models without a semantic head
    (Mask3D) the class of its instance, −1 where it has none."""
    instances: np.ndarray
    """(N,) int32 instance of each point, −1 none: walls and floors, and what no instance holds."""
    scores: np.ndarray
    """(P,) float32 confidence of each candidate, descending."""
    classes: np.ndarray
    """(P,) int16 class of each candidate."""
    class_names: np.ndarray
    """(C,) text: `class_names[classes]` names them."""
    labels: LabelSet
    """The classes with what else is known of them: kind, colour, id, group."""
    result: SceneResult
    """As the evaluator and the exporters take it; its masks are packed, a bit a point."""
    notes: list[str] = field(default_factory=list)
    """What one should know of how the input was understood."""
    min_score: float = 0.0
    """Score above which candidates became objects."""

    @property
    def masks(self) -> np.ndarray:
        """(P, N) bool: the points of each candidate; unpacked anew, P × N bytes, with each call."""
        return self.result.point_masks()

    def mask(self, instance: int) -> np.ndarray:
        """(N,) bool: the points of one candidate, a row of `masks`. Raises InputError for what is none,
        −1 among it."""
        row = place_of(instance, "instance", len(self.scores), "number of candidates")
        return np.unpackbits(self.result.masks[row], count=self.result.num_points).astype(bool)

    @property
    def num_objects(self) -> int:
        """Ids that there are in `instances`."""
        return int(np.count_nonzero(np.bincount(self.instances[self.instances >= 0])))

    def describe_objects(self, option: str = "min_score") -> str:
        """As the commands tell what was found: "12 objects (589 candidates)"; of none, why, and the
        `option` that lets more of them be objects."""
        candidates = plural(len(self.scores), "candidate")
        if self.num_objects or not len(self.scores):
            return f"{plural(self.num_objects, 'object')} ({candidates})"
        return (
            f"0 objects score above {self.min_score:g} ({candidates}, the best "
            f"{np.max(self.scores):.2g}); {option} lowers it"
        )

    def write(self, folder: str | Path) -> list[Path]:
        """semantic.ply, instance.ply and instances.json (export.py) in `folder`, which is made if it is
        not there; each appears complete or not at all. Returns their paths."""
        return write_result(path_of(folder, "folder"), self.result, self.points, self.labels)

    def __repr__(self) -> str:
        return (
            f"<Segmentation of {self.name}: {len(self.points):,} points, {self.describe_objects()}, "
            f"{self.labels.describe()}>"
        )


def as_segmentation(
    result: SceneResult,
    points: np.ndarray,
    labels: LabelSet,
    notes: list[str],
    min_score: float = 0.0,
) -> Segmentation:
    """`result` at `points` (N, 3) metres, its panoptic part taken apart into classes and instances."""
    semantic, instances = point_segments(result)
    return Segmentation(
        name=result.name,
        points=points,
        semantic=semantic if result.semantic is None else result.semantic,
        instances=instances,
        scores=result.scores,
        classes=result.labels,
        class_names=np.array(labels.class_names),
        labels=labels,
        result=result,
        notes=notes,
        min_score=min_score,
    )
