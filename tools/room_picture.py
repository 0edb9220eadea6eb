"""A room as one picture for the documentation: its own colours, its classes, a legend.

    python tools/room_picture.py FOLDER OUT.png

FOLDER is one that `bifusion scan` wrote, for what a model says, or a scene folder with ScanNet20's
classes, for its annotation. The picture is drawn as those of reports are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bifusion.labels.palette import class_palette, color_classes
from bifusion.labels.sets import SCANNET20
from bifusion.studies.page.pictures import Camera, splat

GAP, MARGIN, LINE, TEXT, SWATCH = 24, 12, 22, 13, 11
INK, PAPER = (70, 75, 82), (255, 255, 255)
COLORS = 200
MOST_BYTES = 150_000


def main(folder: Path, out: Path) -> None:
    """Writes the picture; it must not grow past what a README may weigh."""
    coord, color, semantic = read_labelled(folder)
    camera = Camera.above(coord)
    pictures = [draw(camera, coord, colors) for colors in (color, color_classes(semantic, SCANNET20))]
    legend = legend_of(semantic, sum(picture.width for picture in pictures) + GAP)
    width = legend.width + 2 * MARGIN
    height = max(picture.height for picture in pictures) + legend.height + 3 * MARGIN
    page = Image.new("RGB", (width, height), PAPER)
    left = MARGIN
    for picture in pictures:
        page.paste(picture, (left, MARGIN), picture)
        left += picture.width + GAP
    page.paste(legend, (MARGIN, height - legend.height - MARGIN))
    out.parent.mkdir(parents=True, exist_ok=True)
    page.quantize(COLORS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    size = out.stat().st_size
    print(f"{out}: {width} × {height}, {size / 1000:.0f} kB")
    if size > MOST_BYTES:
        sys.exit(f"{out}: {size} bytes, more than {MOST_BYTES}")


def read_labelled(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 3) metres upright, (n, 3) RGB and (n,) class of the points of a labelled scan or a scene."""
    labelled = (folder / "labels.npy").is_file()
    semantic = np.load(folder / ("labels.npy" if labelled else "segment20.npy"))
    scene = folder / "scene" if labelled else folder
    return (
        np.load(scene / "coord.npy")[: len(semantic)],
        np.load(scene / "color.npy")[: len(semantic)],
        semantic,
    )


def draw(camera: Camera, coord: np.ndarray, color: np.ndarray) -> Image.Image:
    """The points from above and one side, clear where none is."""
    drawn = splat(coord[camera.shown] @ camera.axes.T, color[camera.shown], camera)
    picture = Image.fromarray(drawn)
    return picture.resize((picture.width * 2 // 5, picture.height * 2 // 5), Image.Resampling.BOX)


def legend_of(semantic: np.ndarray, width: int) -> Image.Image:
    """Names of the classes that occur, beside their colours."""
    font = ImageFont.load_default(TEXT)
    names = [
        (SCANNET20.class_names[i], class_palette(SCANNET20)[i])
        for i in np.unique(semantic[semantic >= 0])
    ]
    rows: list[list[tuple[int, str, np.ndarray]]] = [[]]
    left = 0
    for name, color in names:
        wide = SWATCH + 6 + int(font.getlength(name)) + 18
        if left + wide > width:
            rows.append([])
            left = 0
        rows[-1].append((left, name, color))
        left += wide
    legend = Image.new("RGB", (width, LINE * len(rows)), PAPER)
    pen = ImageDraw.Draw(legend)
    for index, row in enumerate(rows):
        for left, name, color in row:
            top = index * LINE + 4
            pen.rectangle((left, top, left + SWATCH, top + SWATCH), fill=tuple(map(int, color)))
            pen.text((left + SWATCH + 6, top - 3), name, fill=INK, font=font)
    return legend


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
