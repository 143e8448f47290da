"""Writes a campaign file for somebody's own prompts: for `headrace init`, and for whoever scaffolds a campaign."""

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.command_line.project import Project
from headrace.errors import InvalidInput
from headrace.keys import is_day
from headrace.text.terminal import say
from headrace.text.visible import shortened

if TYPE_CHECKING:
    from headrace.settings import Settings

# Columns that hold a prompt as it is, in files of most people.
_PROMPT_COLUMNS = ("prompt", "text", "instruction", "question")
_BUNDLED = "smollm2-135m"
_SERVER_SECONDS = 10.0
# Tried in this order; what is written says so only if the first one does not do.
_ENCODINGS = ("utf-8", "latin-1")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class NewCampaign:
    """What a person says of a campaign that has no file yet.

    Attributes:
        prompts: the file with its prompts.
        files: how the campaign names that file; None: by its absolute path.
        engine: echo, bundled, a server's URL, a model directory or hub name.
        model: for a URL, the server's name for the model.
    """

    name: str
    prompts: Path
    files: str | None = None
    template: str | None = None
    engine: str
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Written:
    """`num_prompts`: of the campaign's first shard."""

    num_lines: int
    num_prompts: int


def write_campaign(campaign: NewCampaign, file: Path, project: Project, *, overwrite: bool = False) -> Written:
    """Writes `file` if a campaign can be read from it, and its prompts, too.

    Raises:
        InvalidInput: they cannot; or `file` is there and may not be overwritten.
        StoreUnavailable: `file` cannot be written.
    """
    from headrace.generation.campaign import load_campaign
    from headrace.generation.prompt_files import REPAIR
    from headrace.generation.requests import prompts_for
    from headrace.keys import ContentPartition
    from headrace.store.whole_files import renamed_when_whole
    from headrace.user_files.finding import pattern_of

    _check_encodable(campaign)
    settings, template = project.settings(), campaign.template
    column = None
    if template is None and (column := prompt_column(columns := columns_of(campaign.prompts))) is None:
        there = ", ".join(f"{{{one}}}" for one in columns)
        raise InvalidInput(f"--template is missing: the prompt's text, with columns in one pair of braces ({there}).")
    beginning = [
        f"name: {campaign.name}",
        "prompts:",
        f"  files: {_quoted(campaign.files or pattern_of(campaign.prompts.absolute()))}",
        *([f"  template: {_quoted(template)}"] if template is not None else []),
        *([f"  column: {_quoted(column)}"] if column and column != "text" else []),
    ]
    model_lines = _model_lines(campaign.engine, campaign.model, settings)
    with renamed_when_whole(file, overwrite=overwrite) as partial:
        schema_line = _schema_line(file.parent, project, settings)

        def written_with(encoding: list[str]) -> Written:
            lines = [schema_line, *beginning, *encoding, *model_lines]
            partial.write_text("\n".join(lines) + "\n")
            made = load_campaign(partial)
            first = ContentPartition.parse(made.partition_keys("2026-01-01")[0])
            return Written(num_lines=len(lines), num_prompts=prompts_for(made, first, Path.cwd()).num_rows)

        try:
            try:
                return written_with([])
            except InvalidInput as error:
                if "wrong encoding" not in str(error):
                    raise
                return written_with([f"  encoding: [{', '.join(_ENCODINGS)}]"])
        except InvalidInput as error:
            # Nobody will see the file that the places in it belong to.
            place = rf"(Campaign file )?{re.escape(str(partial))}(:\d+)*"
            reason = re.sub(place, "What was asked for", str(error)).removesuffix(f" {REPAIR}")
            raise InvalidInput(reason) from error


def _check_encodable(campaign: NewCampaign) -> None:
    """Raises: InvalidInput: what was typed holds bytes that are no UTF-8, as a campaign's file is."""
    typed = {
        "--prompts": str(campaign.prompts.absolute()),
        "--template": campaign.template,
        "--engine": campaign.engine,
        "--model": campaign.model,
    }
    for flag, text in typed.items():
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"{flag} must be text in UTF-8, got {shortened(str(text), 200)!r}.") from error


def prompt_column(columns: list[str]) -> str | None:
    """The column that holds a prompt as it is, if there is one."""
    return next((one for one in _PROMPT_COLUMNS if one in columns), None)


def columns_of(file: Path) -> list[str]:
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


def name_of(stem: str) -> str:
    """A campaign's name out of a file's or a model's."""
    kept = "".join(one if one.isascii() and one.isalnum() else "-" for one in stem.lower())
    name = "-".join(filter(None, kept.split("-"))) or "campaign"
    return f"campaign-{name}" if is_day(name) else name


def _model_lines(engine: str, model: str | None, settings: "Settings") -> list[str]:
    """Raises: InvalidInput: `engine` is none of what may write; or `model` is given, and it is no server."""
    if re.match("https?://", engine, re.IGNORECASE):
        return _server_lines(engine, model)
    if model is not None:
        raise InvalidInput(f"--model goes with a server's URL, got {model!r} with --engine {engine}.")
    if engine == "echo":
        return ["model: echo", 'version: "1"', "registered: false", "engine: {name: echo}"]
    if engine == "bundled":
        _make_bundled(settings)
        weights = f"models/{_BUNDLED}"
    else:
        weights = _weights(engine, settings.home)
    return [
        f"model: {name_of(Path(engine).name)}",
        f"weights: {_quoted(weights)}",
        "engine: {name: transformers, dtype: float32}    # bfloat16 for GPUs",
        # A small model on a few cores: enough to see what it does.
        *(["decoding: {max_new_tokens: 64}"] if weights.endswith(_BUNDLED) else []),
    ]


def _weights(word: str, home: Path) -> str:
    """The model directory or hub name that a word means: a relative one as a campaign's file reads it, or from here.

    Raises:
        InvalidInput: it is neither, or the directory holds no model.
    """
    from headrace.engines.model_directory import local_model_directory, model_directory

    if not word.startswith((".", "~")) and local_model_directory(word, home):
        model_directory(word, setting="--engine", home=home)
        return word
    if directory := local_model_directory(word):
        return str(model_directory(str(directory.absolute()), setting="--engine"))
    if _HUB_NAME.fullmatch(word):
        return word
    raise InvalidInput(
        "--engine must be echo, bundled, a server's URL (http://HOST:PORT/v1), a model directory or a hub name "
        f"(OWNER/NAME), got {shortened(word, 200)!r}, which is none of these: no such directory exists."
    )


def _server_lines(url: str, model: str | None) -> list[str]:
    from headrace.engines.openai.address import check_address

    try:
        check_address(url)
    except InvalidInput as error:
        raise InvalidInput(f"--engine: {error}") from error
    scheme, _, rest = url.partition("://")
    url = f"{scheme.lower()}://{rest}"
    served = _served_model(url, model)
    return [
        f"model: {name_of(served)}",
        'version: "1"                # yours to raise when the server gets another model',
        "registered: false",
        f"engine: {{name: openai_http, base_url: {_in_flow(url)}, model: {_in_flow(served)}}}",
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

    from headrace.masking import without_credentials

    shown = without_credentials(url)
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
            f"{shown.rstrip('/')}/models does not say which models there are ({type(error).__name__}): pass --model "
            f"NAME.{hint}"
        ) from error
    if wanted is None and len(names) == 1:
        return names[0]
    if not names and wanted is not None:
        return wanted  # a list without an entry tells nothing either
    if wanted is None:
        raise InvalidInput(f"{shown} serves {_some(names)}: pass --model NAME.")
    if wanted not in names:
        raise InvalidInput(f"{shown} serves {_some(names)}, got --model {wanted}: name one of them.")
    return wanted


def _some(names: list[str]) -> str:
    return ", ".join(shortened(one, 80) for one in names[:10]) or "no model"


def _schema_line(place: Path, project: Project, settings: "Settings") -> str:
    """The line by which editors find the schema; written into the project's state if it has none of its own."""
    from headrace.generation.campaign import Campaign
    from headrace.store.whole_files import renamed_when_whole
    from headrace.user_files.json_schema import json_schema

    schema = project.root / "docs/schemas/campaign.schema.json"
    if not schema.is_file():
        schema = settings.home / "schemas/campaign.schema.json"
        text = json.dumps(json_schema(Campaign, "Headrace campaign"), indent=2) + "\n"
        if not schema.is_file() or schema.read_text() != text:
            with renamed_when_whole(schema, overwrite=True) as partial:
                partial.write_text(text)
    return f"# yaml-language-server: $schema={os.path.relpath(schema, place.absolute())}"


def _in_flow(text: str) -> str:
    """In quotation marks, as JSON has them, which YAML reads: commas and brackets mean something between braces."""
    return json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    """As YAML reads it back: plain if it can be."""
    import yaml

    dumped = yaml.safe_dump(text, width=10_000, allow_unicode=True).strip()
    return dumped.removesuffix("\n...").strip()
