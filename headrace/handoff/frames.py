"""Converts frames of other libraries to Arrow tables."""

from typing import Any

import polars as pl
import pyarrow as pa

from headrace.errors import InvalidInput

_NEWEST = pl.CompatLevel.newest()


def arrow_table(frame: Any) -> pa.Table:
    """A `pa.Table`, `pl.DataFrame` or `pl.LazyFrame` as a table: without a copy, text as views, which files carry.

    A LazyFrame is collected in polars' streaming engine.

    Raises:
        InvalidInput: a column holds Python objects; polars would return their memory addresses
            (tests/upstream/test_polars.py).
    """
    if isinstance(frame, pl.LazyFrame):
        # Checked before collecting: the streaming engine may kill the process's thread over such a column.
        _check_no_objects(frame.collect_schema())
        frame = frame.collect(engine="streaming")
    if not isinstance(frame, pl.DataFrame):
        return frame
    _check_no_objects(frame.schema)
    return frame.to_arrow(compat_level=_NEWEST)


def _check_no_objects(schema: pl.Schema) -> None:
    if objects := [name for name, dtype in schema.items() if dtype == pl.Object]:
        are = "are columns" if len(objects) > 1 else "is a column"
        raise InvalidInput(
            f"{', '.join(objects)} {are} of Python objects (polars' Object), which no other process could read. "
            "Turn each into a type of its own (pl.String, pl.Binary, pl.Struct …), or drop it, before you return it."
        )
