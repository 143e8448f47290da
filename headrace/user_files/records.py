"""Reads all users' files: JSON Lines, CSV, Parquet, HTML and plain text as one stream of records.

A reader yields what it can and reports the rest as `Unreadable`: a line, or a whole file (line 0, or the line from
which the file makes no sense). It raises only for a fault of the caller: a format that nobody named. The caller decides
what an unreadable record means: a corpus sets it aside, a list of prompts or labels is refused.

The longest allowed record bounds the memory, however much a file expands.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.user_files.csv_rows import read_csv
from headrace.user_files.html_pages import read_html
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
from headrace.user_files.text_encodings import UNDECODABLE

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
    reader = _READERS[format_of(path, layout)]
    num_records = 0
    try:
        if path.stat().st_size == 0:
            yield Unreadable(line=0, reason="empty file", loses_file=True, is_empty=True)
            return
        for record in reader(path, layout):
            num_records += 1
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


def _read_jsonl(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    objects = _Objects()
    with BoundedLines(path, layout) as lines:
        for number, line in enumerate(lines, start=1):
            if lines.was_cut:
                yield too_long(number, layout, line)
                continue
            if not line.strip():
                continue
            if UNDECODABLE in line:
                yield wrong_encoding(number, line, layout)
                continue
            try:
                fields = objects.read(line)
            except (ValueError, RecursionError) as error:
                yield Unreadable(line=number, reason=f"not JSON: {_json_fault(error, number, line)}", excerpt=line)
                continue
            if twice := sorted(objects.repeated.intersection(layout.columns)):
                yield Unreadable(line=number, reason=f"the key {twice[0]!r} stands twice", excerpt=line)
            elif isinstance(fields, dict):
                yield Record(line=number, fields=fields)
            else:
                hint = ", but a list: write one object a line" if isinstance(fields, list) else ""
                yield Unreadable(line=number, reason=f"not a JSON object{hint}", excerpt=line)


def _json_fault(error: Exception, number: int, line: str) -> str:
    """The fault with its place in the file; Python counts lines within the text that it was given."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    # A torn line is missed something behind its end.
    return f"{error.msg}: line {number} column {min(error.pos, len(line.rstrip())) + 1}"


class _Objects:
    """JSON objects, and keys that occur twice in one object of a line, since nobody knows which one is meant."""

    def __init__(self) -> None:
        self.repeated: set[str] = set()
        self._decoder = json.JSONDecoder(object_pairs_hook=self._checked)

    def read(self, line: str) -> object:
        self.repeated.clear()
        return self._decoder.decode(line)

    def _checked(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            self.repeated.update(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return fields


def _read_text(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    column = layout.columns[0]
    with BoundedLines(path, layout) as lines:
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
    if whole.is_cut or whole.text.strip():
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
    "jsonl": _read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
    "text": _read_text,
    "html": read_html,
}
_BLOCKS = {"line": _text_lines, "paragraph": _text_paragraphs, "file": _text_files}
