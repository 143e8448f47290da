"""Frames of other libraries as Arrow tables with the types that handoffs carry."""

from typing import Any

import polars as pl
import pyarrow as pa


def arrow_table(frame: Any) -> pa.Table:
    """A `pa.Table`, `pl.DataFrame` or `pl.LazyFrame` as a table of plain `string`, `binary` and `list` columns.

    Readers in any library then meet one type: polars hands out large and view strings, Arrow users dictionaries. A
    column over 2 GiB a chunk stays large. Columns that are plain already are not copied.
    """
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    if isinstance(frame, pl.DataFrame):
        # Not `CompatLevel.newest()`: Arrow has no kernel that takes categories out of its string views, and a plain
        # string column costs one copy of the strings either way.
        frame = frame.to_arrow()
    table: pa.Table = frame
    for index, field in enumerate(table.schema):
        plain = plain_type(field.type)
        if not plain.equals(field.type):
            try:
                column = table.column(index).cast(plain)
            except pa.ArrowInvalid:  # offsets beyond 2 GiB
                continue
            table = table.set_column(index, field.with_type(plain), column)
    return table


def plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    return kind
