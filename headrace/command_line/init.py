"""`headrace init`: writes a campaign file for somebody's own prompts."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.command_line.campaign_file import NewCampaign, columns_of, name_of, prompt_column, write_campaign
from headrace.command_line.options import examples
from headrace.command_line.project import find_project
from headrace.errors import InvalidInput
from headrace.text.terminal import answered, say


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
    from headrace.keys import check_name

    project = find_project(Path.cwd(), os.environ)
    settings = project.settings()
    file = _answer(prompts, "--prompts", "File with your prompts").expanduser()
    if not file.is_file():
        raise InvalidInput(f"--prompts must be a file, got {file}, which does not exist.")
    if template is None and prompt_column(columns := columns_of(file)) is None:
        there = ", ".join(f"{{{one}}}" for one in columns)
        template = _answer(None, "--template", f"The prompt's text, with columns in one pair of braces ({there})")
    chosen = _answer(engine, "--engine", "Engine (echo, bundled, a server's URL, a model directory or hub name)")
    named = check_name("--name", name or name_of(file.stem))
    campaign = NewCampaign(name=named, prompts=file, template=template, engine=str(chosen), model=model)
    place = directory or (settings.campaigns if project.is_found else Path.cwd())
    written = place / f"{named}.yaml"
    if os.path.lexists(written) and not force:
        raise InvalidInput(f"{written} is there already: choose another --name, or pass --force to replace it.")
    made = write_campaign(campaign, written, project)
    say(f"{written}: {made.num_lines} lines, {made.num_prompts:,} prompts in its first shard.")
    word = named if place.absolute() == settings.campaigns else str(written)
    say("Next:")
    say(f"  headrace preview {word}      the first rows, before anything runs")
    say(f"  headrace run {word}          all of today's, reviewed, with a report")


def _answer(given: Any, flag: str, question: str) -> Any:
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise InvalidInput(f"{flag} is missing: {question}.")
    answer = answered(question)
    return Path(answer) if flag == "--prompts" else answer
