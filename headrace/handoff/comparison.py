"""Compares two sealed versions: their columns, and their rows by position or by a key.

Rows are compared by a 64-bit hash of each value, so memory does not grow with the width of values. By position, both
sides are read in step. By key, memory holds the keys and hashes of one bucket of keys at a time, and a large pair is
read once for each bucket. Two different values look equal once in 2^64 times.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from headrace.errors import InvalidInput
from headrace.handoff.schemas import schema_differences
from headrace.handoff.sealed import Handoff

MEMORY_BYTES = 256 * 1024 * 1024
# Bytes read at once: files are mapped, so this is how much polars may copy.
WINDOW_BYTES = 32 * 1024 * 1024
# Bytes of a key and a position, and of their share in a join of both sides.
_KEY_BYTES = 128
_HASH_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class ChangedRow:
    """`key`: the row's key, or its position (from 0) under `row`. `values`: before and after, of changed columns."""

    key: dict[str, Any]
    values: dict[str, tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Counts are exact; rows are samples, the first by position.

    Attributes:
        schema: one line for each difference in columns.
        changed_columns: for each column that both have with one type, the number of rows whose value changed.
        num_rows: before and after.
    """

    is_same_content: bool
    schema: tuple[str, ...] = ()
    num_rows: tuple[int, int]
    num_same: int = 0
    num_added: int = 0
    num_removed: int = 0
    num_changed: int = 0
    changed_columns: dict[str, int] = field(default_factory=dict)
    added: tuple[dict[str, Any], ...] = ()
    removed: tuple[dict[str, Any], ...] = ()
    changed: tuple[ChangedRow, ...] = ()


def compare(
    before: Handoff,
    after: Handoff,
    *,
    key: Sequence[str] = (),
    samples: int = 3,
    memory_bytes: int = MEMORY_BYTES,
    window_bytes: int = WINDOW_BYTES,
) -> Comparison:
    """Compares by `key`; without one, the n-th row of one side with the n-th of the other.

    Equal content digests end the comparison before any row is read.

    Raises:
        InvalidInput: a key column that one side lacks, or whose types differ; a key that two rows share; a column type
            that cannot be compared.
    """
    num_rows = (before.num_rows, after.num_rows)
    differences = tuple(schema_differences(after.schema, before.schema))
    columns = _common_columns(before, after)
    _check_key(before, after, key, columns)
    if before.content_digest == after.content_digest:
        return Comparison(is_same_content=True, num_rows=num_rows, num_same=before.num_rows)
    compared = [name for name in columns if name not in key]
    sides = _Sides(before, after, list(key), compared, samples, window_bytes)
    found = sides.by_key(memory_bytes) if key else sides.by_position()
    return Comparison(is_same_content=False, schema=differences, num_rows=num_rows, **found)


class _Sides:
    def __init__(
        self, before: Handoff, after: Handoff, key: list[str], compared: list[str], samples: int, window_bytes: int
    ) -> None:
        self.before, self.after = before, after
        self.key, self.compared, self.samples, self.window_bytes = key, compared, samples, window_bytes
        self.hashes = [f"hash_{index}" for index in range(len(compared))]

    def by_position(self) -> dict[str, Any]:
        shared = min(self.before.num_rows, self.after.num_rows)
        num_changed, counts, positions = 0, [0] * len(self.compared), []
        step = min(_window_rows(side, self.window_bytes) for side in (self.before, self.after))
        for start in range(0, shared if self.compared else 0, step):
            rows = range(start, min(start + step, shared))
            old, new = self._hashed(self.before, rows), self._hashed(self.after, rows)
            differs = pl.DataFrame({name: old[name] != new[name] for name in self.hashes})
            changed = differs.select(pl.any_horizontal(pl.all())).to_series()
            num_changed += int(changed.sum())
            counts = [count + int(differs[name].sum()) for count, name in zip(counts, self.hashes, strict=True)]
            wanted = self.samples - len(positions)
            positions += [start + int(index) for index in changed.arg_true().head(max(wanted, 0))]
        return {
            "num_same": shared - num_changed,
            "num_changed": num_changed,
            "num_added": self.after.num_rows - shared,
            "num_removed": self.before.num_rows - shared,
            "changed_columns": self._named(counts),
            "changed": tuple(self._changed({"row": row}, row, row) for row in positions),
            "added": self._rows(self.after, range(shared, self.after.num_rows)),
            "removed": self._rows(self.before, range(shared, self.before.num_rows)),
        }

    def by_key(self, memory_bytes: int) -> dict[str, Any]:
        row_bytes = _KEY_BYTES + _HASH_BYTES * len(self.hashes)
        num_buckets = max(1, -(-(self.before.num_rows + self.after.num_rows) * row_bytes // memory_bytes))
        num_changed, counts = 0, [0] * len(self.compared)
        num_added = num_removed = num_same = 0
        added: list[int] = []
        removed: list[int] = []
        changed: list[tuple[int, int]] = []
        for bucket in range(num_buckets):
            old = self._bucket(self.before, bucket, num_buckets)
            new = self._bucket(self.after, bucket, num_buckets)
            gone = old.join(new, on=self.key, how="anti", nulls_equal=True)["row"]
            come = new.join(old, on=self.key, how="anti", nulls_equal=True)["row"]
            both = old.join(new, on=self.key, how="inner", nulls_equal=True, suffix="_after")
            differs = [both[name] != both[f"{name}_after"] for name in self.hashes]
            rows = both.select("row", "row_after")
            if differs:
                rows = rows.filter(pl.DataFrame(differs).select(pl.any_horizontal(pl.all())).to_series())
            else:
                rows = rows.clear()
            counts = [count + int(column.sum()) for count, column in zip(counts, differs, strict=True)]
            num_changed, num_same = num_changed + rows.height, num_same + both.height - rows.height
            num_added, num_removed = num_added + len(come), num_removed + len(gone)
            added = sorted([*added, *come.bottom_k(self.samples)])[: self.samples]
            removed = sorted([*removed, *gone.bottom_k(self.samples)])[: self.samples]
            changed = sorted([*changed, *rows.bottom_k(self.samples, by="row").rows()])[: self.samples]
        return {
            "num_same": num_same,
            "num_changed": num_changed,
            "num_added": num_added,
            "num_removed": num_removed,
            "changed_columns": self._named(counts),
            "changed": tuple(self._changed(None, *rows) for rows in changed),
            "added": tuple(_row(self.after, row) for row in added),
            "removed": tuple(_row(self.before, row) for row in removed),
        }

    def _hashed(self, side: Handoff, rows: range) -> pl.DataFrame:
        """A hash for each value of the compared columns; key columns as they are, and `row`."""
        frame = side.polars([*self.key, *self.compared], rows=rows)
        # By their texts: each version numbers categories in its own way.
        hashes = [
            pl.col(name).cast(_without_categories(frame.schema[name])).hash().alias(hashed)
            for name, hashed in zip(self.compared, self.hashes, strict=True)
        ]
        keys = [pl.col(name).cast(_without_categories(frame.schema[name])) for name in self.key]
        return frame.select(*keys, *hashes).with_row_index("row", rows.start)

    def _bucket(self, side: Handoff, bucket: int, num_buckets: int) -> pl.DataFrame:
        """Raises: InvalidInput: two rows have the same key."""
        frames = [self._hashed(side, range(0))]
        for rows in _windows(side, self.window_bytes):
            frame = self._hashed(side, rows)
            if num_buckets > 1:
                number = pl.struct(self.key).hash(seed=1) % num_buckets
                frame = frame.filter(number == bucket)
            frames.append(frame)
        whole = pl.concat(frames)
        twice = whole.filter(pl.struct(self.key).is_duplicated()).head(1)
        if twice.height:
            shown = ", ".join(f"{name}={twice[name][0]!r}" for name in self.key)
            raise InvalidInput(
                f"{side.label} has several rows with {shown}: a key must tell rows apart. Add a column to the key, or "
                "compare by position."
            )
        return whole

    def _changed(self, key: dict[str, Any] | None, old_row: int, new_row: int) -> ChangedRow:
        old, new = _row(self.before, old_row), _row(self.after, new_row)
        hashed = [
            self._hashed(side, range(row, row + 1)) for side, row in ((self.before, old_row), (self.after, new_row))
        ]
        values = {
            name: (old[name], new[name])
            for name, hashed_name in zip(self.compared, self.hashes, strict=True)
            if hashed[0][hashed_name][0] != hashed[1][hashed_name][0]
        }
        return ChangedRow(key=key or {name: new[name] for name in self.key}, values=values)

    def _rows(self, side: Handoff, rows: range) -> tuple[dict[str, Any], ...]:
        return tuple(_row(side, row) for row in rows[: self.samples])

    def _named(self, counts: Sequence[int]) -> dict[str, int]:
        return {name: count for name, count in zip(self.compared, counts, strict=True) if count}


def _common_columns(before: Handoff, after: Handoff) -> list[str]:
    """Names that each side has exactly once, with the same type."""
    shared = [name for name in before.schema.names if name in after.schema.names]
    columns = [name for name in shared if not list(schema_differences(_only(after, name), _only(before, name)))]
    for name in columns:
        try:
            pl.from_arrow(_only(before, name).empty_table())
        except (pl.exceptions.PolarsError, NotImplementedError) as error:
            kind = before.schema.field(name).type
            raise InvalidInput(f"Column {name} of {before.label} has type {kind}, which cannot be compared.") from error
    return columns


def _only(side: Handoff, name: str) -> Any:
    import pyarrow as pa

    return pa.schema([each for each in side.schema if each.name == name])


def _check_key(before: Handoff, after: Handoff, key: Sequence[str], columns: Sequence[str]) -> None:
    for name in key:
        for side in (before, after):
            if name not in side.schema.names:
                raise InvalidInput(
                    f"Key column {name!r} is not in {side.label}. It has {', '.join(side.schema.names)}."
                )
        if name not in columns:
            kinds = f"{before.schema.field(name).type} and {after.schema.field(name).type}"
            raise InvalidInput(
                f"Key column {name!r} has two types, {kinds}: choose another key, or compare by position."
            )


def _window_rows(side: Handoff, window_bytes: int) -> int:
    return max(1, window_bytes * max(side.num_rows, 1) // max(side.num_bytes, 1))


def _windows(side: Handoff, window_bytes: int) -> Iterator[range]:
    step = _window_rows(side, window_bytes)
    for start in range(0, side.num_rows, step):
        yield range(start, min(start + step, side.num_rows))


def _row(side: Handoff, row: int) -> dict[str, Any]:
    return side.table(rows=range(row, row + 1)).to_pylist()[0]


def _without_categories(kind: Any) -> Any:
    if isinstance(kind, pl.Categorical | pl.Enum):
        return pl.String()
    if isinstance(kind, pl.List):
        return pl.List(_without_categories(kind.inner))
    if isinstance(kind, pl.Array):
        return pl.Array(_without_categories(kind.inner), kind.size)
    if isinstance(kind, pl.Struct):
        return pl.Struct([pl.Field(each.name, _without_categories(each.dtype)) for each in kind.fields])
    return kind
