"""Help: one screen of what people use, everything on demand, each option with its meaning."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import version

import pytest

from bifusion import cli
from bifusion.commands import parsing
from bifusion.commands.help import first_sentence
from bifusion.commands.options import Option, list_options
from bifusion.config.run import Config
from bifusion.recipes import RECIPES, get_recipe

COLUMNS, ROWS, MOST_ROWS = 100, 24, 40
KINDS = [
    "prepare synthetic",
    "prepare scannet",
    "prepare scan",
    "prepare superpoints",
    "prepare features",
]
PAGES = [*cli.COMMANDS, *KINDS, "train bifusion_small", "train mask3d_tiny"]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


@pytest.mark.parametrize("page", ["", *PAGES])
def test_help_fits_a_screen(bifusion, page):
    called = bifusion(*page.split(), "--help")
    lines = called.out.splitlines()
    assert called.status == 0 and called.err == ""
    assert len(lines) <= ROWS and max(map(len, lines)) <= COLUMNS
    assert lines[0].startswith(f"usage: bifusion {page}".rstrip())
    assert any(line.startswith("example: bifusion ") for line in lines)
    assert bifusion(*page.split(), "-h").out == called.out


def test_help_is_there_at_once():
    """Torch takes seconds to import. What has a page's options in classes of the networks needs it."""
    heavy = {"demo", "dose", "pretrain-tower", "prepare synthetic", "train", "launch"}
    pages = [page for page in PAGES if page not in heavy and not page.startswith("train ")]
    program = f"""
import contextlib, io, sys
from bifusion import cli

for page in {pages}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main([*page.split(), "--help"])
    if "torch" in sys.modules:
        sys.exit(page)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("train", "prepare")])
def test_examples_are_understood(page, bifusion, monkeypatch):
    """No option of theirs is unknown, and none that must be given is missing."""
    parse = parsing.parse

    class Understood(Exception):
        pass

    def parse_and_stop(*args):
        parse(*args)
        raise Understood

    example = bifusion(*page.split(), "--help").out.partition("example: bifusion ")[2]
    monkeypatch.setattr(parsing, "parse", parse_and_stop)
    with pytest.raises(Understood):
        cli.main(shlex.split(example))


def test_the_version(bifusion):
    called = bifusion("--version")
    assert called.status == 0 and called.out == f"bifusion {version('bifusion')}\n"


def test_a_bare_call_lists_the_commands(bifusion):
    called = bifusion()
    assert called.status == 2 and called.out == ""
    assert all(re.search(rf"^  {name} +\w", called.err, flags=re.M) for name in cli.COMMANDS)


def test_case_help_of_train_and_prepare(bifusion, cases):
    text = (cases / "help_of_train_and_prepare" / "README.txt").read_text()
    calls = [words.split() for words in re.findall(r"^Run: (.*)$", text, flags=re.M)[0].split("; ")]
    pages = [bifusion(*words) for _, *words in calls]
    assert [called.status for called in pages] == [0, 0]
    recipes = ["oneformer3d_small", "mask3d_scannet20", "bifusion_tiny", "bifusion_scannet200"]
    for called, names in zip(pages, (recipes, [kind.split()[1] for kind in KINDS]), strict=True):
        assert all(re.search(rf"^  {name} +\w", called.out, flags=re.M) for name in names)


@pytest.mark.parametrize("recipe", ["bifusion_small", "mask3d_tiny"])
def test_the_long_help_has_every_option(bifusion, recipe):
    called = bifusion("train", recipe, "--help-all")
    assert called.status == 0
    # Borders are drawn where the terminal can.
    shown = {name.rstrip(",") for name in re.findall(r"^. (--[a-z]\S*)", called.out, flags=re.M)}
    listed = {f"--{option.name}" for option in list_options(Config, get_recipe(recipe))}
    own = {"--out", "--resume", "--accept-changes", "--verify-data", "--init", "--print-config"}
    assert shown - listed == own
    assert listed <= shown


def test_long_help_needs_no_recipe(bifusion):
    called = bifusion("train", "--help-all")
    assert called.status == 0 and "--trainer.guard.healthy-every" in called.out


def test_every_option_says_what_it_means():
    silent = {
        option.name
        for recipe in RECIPES
        for option in list_options(Config, get_recipe(recipe))
        if not option.text
    }
    assert not silent


@pytest.mark.parametrize("page", [page for page in PAGES if page.split()[0] not in ("train", "prepare")])
def test_every_option_of_a_command_says_what_it_means(page, monkeypatch):
    seen: list[Option] = []

    def look(kind, args, command, told):
        seen.extend(list_options(kind))
        raise SystemExit

    monkeypatch.setattr(parsing, "parse", look)
    with pytest.raises(SystemExit):
        cli.COMMANDS[page]([])
    assert seen and not [option.name for option in seen if not option.text]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Run folder.", "Run folder"),
        ("0.5 of it, e.g. half. The rest stays.", "0.5 of it, e.g. half"),
        ("Runs at a time; 0: one a GPU.", "Runs at a time"),
        (".ply files.", ".ply files"),
    ],
)
def test_first_sentence(text, first):
    assert first_sentence(text) == first


@pytest.mark.parametrize(
    ("page", "row"),
    [
        ("compare", "--jobs INT  Runs at a time [0: one a GPU, or two on a machine without]"),
        ("demo", "--jobs INT  Runs at a time [0: one a GPU, or two on a machine without]"),
        ("dose", "--jobs INT  Runs at a time [0: one a GPU, or two on a machine without]"),
        ("prepare scannet", "--jobs INT  Scans at a time [0: one for each processor]"),
        ("prepare scan", "--jobs INT  Inputs at a time [0: one for each two processors]"),
        ("prepare features", "--jobs INT  Processes at a time [1]"),
        ("predict", "--view, --no-view  Write view.html, a page to look around in [--view]"),
    ],
)
def test_defaults_say_what_they_stand_for_and_switches_how_they_are_turned_off(bifusion, page, row):
    lines = bifusion(*page.split(), "--help").out.splitlines()
    assert row in [re.sub(r" {2,}", "  ", line.strip()) for line in lines]


def test_help_is_asked_for_before_or_behind_what_it_is_of(bifusion):
    page = bifusion("train", "bifusion_small", "--help").out
    assert bifusion("train", "-h", "bifusion_small").out == page
    assert bifusion("help", "train", "bifusion_small").out == page
    assert bifusion("help").out == bifusion("--help").out
    called = bifusion("help", "trian")
    assert called.status == 2 and "command 'trian' is unknown (did you mean 'train'?)" in called.err


def test_help_of_a_kind_that_there_is_not_names_it(bifusion):
    called = bifusion("prepare", "scanet", "--help")
    assert called.status == 2 and "found scanet (did you mean 'scannet'?)" in called.err


@pytest.mark.parametrize(
    ("call", "missing"),
    [
        ("predict", "RUN, SCENE"),
        ("predict runs/mine --no-view", "SCENE"),
        ("predict --scale 2 runs/mine", "SCENE"),
        ("prepare scannet --scans x --frame_skip=2", "--labels PATH, --out PATH"),
        ("find --views 3", "SCENE"),
    ],
)
def test_what_is_missing_is_called_as_in_help(bifusion, call, missing):
    called = bifusion(*call.split())
    assert called.status == 2 and f": missing {missing}\n" in called.err, called.err


@pytest.mark.parametrize(
    ("call", "places"),
    [
        ("predict --run runs/mine room.ply", "--run is no option.* bifusion predict RUN SCENE"),
        ("import-checkpoint a.ckpt --out=runs/a", "--out is no option.* import-checkpoint FILE OUT"),
    ],
)
def test_what_has_its_place_is_told_when_it_is_typed_as_an_option(bifusion, call, places):
    called = bifusion(*call.split())
    assert called.status == 2 and re.search(places, called.err), called.err
