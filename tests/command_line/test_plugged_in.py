"""Commands of other packages: found by entry point, loaded when needed, harmless when broken."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.command_line.main import app
from tests.command_line.builders import CHECKOUT, run

MODULE = """
import typer
from headrace.errors import InvalidInput

app = typer.Typer(add_completion=False, rich_markup_mode=None)

@app.command(epilog="Example: headrace greet you")
def greet(name: str) -> None:
    "Say hello."
    if name == "nobody":
        raise InvalidInput("Nobody cannot be greeted: name somebody.")
    typer.echo(f"Hello {name}")

not_an_app = 3
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a package `greeting` whose entry points are the lines given."""

    def install(lines: str) -> None:
        (tmp_path / "greeting_commands.py").write_text(MODULE)
        metadata = tmp_path / "greeting-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[headrace.commands]\n{lines}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_a_plugged_in_command_is_listed_and_runs(plug_in: Callable[[str], None]) -> None:
    plug_in("greet = greeting_commands:app")
    assert re.search(r"greet +Say hello\.", run("--help").stdout)
    assert run("greet", "you").stdout == "Hello you\n"
    assert "Example: headrace greet you" in run("greet", "-h").stdout


def test_its_refusals_are_sentences_and_its_name_is_suggested(plug_in: Callable[[str], None]) -> None:
    plug_in("greet = greeting_commands:app")
    result = run("greet", "nobody")
    assert (result.exit_code, result.stderr) == (2, "Error: Nobody cannot be greeted: name somebody.\n")
    assert "Did you mean 'greet'?" in run("gret").stderr


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_module:app", "it does not load (No module named 'no_such_module')"),
        ("greeting_commands:nothing", "it does not load (module 'greeting_commands' has no attribute 'nothing')"),
        ("greeting_commands:not_an_app", "greeting_commands:not_an_app is no typer.Typer, got int"),
    ],
)
def test_a_command_that_does_not_load_spoils_nothing_else(
    value: str, said: str, plug_in: Callable[[str], None]
) -> None:
    plug_in(f"greet = {value}")
    listed = run("--help")
    assert listed.exit_code == 0
    assert "Cannot be used" in listed.stdout
    assert "doctor" in listed.stdout
    result = run("greet", "--loudly", "you")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"comes from greeting, and {said}: install greeting again." in result.stderr


def test_headraces_own_command_stays_its_own(plug_in: Callable[[str], None]) -> None:
    plug_in("gc = greeting_commands:app")
    assert "Say hello." not in run("gc", "--help").stdout


def test_listing_commands_imports_no_dagster() -> None:
    program = (
        "import sys; from headrace.command_line.main import app\n"
        "for words in (['--help'], ['queue', '--help'], ['why', '--help']):\n"
        "    try: app(words)\n"
        "    except SystemExit: pass\n"
        "print(sorted({'pyarrow', 'polars', 'numpy', 'rich', 'dagster', 'torch', 'obstore'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
    assert "queue" in found.stdout


@pytest.fixture(autouse=True)
def as_before() -> None:
    """The app remembers what was plugged in; typer builds it anew for each call of a test."""
    own = {"check", "doctor", "dropped", "erase", "export", "gc", "init", "preview", "schema", "trace"}
    assert {command.name for command in app.registered_commands} == own
