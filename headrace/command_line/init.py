"""`headrace init`: writes a campaign file for somebody's own prompts."""

import os
import shlex
import stat
import sys
from pathlib import Path
from typing import Annotated

import typer

from headrace.command_line.campaign_file import NewCampaign, columns_of, name_of, prompt_column, write_campaign
from headrace.command_line.options import examples
from headrace.command_line.project import find_project
from headrace.errors import InvalidInput
from headrace.text.terminal import answered, say
from headrace.text.visible import shortened


@examples(
    "headrace init --prompts products.csv --template 'A tagline for {product}.' --engine echo",
    "headrace init --prompts prompts.txt --engine bundled --name stories",
    "headrace init --prompts q.jsonl --engine http://127.0.0.1:8000/v1 --model qwen",
    "headrace init --prompts q.jsonl --engine models/my-model      a directory or a hub name",
)
def init(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where the file goes; default: the project's campaigns.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON Lines, CSV, Parquet, or text with a prompt a line.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The prompt's text with {column} placeholders.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="ENGINE", help="echo, bundled, an OpenAI-compatible URL, a model directory or hub name."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="For a URL: the server's name for the model.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The campaign's; default: the file's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a campaign file for your own prompts, and say the next two commands.

    Asks for what no option says, on a terminal.
    """
    from headrace.command_line.output import counted
    from headrace.keys import check_subject_name

    project = find_project(Path.cwd(), os.environ)
    settings = project.settings()
    file = _prompt_file(prompts)
    named = check_subject_name("--name", name or name_of(file.stem))
    place = directory or (settings.campaigns if project.is_found else Path.cwd())
    written = place / f"{named}.yaml"
    if os.path.lexists(written) and (written.is_dir() or not force):
        replace_it = "" if written.is_dir() else ", or pass --force to replace it"
        raise InvalidInput(f"{written} is there already: choose another --name{replace_it}.")
    if _is_same(place, settings.campaigns):
        _refuse_taken(named, written)
    if template is None and prompt_column(columns := columns_of(file)) is None:
        there = ", ".join(f"{{{one}}}" for one in columns)
        template = _answer(None, "--template", f"The prompt's text, with columns in one pair of braces ({there})")
    chosen = _answer(engine, "--engine", "Engine (echo, bundled, a server's URL, a model directory or hub name)")
    campaign = NewCampaign(name=named, prompts=file, template=template, engine=chosen, model=model)
    made = write_campaign(campaign, written, project, overwrite=force)
    say(f"{written}: {counted(made.num_lines, 'line')}, {counted(made.num_prompts, 'prompt')} in its first shard.")
    say("Next:")
    if project.is_found and _is_same(place, settings.campaigns):
        say(f"  headrace preview {named}      the first rows, before anything runs")
        say(f"  headrace run {named}          all of today's, reviewed, with a report")
        return
    say(f"  headrace preview {shlex.quote(str(written))}      the first rows, before anything runs")
    if project.is_found:
        say(
            f"headrace run takes the campaigns in {settings.campaigns} alone: move the file there, or set "
            f"HEADRACE_CAMPAIGNS to {place.absolute()}."
        )
    else:
        say("headrace run needs a Dagster project: move the file to the campaigns of one, and call it there.")


def _is_same(one: Path, other: Path) -> bool:
    return one.is_dir() and other.is_dir() and one.samefile(other)


def _refuse_taken(name: str, written: Path) -> None:
    """Raises: InvalidInput: another file of the directory describes a campaign of this name; both would be broken."""
    from headrace.generation.campaign import load_campaigns

    there = load_campaigns(written.parent)
    own = [there.files[name]] if name in there.files else []
    own += [one.path for one in there.broken if one.would_describe(name)]
    if others := [file for file in own if file.name != written.name]:
        raise InvalidInput(f"{others[0]} describes a campaign {name!r} already: choose another --name.")


def _prompt_file(given: Path | None) -> Path:
    """Raises: InvalidInput: it is no file."""
    file = given.expanduser() if given else _typed_path(_answer(None, "--prompts", "File with your prompts"))
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        reason = "which does not exist"
    except OSError as error:
        reason = f"which cannot be read: {error.strerror}"
    else:
        if stat.S_ISREG(mode):
            return file
        reason = "which is a directory" if stat.S_ISDIR(mode) else "which is a pipe or a device"
    raise InvalidInput(f"--prompts must be a file, got {shortened(str(file), 200)}, {reason}.")


def _typed_path(text: str) -> Path:
    """A path as people type it, or as a terminal writes a file that is dropped on it: in quotes, blanks escaped."""
    file = Path(text).expanduser()
    try:
        words = shlex.split(text)
    except ValueError:  # half a pair of quotes
        return file
    return file if os.path.lexists(file) or len(words) != 1 else Path(words[0]).expanduser()


def _answer(given: str | None, flag: str, question: str) -> str:
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise InvalidInput(f"{flag} is missing: {question}.")
    return answered(question)
