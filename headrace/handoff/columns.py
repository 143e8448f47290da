"""What schemas of sealed tables are built from: how a column is said, and the types and columns that several have."""

import pyarrow as pa


def columns(**named: pa.DataType | pa.Field) -> pa.Schema:
    """A schema of these columns; null only where a column is `nullable`."""
    return pa.schema(
        [
            column.with_name(name) if isinstance(column, pa.Field) else pa.field(name, column, nullable=False)
            for name, column in named.items()
        ]
    )


def nullable(column: pa.DataType) -> pa.Field:
    """For `columns`, which names it."""
    return pa.field("", column, nullable=True)


STRING = pa.string()
STRINGS = pa.list_(STRING)
TOKENS = pa.list_(pa.int32())
# One of a few texts, which all rows share.
NAME = pa.dictionary(pa.int32(), STRING)
# How a row, or a part of one, was made.
MADE: dict[str, pa.DataType] = {
    "micro_batch": pa.int32(),
    "seconds": pa.float64(),
    "attempt": pa.int32(),
    "retries": pa.int32(),
    "host": STRING,
    "run_id": STRING,
    "deterministic": pa.bool_(),
}
