"""Compiles the Triton kernels for chips that are not here, and reads what they would need of them.

What `triton.compile` makes of a kernel for a target is the code that such a GPU would run: its
registers, spills and shared memory are facts, whether or not a GPU is near.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bifusion.sparse.coordinates import BIAS, BITS
from bifusion.sparse.triton import kernels
from bifusion.sparse.triton.configurations import Configuration, Products, gradient_precision

CHIPS = (75, 80, 90, 100)
"""Compute capabilities: Turing, Ampere, Hopper, Blackwell."""
SHARED_MEMORY = {75: 64 << 10, 80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
"""Bytes that a block may have at most (CUDA programming guide, technical specifications)."""
NO_SPILLS = (80, 90)


@dataclass(frozen=True)
class Precision:
    products: Products
    element: str
    """Triton's name of the type of features and weights."""
    dot: str
    """`input_precision` of its dot."""


PRECISIONS = {
    "float32": Precision("ieee", "fp32", "ieee"),
    "tf32": Precision("tf32", "fp32", "tf32"),
    "float16": Precision("narrow", "fp16", "ieee"),
    "bfloat16": Precision("narrow", "bf16", "ieee"),
}
KERNELS: dict[str, dict[str, str]] = {
    # the types of pointers: T is that of the features; what is not named is an int32
    "convolve": {
        "feats": "T", "weight": "T", "out": "T", "bias": "fp32", "residual": "T",
        "table": "i32", "out_rows": "i32", "tile_offsets": "i32", "tile_counts": "i32",
        "turns": "i64",
    },
    "mask_keys": {"neighbors": "i32", "ranked": "i32", "keys": "i64"},
    "make_tiles": {
        "neighbors": "i32", "order": "i64",
        "out_rows": "i32", "table": "i32", "offsets": "i32", "counts": "i32",
    },
    "weight_gradient": {
        "feats": "T", "grad": "T", "partial": "fp32",
        "in_rows": "i32", "out_rows": "i32", "chunk_first": "i32", "chunk_last": "i32",
    },
    "sum_chunks": {"partial": "fp32", "out": "fp32", "offset_first": "i32"},
    "find_neighbors": {
        "columns": "i64", "heights": "i32", "order": "i32", "wanted": "i32", "table": "i32",
    },
}  # fmt: skip
CONSTANTS = {
    "mask_keys": {"SLOTS": 64, "BLOCK": 32},
    "make_tiles": {"BLOCK": 128},
    "sum_chunks": {"CHUNKS": 16, "BLOCK": 128},
    "find_neighbors": {"SIDE": 3, "BIAS": BIAS, "BITS": BITS, "BLOCK": 128},
}
_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Needs:
    """What a compiled kernel needs of a chip."""

    registers: int
    spilled: int
    """Bytes of a thread's stack and local memory: registers that did not fit."""
    shared: int
    """Bytes of shared memory of a block."""


def needs_of(
    kernel: str,
    precision: str,
    chosen: Configuration | None,
    chip: int,
    folder: Path,
    even: bool = True,
    finished: bool = False,
) -> Needs:
    """Compiles; even: channels are multiples of 16 and fill their blocks; finished: a convolution with
    bias, residual and ReLU. `folder` is written to."""
    compiled = _compile(kernel, PRECISIONS[precision], chosen, chip, even, finished)
    file = folder / "kernel.cubin"
    file.write_bytes(compiled.asm["cubin"])
    command = [str(_CUOBJDUMP), "--dump-resource-usage", str(file)]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", report)
    assert found, report
    return Needs(int(found[1]), int(found[2]) + int(found[3]), compiled.metadata.shared)


def faults_of(
    kernel: str,
    precision: str,
    chosen: Configuration | None,
    chip: int,
    folder: Path,
    even: bool = True,
    finished: bool = False,
) -> list[str]:
    """Why a configuration would not do on a chip; nothing if it would."""
    needs = needs_of(kernel, precision, chosen, chip, folder, even, finished)
    title = f"{kernel} {precision} {chosen} on sm_{chip}, {'even' if even else 'odd'}: {needs}"
    faults = []
    if needs.spilled and chip in NO_SPILLS:
        faults.append(f"{title} spills")
    if needs.shared > SHARED_MEMORY[chip]:
        faults.append(f"{title} wants more than the {SHARED_MEMORY[chip]} bytes of shared memory")
    return faults


def _compile(
    name: str,
    precision: Precision,
    chosen: Configuration | None,
    chip: int,
    even: bool,
    finished: bool = False,
):
    kernel, pointers = getattr(kernels, name), KERNELS[name]
    constants = CONSTANTS.get(name, {})
    if chosen is not None:
        dot = gradient_precision(chosen, precision.products, precision.dot)
        constants = {**chosen.blocks(), "EVEN_IN": even, "EVEN_OUT": even, "PRECISION": dot}
    if name == "convolve":
        constants["RELU"] = finished
        constants |= {} if finished else {"bias": None, "residual": None}
    signature, aligned = {}, []
    for place, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
            continue
        element = pointers.get(argument)
        signature[argument] = (
            f"*{precision.element if element == 'T' else element}" if element else "i32"
        )
        if element or (even and argument.startswith("channels")):
            aligned.append(place)
    attributes = {(place,): [["tt.divisibility", 16]] for place in aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    options = chosen.options() if chosen else {}
    return triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options)
