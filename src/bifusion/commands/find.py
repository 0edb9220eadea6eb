"""The command that searches a scan for words.

A command imports what it needs once its options are read: torch takes seconds, no help should.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.table import Table
from rich.text import Text

from bifusion.commands import parsing
from bifusion.commands.help import Help
from bifusion.commands.telling import say, telling
from bifusion.errors import InputError
from bifusion.untrusted.names import shown
from bifusion.untrusted.screen import Screen

if TYPE_CHECKING:
    from bifusion.data.open_scene import OpenScene
    from bifusion.inference.find import FindOptions
    from bifusion.inference.found import Found
    from bifusion.inference.word_tower import WordTower

MOST_SHOWN = 5
"""Regions of a word in the table."""
FIND_HELP = Help(
    'find data/mine/val/hall "a red chair" "a lamp" --prediction predictions',
    common=("scene", "words", "out", "prediction", "tower", "weights", "form", "label-set", "views"),
)


@dataclass
class Find:
    """Search a scene for words: which superpoints and objects look most like them, by CLIP."""

    scene: tyro.conf.Positional[Path]
    """Scene folder with views and superpoints, or what `bifusion scan` wrote, whose scene/ is one."""
    words: tyro.conf.Positional[tuple[str, ...]]
    """What to look for, taken as it is: "a red chair"."""
    prediction: Path | None = None
    """What `bifusion predict` or `bifusion scan` wrote of this scene: its objects are ranked."""
    tower: str = "ViT-B-16"
    """A plain CLIP of open_clip's table, or a .json file in its format."""
    weights: str | None = None
    """File of a whole CLIP, or an open_clip tag; left out: LAION-2B's, OpenAI's of …-quickgelu."""
    form: Literal["self_attention", "values"] = "self_attention"
    """Dense features: ClearCLIP's self-self attention, or MaskCLIP's last-layer values."""
    registers: int = 0
    """Test-time registers: so many neurons, found on the scene's views, lose their outliers; 10 were
    published for ViT-B-16."""
    label_set: str | None = None
    """A label set (`bifusion labels`) whose class names can be searched for in the page too."""
    views: int = 16
    """Most views that are looked at."""
    image_size: int = 448
    """Long side in pixels of the images that the tower sees."""
    voxel_size_m: float = 0.03
    """Side of the voxels that features are lifted to."""
    out: Path = Path("found")
    """Folder for found.json, similarity.npy, a coloured PLY of each word, and view.html."""


def find(args: list[str]) -> int:
    """Search a scene for words by CLIP, untrained: rankings, PLY files, a page."""
    wanted = parsing.parse(Find, args, "find", FIND_HELP)
    from bifusion.bounds import check_bounds
    from bifusion.data.open_scene import open_folder
    from bifusion.inference.device import keep_freed_memory
    from bifusion.inference.find import FindOptions, find_words, require_views
    from bifusion.inference.scan_files import scene_of
    from bifusion.labels.sets import get_label_set
    from bifusion.models.towers.clip_text import check_words
    from bifusion.viewer.found import instances_of, show_found, show_with
    from bifusion.viewer.page import write_view

    keep_freed_memory()
    asked = check_words(wanted.words)
    classes = () if wanted.label_set is None else get_label_set(wanted.label_set).class_names
    options = FindOptions(wanted.views, wanted.image_size, wanted.voxel_size_m)
    folder, console = scene_of(wanted.scene), Screen()
    scene = open_folder(folder, annotated=False)
    require_views(scene)
    check_bounds(options)
    scan = show_with(folder, wanted.prediction)
    tower = _tower(wanted, scene, options)
    say(console, tower.image.describe())
    with telling(console) as told:
        found = find_words(
            scene, [*asked, *classes], tower, options, instances=instances_of(scan),
            progress=lambda done, count: told.progress("looking at views", done, count),
        )  # fmt: skip
    paths = [*found.write(wanted.out, most=len(asked)), wanted.out / "view.html"]
    write_view(paths[-1], show_found(scan, found))
    for word in asked:
        console.print(_table(found, word))
    say(console, "Cosines rank the regions of one word; nothing was trained, no accuracy is claimed.")
    for path in paths:
        print(shown(path))
    return 0


def _tower(wanted: Find, scene: OpenScene, options: FindOptions) -> WordTower:
    from bifusion.inference.find import scene_batch
    from bifusion.inference.word_tower import (
        load_word_tower,
        scene_register_neurons,
        tower_patch_size,
    )

    neurons = []
    if wanted.registers < 0:
        raise InputError(f"registers: found {wanted.registers}; expected 0 or more neurons")
    if wanted.registers:
        views = scene_batch(scene, tower_patch_size(wanted.tower), options).views
        neurons = scene_register_neurons(views, wanted.registers, wanted.tower, wanted.weights)
    return load_word_tower(wanted.tower, wanted.weights, form=wanted.form, register_neurons=neurons)


def _table(found: Found, word: str) -> Table:
    """The regions that fit a word best."""
    from bifusion.inference.found_files import region_text

    kind, regions = "object", found.objects
    if regions is None or len(regions.ids) == 0:
        kind, regions = "superpoint", found.superpoints
    number = found.number(word)
    table = Table(
        "", "cosine", "points", "centre in m", "size in m", title=Text(shown(word)), title_justify="left"
    )
    for row in regions.ranking(number)[:MOST_SHOWN].tolist():
        low, high = regions.low_m[row], regions.high_m[row]
        table.add_row(
            Text(shown(region_text(regions, row, kind))),
            f"{regions.similarity[row, number]:.3f}",
            f"{regions.num_points[row]:,}",
            ", ".join(f"{value:.2f}" for value in (low + high) / 2),
            " × ".join(f"{value:.2f}" for value in high - low),
        )
    return table
