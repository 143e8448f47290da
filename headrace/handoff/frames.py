"""Frames of other libraries as Arrow tables."""

from typing import Any

import polars as pl
import pyarrow as pa

from headrace.errors import InvalidInput

_NEWEST = pl.CompatLevel.newest()


def arrow_table(frame: Any) -> pa.Table:
    """A `pa.Table`, `pl.DataFrame` or `pl.LazyFrame` as a table: without a copy, text as the views that files carry.

    A LazyFrame is collected in polars' streaming engine.

    Raises:
        InvalidInput: a column holds Python objects, of which polars would hand out the memory addresses
            (tests/upstream/test_polars.py).
    """
    if isinstance(frame, pl.LazyFrame):
        # Before it is collected: the streaming engine may end the process's thread over such a column.
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
