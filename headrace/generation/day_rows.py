"""A campaign's rows of one day, as sealed tables have them: content, verdict, engine seconds, carried columns."""

from collections.abc import Mapping, Sequence

import polars as pl

from headrace.generation.sealed_tables import EXECUTION
from headrace.handoff.schemas import VARIATION, carried_fields
from headrace.handoff.versions import Handoff, HandoffStore

# Before the name of a carried column, which may be any name but those of `SCHEMA`'s first columns.
CARRIED = "carried:"
SCHEMA = {
    "row_id": pl.String,
    "prompt": pl.String,
    "output": pl.String,
    "version_set": pl.String,
    "num_output_tokens": pl.Int32,
    "finish_reason": pl.String,
    "kept": pl.Boolean,
    "rejected_by": pl.List(pl.String),
    "seconds": pl.Float64,
    "partition": pl.String,
    # Which of its prompt's rows it is, from 0 on; null: the campaign makes one of each.
    "variation": pl.Int32,
}
NO_ROWS = pl.DataFrame(schema=SCHEMA)


def day_tables(
    keys: Sequence[str], content: Mapping[str, Handoff], reviewed: Mapping[str, Handoff], handoffs: HandoffStore
) -> dict[str, pl.DataFrame]:
    """The rows of each partition of `keys`, with the columns of `SCHEMA`, then the carried ones."""
    return {key: _rows(content[key], reviewed.get(key), handoffs) for key in keys}


def joined(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The partitions' rows as one table. What one partition does not carry is null in its rows."""
    types: dict[str, set[pl.DataType]] = {}
    for table in tables:
        for name, kind in table.schema.items():
            types.setdefault(name, set()).add(kind)
    # The prompt files may have changed between two shards' runs.
    mixed = [name for name, kinds in types.items() if len(kinds) > 1]
    texts = [table.with_columns(pl.col(name).cast(pl.String) for name in mixed if name in table) for table in tables]
    return pl.concat([NO_ROWS, *texts], how="diagonal")


def _rows(content: Handoff, reviewed: Handoff | None, handoffs: HandoffStore) -> pl.DataFrame:
    """Missing verdicts and seconds are null."""
    names = [field.name for field in carried_fields(content.schema)]
    fixed_names = ["row_id", "prompt", "output", "version_set", "num_output_tokens", "finish_reason"]
    varied = [VARIATION.name] if VARIATION.name in content.schema.names else []
    rows = content.polars([*fixed_names, *varied, *names])
    if not varied:
        rows = rows.with_columns(pl.lit(None, pl.Int32).alias(VARIATION.name))
    carried = rows.select(pl.col(name).alias(CARRIED + name) for name in names)
    verdicts = reviewed.polars(["row_id", "kept", "rejected_by"]) if reviewed else NO_ROWS
    execution = handoffs.find(EXECUTION, content.partition, claim=content.attributes.get("claim", ""))
    times = execution.polars(["row_id", "seconds"]) if execution else NO_ROWS
    fixed = (
        rows.drop(names)
        .join(verdicts.select("row_id", "kept", "rejected_by"), on="row_id", how="left", maintain_order="left")
        .join(times.select("row_id", "seconds"), on="row_id", how="left", maintain_order="left")
        .with_columns(pl.lit(content.partition).alias("partition"))
        .select(NO_ROWS.columns)
        .cast(SCHEMA)  # pyright: ignore[reportArgumentType]
    )
    return fixed.hstack(carried)
