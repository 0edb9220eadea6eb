"""How float32 is multiplied is chosen for a block alone, whatever the process has been set to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bifusion.geometry import LiftingConfig, find_sightings
from bifusion.precision import float32_matmul_precision, float32_products, full_float32, matmul_precision
from bifusion.types import BatchView

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
backends = torch.backends
NEW = hasattr(backends.cuda.matmul, "fp32_precision")
newer_torch = pytest.mark.skipif(not NEW, reason="torch before 2.9 has one way of setting it")


@pytest.fixture(autouse=True)
def as_torch_begins() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    if NEW:
        backends.fp32_precision = "none"
        for operation in (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn):
            operation.fp32_precision = "none"
    backends.cudnn.allow_tf32 = True


def switches() -> list[str]:
    of = (backends, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    of_cpu = (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn)
    return [operation.fp32_precision for operation in (*of, *of_cpu)]


def everything(precision: str) -> None:
    backends.fp32_precision = precision


def matrices(precision: str) -> None:
    backends.cuda.matmul.fp32_precision = precision


def images(precision: str) -> None:
    backends.cudnn.conv.fp32_precision = precision


def of_cpu(precision: str) -> None:
    backends.mkldnn.matmul.fp32_precision = precision


@newer_torch
@pytest.mark.parametrize(
    ("choose", "precision"),
    [(everything, "tf32"), (matrices, "tf32"), (images, "ieee"), (of_cpu, "bf16")],
)
def test_what_a_program_chose_in_torchs_new_way_is_kept(choose, precision) -> None:
    choose(precision)
    before = switches()
    for matmul, device in (("ieee", CUDA), ("tf32", CUDA), ("ieee", CPU)):
        with float32_products(matmul, device):
            wanted = "tf32" if matmul == "tf32" else "ieee"
            assert switches()[1:] == [wanted] * 6
            assert matmul_precision(CUDA) == {"tf32": "high", "ieee": "highest"}[wanted]
            assert backends.cudnn.allow_tf32 == (wanted == "tf32")  # torch answers, either way
        assert switches() == before
    with float32_matmul_precision("medium"):
        assert matmul_precision(CPU) == "medium"
    assert switches() == before


@newer_torch
def test_it_is_told_where_torch_does_not_tell() -> None:
    matrices("tf32")
    of_cpu("bf16")
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        torch.get_float32_matmul_precision()
    assert matmul_precision(CUDA) == "high" and matmul_precision(CPU) == "medium"


def test_a_cpu_multiplies_float32_whatever_the_program_chose() -> None:
    torch.set_float32_matmul_precision("medium")
    with float32_products("tf32", CPU):
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "medium"


def test_an_error_in_the_block_puts_it_back_too() -> None:
    with pytest.raises(KeyError), full_float32(CPU):
        raise KeyError
    assert torch.get_float32_matmul_precision() == "highest" and backends.cudnn.allow_tf32


class Products(TorchDispatchMode):
    """Notes in which precision matrices are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.met.append(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


def test_voxels_are_projected_in_full_float32_where_a_training_asks_for_tf32() -> None:
    eye = torch.eye(4)
    depth_m = torch.full((48, 64), 2.0)
    K = torch.tensor([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    view = BatchView(
        name="0", scene=0, image=torch.zeros(3, 48, 64), image_depth_m=depth_m[None], K=K,
        world2cam=eye, depth_m=depth_m, depth_K=K, depth_world2cam=eye,
    )  # fmt: skip
    position_m = torch.tensor([[0.0, 0, 2], [0.5, 0, 2]])
    with float32_products("tf32", CUDA), Products() as products:
        sightings = find_sightings(position_m, torch.zeros(2).int(), [view], LiftingConfig())
    assert sightings.count.tolist() == [1, 1]
    assert products.met and set(products.met) == {"highest"}
