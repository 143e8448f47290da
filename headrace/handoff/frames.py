"""Converts frames of other libraries to Arrow tables, and back.

pandas is never imported here: whoever has a frame of it, or names one in an annotation, has imported it.
"""

import sys
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from headrace.errors import InvalidInput, reason_of
from headrace.handoff.spelling import plain_type

if TYPE_CHECKING:
    import pandas as pd

_NEWEST = pl.CompatLevel.newest()


class _NoPandas:
    """The frame type while nobody has imported pandas: nothing is one."""


def pandas_frame_type() -> Any:
    return getattr(sys.modules.get("pandas"), "DataFrame", _NoPandas)


def arrow_table(frame: Any) -> pa.Table:
    """A `pa.Table`, `pl.DataFrame`, `pl.LazyFrame` or `pd.DataFrame` as a table.

    polars' columns are not copied; their text becomes views, which files carry. A LazyFrame is collected in polars'
    streaming engine. Of a pandas index, named levels become columns, and unnamed ones are left out.

    Raises:
        InvalidInput: a polars column holds Python objects; polars would return their memory addresses
            (tests/upstream/test_polars.py). Or Arrow has no type for a pandas column.
    """
    if isinstance(frame, pandas_frame_type()):
        return _of_pandas(frame)
    if isinstance(frame, pl.LazyFrame):
        # Checked before collecting: the streaming engine may kill the process's thread over such a column.
        _check_no_objects(frame.collect_schema())
        frame = frame.collect(engine="streaming")
    if not isinstance(frame, pl.DataFrame):
        return frame
    _check_no_objects(frame.schema)
    return frame.to_arrow(compat_level=_NEWEST)


def pandas_frame(table: pa.Table) -> "pd.DataFrame":
    """The table as a `pd.DataFrame` with a new index; copies. pandas must be imported.

    Whole numbers and truth values with nulls become pandas' nullable types, and lists, structs, maps and decimals stay
    in Arrow's (`pd.ArrowDtype`): pandas' own way, floats and objects, would change large numbers, and the column's type
    on the way back.
    """
    pandas = sys.modules["pandas"]

    def dtype_of(kind: pa.DataType) -> Any:
        if pa.types.is_nested(kind) or pa.types.is_decimal(kind):
            return pandas.ArrowDtype(kind)
        return nullable.get(kind) if plain.null_count else None

    nullable = {getattr(pa, name.lower())(): getattr(pandas, f"{name}Dtype")() for name in _INTEGERS}
    nullable[pa.bool_()] = pandas.BooleanDtype()
    columns = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        kind = plain_type(field.type)
        plain = column if kind.equals(field.type) else column.cast(kind)
        columns[field.name] = plain.to_pandas(types_mapper=dtype_of)
    return pandas.DataFrame(columns, index=pandas.RangeIndex(table.num_rows))


_INTEGERS = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")


def _of_pandas(frame: "pd.DataFrame") -> pa.Table:
    unnamed = [level for level, name in enumerate(frame.index.names) if name is None]
    try:
        if len(unnamed) < frame.index.nlevels:
            frame = (frame.reset_index(unnamed, drop=True) if unnamed else frame).reset_index()
        # Without pandas' own notes about the frame, which are no content.
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(
            f"The pandas frame cannot become an Arrow table: {reason_of(error)}. Give each column, and each named "
            "level of the index, a name of its own and values of one type, or drop it, before you return it."
        ) from error


def _check_no_objects(schema: pl.Schema) -> None:
    if objects := [name for name, dtype in schema.items() if dtype == pl.Object]:
        are = "are columns" if len(objects) > 1 else "is a column"
        raise InvalidInput(
            f"{', '.join(objects)} {are} of Python objects (polars' Object), which no other process could read. "
            "Turn each into a type of its own (pl.String, pl.Binary, pl.Struct …), or drop it, before you return it."
        )
