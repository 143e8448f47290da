"""Sealed versions as DuckDB relations: DuckDB names the columns that a query needs, and only these are opened.

Parts are mapped in turn, and DuckDB reads them in place. It passes to Arrow the predicates that Arrow can evaluate
exactly, and evaluates the others itself: all of them if the relation has a text column, since Arrow has hardly any
kernel for views.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.handoff.lazy import common_schema
from headrace.handoff.sealed_rows import SealedRows

if TYPE_CHECKING:
    import duckdb
    import pyarrow.dataset


def relation(
    handoff: SealedRows | Sequence[SealedRows],
    connection: "duckdb.DuckDBPyConnection | None" = None,
    columns: Sequence[str] | None = None,
) -> "duckdb.DuckDBPyRelation":
    """The rows of one version, or of several in turn. No part is opened before the relation runs; each run opens them
    again.

    float16, which DuckDB lacks, becomes float32 (a copy, a part at a time).

    Args:
        connection: by default DuckDB's default connection, which all such relations share, so they can be joined.

    Raises:
        InvalidInput: an unknown column, versions whose columns differ, or a type that DuckDB lacks.
    """
    import duckdb

    handoffs = list(handoff) if isinstance(handoff, Sequence) else [handoff]
    schema = common_schema(handoffs, columns)
    for each in handoffs:
        each.hold()
    try:
        return (connection or duckdb.default_connection()).from_arrow(_dataset(handoffs, schema))
    except duckdb.NotImplementedException as error:
        there = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise InvalidInput(
            f"Handoff {handoffs[0].label} has a column that DuckDB cannot read ({error}). Name the ones that you need, "
            f"relation(handoff, columns=[…]), out of {there}."
        ) from error


def _dataset(handoffs: Sequence[SealedRows], files: pa.Schema) -> "pyarrow.dataset.Dataset":
    """The part of a dataset's interface that DuckDB uses: its schema, and scans of some columns.

    pyarrow's own datasets read files into memory, or open everything before the query is known.
    tests/upstream/test_arrow.py pins which methods DuckDB calls.
    """
    import pyarrow.dataset as ds

    declared = pa.schema([field.with_type(_known(field.type)) for field in files])

    class SealedDataset(ds.Dataset):
        def __init__(self) -> None:
            """Does not call pyarrow's, which raises: this dataset has no C++ counterpart."""

        @property
        def schema(self) -> pa.Schema:
            return declared

        def scanner(self, columns: Sequence[str] | None = None, filter: Any = None) -> "_Scanner":  # noqa: A002
            names = declared.names if columns is None else list(columns)
            opened = [name for name in declared.names if name in names or _needs(filter, declared, name)]
            batches = _batches(handoffs, pa.schema([declared.field(name) for name in opened]), filter)
            schema = pa.schema([declared.field(name) for name in names])
            return _Scanner(schema, (batch.select(names) for batch in batches))

    return SealedDataset()


class _Scanner:
    """Replaces pyarrow's scanner, which reads ahead, although a query may need only the first part."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.projected_schema = schema
        self._batches = batches

    def to_reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self.projected_schema, self._batches)


def _batches(handoffs: Sequence[SealedRows], schema: pa.Schema, filter: Any) -> Iterator[pa.RecordBatch]:  # noqa: A002
    for handoff in handoffs:
        for batch in handoff.batches(schema.names):
            columns = [
                column if column.type.equals(field.type) else column.cast(field.type)
                for column, field in zip(batch.columns, schema, strict=True)
            ]
            known = pa.RecordBatch.from_arrays(columns, schema=schema) if columns else batch
            yield from [known] if filter is None else pa.Table.from_batches([known]).filter(filter).to_batches()


def _needs(filter: Any, schema: pa.Schema, name: str) -> bool:  # noqa: A002
    """Arrow does not list an expression's columns; but without one of them evaluation fails."""
    if filter is None:
        return False
    try:
        schema.empty_table().drop_columns([name]).filter(filter)
    except pa.ArrowInvalid:
        return True
    return False


def _known(kind: pa.DataType) -> pa.DataType:
    """The same type with float32 instead of float16, alone or in lists."""
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_known(kind.value_type)), kind.list_size)
    return pa.list_(kind.value_field.with_type(_known(kind.value_type))) if pa.types.is_list(kind) else kind
