"""Reads all users' files: JSON Lines, CSV, Parquet, HTML and plain text as one stream of records.

A reader yields what it can and reports the rest as `Unreadable`: a line, or a whole file (line 0, or the line from
which the file makes no sense). It raises only for a fault of the caller: a format that nobody named. The caller decides
what an unreadable record means: a corpus sets it aside, a list of prompts or labels is refused.

The longest allowed record bounds the memory, however much a file expands.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.user_files.csv_rows import read_csv
from headrace.user_files.html_pages import read_html
from headrace.user_files.json_blocks import Allowed, Columns, json_blocks
from headrace.user_files.json_lines import read_jsonl
from headrace.user_files.layout import (
    ExpandsTooMuch,
    FileLayout,
    Record,
    Unreadable,
    too_long,
    wrong_encoding,
)
from headrace.user_files.lines import COMPRESSIONS, BoundedLines
from headrace.user_files.parquet import read_parquet
from headrace.user_files.text_encodings import UNDECODABLE, is_utf8

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".html": "html",
    ".htm": "html",
}


def read_records(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    """Records of one file, in order.

    Raises:
        InvalidInput: the format is `auto` and the file's name does not tell which.
    """
    return _guarded(path, layout, _READERS[format_of(path, layout)])


def read_columns(
    path: Path, layout: FileLayout, required: Sequence[str], allowed: Allowed
) -> Iterator[Record | Unreadable | Columns]:
    """The same records; of JSON Lines those that are clean side by side, which is faster by far.

    Args:
        required: columns of the file that hold no null where records are side by side.
        allowed: the types of each column where records are side by side.

    Raises:
        InvalidInput: the format is `auto` and the file's name does not tell which.
    """
    file_format = format_of(path, layout)
    if file_format == "jsonl" and is_utf8(layout.encodings):
        return _guarded(path, layout, partial(json_blocks, required=required, allowed=allowed))
    return _guarded(path, layout, _READERS[file_format])


_Found = TypeVar("_Found", Record | Unreadable, Record | Unreadable | Columns)


def _guarded(
    path: Path, layout: FileLayout, reader: Callable[[Path, FileLayout], Iterator[_Found]]
) -> Iterator[_Found | Unreadable]:
    num_records = 0
    try:
        if path.stat().st_size == 0:
            yield Unreadable(line=0, reason="empty file", loses_file=True, is_empty=True)
            return
        for record in reader(path, layout):
            num_records += len(record.lines) if isinstance(record, Columns) else 1
            yield record
    # Arrow's own errors, and Python's for values that it cannot represent: the year 300000, an unknown time zone.
    except (OSError, EOFError, pa.ArrowException, ValueError, ArithmeticError, LookupError, ExpandsTooMuch) as error:
        reason = f"unreadable after {num_records} records: {error}" if num_records else f"unreadable: {error}"
        yield Unreadable(line=0, reason=reason, loses_file=True)
        return
    if not num_records:
        yield Unreadable(line=0, reason="no records in the file", loses_file=True, is_empty=True)


def format_of(path: Path, layout: FileLayout) -> str:
    """Raises: InvalidInput: the format is `auto` and the file's name does not tell which."""
    if layout.format != "auto":
        return layout.format
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSIONS]
    if not suffixes or suffixes[-1] not in _SUFFIXES:
        raise InvalidInput(
            f"The name of {path} does not tell its format, wanted one of {', '.join(_SUFFIXES)}. Rename it, or let the "
            "file that names it set format to jsonl, csv, parquet, text or html, or narrow its glob."
        )
    return _SUFFIXES[suffixes[-1]]


def _read_text(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    column = layout.columns[0]
    newline, mark_kept = "" if layout.bytes_kept else None, layout.bytes_kept and layout.text_unit == "file"
    with BoundedLines(path, layout, newline=newline, mark_kept=mark_kept) as lines:
        for number, text, is_cut in _BLOCKS[layout.text_unit](lines, layout.record_bytes_max):
            if is_cut:
                yield too_long(number, layout, text)
            elif UNDECODABLE in text:
                yield wrong_encoding(number, text, layout)
            else:
                yield Record(line=number, fields={column: text})


# A text's first line, the text, and whether it was too long.
_Blocks = Iterator[tuple[int, str, bool]]


def _text_lines(lines: BoundedLines, chars_max: int) -> _Blocks:
    for number, line in enumerate(lines, start=1):
        if line.strip() or lines.was_cut:
            yield number, line, lines.was_cut


def _text_paragraphs(lines: BoundedLines, chars_max: int) -> _Blocks:
    paragraph = _Block(chars_max)
    for number, line in enumerate(lines, start=1):
        if line.strip() or lines.was_cut:
            paragraph.add(number, line, was_cut=lines.was_cut)
        elif paragraph.start:
            yield paragraph.start, paragraph.text, paragraph.is_cut
            paragraph = _Block(chars_max)
    if paragraph.start:
        yield paragraph.start, paragraph.text, paragraph.is_cut


def _text_files(lines: BoundedLines, chars_max: int) -> _Blocks:
    whole = _Block(chars_max)
    for number, line in enumerate(lines, start=1):
        whole.add(number, line, was_cut=lines.was_cut)
    if whole.is_cut or whole.text.removeprefix("\ufeff").strip():
        yield 1, whole.text, whole.is_cut


class _Block:
    """Lines of one text, kept up to the limit."""

    def __init__(self, chars_max: int) -> None:
        self._parts: list[str] = []
        self._left = chars_max
        self.start = 0
        self.is_cut = False

    def add(self, number: int, line: str, *, was_cut: bool) -> None:
        self.start = self.start or number
        self.is_cut = self.is_cut or was_cut or len(line) > self._left
        if not self.is_cut:
            self._parts.append(line)
            self._left -= len(line)

    @property
    def text(self) -> str:
        return "".join(self._parts)


_Reader = Callable[[Path, FileLayout], Iterator[Record | Unreadable]]
_READERS: dict[str, _Reader] = {
    "jsonl": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
    "text": _read_text,
    "html": read_html,
}
_BLOCKS = {"line": _text_lines, "paragraph": _text_paragraphs, "file": _text_files}
