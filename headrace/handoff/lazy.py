"""Queries over sealed versions: polars names the columns, predicate and number of rows, and nothing else is opened."""

from collections.abc import Iterator, Sequence
from itertools import chain

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from headrace.errors import InvalidInput
from headrace.handoff.polars_frame import polars_frame
from headrace.handoff.schemas import empty_table, schema_differences
from headrace.handoff.sealed_rows import SealedRows


def lazy_frame(handoffs: Sequence[SealedRows], columns: Sequence[str] | None = None) -> pl.LazyFrame:
    """The rows of all `handoffs` in turn, a part at a time.

    Raises:
        InvalidInput: their columns differ, or there is no handoff.
    """
    if not handoffs:
        raise InvalidInput("A lazy frame needs at least one handoff: without one, its columns are unknown.")
    schema = common_schema(handoffs, columns)
    for handoff in handoffs:
        handoff.hold()

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = with_columns if with_columns is not None else schema.names
        rows_left = n_rows
        # A predicate may need columns that the query drops: polars includes them in `with_columns`.
        for batch in chain.from_iterable(handoff.batches(wanted) for handoff in handoffs):
            frame = polars_frame(pa.Table.from_batches([batch]))
            frame = frame if rows_left is None else frame.head(rows_left)
            rows_left = rows_left if rows_left is None else rows_left - frame.height
            yield frame if predicate is None else frame.filter(predicate)
            if rows_left == 0:
                return

    return register_io_source(source, schema=polars_frame(empty_table(schema)).schema, is_pure=True)


def common_schema(handoffs: Sequence[SealedRows], columns: Sequence[str] | None) -> pa.Schema:
    """The schema of these columns (None: all), however text is spelled; from the manifests, without I/O.

    Raises:
        InvalidInput: the handoffs' columns differ, or a name is unknown.
    """
    first = handoffs[0]
    for other in handoffs[1:]:
        if differences := list(schema_differences(other.schema, first.schema)):
            raise InvalidInput(
                f"Handoff {other.label} does not have the columns of {first.label}: {'; '.join(differences)}. "
                "Materialize the older of the two again."
            )
    return first.table(columns, rows=range(0)).schema
