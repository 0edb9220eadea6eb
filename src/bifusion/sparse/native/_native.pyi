"""Types of the compiled module, module.cpp. Arrays are contiguous CPU tensors without gradient."""

from torch import Tensor

class PairPlan:
    pairs: int

class VoxelIndex:
    distinct: bool
    def __init__(self, coords: Tensor) -> None: ...

def use_isa(name: str) -> None: ...
def isa() -> str: ...
def supported_isas() -> list[str]: ...
def lanes(single: bool) -> int: ...
def make_plan(neighbors: Tensor, in_rows: int, block_rows: int, threads: int) -> PairPlan: ...
def convolve(
    plan: PairPlan,
    in_: Tensor,
    weight: Tensor,
    out: Tensor,
    threads: int,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> None: ...
def computes_bfloat16() -> bool: ...
def convolve_bfloat16(
    plan: PairPlan,
    in_: Tensor,
    weight: Tensor,
    out: Tensor,
    threads: int,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
) -> None: ...
def weight_gradient(
    plan: PairPlan, in_: Tensor, out_grad: Tensor, gradient: Tensor, threads: int
) -> None: ...
def turn_weight(weight: Tensor, mirrored: bool, out: Tensor, threads: int) -> None: ...
def moments(x: Tensor, mean: Tensor, squares: Tensor, threads: int) -> None: ...
def normalise(
    x: Tensor, norm: Tensor, residual: Tensor | None, relu: bool, out: Tensor, threads: int
) -> None: ...
def norm_gradient(
    x: Tensor,
    norm: Tensor,
    grad: Tensor,
    out: Tensor | None,
    relu: bool,
    passed: Tensor | None,
    x_grad: Tensor,
    sums: Tensor,
    threads: int,
) -> None: ...
def keep_freed_memory() -> bool: ...
def peak_rate(rounds: int, threads: int) -> float: ...
def find_neighbours(
    index: VoxelIndex, out_coords: Tensor, kernel_size: int, stride: int, table: Tensor, threads: int
) -> None: ...
