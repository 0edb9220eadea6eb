"""BiFusion: segment indoor RGB-D scans (README.md, "In Python"; what there is: api.py).

Importing the package imports nothing else: a name is looked up when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bifusion import plugins as plugins
    from bifusion.api import compare as compare
    from bifusion.api import evaluate as evaluate
    from bifusion.api import find as find
    from bifusion.api import load as load
    from bifusion.api import open_scene as open_scene
    from bifusion.api import train as train
    from bifusion.datasets.arrays.scene import make_scene as make_scene
    from bifusion.datasets.arrays.scene import write_scene as write_scene
    from bifusion.datasets.arrays.views import posed_view as posed_view
    from bifusion.datasets.fusion.fuse import fuse as fuse
    from bifusion.datasets.recordings.open import open_recording as open_recording
    from bifusion.datasets.scan.make import make_scan as make_scan
    from bifusion.datasets.scan.options import ScanOptions as ScanOptions
    from bifusion.datasets.scan.prepare import prepare_scan as prepare_scan
    from bifusion.errors import InputError as InputError
    from bifusion.inference.labelled import segment as segment
    from bifusion.inference.segmentation import Segmentation as Segmentation
    from bifusion.inference.segmenter import Segmenter as Segmenter
    from bifusion.labels.label_set import LabelClass as LabelClass
    from bifusion.labels.label_set import LabelSet as LabelSet
    from bifusion.recipes import get_recipe as get_recipe
    from bifusion.types import Scene as Scene
    from bifusion.types import View as View

    __version__: str

_PLACES = {
    "bifusion.api": ("compare", "evaluate", "find", "load", "open_scene", "train"),
    "bifusion.datasets.arrays.scene": ("make_scene", "write_scene"),
    "bifusion.datasets.arrays.views": ("posed_view",),
    "bifusion.datasets.fusion.fuse": ("fuse",),
    "bifusion.datasets.recordings.open": ("open_recording",),
    "bifusion.datasets.scan.make": ("make_scan",),
    "bifusion.datasets.scan.options": ("ScanOptions",),
    "bifusion.datasets.scan.prepare": ("prepare_scan",),
    "bifusion.errors": ("InputError",),
    "bifusion.inference.labelled": ("segment",),
    "bifusion.inference.segmentation": ("Segmentation",),
    "bifusion.inference.segmenter": ("Segmenter",),
    "bifusion.labels.label_set": ("LabelClass", "LabelSet"),
    "bifusion.recipes": ("get_recipe",),
    "bifusion.types": ("Scene", "View"),
}
_MODULES = ("plugins",)
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}


if not TYPE_CHECKING:  # which would otherwise take any name for one of the package's

    def __getattr__(name: str) -> Any:
        """A public name, from the module that has it, or a public module; `__version__` from the
        installed package."""
        if name == "__version__":
            return import_module("importlib.metadata").version(__name__)
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*_MODULE_OF, *_MODULES, "__version__"])
