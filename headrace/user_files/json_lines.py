"""JSON Lines, line by line: the exact reader, which says of each line why it is no record.

A key that stands twice in one object makes its line unreadable, since nobody knows which one is meant: a wanted one, or
any within a wanted one's value.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from headrace.user_files.json_objects import JsonObjects
from headrace.user_files.layout import FileLayout, Record, Unreadable, too_long, wrong_encoding
from headrace.user_files.lines import BoundedLines
from headrace.user_files.text_encodings import UNDECODABLE


def read_jsonl(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    with BoundedLines(path, layout) as lines:
        yield from json_records(lines, layout, 1)


def json_records(lines: BoundedLines, layout: FileLayout, first_line: int) -> Iterator[Record | Unreadable]:
    objects = JsonObjects()
    for number, line in enumerate(lines, start=first_line):
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
        if isinstance(fields, dict):
            twice = _twice(objects, fields, layout) if objects.any_repeated else None
            yield Unreadable(line=number, reason=twice, excerpt=line) if twice else Record(line=number, fields=fields)
        else:
            hint = ", but a list: write one object a line" if isinstance(fields, list) else ""
            yield Unreadable(line=number, reason=f"not a JSON object{hint}", excerpt=line)


def _twice(objects: JsonObjects, fields: dict[str, object], layout: FileLayout) -> str | None:
    if wanted := sorted(objects.repeated_in(fields).intersection(layout.columns)):
        return f"the key {wanted[0]!r} stands twice"
    for column in layout.columns:
        if (key := objects.repeated_within(fields.get(column))) is not None:
            return f"column {column!r} holds the key {key!r} twice in one object"
    return None


def _json_fault(error: Exception, number: int, line: str) -> str:
    """The fault with its place in the file; Python counts lines within the text that it was given."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    # A torn line is missed something behind its end.
    return f"{error.msg}: line {number} column {min(error.pos, len(line.rstrip())) + 1}"
