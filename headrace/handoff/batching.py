"""Decides which rows go into one record batch: small batches are joined, oversized ones cut.

A table of ten thousand tiny chunks is slow in every reader. A part that is too large is slow to fetch, and Arrow's
views count bytes in 32 bits.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.handoff.schemas import schema_differences
from headrace.handoff.spelling import respell
from headrace.handoff.trimming import num_bytes_of, trimmed


def joined_batches(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, batch_bytes: int, part_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Batches of at least `batch_bytes` (except the last) and at most `part_bytes` (except single rows).

    A batch that is large already is passed on without a copy.
    """
    waiting: list[pa.RecordBatch] = []
    waiting_bytes = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        batch = _compact(_with_schema(batch, schema))
        num_bytes = num_bytes_of(batch)
        if waiting and waiting_bytes + num_bytes > part_bytes:
            yield _join(waiting)
            waiting, waiting_bytes = [], 0
        waiting.append(batch)
        waiting_bytes += num_bytes
        if waiting_bytes >= batch_bytes:
            yield from _cut(_join(waiting), part_bytes)
            waiting, waiting_bytes = [], 0
    if waiting:
        yield from _cut(_join(waiting), part_bytes)


def _cut(batch: pa.RecordBatch, part_bytes: int) -> Iterator[pa.RecordBatch]:
    if batch.num_rows < 2 or num_bytes_of(batch) <= part_bytes:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _cut(batch.slice(0, half), part_bytes)
    yield from _cut(batch.slice(half), part_bytes)


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    try:
        return _compact(pa.concat_batches(batches))
    except pa.ArrowInvalid:
        # Dictionaries may differ from batch to batch.
        table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
        return _compact(table.to_batches()[0])


def _compact(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = list(map(trimmed, batch.columns))
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema) if columns else batch


def _with_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Batches may differ in nullability, metadata and spelling, but not in names and types, nor hold forbidden nulls.

    Raises:
        InvalidInput
    """
    if differences := list(schema_differences(batch.schema, schema)):
        raise InvalidInput(f"Record batch does not fit the stream's schema: {'; '.join(differences)}.")
    for field in schema:
        if not field.nullable and (num_nulls := batch.column(field.name).null_count):
            raise InvalidInput(f"Column {field.name} may hold no null, got {num_nulls} in {batch.num_rows} rows.")
    columns = [respell(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
