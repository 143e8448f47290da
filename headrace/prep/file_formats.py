"""JSON Lines, CSV, Parquet and plain text as one stream of records, each with the line it came from.

A reader yields what it can and says what it cannot: `Unreadable` for a line, or for a whole file (line 0, or the line
where a file stops making sense). It raises only for what no other file would repair: a format that nobody named.
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.errors import InvalidInput

# Undecodable bytes become this lone surrogate, which no valid text decodes to: one bad line costs one line.
_UNDECODABLE = "\udc80"
codecs.register_error("headrace.mark", lambda error: (_UNDECODABLE, getattr(error, "end", 0)))

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
}
_COMPRESSIONS = {".gz", ".bz2", ".zst", ".lz4"}
_PARQUET_BATCH_ROWS = 8192
# A field longer than this is a quote that was never closed, far more often than a text.
_CSV_FIELD_BYTES_MAX = 16 * 2**20


FileFormat = Literal["auto", "jsonl", "csv", "parquet", "text"]
TextUnit = Literal["line", "paragraph", "file"]


@dataclass(frozen=True, kw_only=True)
class FileLayout:
    """How to read a file: `columns` are those that its header must name, or for plain text the one that it fills."""

    columns: tuple[str, ...]
    format: FileFormat = "auto"
    encoding: str = "utf-8"
    text_unit: TextUnit = "line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    line: int
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """`line` 0 is the whole file; `loses_file` says that nobody knows how much more was lost than this."""

    line: int
    reason: str
    excerpt: str = ""
    loses_file: bool = False


def read_records(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    """Records of one file, in order.

    Raises:
        InvalidInput: the format is `auto` and the file's name does not tell which.
    """
    reader = _READERS[_format_of(path, layout)]
    num_records = 0
    try:
        if path.stat().st_size == 0:
            yield Unreadable(line=0, reason="empty file", loses_file=True)
            return
        for record in reader(path, layout):
            num_records += 1
            yield record
    except (OSError, EOFError, pa.ArrowException, UnicodeError) as error:
        reason = f"unreadable after {num_records} records: {error}" if num_records else f"unreadable: {error}"
        yield Unreadable(line=0, reason=reason, loses_file=True)
        return
    if not num_records:
        yield Unreadable(line=0, reason="no records in the file", loses_file=True)


def _format_of(path: Path, layout: FileLayout) -> str:
    if layout.format != "auto":
        return layout.format
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _COMPRESSIONS]
    if not suffixes or suffixes[-1] not in _SUFFIXES:
        raise InvalidInput(
            f"The name of {path} does not tell its format, wanted one of {', '.join(_SUFFIXES)}. "
            "Set format to jsonl, csv, parquet or text, or narrow the glob."
        )
    return _SUFFIXES[suffixes[-1]]


def _open_text(path: Path, encoding: str, newline: str | None = None) -> io.TextIOWrapper:
    # A byte order mark belongs to the encoding, not to the first column's name.
    encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    stream = pa.input_stream(str(path), compression="detect")
    return io.TextIOWrapper(stream, encoding=encoding, errors="headrace.mark", newline=newline)


def _wrong_encoding(line: int, text: str, encoding: str) -> Unreadable:
    shown = text.replace(_UNDECODABLE, "\ufffd")
    return Unreadable(line=line, reason=f"wrong encoding, wanted {encoding}", excerpt=shown)


def _read_jsonl(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    with _open_text(path, layout.encoding) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            if _UNDECODABLE in line:
                yield _wrong_encoding(number, line, layout.encoding)
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Unreadable(line=number, reason=f"not JSON: {error}", excerpt=line)
                continue
            if isinstance(fields, dict):
                yield Record(line=number, fields=fields)
            else:
                yield Unreadable(line=number, reason="not a JSON object", excerpt=line)


def _read_csv(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    csv.field_size_limit(_CSV_FIELD_BYTES_MAX)
    with _open_text(path, layout.encoding, newline="") as lines:
        # strict: else an unclosed quote swallows the rest of the file into one field without a word.
        rows = csv.reader(lines, delimiter="\t" if ".tsv" in path.suffixes else ",", strict=True)
        header = next(rows, [])
        missing = [theirs for theirs in layout.columns if theirs not in header]
        if missing:
            yield _missing_columns(missing, header)
            return
        while True:
            number = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                # An unclosed quote swallows every line up to the end: how many documents those were, nobody knows.
                swallowed = rows.line_num - number
                yield Unreadable(line=number, reason=f"not CSV: {error}", loses_file=swallowed > 0)
                continue
            excerpt = ",".join(row)
            if _UNDECODABLE in excerpt:
                yield _wrong_encoding(number, excerpt, layout.encoding)
            elif row and len(row) != len(header):
                reason = f"{len(row)} fields where the header has {len(header)}"
                yield Unreadable(line=number, reason=reason, excerpt=excerpt)
            elif row:
                yield Record(line=number, fields={name: value or None for name, value in zip(header, row, strict=True)})


def _read_parquet(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        missing = [theirs for theirs in layout.columns if theirs not in names]
        if missing:
            yield _missing_columns(missing, names)
            return
        number = 0
        for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=sorted(set(layout.columns))):
            for fields in batch.to_pylist():
                number += 1
                yield Record(line=number, fields=fields)


def _read_text(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    column = layout.columns[0]
    with _open_text(path, layout.encoding) as lines:
        for number, text in _BLOCKS[layout.text_unit](lines):
            if _UNDECODABLE in text:
                yield _wrong_encoding(number, text, layout.encoding)
            else:
                yield Record(line=number, fields={column: text})


def _text_lines(lines: io.TextIOWrapper) -> Iterator[tuple[int, str]]:
    yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _text_paragraphs(lines: io.TextIOWrapper) -> Iterator[tuple[int, str]]:
    paragraph: list[str] = []
    start = 1
    for number, line in enumerate(lines, start=1):
        if line.strip():
            start = start if paragraph else number
            paragraph.append(line)
        elif paragraph:
            yield start, "".join(paragraph)
            paragraph = []
    if paragraph:
        yield start, "".join(paragraph)


def _text_files(lines: io.TextIOWrapper) -> Iterator[tuple[int, str]]:
    text = lines.read()
    if text.strip():
        yield 1, text


def _missing_columns(missing: list[str], got: list[str]) -> Unreadable:
    names = ", ".join(map(repr, missing))
    return Unreadable(line=0, reason=f"missing column {names}", excerpt=",".join(got), loses_file=True)


_Reader = Callable[[Path, FileLayout], Iterator[Record | Unreadable]]
_READERS: dict[str, _Reader] = {
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "parquet": _read_parquet,
    "text": _read_text,
}
_BLOCKS = {"line": _text_lines, "paragraph": _text_paragraphs, "file": _text_files}
