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


def write_e57_colors(path: Path, mesh: Mesh, top: float, stated: bool = True) -> Path:
    """One scan whose colours go from 0 to `top`: whole numbers, or floats for a float; every other point
    is marked invalid, and `stated` limits say what `top` is."""
    path.unlink(missing_ok=True)
    file = pye57.E57(str(path), mode="w")
    image, libe57 = file.image_file, pye57.libe57

    def number(value: float) -> object:
        return (libe57.IntegerNode if type(top) is int else libe57.FloatNode)(image, value)

    scan, limits, point = (libe57.StructureNode(image) for _ in range(3))
    scan.set("guid", libe57.StringNode(image, "{scan}"))
    columns = {f"cartesian{axis}": mesh.coord[:, k] for k, axis in enumerate("XYZ")}
    for name in columns:
        point.set(name, libe57.FloatNode(image, 0.0))
    for k, name in enumerate(("Red", "Green", "Blue")):
        columns[f"color{name}"] = mesh.color[:, k] / 255 * top
        whole = (
            libe57.IntegerNode(image, 0, 0, top) if type(top) is int else libe57.FloatNode(image, 0.0)
        )
        point.set(f"color{name}", whole)
        limits.set(f"color{name}Minimum", number(type(top)(0)))
        limits.set(f"color{name}Maximum", number(top))
    columns["cartesianInvalidState"] = np.arange(len(mesh.coord)) % 2
    point.set("cartesianInvalidState", libe57.IntegerNode(image, 0, 0, 2))
    if stated:
        scan.set("colorLimits", limits)
    scan.set("points", libe57.CompressedVectorNode(image, point, libe57.VectorNode(image, True)))
    stored, buffers = [], libe57.VectorSourceDestBuffer()
    for name, column in columns.items():
        values = np.rint(column) if type(top) is int and "color" in name else column
        stored.append(np.ascontiguousarray(values, np.float64))
        buffers.append(libe57.SourceDestBuffer(image, name, stored[-1], len(column), True, True))
    file.data3d.append(scan)
    writer = scan["points"].writer(buffers)
    writer.write(len(mesh.coord))
    writer.close()
    file.close()
    return path
