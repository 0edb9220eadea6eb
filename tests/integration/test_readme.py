"""Every `bifusion` command that README and RECIPES show is understood as it stands there."""

import re
import shlex
from pathlib import Path

import pytest

from bifusion import cli, plugins
from bifusion.commands import parsing
from bifusion.labels.sets import SCANNET20
from bifusion.losses.criterion import Criterion

ROOT = Path(__file__).resolve().parents[2]


def _commands() -> list[str]:
    blocks = [block for name in ("README.md", "RECIPES.md") for block in _blocks(name, "")]
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(\w+=\S+ )*bifusion ", line)]


def _blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text()
    return [
        block
        for of, block in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.S | re.M)
        if of == language
    ]


class _Understood(Exception):
    """The command's arguments were parsed."""


@pytest.mark.parametrize("command", _commands())
def test_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch):
    parse = parsing.parse

    def parse_and_stop(*args):
        parse(*args)
        raise _Understood

    monkeypatch.setattr(parsing, "parse", parse_and_stop)
    monkeypatch.setenv(plugins.VARIABLE, "")
    words = shlex.split(command)
    while words[0] != "bifusion":
        monkeypatch.setenv(*words.pop(0).split("="))
    name, *arguments = words[1:]
    with pytest.raises(_Understood):
        cli.COMMANDS[name](arguments)


def test_readme_shows_commands():
    assert len(_commands()) >= 5


def test_python_that_readme_shows_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(plugins.VARIABLE, "my_rooms")
    (block,) = _blocks("README.md", "python")
    shown: dict = {}
    exec(block, shown)
    config = shown["small"]()
    assert list(Criterion(config.criterion, SCANNET20).terms)[-1] == "confident"
    assert all(stage.weights["confident"].value == 0.2 for stage in config.stages.stages)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M), f"make {target}"
