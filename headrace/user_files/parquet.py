"""Rows of a Parquet file in bounded memory.

A few hundred bytes of Parquet can stand for gigabytes: one long text in a dictionary that every row names, or runs of
one number. So texts are read as their stored dictionaries and expanded in pieces of bounded size, the expanded bytes
are counted, and the footer's stated sizes are compared with the file's before anything is read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headrace.user_files.layout import (
    ExpandsTooMuch,
    FileLayout,
    Record,
    Unreadable,
    expanded_bytes_max,
    header_fault,
    too_long,
)

_BATCH_ROWS = 8192
# The Python objects of one piece.
_PIECE_BYTES = 32 * 2**20
# A row's cost beside its texts; counted, so that runs of nulls are not free.
_ROW_BYTES = 64


def read_parquet(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    texts = _text_columns(path, layout.columns)
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        if fault := header_fault(layout.columns, file.schema_arrow.names):
            yield fault
            return
        columns = sorted(set(layout.columns))
        most = left = expanded_bytes_max(path, layout)
        if _announced_bytes(file.metadata, columns) > most:
            raise ExpandsTooMuch(path, most)
        number = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
            for piece, num_bytes in _pieces(batch, layout.record_bytes_max):
                left -= num_bytes + _ROW_BYTES * piece.num_rows
                if left < 0:
                    raise ExpandsTooMuch(path, most)
                if piece.num_rows == 1 and num_bytes > layout.record_bytes_max:
                    number += 1
                    yield too_long(number, layout)
                    continue
                for fields in piece.to_pylist():
                    number += 1
                    yield Record(line=number, fields=fields)


def column_types(path: Path) -> dict[str, pa.DataType]:
    """Column → its type; nothing if the file cannot be read, which its reader reports."""
    try:
        with pq.ParquetFile(path) as file:
            return {field.name: field.type for field in file.schema_arrow}
    except (OSError, pa.ArrowException):
        return {}


def _text_columns(path: Path, columns: Sequence[str]) -> list[str]:
    with pq.ParquetFile(path) as file:
        kinds = {field.name: field.type for field in file.schema_arrow if field.name in columns}
    return [name for name, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]


def _announced_bytes(metadata: pq.FileMetaData, columns: Sequence[str]) -> int:
    """The wanted columns' size by the footer: expanded pages, and eight bytes for each number or list item."""
    announced = 0
    for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
        for chunk in (group.column(index) for index in range(group.num_columns)):
            if chunk.path_in_schema.partition(".")[0] in columns:
                items = chunk.num_values if "." in chunk.path_in_schema else 0
                announced += chunk.total_uncompressed_size + 8 * items
    return announced


def _pieces(batch: pa.RecordBatch, record_bytes_max: int) -> Iterator[tuple[pa.RecordBatch, int]]:
    """A batch cut into pieces that expand to little, or hold one row; each with the bytes of its texts."""
    num_bytes = _unpacked_bytes(batch)
    if num_bytes > max(_PIECE_BYTES, record_bytes_max) and batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _pieces(batch.slice(0, half), record_bytes_max)
        yield from _pieces(batch.slice(half), record_bytes_max)
    elif batch.num_rows > 1 and num_bytes > record_bytes_max:
        # One row may be too long, so go row by row.
        for index in range(batch.num_rows):
            row = batch.slice(index, 1)
            yield row, _unpacked_bytes(row)
    elif batch.num_rows:
        yield batch, num_bytes


def _unpacked_bytes(batch: pa.RecordBatch) -> int:
    total = 0
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            lengths = pc.call_function("binary_length", [column.dictionary])
            taken = pc.cast(pc.take(lengths, column.indices), pa.int64())
            total += pc.call_function("sum", [taken]).as_py() or 0
        else:
            total += column.nbytes
    return total
