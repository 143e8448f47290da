"""Reads a campaign's prompt files: JSON Lines, CSV, Parquet, or plain text with one prompt in each line.

Unlike a corpus, a prompt list has no quarantine: an unusable line fails the partition and is named, since nobody would
notice a prompt that is silently dropped. Values that are not text (null, NaN, a list) are refused too: they would be
generated and sealed as Python's word for them.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path

from headrace.errors import InvalidInput
from headrace.generation.campaign import PromptSource
from headrace.text_templates import placeholders
from headrace.user_files.finding import found_files
from headrace.user_files.layout import FileLayout, Unreadable
from headrace.user_files.records import format_of, read_records

_REPAIR = "Repair it, then materialize prompts again: no prompt is skipped."
# Types that may fill a template's placeholder; `float` except NaN and the infinities.
_PLAIN = (str, int, float, Decimal, date, time)


@dataclass(frozen=True, kw_only=True)
class PromptText:
    """One line of a prompt file."""

    text: str
    term: str | None = None


def read_prompt_files(source: PromptSource, day: str, home: Path) -> list[PromptText]:
    """Every prompt of the source's files for `day`, sorted by file name and line.

    Raises:
        InvalidInput: no file matches, or a line is unreadable, lacks a column or holds no text.
    """
    pattern = source.files.replace("{day}", day)
    # Sorted as text, since the order determines every prompt's position.
    files = sorted(found_files(pattern, home), key=str)
    if not files:
        raise InvalidInput(
            f"No prompt file matches {home / pattern}. Put the day's prompts there, then materialize prompts again."
        )
    return [prompt for file in files for prompt in _prompts(source, file)]


def _prompts(source: PromptSource, file: Path) -> Iterator[PromptText]:
    columns = placeholders("template", source.template) if source.template is not None else {source.column}
    columns |= {source.term_column} if source.term_column else set()
    layout = FileLayout(columns=tuple(sorted(columns)), format=source.format, empty_is_null=False)
    form = format_of(file, layout)
    if form == "text":
        # A line has one column, whatever name the campaign gives it.
        layout = FileLayout(columns=("text",), format=source.format)
    counted_by = "row" if form == "parquet" else "line"
    for record in read_records(file, layout):
        if isinstance(record, Unreadable) and record.is_empty:
            continue
        place = f"Prompt file {file} {counted_by} {record.line}" if record.line else f"Prompt file {file}"
        if isinstance(record, Unreadable):
            raise InvalidInput(f"{place}: {record.reason}. {_REPAIR}")
        fields = record.fields
        if form == "text":
            fields = {"text": str(fields["text"]).rstrip("\r\n")}
        yield _prompt(source, fields, place)


def _prompt(source: PromptSource, fields: Mapping[str, object], place: str) -> PromptText:
    if source.template is None:
        text = _column(fields, source.column, place)
        if not isinstance(text, str):
            raise _not(text, source.column, "text", place)
    else:
        text = _filled(source.template, fields, place)
    if not text.strip():
        raise InvalidInput(f"{place} holds no prompt: its text is empty. {_REPAIR}")
    term = _term(fields, source.term_column, place) if source.term_column else None
    for value in (text, term or ""):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"{place} holds half of a surrogate pair, which is no character. {_REPAIR}") from error
    return PromptText(text=text, term=term)


def _filled(template: str, fields: Mapping[str, object], place: str) -> str:
    for name in sorted(placeholders("template", template)):
        value = _column(fields, name, place)
        if not isinstance(value, _PLAIN) or (isinstance(value, float) and not math.isfinite(value)):
            raise _not(value, name, "text, a number or a date", place)
    try:
        return template.format_map(fields)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"{place} does not fit the template {template!r}: {error}. {_REPAIR}") from error


def _term(fields: Mapping[str, object], column: str, place: str) -> str | None:
    value = _column(fields, column, place)
    if value is None:
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise _not(value, column, "text", place)
    return str(value)


def _column(fields: Mapping[str, object], name: str, place: str) -> object:
    if name not in fields:
        columns = ", ".join(map(str, fields)) or "none"
        raise InvalidInput(f"{place} has no column {name!r} (it has {columns}).")
    return fields[name]


def _not(value: object, column: str, wanted: str, place: str) -> InvalidInput:
    got = {type(None): "null", dict: "an object", list: "a list"}.get(type(value)) or repr(value)[:80]
    return InvalidInput(f"{place}: column {column!r} must hold {wanted}, got {got}. {_REPAIR}")
