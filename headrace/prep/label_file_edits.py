"""Changes labels in a file that people keep, and nothing else of it: every byte of the rows that stay is as it was.

Of a changed row in JSON Lines only the label's value is another, in CSV the row's quotes may be others. A byte order
mark, line ends and permissions stay. What was written is read, and compared with what was there, before it takes the
file's place.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from headrace.errors import InvalidInput
from headrace.prep.label_settings import LabelFile
from headrace.store.whole_files import renamed_when_whole
from headrace.user_files.csv_rows import delimiter_of
from headrace.user_files.layout import FileLayout, Unreadable
from headrace.user_files.lines import encoding_of
from headrace.user_files.records import format_of, read_records

_UTF_8 = ((codecs.BOM_UTF8, "utf-8"),)
# Python's decoder takes a mark away, and its encoder writes the machine's own.
_MARKS = {
    "utf-8": _UTF_8,
    "utf-8-sig": _UTF_8,
    "utf-16": ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")),
    "utf-32": ((codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be")),
}
_BLANKS = re.compile(r"\s*")
# Only where a value ends is asked, so no number is made: Python refuses one of 5,000 digits.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str)


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """The labels that one label file gets; `replaced` stand in it with others. Neither: a new file without rows."""

    path: Path
    added: dict[str, str]
    replaced: dict[str, str]


def write_changes(changes: Iterable[FileChange], settings: LabelFile) -> None:
    """Writes all files: each whole, and none if one cannot be made.

    Raises:
        InvalidInput: a label cannot be written in its file's encoding, or would not be read as it was written.
        StoreUnavailable: the disk refuses.
    """
    with ExitStack() as renamed:
        for change in changes:
            # The file that is written has another name until it is whole.
            layout = replace(settings.layout, format=format_of(change.path, settings.layout))
            body = _changed_body(change, settings, layout)
            partial = renamed.enter_context(renamed_when_whole(change.path, overwrite=True))
            partial.write_bytes(body)
            _refuse_damage(change, settings, layout, partial)


def _changed_body(change: FileChange, settings: LabelFile, layout: FileLayout) -> bytes:
    if change.path.exists():
        body, encoding = change.path.read_bytes(), encoding_of(change.path, layout)
    else:
        body, encoding = b"", settings.encoding[0]
    marks = _MARKS.get(codecs.lookup(encoding).name, ())
    mark, codec = next((one for one in marks if body.startswith(one[0])), (b"", encoding))
    if codec == "utf-8-sig" and body:
        codec = "utf-8"
    changed = _changed_csv if layout.format == "csv" else _changed_jsonl
    try:
        return mark + changed(body[len(mark) :].decode(codec), change, settings).encode(codec)
    except UnicodeEncodeError as error:
        is_unicode = codec.lower().startswith("utf")
        cure = "correct it in the export" if is_unicode else "save it in UTF-8, and set labels.file.encoding"
        raise InvalidInput(
            f"Label file {change.path} is in {encoding}, which has no {error.object[error.start]!r}: {cure}."
        ) from error


def _changed_csv(old: str, change: FileChange, settings: LabelFile) -> str:
    columns = (settings.document_id, settings.label)
    lines = _lines(old)
    blank = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    parts, lines = lines[:blank], lines[blank:]
    delimiter = settings.delimiter or delimiter_of("".join(lines[:1]), change.path, columns)
    line_end = _line_end(lines)
    if not lines:
        lines = [_csv_row(columns, delimiter) + line_end]
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    header = next(rows)
    at_id, at_label = map(header.index, columns)
    num_read = rows.line_num
    parts += lines[:num_read]
    for row in rows:
        text = "".join(lines[num_read : rows.line_num])
        num_read = rows.line_num
        if row and row[at_id] in change.replaced:
            row[at_label] = change.replaced[row[at_id]]
            text = _csv_row(row, delimiter) + text[len(text.rstrip("\r\n")) :]
        parts.append(text)
    added = []
    for document_id, label in change.added.items():
        row = [""] * len(header)
        row[at_id], row[at_label] = document_id, label
        added.append(_csv_row(row, delimiter))
    return _with_lines("".join(parts), added, line_end)


def _csv_row(row: Iterable[str], delimiter: str) -> str:
    body = io.StringIO(newline="")
    # A writer quotes the characters of its own line end alone, and a reader ends a row at either of them.
    csv.writer(body, delimiter=delimiter, lineterminator="\r\n").writerow(row)
    return body.getvalue().removesuffix("\r\n")


def _changed_jsonl(old: str, change: FileChange, settings: LabelFile) -> str:
    lines = _lines(old)
    for number, line in enumerate(lines):
        if line.strip() and (new := change.replaced.get(_JSON.decode(line)[settings.document_id])) is not None:
            start, end = _value_span(line, settings.label)
            lines[number] = line[:start] + json.dumps(new, ensure_ascii=False) + line[end:]
    added = [
        json.dumps({settings.document_id: document_id, settings.label: label}, ensure_ascii=False)
        for document_id, label in change.added.items()
    ]
    return _with_lines("".join(lines), added, _line_end(lines))


def _value_span(line: str, key: str) -> tuple[int, int]:
    """Where the value of an object's own key stands in a line of JSON, which has the key."""
    at = line.index("{")
    while True:
        name, at = _JSON.raw_decode(line, _after_blanks(line, at + 1))
        start = _after_blanks(line, _after_blanks(line, at) + 1)
        _, end = _JSON.raw_decode(line, start)
        if name == key:
            return start, end
        at = _after_blanks(line, end)


def _after_blanks(line: str, at: int) -> int:
    found = _BLANKS.match(line, at)
    return found.end() if found else at


def _lines(text: str) -> list[str]:
    """Lines with their ends, as the readers of files tell them apart: `splitlines` cuts at ten other characters too."""
    return list(io.StringIO(text, newline=""))


def _line_end(lines: list[str]) -> str:
    first = lines[0] if lines else ""
    return first[len(first.rstrip("\r\n")) :] or "\n"


def _with_lines(text: str, added: list[str], line_end: str) -> str:
    if added and text and not text.endswith(("\n", "\r")):
        text += line_end
    return text + "".join(line + line_end for line in added)


def _refuse_damage(change: FileChange, settings: LabelFile, layout: FileLayout, partial: Path) -> None:
    """Raises: InvalidInput: a row of the written file is not what was there, or what was to be added."""
    written = _rows(partial, layout, change.path)
    for row in _rows(change.path, layout, change.path) if change.path.exists() else ():
        new = change.replaced.get(str(row.get(settings.document_id)))
        wanted = row if new is None else row | {settings.label: new}
        got = next(written, None)
        # By their texts, since a number may be NaN, which equals nothing.
        if repr(got) != repr(wanted):
            raise _damaged(change.path, f"the row {str(wanted)[:200]} would be read as {str(got)[:200]}")
    added = [(row.get(settings.document_id), row.get(settings.label)) for row in written]
    for wanted, got in zip_longest(change.added.items(), added):
        if got != wanted:
            raise _damaged(change.path, f"the label {str(wanted)[:200]} would be read as {str(got)[:200]}")


def _rows(path: Path, layout: FileLayout, shown: Path) -> Iterator[dict[str, object]]:
    for record in read_records(path, layout):
        if not isinstance(record, Unreadable):
            yield dict(record.fields)
        elif not record.is_empty:
            raise _damaged(shown, f"line {record.line} would be unreadable: {record.reason}")


def _damaged(path: Path, fault: str) -> InvalidInput:
    return InvalidInput(
        f"Label file {path} is left as it was, since with the new labels {fault}. Write these labels into it yourself."
    )
