"""Clouds as laser scanners leave them: LAS, LAZ, E57."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import laspy
import numpy as np
import pye57
from scipy.spatial.transform import Rotation

from bifusion.datasets.ply.mesh import Mesh


def write_las(path: Path, mesh: Mesh, wkt: str = "", shift: int = 8, point_format: int = 7) -> Path:
    """`shift`: by how many bits colours are raised; `wkt`: the coordinate reference system."""
    header = laspy.LasHeader(version="1.4", point_format=point_format)
    header.scales, header.offsets = np.full(3, 0.001), np.floor(mesh.coord.min(axis=0))
    if wkt:
        header.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr(wkt))
    cloud = laspy.LasData(header)
    cloud.x, cloud.y, cloud.z = mesh.coord.T
    if "red" in header.point_format.dimension_names:
        cloud.red, cloud.green, cloud.blue = mesh.color.T.astype(np.uint16) << shift
    cloud.write(str(path))
    return path


def write_e57(
    path: Path, meshes: Sequence[Mesh], turned: Sequence[float] = (0.0,), colored: bool = True
) -> Path:
    """A scan of each mesh, its scanner in it, turned about z by so many radians; float32."""
    path.unlink(missing_ok=True)
    file = pye57.E57(str(path), mode="w")
    for mesh, angle in zip(meshes, turned, strict=True):
        rotation = Rotation.from_euler("z", angle)
        place = np.floor(mesh.coord.mean(axis=0))
        own = rotation.inv().apply(mesh.coord - place)
        data = {f"cartesian{axis}": np.ascontiguousarray(own[:, k]) for k, axis in enumerate("XYZ")}
        if colored:
            for k, name in enumerate(("colorRed", "colorGreen", "colorBlue")):
                data[name] = np.ascontiguousarray(mesh.color[:, k])
        pose = np.roll(rotation.as_quat(), 1)
        file.write_scan_raw(data, rotation=pose, translation=place)
    file.close()
    return path
