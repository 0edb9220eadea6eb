"""Every `bifusion` command that README and RECIPES show is understood as it stands there."""

import re
import shlex
from pathlib import Path

import pytest

from bifusion import cli
from bifusion.commands import parsing

ROOT = Path(__file__).resolve().parents[2]


def _commands() -> list[str]:
    text = "".join((ROOT / name).read_text() for name in ("README.md", "RECIPES.md"))
    blocks = re.findall(r"```\n(.*?)```", text, flags=re.S)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("bifusion ")]


class _Understood(Exception):
    """The command's arguments were parsed."""


@pytest.mark.parametrize("command", _commands())
def test_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch):
    parse = parsing.parse

    def parse_and_stop(*args):
        parse(*args)
        raise _Understood

    monkeypatch.setattr(parsing, "parse", parse_and_stop)
    name, *arguments = shlex.split(command)[1:]
    with pytest.raises(_Understood):
        cli.COMMANDS[name](arguments)


def test_readme_shows_commands():
    assert len(_commands()) >= 5


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M), f"make {target}"
