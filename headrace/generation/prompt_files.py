"""Reads a campaign's prompt files: JSON Lines, CSV, Parquet, or plain text with one prompt a line.

Unlike a corpus, a prompt list has no quarantine: a line that cannot be used fails the partition and names the line,
since a prompt dropped in silence is an order that nobody fills.
"""

import csv
import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import InvalidInput
from headrace.generation.campaign import PromptSource

_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
}


@dataclass(frozen=True, kw_only=True)
class PromptText:
    """One line of a prompt file."""

    text: str
    term: str | None = None


def read_prompt_files(source: PromptSource, day: str, home: Path) -> list[PromptText]:
    """Every prompt of the source's files for `day`, in order of file names and lines.

    Raises:
        InvalidInput: no file matches, or a line is not readable, lacks a column or holds no text.
    """
    pattern = str(home / source.files.replace("{day}", day))
    # `glob.glob` and not `Path.glob`: the pattern may be absolute. Sorted: the order is part of every prompt's place.
    files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]  # noqa: PTH207
    if not files:
        raise InvalidInput(
            f"No prompt file matches {pattern}. Put the day's prompts there, then materialize prompts again."
        )
    return [prompt for file in files for prompt in _prompts(source, file)]


def _prompts(source: PromptSource, file: Path) -> Iterator[PromptText]:
    form = _FORMATS.get(file.suffix.lower()) if source.format == "auto" else source.format
    if form is None:
        raise InvalidInput(
            f"Prompt file {file} has the unknown suffix {file.suffix!r}; known are {', '.join(_FORMATS)}. "
            "Rename it, or set prompts.format."
        )
    for place, row in _rows(file, form):
        if not isinstance(row, dict):
            raise InvalidInput(f"{place} must be an object of columns, got {row!r}.")
        try:
            text = source.template.format_map(row) if source.template is not None else str(row[source.column])
            term = str(row[source.term_column]) if source.term_column else None
        except KeyError as error:
            columns = ", ".join(map(str, row)) or "none"
            raise InvalidInput(f"{place} has no column {error.args[0]!r} (it has {columns}).") from error
        if not text.strip():
            raise InvalidInput(f"{place} holds no prompt: its text is empty.")
        yield PromptText(text=text, term=term)


def _rows(file: Path, form: str) -> Iterator[tuple[str, Any]]:
    """Rows with the place to name in a refusal."""
    try:
        if form == "parquet":
            import pyarrow.parquet as pq

            for number, row in enumerate(pq.read_table(file).to_pylist(), start=1):
                yield f"{file} row {number}", row
            return
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if form == "csv":
                for row in (reader := csv.DictReader(lines)):
                    yield f"{file} line {reader.line_num}", row
                return
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                place = f"{file} line {number}"
                yield place, {"text": line.rstrip("\r\n")} if form == "text" else _json(line, place)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is not UTF-8: {error}. Convert it, then materialize prompts again.") from error
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error}.") from error


def _json(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InvalidInput(f"{place} is not JSON: {error}.") from error
