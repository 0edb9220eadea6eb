"""A mesh or cloud file of any format that is known."""

from __future__ import annotations

from pathlib import Path

from bifusion.datasets.mesh_files.e57 import read_e57
from bifusion.datasets.mesh_files.glb import MAGIC, read_glb
from bifusion.datasets.mesh_files.las import read_las
from bifusion.datasets.mesh_files.obj import read_obj
from bifusion.datasets.mesh_files.pcd import read_pcd
from bifusion.datasets.ply.mesh import Mesh, read_mesh
from bifusion.errors import InputError
from bifusion.untrusted.files import open_regular

READERS = {
    ".ply": read_mesh, ".obj": read_obj, ".glb": read_glb, ".las": read_las, ".laz": read_las,
    ".e57": read_e57, ".pcd": read_pcd,
}  # fmt: skip
"""Ending → reader; what a file begins with counts more."""
BEGINNINGS = {b"ply": ".ply", MAGIC: ".glb", b"LASF": ".las", b"ASTM": ".e57", b"# .P": ".pcd"}
EXPECTED = "a mesh or cloud in .ply, .obj, .glb, .las, .laz, .e57 or .pcd"


def is_mesh_file(path: Path) -> bool:
    """Whether the ending is that of a mesh or cloud, and it is no folder."""
    return path.suffix.lower() in READERS and not path.is_dir()


def check_unplaced(what: Path | str, scale: float | None, up: str | None) -> None:
    """InputError where `scale` or `up`, which say how a mesh file lies, are given with another input."""
    if scale not in (None, 1.0) or up is not None:
        raise InputError(
            f"{what}: is no mesh file; scale and up go with those: a scene folder is in metres, z up"
        )


def read_mesh_file(path: Path) -> Mesh:
    """The mesh in `path`, in its own frame and unit. InputError as its reader, or for another format."""
    path = Path(path)
    with open_regular(
        path, missing=f"missing; expected {EXPECTED}", advice=f"expected {EXPECTED}"
    ) as file:
        beginning = file.read(4)
    kind = next((kind for word, kind in BEGINNINGS.items() if beginning.startswith(word)), None)
    kind = kind or path.suffix.lower()
    if kind not in READERS:
        more = (
            "; export it as one .glb"
            if kind == ".gltf"
            else "; unpack an archive, export others as .ply"
        )
        raise InputError(f"{path}: is no mesh file that is known; expected {EXPECTED}{more}")
    return READERS[kind](path)
