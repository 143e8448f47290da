"""Columns of a prompt file that come along to the rows: each has one Arrow type for all files of a day.

| file | type |
|---|---|
| Parquet | its own: text, true or false, whole numbers (int64), numbers (float64), dates, timestamps, decimals |
| JSON Lines | that of its values: text, true or false, int64, or float64 if one has a point; text if all are null |
| CSV | text, because a CSV has no types and `007` must stay as it is; an empty cell is null |

They take no part in the ids of prompts and rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.handoff.schemas import carried_fields, carried_type

_KINDS: dict[type, pa.DataType] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
}
_NUMBERS = {pa.int64(), pa.float64()}
_WORDS = {
    pa.string(): "text",
    pa.bool_(): "true or false",
    pa.int64(): "whole numbers",
    pa.float64(): "numbers",
    pa.date32(): "dates",
}
_INT_END = 2**63
# Beyond it float64 skips whole numbers.
_EXACT_MAX = 2**53


class CarriedColumns:
    """The columns that a campaign's prompts carry, while files are read.

    Raises, from each method:
        InvalidInput: a column does not fit one type, or is in no line.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._columns = [_Column(name) for name in names]
        self._first: tuple[str, list[str]] | None = None

    def open(self, file_format: str, types: Mapping[str, pa.DataType], place: str) -> None:
        """A file begins. `types`: those that it states itself."""
        for column in self._columns:
            if file_format == "text":
                raise InvalidInput(
                    f"{place} is plain text, whose lines have no column {column.name!r} to carry. Use JSON Lines, CSV "
                    "or Parquet, or leave carry out."
                )
            column.open(pa.string() if file_format == "csv" else types.get(column.name), place)
            # A CSV has no null.
            column.empty_is_null = file_format == "csv"

    def values(self, fields: Mapping[str, Any], place: str) -> tuple[object, ...]:
        """One line's values, in the order of the columns. A key that a JSON line lacks is null."""
        self._first = self._first or (place, list(map(str, fields)))
        return tuple(column.value(fields, place) for column in self._columns)

    def fields(self, *, may_lack: bool = False) -> list[pa.Field]:
        """The columns with their types, once all files are read.

        Args:
            may_lack: a column that nothing has is text, all null: the next window's events may have it.
        """
        for column in self._columns:
            if self._first and not column.is_found and not may_lack:
                place, there = self._first
                raise InvalidInput(
                    f"carry names the column {column.name!r}, which no line has: {place} has {', '.join(there)}. "
                    "Correct carry, or take the name out."
                )
        return [pa.field(column.name, column.kind or pa.string()) for column in self._columns]


class _Column:
    def __init__(self, name: str) -> None:
        self.name = name
        self.kind: pa.DataType | None = None
        self.is_found = self.empty_is_null = False
        # Where the type was decided.
        self._decided = ""
        # The type that the present file states, whose values need no look.
        self._stated: pa.DataType | None = None
        # A whole number that float64 cannot hold, and where it stands.
        self._inexact: tuple[int, str] | None = None

    def open(self, stated: pa.DataType | None, place: str) -> None:
        self._stated = None
        if stated is None:
            return
        self._stated = carried_type(stated)
        if self._stated is None:
            raise InvalidInput(
                f"{place}: column {self.name!r} is of type {stated}, and carry takes text, true or false, numbers, "
                "dates and times. Take it out of carry, or turn it into text."
            )
        self._fit(self._stated, place, f"a column of type {stated}")

    def value(self, fields: Mapping[str, Any], place: str) -> object:
        if self.name not in fields:
            return None
        self.is_found = True
        value = fields[self.name]
        if value is None or (value == "" and self.empty_is_null):
            return None
        if type(value) is int:
            self._check_whole(value, place)
        if self._stated is None:
            kind = _KINDS.get(type(value))
            if kind is None:
                got = "an object" if isinstance(value, dict) else "a list"
                raise self._unfit("text, a number, or true or false", place, got)
            self._fit(kind, place, repr(value)[:80])
        return value

    def _check_whole(self, value: int, place: str) -> None:
        if not -_INT_END <= value < _INT_END:
            raise self._unfit("a whole number within ±2^63", place, repr(value)[:80])
        if abs(value) > _EXACT_MAX:
            if self.kind == pa.float64():
                raise self._beside_others(value, place)
            self._inexact = value, place

    def _fit(self, kind: pa.DataType, place: str, got: str) -> None:
        if self.kind is None:
            self.kind, self._decided = kind, place
        elif {kind, self.kind} == _NUMBERS:
            # First, so that a column whose value is refused keeps the type of its others.
            self._refuse_inexact()
            self.kind = pa.float64()
        elif kind != self.kind:
            wanted = _WORDS.get(self.kind, str(self.kind))
            raise self._unfit(f"{wanted} as in {self._decided}", place, got)

    def _refuse_inexact(self) -> None:
        if self._inexact:
            value, place = self._inexact
            raise self._beside_others(value, place)

    def _beside_others(self, value: int, place: str) -> InvalidInput:
        return self._unfit("a number that float64 can hold beside the column's others", place, repr(value))

    def _unfit(self, wanted: str, place: str, got: str) -> InvalidInput:
        return InvalidInput(
            f"{place}: column {self.name!r}, which carry names, must hold {wanted}, got {got}. Repair it, then "
            "materialize prompts again."
        )


def carried_rows(prompts: pa.Table, prompt_ids: Sequence[str]) -> pa.Table:
    """What a table of prompts carries, a row for each of `prompt_ids`, which are all its own."""
    fields = carried_fields(prompts.schema)
    places = {identity: place for place, identity in enumerate(prompts["prompt_id"].to_pylist())}
    taken = pa.array([places[identity] for identity in prompt_ids], pa.int64())
    # pyarrow takes no rows of text views.
    return pa.table([prompts[field.name].cast(field.type).take(taken) for field in fields], schema=pa.schema(fields))
