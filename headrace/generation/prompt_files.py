"""Reads a campaign's prompt files: JSON Lines, CSV, Parquet, or plain text with one prompt in each line.

Unlike a corpus, a prompt list has no quarantine: an unusable line fails the partition and is named, since nobody would
notice a prompt that is silently dropped. Values that are not text (null, NaN, a list) are refused too: they would be
generated and sealed as Python's word for them.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, time
from decimal import Decimal
from pathlib import Path

from headrace.errors import InvalidInput
from headrace.generation.carried_columns import CarriedColumns
from headrace.generation.prompt_places import Place, Unit
from headrace.generation.prompt_source import PromptSource
from headrace.text_templates import placeholders
from headrace.user_files.finding import found_files
from headrace.user_files.layout import FileLayout, Unreadable
from headrace.user_files.parquet import column_types
from headrace.user_files.records import format_of, read_records

REPAIR = "Repair it, then materialize prompts again: no prompt is skipped."
_EXCERPT_CHARACTERS = 80
# Types that may fill a template's placeholder; `float` except NaN and the infinities.
_PLAIN = (str, int, float, Decimal, date, time)


@dataclass(frozen=True, kw_only=True)
class PromptText:
    """One line of a prompt file."""

    text: str
    term: str | None = None
    # Values of the columns that `carry` names, in that order.
    carried: tuple[object, ...] = ()
    place: Place | None = field(default=None, compare=False)


def read_prompt_files(
    source: PromptSource, day: str, home: Path, carried: CarriedColumns | None = None
) -> list[PromptText]:
    """Every prompt of the source's files for `day`, sorted by file name and line.

    Args:
        carried: learns the types of the columns that come along.

    Raises:
        InvalidInput: no file matches, or a line is unreadable, lacks a column or holds no text.
    """
    carried = carried or CarriedColumns(source.carry)
    return [prompt for file in prompt_files(source, day, home) for prompt in _prompts(source, file, carried)]


def prompt_files(source: PromptSource, day: str, home: Path) -> list[Path]:
    """The source's files for `day`, in the order that determines every prompt's position: sorted as text.

    Raises:
        InvalidInput: no file matches.
    """
    pattern = source.files.replace("{day}", day)
    files = sorted(found_files(pattern, home), key=str)
    if not files:
        raise InvalidInput(
            f"No prompt file matches {home / pattern}. Put the day's prompts there, then materialize prompts again."
        )
    return files


def _prompts(source: PromptSource, file: Path, carried: CarriedColumns) -> Iterator[PromptText]:
    layout = FileLayout(
        columns=tuple(sorted(source.columns)),
        format=source.format,
        encodings=source.encoding,
        delimiter=source.delimiter,
        empty_is_null=False,
    )
    form = format_of(file, layout)
    if form == "text":
        # A line has one column, whatever name the campaign gives it.
        layout = replace(layout, columns=("text",))
    carried.open(form, column_types(file) if form == "parquet" and source.carry else {}, f"Prompt file {file}")
    unit: Unit = "row" if form == "parquet" else "line"
    for record in read_records(file, layout):
        if isinstance(record, Unreadable) and record.is_empty:
            continue
        place = f"Prompt file {file} {unit} {record.line}" if record.line else f"Prompt file {file}"
        if isinstance(record, Unreadable):
            excerpt = record.excerpt.rstrip("\r\n").encode("utf-8", "replace").decode()[:_EXCERPT_CHARACTERS]
            shown = f", got {excerpt!r}" if excerpt else ""
            raise InvalidInput(f"{place}: {record.reason}{shown}. {REPAIR}")
        fields = record.fields
        if form == "text":
            fields = {"text": str(fields["text"]).rstrip("\r\n")}
        yield replace(prompt_of(source, fields, place, carried), place=Place(file=file, number=record.line, unit=unit))


def prompt_of(source: PromptSource, fields: Mapping[str, object], place: str, carried: CarriedColumns) -> PromptText:
    """The prompt of one record, a file's or an event's, which refusals call `place`.

    Raises:
        InvalidInput: it lacks a column, or holds no text.
    """
    if source.template is None:
        text = _column(fields, source.column, place)
        if not isinstance(text, str):
            raise _not(text, source.column, "text", place)
    else:
        text = _filled(source.template, fields, place)
    if not text.strip():
        raise InvalidInput(f"{place} holds no prompt: its text is empty. {REPAIR}")
    term = _term(fields, source.term_column, place) if source.term_column else None
    values = carried.values(fields, place)
    for value in (text, term, *values):
        if "\0" in str(value):
            raise InvalidInput(
                f"{place} holds a NUL character, as a file of another encoding does (UTF-16?): set encoding. {REPAIR}"
            )
        try:
            str(value).encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"{place} holds half of a surrogate pair, which is no character. {REPAIR}") from error
    return PromptText(text=text, term=term, carried=values)


def _filled(template: str, fields: Mapping[str, object], place: str) -> str:
    names = sorted(placeholders("template", template))
    for name in names:
        value = _column(fields, name, place)
        # Python's words for true and false are nobody's: a column of text says what they mean.
        is_number = not isinstance(value, bool) and not (isinstance(value, float) and not math.isfinite(value))
        if not isinstance(value, _PLAIN) or not is_number:
            raise _not(value, name, "text, a number or a date", place)
    # A CSV has no null, so that one of several columns may be empty; with all of them the prompt is the bare template.
    if not any(str(fields[name]).strip() for name in names):
        also = ", as no other column of its template does" if len(names) > 1 else ""
        raise _not(fields[names[0]], names[0], f"text{also}", place)
    try:
        return template.format_map(fields)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"{place} does not fit the template {template!r}: {error}. {REPAIR}") from error


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
    return InvalidInput(f"{place}: column {column!r} must hold {wanted}, got {got}. {REPAIR}")
