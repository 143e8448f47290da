"""Rows without some others, of which no byte comes along.

A slice, and in places a filter, shares its buffers with what it was cut from, and views and dictionaries are written
with all that they hold. Here each row that stays is copied, and nothing else.
"""

from collections.abc import Collection

import pyarrow as pa

from headrace.handoff.spelling import large_type, respell, respelled


def without_rows(rows: pa.RecordBatch, gone: Collection[int]) -> pa.RecordBatch:
    """The rows at all other places, with text in the spelling that Arrow has kernels for."""
    schema = respelled(rows.schema, large_type)
    columns = [respell(column, field.type) for column, field in zip(rows.columns, schema, strict=True)]
    places = pa.array([place for place in range(rows.num_rows) if place not in gone], pa.int64())
    taken = pa.RecordBatch.from_arrays(columns, schema=schema).take(places)
    return pa.RecordBatch.from_arrays(list(map(_afresh, taken.columns)), schema=schema)


def table_without_rows(table: pa.Table, gone: Collection[int]) -> pa.Table:
    """As `without_rows`; the table itself where none is gone."""
    if not gone:
        return table
    [batch] = table.combine_chunks().to_batches()
    return pa.Table.from_batches([without_rows(batch, gone)])


def _afresh(column: pa.Array) -> pa.Array:
    """A dictionary keeps its values when their last row is gone."""
    return column.dictionary_decode().dictionary_encode() if pa.types.is_dictionary(column.type) else column
