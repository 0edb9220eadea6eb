"""Files of PyTorch read without running them: all formats, and files made to do harm."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hostile_pickles as hostile
from bifusion.errors import InputError
from bifusion.torch_files.files import open_torch_file
from bifusion.torch_files.objects import Inert, MalformedFileError
from bifusion.torch_files.pickle_machine import PickleMachine
from bifusion.torch_files.state_dicts import find_state_dict, unwrapped


def read(path: Path) -> dict[str, Tensor]:
    with open_torch_file(path) as file:
        found = find_state_dict(file.content)
        return {name: file.tensor(tensor) for name, tensor in found.tensors.items()} if found else {}


def many_tensors() -> dict[str, Tensor]:
    base = torch.randn(3, 4)
    return collections.OrderedDict(
        plain=base,
        view=torch.randn(10)[2:7],
        shared=base[1],
        transposed=torch.randn(4, 5).T,
        scalar=torch.tensor(3),
        empty=torch.zeros(0, 3),
        half=torch.randn(2).half(),
        bfloat=torch.ones(4).bfloat16(),
        flags=torch.tensor([True, False]),
        double=torch.randn(2).double(),
        parameter=nn.Parameter(torch.randn(2)),
    )


class Extra:
    """Stands for what mmengine and Lightning save beside the weights."""

    def __init__(self) -> None:
        self.history = np.arange(3)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_format_and_type(legacy: bool, protocol: int, tmp_path: Path):
    tensors = many_tensors()
    content = {"state_dict": tensors, "meta": {"set": {1, 2}, "extra": Extra()}, "epoch": 3}
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    found = read(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor.detach()) and found[name].dtype == tensor.dtype, name
    with open_torch_file(path) as file:
        assert file.content["epoch"] == 3 and isinstance(file.content["meta"]["extra"], Inert)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_module(tmp_path: Path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(2, 2))).half()
    torch.jit.save(torch.jit.script(module), str(tmp_path / "m.pt"))
    with open_torch_file(tmp_path / "m.pt") as file:
        assert file.is_torchscript
        found = {name: file.tensor(tensor) for name, tensor in file.module_tensors().items()}
    expected = module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "model", "module."])
def test_where_weights_lie(wrap: str, tmp_path: Path):
    weights = {"a.weight": torch.ones(2), "b.bias": torch.zeros(1)}
    content: dict = {wrap: weights, "lr": torch.tensor(0.1)}
    if wrap == "bare":
        content = weights
    if wrap == "module.":
        content = {f"module.{name}": tensor for name, tensor in weights.items()}
    torch.save(content, tmp_path / "x.pt")
    assert read(tmp_path / "x.pt").keys() == weights.keys()


def place_of(content: object, path: Path, wanted: str | None = None) -> tuple[str, tuple[str, ...]]:
    torch.save(content, path)
    with open_torch_file(path) as file:
        found = find_state_dict(file.content, wanted)
    assert found is not None and sorted(found.tensors) == ["a.weight", "b.bias"]
    return found.place, found.others


def test_averages_are_found_and_come_last(tmp_path: Path):
    weights, path = {"a.weight": torch.ones(2), "b.bias": torch.zeros(1)}, tmp_path / "x.pt"
    state = {0: {"exp_avg": torch.ones(2)}}
    for key in ("ema_state_dict", "state_dict_ema", "model_ema", "ema"):
        content = {"epoch": 3, "optimizer": {"state": state, "optim": weights}, key: weights}
        assert place_of(content, path) == (key, ())
        assert place_of({**content, "state_dict": weights}, path) == ("state_dict", (key,))
        assert place_of({**content, "state_dict": weights}, path, key) == (key, ("state_dict",))
    assert place_of({"ema": {"module": weights}, "module": weights}, path) == ("module", ("ema.module",))
    assert place_of({"checkpoint": {"model": {"state_dict": weights}}}, path)[0].endswith("state_dict")


def test_a_few_numbers_beside_the_weights_are_no_network(tmp_path: Path):
    many = {f"layer{i}.weight": torch.ones(1) for i in range(30)}
    torch.save({"ema_state_dict": many, "lr": torch.tensor(0.1)}, tmp_path / "x.pt")
    assert read(tmp_path / "x.pt").keys() == many.keys()


def test_what_wrappers_put_into_names_is_removed():
    for wrapped in (
        "module.a.b", "_orig_mod.a.b", "module._orig_mod.a.b", "_orig_mod.module.module.a.b",
        "a._orig_mod.b", "_fsdp_wrapped_module.a._checkpoint_wrapped_module.b",
    ):  # fmt: skip
        assert unwrapped([wrapped]) == {wrapped: "a.b"}
    assert unwrapped(["module.a", "a"]) == {"module.a": "module.a", "a": "a"}
    assert unwrapped(["my_module.a", "a.module.b"]) == {
        "my_module.a": "my_module.a",
        "a.module.b": "a.module.b",
    }


# --------------------------------------------------------------------------------------- made to harm


@pytest.fixture
def harm(tmp_path: Path):
    """A shell command that leaves a file; at the end the file must not be there."""
    evidence = tmp_path / "evidence"
    yield f"touch {evidence}"
    assert not evidence.exists()


def test_the_commands_of_these_tests_would_work(tmp_path: Path):
    evidence = tmp_path / "evidence"
    pickle.loads(hostile.calls(f"touch {evidence}")["REDUCE"])
    assert evidence.exists()


@pytest.mark.parametrize("how", hostile.calls("true"))
def test_a_call_is_never_made(how: str, harm: str, tmp_path: Path):
    data = hostile.calls(harm)[how]
    path = hostile.write_zip(tmp_path / "x.pt", data)
    try:
        assert read(path) == {}
    except InputError as error:
        assert "no readable PyTorch file" in str(error)
    try:
        assert isinstance(PickleMachine().load(io.BytesIO(data)), Inert)
    except MalformedFileError:
        assert how == "REDUCE of a rebuilt tensor"


@pytest.mark.parametrize("legacy", [False, True])
def test_a_call_beside_the_weights_is_inert(legacy: bool, harm: str, tmp_path: Path):
    call = hostile.Call(harm)
    content = {
        "state_dict": {"w": torch.ones(2), "x": call},
        "meta": [{"deep": ({"deeper": call},)}],
        call: 1,
        "hooks": collections.OrderedDict(a=call),
    }
    path = tmp_path / "x.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    found = read(path)
    assert list(found) == ["w"] and torch.equal(found["w"], torch.ones(2))


HARMFUL = {
    "storage of a type that is a function": hostile.tensor(
        hostile.storage(4, kind="system", module="os"), (4,), (1,)
    ),
    "storage whose name leads elsewhere": hostile.tensor(
        hostile.storage(4, key="../../../../etc/passwd"), (4,), (1,)
    ),
    "storage that is not there": hostile.tensor(hostile.storage(4, key="7"), (4,), (1,)),
    "storage larger than the file": hostile.tensor(hostile.storage(2**60), (4,), (1,)),
    "storage of a negative size": hostile.tensor(hostile.storage(-4), (4,), (1,)),
    "tensor larger than its storage": hostile.tensor(hostile.storage(4), (2**50,), (1,)),
    "tensor repeated without end": hostile.tensor(hostile.storage(4), (2**40, 2**20), (0, 0)),
    "tensor beyond its storage": hostile.tensor(hostile.storage(4), (4,), (1,), offset=1),
    "tensor before its storage": hostile.tensor(hostile.storage(4), (2,), (1,), offset=-8),
    "tensor of too many dimensions": hostile.tensor(hostile.storage(4), (1,) * 100, (1,) * 100),
    "tensor without strides": hostile.tensor(hostile.storage(4), (4,), ()),
    "tensor of a list": b"ctorch._utils\n_rebuild_tensor_v2\n(]K\x00))\x89NtR",
    "text of an impossible length": b"\x8d" + (2**62).to_bytes(8, "little") + b"abc",
    "bytes of an impossible length": b"\x8e" + (2**63 - 1).to_bytes(8, "little") + b"abc",
    "extension registry": b"\x82\x01",
    "memo that was never filled": b"h\x07",
    "stack that is empty": b"0000",
    "items of a number": b"K\x01K\x02K\x03s",
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_harmful_pickles_get_a_clear_message(kind: str, tmp_path: Path):
    path = hostile.write_zip(tmp_path / "x.pt", hostile.state_dict(HARMFUL[kind]))
    with pytest.raises(InputError, match="x.pt is no readable PyTorch file: .*copy it again"):
        read(path)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"name,kind\nwall,stuff\n", "it is text, which begins with 'name,kind wall,stuff'"),
        ("椅子,".encode() * 20, "it is text, which begins with '椅子,"),
        (b'{"seed": 0}', "it is text"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "begins with the bytes 89 50 4e 47"),
    ],
)
def test_what_is_no_pickle_is_not_called_a_damaged_one(data: bytes, told: str, tmp_path: Path):
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(InputError, match=f"neither a zip archive nor a pickle; .*{told}.*expected what"):
        read(tmp_path / "x.pt")


def test_the_same_pickle_with_honest_numbers_is_read(tmp_path: Path):
    numbers = np.arange(4, dtype=np.float32)
    data = hostile.state_dict(hostile.tensor(hostile.storage(4), (2, 2), (2, 1)))
    path = hostile.write_zip(tmp_path / "x.pt", data, {"data/0": numbers.tobytes()})
    assert read(path)["weight"].tolist() == [[0, 1], [2, 3]]


def test_entries_that_lead_out_of_the_archive(tmp_path: Path):
    data = hostile.state_dict(b"N")
    for name in ("../evil", "/etc/evil", "a/../../evil"):
        path = hostile.write_zip(tmp_path / "x.pt", data, {name: b"x"})
        with pytest.raises(InputError, match="leads out of the archive"):
            read(path)


def test_compressed_entries_are_refused(tmp_path: Path):
    """A megabyte of zeros in a kilobyte: PyTorch stores, it never compresses."""
    data = hostile.state_dict(hostile.tensor(hostile.storage(2**18), (4,), (1,)))
    path = hostile.write_zip(tmp_path / "x.pt", data, {"data/0": bytes(2**20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="no readable PyTorch file"):
        read(path)


def test_deeply_nested_keys_do_not_exhaust_the_interpreter(tmp_path: Path):
    nested = b")" + b"\x85" * 200_000
    data = hostile.MARK + b"}" + nested + b"Ns" + hostile.text("w") + b"Ns."
    assert read(hostile.write_zip(tmp_path / "x.pt", data)) == {}


def test_a_module_that_contains_itself(tmp_path: Path):
    data = b"\x80\x02c__torch__\nNet\n)\x81q\x00}" + hostile.text("me") + b"h\x00sb."
    path = hostile.write_zip(tmp_path / "x.pt", data, {"constants.pkl": b"\x80\x02)."})
    with open_torch_file(path) as file:
        assert file.is_torchscript and file.module_tensors() == {}


def test_a_module_that_branches_without_end(tmp_path: Path):
    build = (
        b"c__torch__\nNet\n)\x81q\x00}" + hostile.text("a") + b"h\x00s" + hostile.text("b") + b"h\x00sb."
    )
    path = hostile.write_zip(tmp_path / "x.pt", b"\x80\x02" + build, {"constants.pkl": b"\x80\x02)."})
    with open_torch_file(path) as file, pytest.raises(InputError, match="100,000 parts"):
        file.module_tensors()


def test_too_many_instructions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("bifusion.torch_files.pickle_machine.MAX_OPCODES", 1000)
    with pytest.raises(MalformedFileError, match="more than 1,000 instructions"):
        PickleMachine().load(io.BytesIO(b"\x80\x02" + b"]" * 2000 + b"."))


@pytest.mark.parametrize("legacy", [False, True])
def test_files_cut_short_anywhere(legacy: bool, tmp_path: Path):
    whole = tmp_path / "whole.pt"
    torch.save({"a": torch.arange(100.0)}, whole, _use_new_zipfile_serialization=not legacy)
    data, path = whole.read_bytes(), tmp_path / "x.pt"
    for length in [*range(0, 60), *range(60, len(data) - 1, 37)]:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="x.pt"):
            read(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_files_with_changed_bytes_are_read_or_refused(legacy: bool, tmp_path: Path):
    whole = tmp_path / "whole.pt"
    torch.save(
        {"a": torch.arange(4.0), "b": {"c": [1, 2]}}, whole, _use_new_zipfile_serialization=not legacy
    )
    data, path = whole.read_bytes(), tmp_path / "x.pt"
    rng = np.random.default_rng(0)
    for _ in range(400):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            changed[at] = rng.integers(256)
        path.write_bytes(bytes(changed))
        try:
            read(path)
        except InputError as error:
            assert "x.pt" in str(error)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"\x80\x02N.", b"\x89PNG\r\n"])
def test_files_of_other_kinds(content: bytes, tmp_path: Path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match="x.pt is no readable PyTorch file"):
        read(tmp_path / "x.pt")


def test_missing_file(tmp_path: Path):
    with pytest.raises(InputError, match="there is no such file"):
        read(tmp_path / "x.pt")
