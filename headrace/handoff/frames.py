"""Frames of other libraries as Arrow tables."""

from typing import Any

import polars as pl
import pyarrow as pa

_NEWEST = pl.CompatLevel.newest()


def arrow_table(frame: Any) -> pa.Table:
    """A `pa.Table`, `pl.DataFrame` or `pl.LazyFrame` as a table: without a copy, text as the views that files carry.

    A LazyFrame is collected in polars' streaming engine.
    """
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect(engine="streaming")
    return frame.to_arrow(compat_level=_NEWEST) if isinstance(frame, pl.DataFrame) else frame
