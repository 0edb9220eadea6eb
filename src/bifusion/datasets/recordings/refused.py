"""What people have that holds no posed pictures, or none that can be read, and where to go with it."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path

VIDEO = (
    "a video has no poses and no depth; scan with an app that records both (Record3D, Stray Scanner, "
    "Polycam), or reconstruct it first (COLMAP, then give its mesh)"
)
BAG = (
    "bags hold no poses; run RTAB-Map or Open3D's reconstruction system on it and give what they export "
    "(TUM's layout, or the mesh)"
)
KINECT = (
    "Kinect's .mkv has no poses; run Open3D's reconstruction system on it (its azure_kinect_mkv_reader "
    "writes color/ and depth/) and give its folder, with trajectory.log"
)
SPLAT = "Gaussian splats are no scanned surface; give the recording that they were made of, or its mesh"
ARCHIVE = "an archive; unpack it and give its folder"
MESH = "a mesh or cloud, no recording; `bifusion scan` and `bifusion prepare scan` take it"
GLTF = "glTF in several files, which are not read; export it as one .glb"
OTHER_MESH = "a mesh or cloud of a kind that is not read; export it as .ply, .obj or .glb"
TEXT_CLOUD = (
    "a text; clouds of text are of a kind that is not read, as no two are alike in columns and units; "
    "export it as .ply, .las or .e57 (CloudCompare does)"
)
ARRAYS = (
    "arrays, or weights; in arrays nothing says which are places and colours, in which unit: load them "
    "and make a scene folder, bifusion.write_scene(DATASET/val/NAME, coord, color)"
)
SCANNER = "a laser scanner's own file, which its maker's program alone reads; export it there as .e57"
DIRECTIONS = {
    ".mp4": VIDEO, ".mov": VIDEO, ".avi": VIDEO, ".m4v": VIDEO, ".webm": VIDEO,
    ".mkv": KINECT, ".bag": BAG, ".db3": BAG, ".mcap": BAG, ".oni": BAG,
    ".splat": SPLAT, ".spz": SPLAT, ".ksplat": SPLAT,
    ".zip": ARCHIVE, ".tar": ARCHIVE, ".gz": ARCHIVE, ".tgz": ARCHIVE, ".7z": ARCHIVE, ".rar": ARCHIVE,
    ".ply": MESH, ".obj": MESH, ".glb": MESH, ".gltf": GLTF,
    ".las": MESH, ".laz": MESH, ".e57": MESH, ".pcd": MESH,
    ".stl": OTHER_MESH, ".fbx": OTHER_MESH, ".usdz": OTHER_MESH, ".dae": OTHER_MESH,
    ".off": OTHER_MESH, ".3ds": OTHER_MESH, ".3mf": OTHER_MESH, ".wrl": OTHER_MESH, ".x3d": OTHER_MESH,
    ".usd": OTHER_MESH, ".usda": OTHER_MESH, ".usdc": OTHER_MESH, ".blend": OTHER_MESH,
    ".vtk": OTHER_MESH, ".vtp": OTHER_MESH, ".drc": OTHER_MESH, ".ifc": OTHER_MESH,
    ".rcp": SCANNER, ".rcs": SCANNER, ".fls": SCANNER, ".zfs": SCANNER, ".lsproj": SCANNER,
    ".npy": ARRAYS, ".npz": ARRAYS, ".pth": ARRAYS, ".pt": ARRAYS, ".h5": ARRAYS, ".hdf5": ARRAYS,
    ".pkl": ARRAYS, ".mat": ARRAYS, ".safetensors": ARRAYS, ".parquet": ARRAYS,
    ".xyz": TEXT_CLOUD, ".pts": TEXT_CLOUD, ".ptx": TEXT_CLOUD, ".asc": TEXT_CLOUD,
    ".txt": TEXT_CLOUD, ".csv": TEXT_CLOUD,
}  # fmt: skip


def directions(path: Path) -> str | None:
    """What to do with a file that is no recording; None for one that nothing is known of."""
    known = DIRECTIONS.get(path.suffix.lower())
    if known is None and zipfile.is_zipfile(path):
        return ARCHIVE
    return known


def lone_mesh(folder: Path) -> str | None:
    """Directions for a folder that holds meshes or clouds, which are given themselves."""
    found = sorted(path for path in folder.iterdir() if DIRECTIONS.get(path.suffix.lower()) == MESH)
    return f"give the file: `bifusion scan {shlex.quote(str(found[0]))}`" if found else None


def lone_videos(folder: Path) -> str | None:
    """Directions for a folder in which there is nothing but such files."""
    known = {end: said for end, said in DIRECTIONS.items() if end not in (".txt", ".csv")}  # notes
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in known)
    found.sort(key=lambda path: known[path.suffix.lower()] == ARRAYS)  # beside others they are notes
    return f"{found[0].name}: {known[found[0].suffix.lower()]}" if found else None
