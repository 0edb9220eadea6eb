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

from bifusion.sparse.triton import kernels
from bifusion.sparse.triton.configurations import Configuration

CHIPS = (75, 80, 90, 100)
"""Compute capabilities: Turing, Ampere, Hopper, Blackwell."""
SHARED_MEMORY = {75: 65_536, 80: 166_912, 90: 232_448, 100: 232_448}
"""Bytes that a block may have at most (CUDA programming guide, technical specifications)."""
PRECISIONS = {"float32": ("fp32", "ieee"), "tf32": ("fp32", "tf32"), "float16": ("fp16", "ieee"), "bfloat16": ("bf16", "ieee")}
_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Needs:
    """What a compiled kernel needs of a chip."""

    registers: int
    spilled: int
    """Bytes of local memory of a thread: registers that did not fit, and arrays."""
    shared: int
    """Bytes of shared memory of a block."""


def compile_ahead(kernel, precision: str, chosen: Configuration, chip: int, even: bool = True, tmp=None):
    element, dot = PRECISIONS[precision]
    types = {
        "feats": f"*{element}", "weight": f"*{element}", "out": f"*{element}", "grad": f"*{element}",
        "partial": "*fp32", "table": "*i32", "out_rows": "*i32", "in_rows": "*i32", "tile_offsets": "*i32",
        "tile_counts": "*i32", "chunk_first": "*i32", "chunk_last": "*i32",
    }  # fmt: skip
    constants = {**chosen.blocks(), "EVEN_IN": even, "EVEN_OUT": even, "PRECISION": dot}
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names
    }
    aligned = {name for name in signature if name in types}
    if even:
        aligned |= {"channels_in", "channels_out"}
    attributes = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(kernel.arg_names) if name in aligned
    }
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", chip, 32), options=chosen.options())


def needs_of(compiled, folder: Path) -> Needs:
    file = folder / "kernel.cubin"
    file.write_bytes(compiled.asm["cubin"])
    report = subprocess.run(
        [_CUOBJDUMP, "--dump-resource-usage", file], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", report)
    assert found, report
    return Needs(int(found[1]), int(found[2]) + int(found[3]), compiled.metadata.shared)
