"""`headrace init`: writes a campaign file for somebody's own prompts."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.command_line.options import examples
from headrace.command_line.project import Project, find_project
from headrace.errors import InvalidInput
from headrace.text.terminal import answered, say

if TYPE_CHECKING:
    from headrace.settings import Settings

# Columns that hold a prompt as it is, in files of most people.
_PROMPT_COLUMNS = ("prompt", "text", "instruction", "question")
_BUNDLED = "smollm2-135m"
_SERVER_SECONDS = 10.0
# Tried in this order; what is written says so only if the first one does not do.
_ENCODINGS = ("utf-8", "latin-1")


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
    from headrace.generation.campaign import load_campaign
    from headrace.generation.prompt_files import REPAIR
    from headrace.generation.requests import prompts_for
    from headrace.keys import ContentPartition, check_name
    from headrace.user_files.finding import pattern_of

    project = find_project(Path.cwd(), os.environ)
    settings = project.settings()
    file = _answer(prompts, "--prompts", "File with your prompts").expanduser()
    if not file.is_file():
        raise InvalidInput(f"--prompts must be a file, got {file}, which does not exist.")
    columns = _columns(file)
    column = next((one for one in _PROMPT_COLUMNS if one in columns), None)
    if template is None and column is None:
        there = ", ".join(f"{{{one}}}" for one in columns)
        template = _answer(None, "--template", f"The prompt's text, with columns in one pair of braces ({there})")
    chosen = _answer(engine, "--engine", "Engine (echo, bundled, a server's URL, a model directory or hub name)")
    named = check_name("--name", name or _as_name(file.stem))
    beginning = [
        f"name: {named}",
        "prompts:",
        f"  files: {_quoted(pattern_of(file.absolute()))}",
        *([f"  template: {_quoted(template)}"] if template is not None else []),
        *([f"  column: {_quoted(column)}"] if template is None and column and column != "text" else []),
    ]
    model_lines = _model_lines(str(chosen), model, settings)
    place = directory or (settings.campaigns if project.is_found else Path.cwd())
    written = place / f"{named}.yaml"
    if os.path.lexists(written) and not force:
        raise InvalidInput(f"{written} is there already: choose another --name, or pass --force to replace it.")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"[DIR] must be a directory, got {place}: {error.strerror}.") from error
    partial = written.with_suffix(".partial")
    schema_line = _schema_line(place, project, settings)

    def written_with(encoding: list[str]) -> tuple[int, int]:
        """The file's lines, and the prompts of its first shard."""
        lines = [schema_line, *beginning, *encoding, *model_lines]
        partial.write_text("\n".join(lines) + "\n")
        campaign = load_campaign(partial)
        first = ContentPartition.parse(campaign.partition_keys("2026-01-01")[0])
        return len(lines), prompts_for(campaign, first, Path.cwd()).num_rows

    try:
        try:
            num_lines, num_prompts = written_with([])
        except InvalidInput as error:
            if "wrong encoding" not in str(error):
                raise
            num_lines, num_prompts = written_with([f"  encoding: [{', '.join(_ENCODINGS)}]"])
    except InvalidInput as error:
        partial.unlink()
        reason = str(error).replace(str(partial), "What was asked for").removesuffix(f" {REPAIR}")
        raise InvalidInput(reason) from error
    partial.replace(written)
    say(f"{written}: {num_lines} lines, {num_prompts:,} prompts in its first shard.")
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


def _columns(file: Path) -> list[str]:
    """The names of a prompt file's columns; of plain text one, `text`."""
    from headrace.user_files.csv_rows import DELIMITERS
    from headrace.user_files.layout import FileLayout, Record, Unreadable
    from headrace.user_files.records import format_of, read_records

    if format_of(file, FileLayout(columns=())) == "text":
        return ["text"]
    layout = FileLayout(columns=(), empty_is_null=False, encodings=_ENCODINGS)
    # Without columns to look for, a header does not say which delimiter divides it: the one that makes most of them.
    is_csv = format_of(file, layout) == "csv"
    layouts = [replace(layout, delimiter=one) for one in DELIMITERS] if is_csv else [layout]
    firsts = [next(iter(read_records(file, one)), None) for one in layouts]
    readable = [first for first in firsts if isinstance(first, Record)]
    if not readable:
        reason = next((first.reason for first in firsts if isinstance(first, Unreadable)), "it has none")
        raise InvalidInput(f"--prompts: the first record of {file} cannot be read: {reason}.")
    return list(map(str, max(readable, key=lambda first: len(first.fields)).fields))


def _as_name(stem: str) -> str:
    kept = "".join(one if one.isascii() and one.isalnum() else "-" for one in stem.lower())
    return "-".join(filter(None, kept.split("-"))) or "campaign"


def _model_lines(engine: str, model: str | None, settings: "Settings") -> list[str]:
    if engine == "echo":
        return ["model: echo", 'version: "1"', "registered: false", "engine: {name: echo}"]
    if engine.startswith(("http://", "https://")):
        served = _served_model(engine, model)
        return [
            f"model: {_as_name(served)}",
            'version: "1"                # yours to raise when the server gets another model',
            "registered: false",
            f"engine: {{name: openai_http, base_url: {_in_flow(engine)}, model: {_in_flow(served)}}}",
        ]
    if engine == "bundled":
        _make_bundled(settings)
        engine = f"models/{_BUNDLED}"
    return [
        f"model: {_as_name(Path(engine).name)}",
        f"weights: {_quoted(engine)}",
        "engine: {name: transformers, dtype: float32}    # bfloat16 for GPUs",
        # A small model on a few cores: enough to see what it does.
        *(["decoding: {max_new_tokens: 64}"] if engine.endswith(_BUNDLED) else []),
    ]


def _make_bundled(settings: "Settings") -> None:
    """Raises: InvalidInput: the package with the bundled model is not installed."""
    from headrace.training.convert_gguf import convert_silently, is_converted

    directory = settings.home / "models" / _BUNDLED
    if is_converted(directory):
        return
    say("Making the bundled model, once (half a minute) …", error=True)
    convert_silently(directory)


def _served_model(url: str, wanted: str | None) -> str:
    """The model that is wanted, or else the only one that a server offers.

    Raises:
        InvalidInput: it offers others; or none is named, and it does not answer, or offers none or several.
    """
    import httpx2

    key = os.environ.get("HEADRACE_ENGINE_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx2.get(f"{url.rstrip('/')}/models", headers=headers, timeout=_SERVER_SECONDS)
        answer.raise_for_status()
        names = [str(one["id"]) for one in answer.json()["data"]]
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
        if wanted is not None:
            return wanted  # not every server tells, and it need not be up yet
        hint = "" if url.rstrip("/").endswith("/v1") else " Most addresses end in /v1."
        raise InvalidInput(
            f"{url.rstrip('/')}/models does not say which models there are ({type(error).__name__}): pass --model NAME."
            f"{hint}"
        ) from error
    if wanted is None and len(names) == 1:
        return names[0]
    if not names and wanted is not None:
        return wanted  # a list without an entry tells nothing either
    if wanted not in names:
        raise InvalidInput(
            f"{url} serves {', '.join(names[:10]) or 'no model'}, got --model {wanted}: name one of them."
        )
    return str(wanted)


def _schema_line(place: Path, project: Project, settings: "Settings") -> str:
    """The line by which editors find the schema; written into the project's state if it has none of its own."""
    from headrace.generation.campaign import Campaign
    from headrace.user_files.json_schema import json_schema

    schema = project.root / "docs/schemas/campaign.schema.json"
    if not schema.is_file():
        schema = settings.home / "schemas/campaign.schema.json"
        schema.parent.mkdir(parents=True, exist_ok=True)
        schema.write_text(json.dumps(json_schema(Campaign, "Headrace campaign"), indent=2) + "\n")
    return f"# yaml-language-server: $schema={os.path.relpath(schema, place.absolute())}"


def _in_flow(text: str) -> str:
    """In quotation marks, as JSON has them, which YAML reads: commas and brackets mean something between braces."""
    return json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    """As YAML reads it back: plain if it can be."""
    import yaml

    dumped = yaml.safe_dump(text, width=10_000, allow_unicode=True).strip()
    return dumped.removesuffix("\n...").strip()
