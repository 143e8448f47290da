"""Rows of a CSV file, with any usual delimiter; a broken row costs its first line.

A quote that is never closed swallows the lines that follow, and nobody can tell from the row where it should have
ended. So of a row over several lines that does not parse, or has the wrong number of fields, the first line is
reported and the others are read again. A swallowed line that happens to complete a row of the right length cannot be
told from a field with a line break.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from headrace.user_files.layout import (
    FileLayout,
    Record,
    Unreadable,
    header_fault,
    wrong_encoding,
)
from headrace.user_files.lines import BoundedLines
from headrace.user_files.text_encodings import UNDECODABLE

_NEVER_CLOSED = "not CSV: a quote is opened and never closed"
DELIMITERS = ",;\t|"
# Longest records that are read again, over a whole file. Quotes that each swallow as much as they can would otherwise
# cost the square of the file's size.
_REREAD_RECORDS_MAX = 16


def read_csv(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    csv.field_size_limit(max(csv.field_size_limit(), layout.record_bytes_max))
    with BoundedLines(path, layout, newline="") as lines:
        fed = _Lines(lines, layout.record_bytes_max)
        delimiter = layout.delimiter or delimiter_of(fed.skip_blank(), path, layout.columns)
        # strict: otherwise an unclosed quote silently swallows the rest of the file into one field.
        rows = csv.reader(fed, delimiter=delimiter, strict=True)
        fed.begin()
        try:
            header = next(rows, None)
        except csv.Error as error:
            yield Unreadable(line=fed.number, reason=f"no CSV header: {error}", excerpt=fed.first, loses_file=True)
            return
        if header is None:
            return
        if any(mark in name for name in header for mark in (UNDECODABLE, "\0")):
            # Another encoding, or no text at all: a spreadsheet that was renamed.
            yield replace(wrong_encoding(0, delimiter.join(header), layout), loses_file=True)
            return
        if fault := header_fault(layout.columns, header):
            yield fault
            return
        while True:
            fed.begin()
            row, reason = [], ""
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                reason = _NEVER_CLOSED if "unexpected end of data" in str(error) else f"not CSV: {error}"
            else:
                if row and len(row) != len(header):
                    reason = f"{len(row)} fields where the header has {len(header)}"
            if UNDECODABLE in (text := delimiter.join(row)) and not (reason and fed.num_further):
                yield wrong_encoding(fed.number, text, layout)
            elif reason:
                if fed.num_further and reason != _NEVER_CLOSED:
                    reason += f", up to line {fed.number + fed.num_further}: a quote may not be closed"
                loses_file = not fed.read_again()
                reason += "; too many like it were before it, so the rest of the file is not read" * loses_file
                yield Unreadable(line=fed.number, reason=reason, excerpt=fed.first, loses_file=loses_file)
                if loses_file:
                    return
            elif row:
                values = [value or None for value in row] if layout.empty_is_null else row
                yield Record(line=fed.number, fields=dict(zip(header, values, strict=True)))


def delimiter_of(header: str, path: Path, columns: tuple[str, ...]) -> str:
    """The delimiter with which the header has most of the wanted columns; the usual one, if others have no more."""
    usual = "\t" if any(suffix.lower() == ".tsv" for suffix in path.suffixes) else ","
    delimiters = dict.fromkeys(usual + DELIMITERS)
    return max(delimiters, key=lambda one: len(set(columns) & set(_names(header, one))))


def _names(header: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([header], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


class _Lines:
    """Lines for `csv.reader`, which sees no more of one row than a record may have."""

    def __init__(self, lines: BoundedLines, chars_max: int) -> None:
        self._lines, self._chars_max = lines, chars_max
        self._again = io.StringIO(newline="")
        self._rereads_left = _REREAD_RECORDS_MAX * chars_max
        # Not `csv.reader.line_num`, which counts neither lines that were refused here nor lines that are read again.
        self._num_lines = 0
        self.num_further = 0
        self._further = io.StringIO(newline="")
        self.begin()

    def begin(self) -> None:
        """A row begins: `number` is its first line's, `first` that line, `num_further` how many follow."""
        if self.num_further:
            self._further = io.StringIO(newline="")
        self.number, self.first, self.num_further = self._num_lines + 1, "", 0
        self._chars_of_row = 0

    def skip_blank(self) -> str:
        """The first line that is not blank, which comes again."""
        for line in self._lines:
            if line.strip():
                self._again = io.StringIO(line, newline="")
                return line
            self._num_lines += 1
        return ""

    def read_again(self) -> bool:
        """Puts the row's lines after its first one back. False: too much was read again already."""
        text = self._further.getvalue() + (self._again.read() if self.num_further else "")
        if self.num_further:
            self._again = io.StringIO(text, newline="")
            self._num_lines -= self.num_further
            self._rereads_left -= len(text)
        return self._rereads_left >= 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.readline() or next(self._lines)
        self._num_lines += 1
        self._chars_of_row += len(line)
        if self.first:
            self._further.write(line)
            self.num_further += 1
        else:
            self.first = line
        is_cut = len(line) > self._chars_max and line[-1] not in "\r\n"
        # The reader's own error, after which it starts a new row.
        if is_cut or self._chars_of_row > self._chars_max:
            raise csv.Error(f"longer than {self._chars_max:,} characters, the most that one record may have")
        return line
