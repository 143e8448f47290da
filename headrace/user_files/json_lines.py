"""JSON Lines, line by line: the exact reader, which says of each line why it is no record.

A wanted key that stands twice in an object makes its line unreadable, since nobody knows which one is meant.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from headrace.user_files.layout import FileLayout, Record, Unreadable, too_long, wrong_encoding
from headrace.user_files.lines import BoundedLines
from headrace.user_files.text_encodings import UNDECODABLE

# Python refuses to make an integer of more.
_DIGITS_MAX = 4300


def read_jsonl(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    with BoundedLines(path, layout) as lines:
        yield from json_records(lines, layout, 1)


def json_records(lines: BoundedLines, layout: FileLayout, first_line: int) -> Iterator[Record | Unreadable]:
    objects = _Objects()
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
    """JSON objects, and the keys that occur twice in one of them; not in the objects within it."""

    def __init__(self) -> None:
        self.repeated = set[str]()
        self._decoder = json.JSONDecoder(object_pairs_hook=self._checked, parse_int=_whole_number)

    def read(self, line: str) -> object:
        self.repeated = set[str]()
        return self._decoder.decode(line)

    def _checked(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(pairs)
        # The outermost object is the last one that is made.
        self.repeated = set() if len(fields) == len(pairs) else _repeated(pairs)
        return fields


def _repeated(pairs: list[tuple[str, object]]) -> set[str]:
    return {name for name, count in Counter(name for name, _ in pairs).items() if count > 1}


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) <= _DIGITS_MAX else float(digits)
