"""What was found in a scan, as files: rankings in JSON, all cosines as an array, a PLY a word."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from plyfile import PlyData, PlyElement

from bifusion.errors import InputError
from bifusion.inference.export import CHANNELS, VIEW
from bifusion.inference.found import Found, Regions
from bifusion.labels.palette import NONE_COLOR
from bifusion.storage.files import filled_in_memory, write_array, written_beside
from bifusion.storage.folders import files_replaced
from bifusion.storage.json_files import write_json
from bifusion.untrusted.json_text import read_json

LISTING, SIMILARITY = "found.json", "similarity.npy"
_CLOUD = re.compile(r"found-\d+\.ply")
MOST_RANKED = 100
"""Regions that a ranking lists."""
RAMP = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float64)
"""viridis, as the page has it: from the region that fits a word least to the one that fits best."""


def write_found(folder: Path, found: Found, most: int | None = None) -> list[Path]:
    """Writes LISTING, SIMILARITY and found-1.ply, found-2.ply … of the first `most` words (None: all).

    SIMILARITY is (superpoints, words) float32, NaN where no view sees a superpoint; its rows are those
    that property `superpoint` of the PLY files counts. These are coloured by the word's cosine, grey
    where no view sees. What a former search wrote stays until all is written, and goes as a whole, its
    page too.
    """
    shown = found.words if most is None else found.words[:most]
    clouds = [f"found-{number}.ply" for number in range(1, len(shown) + 1)]
    names = [*clouds, SIMILARITY, LISTING]
    with files_replaced(folder, [*_former(folder), *names]) as beside:
        for number, name in enumerate(clouds):
            _write_cloud(beside / name, found, number)
        write_array(beside / SIMILARITY, found.superpoints.similarity)
        write_json(beside / LISTING, _listing(found, clouds))
    return [folder / name for name in names]


def _former(folder: Path) -> list[str]:
    """The page of a former search and the clouds that its listing names; others of such a name are the
    user's."""
    listed: Any = None
    with suppress(InputError):
        listed = read_json(folder / LISTING)
    found = listed.get("found") if isinstance(listed, dict) else None
    rows = found if isinstance(found, list) else []
    files = [row.get("file") for row in rows if isinstance(row, dict)]
    clouds = [name for name in files if isinstance(name, str) and _CLOUD.fullmatch(name)]
    return [*clouds, *([VIEW] if isinstance(found, list) else [])]


def region_text(regions: Regions, row: int, kind: str) -> str:
    """What a region is called: "object 3 chair", "superpoint 12"."""
    identity = int(regions.ids[row])
    return " ".join(filter(None, [kind, str(identity), regions.class_names.get(identity, "")]))


def similarity_colors(similarity: np.ndarray) -> np.ndarray:
    """(N,) cosines to (N, 3) uint8: RAMP between the smallest and the largest, NONE_COLOR where NaN."""
    known = np.isfinite(similarity)
    low, high = similarity[known].min(initial=np.inf), similarity[known].max(initial=-np.inf)
    share = (similarity[known] - low) / max(high - low, 1e-6)
    colors = np.full((len(similarity), 3), NONE_COLOR, np.uint8)
    steps = np.arange(len(RAMP)) / (len(RAMP) - 1)
    channels = [np.interp(share, steps, RAMP[:, channel]) for channel in range(3)]
    colors[known] = np.rint(np.stack(channels, axis=1))
    return colors


def _write_cloud(path: Path, found: Found, number: int) -> None:
    """One word's cosines at all points; properties x y z red green blue similarity superpoint, and
    object where there is a prediction, −1 none."""
    precision = "<f8" if found.points.dtype == np.float64 else "<f4"
    similarity = found.similarity(found.words[number])
    columns: dict[str, np.ndarray] = dict(zip("xyz", found.points.astype(precision).T, strict=True))
    columns |= dict(zip(CHANNELS, similarity_colors(similarity).T, strict=True))
    columns["similarity"] = similarity.astype("<f4")
    columns["superpoint"] = found.superpoints.of_point.astype("<i4")
    if found.objects is not None:
        ids = np.append(found.objects.ids, -1)  # row −1, none
        columns["object"] = ids[found.objects.of_point].astype("<i4")
    vertices = np.empty(len(found.points), [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        vertices[name] = column
    word = found.words[number].encode("ascii", "backslashreplace").decode()
    said = [f"cosine with {word}; NaN: no view sees it", "nothing was trained; no accuracy is claimed"]
    cloud = PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<", comments=said)
    with written_beside(path) as beside, filled_in_memory(beside) as file:
        cloud.write(file)


def _listing(found: Found, clouds: list[str]) -> dict[str, Any]:
    return {
        "scene": found.name,
        "tower": found.tower,
        "about": "cosines of CLIP's image features with words; they rank, and are no probabilities; "
        "nothing was trained for it, and no accuracy is claimed",
        "num_points": len(found.points),
        "seen_share": found.seen_share,
        "similarity": f"{SIMILARITY}: (superpoints, words) cosines, NaN where no view sees a superpoint",
        "words": list(found.words),
        "found": [
            {
                "word": found.words[number],
                "file": name,
                "objects": None if found.objects is None else _ranking(found.objects, number),
                "superpoints": _ranking(found.superpoints, number),
            }
            for number, name in enumerate(clouds)
        ],
    }


def _ranking(regions: Regions, word: int) -> list[dict[str, Any]]:
    """The regions that fit best, the first one best of all."""
    return [_region(regions, row, word) for row in regions.ranking(word)[:MOST_RANKED].tolist()]


def _region(regions: Regions, row: int, word: int) -> dict[str, Any]:
    identity = int(regions.ids[row])
    described = {
        "id": identity,
        "similarity": float(regions.similarity[row, word]),
        "num_points": int(regions.num_points[row]),
        "seen_share": float(regions.seen[row]),
        "bounds_m": {"min": regions.low_m[row], "max": regions.high_m[row]},
    }
    if identity in regions.class_names:
        described |= {"class": regions.class_names[identity], "score": regions.scores.get(identity)}
    return described
