"""What searching a scan for words gives: how well each region fits each word.

Letters in shapes: N points, R regions, W words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bifusion.arguments import path_of, place_of, text_of, whole_of
from bifusion.errors import InputError
from bifusion.inference.segmentation import Segmentation


@dataclass(frozen=True)
class Instances:
    """Objects that a prediction has, to be ranked."""

    of_point: np.ndarray
    """(N,) integer id of the object at each point, −1 none."""
    class_names: Mapping[int, str] = field(default_factory=dict)
    """By id."""
    scores: Mapping[int, float] = field(default_factory=dict)
    """By id, of those that have one."""

    @staticmethod
    def of(segmentation: Segmentation) -> Instances:
        """Those of what a model predicted."""
        names = dict(enumerate(segmentation.class_names[segmentation.classes].tolist()))
        scores = dict(enumerate(segmentation.scores.tolist()))
        return Instances(segmentation.instances, names, scores)


@dataclass(frozen=True)
class Regions:
    """Superpoints or objects, and how well each fits each word."""

    of_point: np.ndarray
    """(N,) int64 row of the region of each point, −1 none."""
    ids: np.ndarray
    """(R,) as what they come from numbers them."""
    num_points: np.ndarray
    """(R,) int64."""
    low_m: np.ndarray
    """(R, 3) smallest box along the axes, metres, the frame of `Found.points`; like high_m."""
    high_m: np.ndarray
    seen: np.ndarray
    """(R,) share of its points that a view sees."""
    similarity: np.ndarray
    """(R, W) float32 cosine of its image features with each word; NaN where no view sees it."""
    class_names: Mapping[int, str] = field(default_factory=dict)
    """By id, of objects."""
    scores: Mapping[int, float] = field(default_factory=dict)
    """By id, of objects that have one."""

    def ranking(self, word: int) -> np.ndarray:
        """Rows of the regions that are seen, the one that fits word number `word` best first. Raises
        InputError for a number that no word has."""
        number = place_of(word, "word", self.similarity.shape[1], "number of words")
        similarity = self.similarity[:, number]
        order = np.argsort(-similarity, kind="stable")
        return order[np.isfinite(similarity[order])]


@dataclass(frozen=True, repr=False)
class Found:
    """A scan searched for words. Nothing was trained for it, and no accuracy is claimed: cosines rank
    the regions of one word, and are no probabilities."""

    name: str
    """The scene's."""
    points: np.ndarray
    """(N, 3) metres, where the scene had them."""
    offset_m: np.ndarray
    """(3,) what was taken off its points in the scene folder, and is given back in `points`."""
    words: tuple[str, ...]
    superpoints: Regions
    objects: Regions | None
    """None without a prediction."""
    seen_share: float
    """Share of all points that a view sees."""
    tower: str
    """Which CLIP, and where its weights come from."""

    def best(self, word: str) -> np.ndarray:
        """(N,) bool: the points of the object, or without a prediction of the superpoint, that fits
        `word` best. Raises InputError for a word that was not searched for."""
        regions = self.superpoints if self.objects is None else self.objects
        ranking = regions.ranking(self.number(word))
        return regions.of_point == ranking[0] if len(ranking) else np.zeros(len(self.points), bool)

    def similarity(self, word: str) -> np.ndarray:
        """(N,) float32 of each point's superpoint with `word`; NaN where no view sees it."""
        return self.superpoints.similarity[self.superpoints.of_point, self.number(word)]

    def number(self, word: str) -> int:
        """Place of `word` among `words`. Raises InputError for one that was not searched for."""
        if text_of(word, "word", "one of the words that were searched for") not in self.words:
            raise InputError(
                f"word {word!r} was not searched for; searched were {', '.join(self.words)}"
            )
        return self.words.index(word)

    def write(self, folder: str | Path, most: int | None = None) -> list[Path]:
        """found.json, similarity.npy and a coloured PLY of each word (found_files.py) in `folder`; each
        appears complete or not at all. `most`: only of so many words PLY files and rankings."""
        from bifusion.inference.found_files import write_found

        most = None if most is None else whole_of(most, "most")
        return write_found(path_of(folder, "folder"), self, most)

    def __repr__(self) -> str:
        return f"<Found in {self.name}: {', '.join(self.words[:5])}{', …' * (len(self.words) > 5)}>"
