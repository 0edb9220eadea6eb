"""Files of an image tower's weights, opened without unpickling anything freely.

Understood are .safetensors, and .pt / .pth / .bin with a state dict alone or under a key, or a
TorchScript archive, whose program is not run.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bifusion.errors import InputError, listing
from bifusion.torch_files.files import is_safetensors, open_torch_file
from bifusion.torch_files.objects import StoredTensor
from bifusion.torch_files.state_dicts import find_state_dict, is_averaged
from bifusion.untrusted.files import check_regular

FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
INDEX = ".index.json"
"""How the list of the parts ends that a large model is saved in."""
_PART = re.compile(r"-\d{5}-of-(\d{5})$")
IN_PARTS = (
    "is of weights saved in several parts; save them in one file (of the transformers library: "
    "save_pretrained(FOLDER, max_shard_size='100GB'))"
)
"""What to say of a file that is `in_parts`."""


def is_file(pretrained: str) -> bool:
    """Whether a file is meant, or a folder of them, and no tag, which may be a folder's name too."""
    path = Path(pretrained)
    a_folder = len(path.parts) > 1 and path.is_dir()
    return path.suffix.lower() in FILE_SUFFIXES or pretrained.endswith(INDEX) or a_folder


def in_parts(path: Path) -> bool:
    """Whether a file is, by its name, one of several that hold a model's weights, or their list."""
    return _PART.search(path.stem) is not None or path.name.endswith(INDEX)


def check_finite(tensor: Tensor, name: str, path: Path) -> None:
    """InputError for a tensor, called `name` in the file `path`, that holds NaN or infinity."""
    if not tensor.isfinite().all():
        raise InputError(
            f"tower.pretrained: {name!r} in {path} holds numbers that are not finite: the training that "
            "wrote it had failed; take another file"
        )


def weights_file(pretrained: str) -> Path:
    """The file that `pretrained` names; InputError where it is not there, or holds a part alone."""
    path = Path(pretrained)
    if path.is_dir():
        files = sorted(one.name for one in path.glob("*") if one.suffix in FILE_SUFFIXES)
        raise InputError(
            f"tower.pretrained: {path} is a folder; give the file of the weights in it "
            f"({listing(files) or 'it has none'})"
        )
    if in_parts(path):
        raise InputError(f"tower.pretrained: {path} {IN_PARTS}")
    if not path.is_file():
        raise InputError(
            f"tower.pretrained: there is no file {path}; expected a {', '.join(FILE_SUFFIXES)} "
            "file, a tag such as 'openai' (open_clip) or 'hub' (timm), or None to start from scratch"
        )
    return path


def check_file(pretrained: str | None) -> None:
    """InputError where `pretrained` names a file that is not there."""
    if pretrained is not None and is_file(pretrained):
        weights_file(pretrained)


@dataclass(frozen=True)
class OpenWeights:
    """Names of an open file's tensors, a function that reads one, and the file's description."""

    names: list[str]
    tensor: Callable[[str], Tensor]
    note: str = ""


@contextmanager
def open_weights(path: Path) -> Iterator[OpenWeights]:
    """InputError, naming the option, for whatever is wrong with the file."""
    try:
        check_regular(path)
        if is_safetensors(path):
            with safe_open(path, framework="pt") as file:
                note = (file.metadata() or {}).get("description", "")
                yield OpenWeights(list(file.keys()), file.get_tensor, note)
            return
        with open_torch_file(path) as file:
            stored = file.module_tensors() if file.is_torchscript else _state_dict(file.content, path)
            yield OpenWeights(list(stored), lambda name: file.tensor(stored[name]))
    except (SafetensorError, MemoryError) as error:
        raise InputError(f"tower.pretrained: {path} is no readable safetensors file: {error}") from error
    except InputError as error:
        words = str(error)
        raise InputError(
            words if words.startswith("tower.pretrained") else f"tower.pretrained: {words}"
        ) from error


def _state_dict(content: Any, path: Path) -> dict[str, StoredTensor]:
    found = find_state_dict(content)
    if found is not None and (found.others or is_averaged(found.place)):
        left = f", not from {', '.join(map(repr, found.others))}" if found.others else ""
        warnings.warn(f"{path}: weights are taken from {found.place!r}{left}", stacklevel=2)
    return found.tensors if found else {}
