"""A scan as a scene for the models, and what it was for its user."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from bifusion.arguments import path_of
from bifusion.data.open_scene import OpenScene, StoredViews
from bifusion.data.scene_folder import write_scene
from bifusion.datasets.placement import Placement
from bifusion.datasets.ply.mesh import Mesh

Kind = Literal["mesh", "cloud", "recording", "scene"]


@dataclass
class MadeScan:
    """The scene's first points are the user's vertices, in their order; more may follow."""

    kind: Kind
    scene: OpenScene
    """Upright, in metres, near the origin, with superpoints and views."""
    mesh: Mesh
    """The user's, in their own frame and unit; of a recording, what was fused of it."""
    coord: np.ndarray
    """(N, 3) float64: all points of the scene in the user's frame and unit; its first rows are the
    mesh's own."""
    placement: Placement
    """How the user's coordinates became the scene's."""
    source: str
    """What it was made of, for scene.json."""
    lines: list[str] = field(default_factory=list)
    """What was found out and assumed, for the user to read."""

    @property
    def up(self) -> np.ndarray:
        """(3,) unit vector, up in the user's frame."""
        return self.placement.alignment[2, :3]

    def write_scene(self, folder: Path) -> None:
        """Writes the scene folder; its views are decoded one at a time. Pictures become JPEG, whose
        colours differ a little, but for those of a scene folder, which stay. InputError as
        `write_scene`."""
        scene = self.scene
        write_scene(
            path_of(folder, "folder"),
            scene,
            segments={},
            views=(scene.views[name] for name in scene.view_names),
            pictures=scene.views.pictures if isinstance(scene.views, StoredViews) else None,
            source=self.source,
            axis_alignment=scene.axis_alignment,
            offset_m=scene.offset_m,
            unit_stated=scene.unit_stated,
        )

    def as_written(self, folder: Path) -> MadeScan:
        """The same, with the views that `write_scene` has written into `folder`."""
        views = StoredViews(folder) if self.scene.view_names else {}
        return dataclasses.replace(self, scene=dataclasses.replace(self.scene, views=views))


def made_scan(
    kind: Kind, name: str, mesh: Mesh, surface: Mesh, placement: Placement, source: str,
    normal: np.ndarray, superpoint: np.ndarray, coord_m: np.ndarray, lines: list[str],
) -> MadeScan:  # fmt: skip
    """A scan without views, of what its makers know.

    Args:
        mesh: the user's.
        surface: the same, perhaps with points in between.
        normal, superpoint: of the surface's points, in the scene's frame.
        coord_m: (N, 3) the surface's points in the scene's frame.
    """
    scene = OpenScene(
        name=name,
        coord=coord_m.astype(np.float32),
        color=surface.color,
        superpoint=superpoint,
        normal=normal.astype(np.float32),
        axis_alignment=placement.aligned,
        offset_m=placement.offset_m,
        notes=list(lines),
        judged=True,
    )
    return MadeScan(kind, scene, mesh, surface.coord, placement, source, lines)
