"""What an asset may return: frames, tables, and streams that need no memory for their rows."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from headrace.handoff.schemas import schema_named
from headrace_dagster.handoff_inputs import RecordBatches
from headrace_dagster.handoff_io import ArrowHandoffIOManager
from tests.headrace_dagster.project import Made, Project, failure_of

TABLE = pa.table({"x": list(range(10)), "text": [f"row {number}" for number in range(10)]})


def store(project: Project, value: Any, **settings: Any) -> Made:
    return project.make(returning(value, **settings.pop("metadata", {})), **settings)


def returning(value: Any, **metadata: Any) -> dg.AssetsDefinition:
    @dg.asset(metadata=metadata)
    def made() -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(value=value)

    return made


def batches() -> Iterator[pa.RecordBatch]:
    yield from TABLE.to_batches(max_chunksize=3)


RETURNS: dict[str, Any] = {
    "a table": lambda: TABLE,
    "a frame": lambda: pl.DataFrame(TABLE),
    "a lazy frame": lambda: pl.DataFrame(TABLE).lazy(),
    "a pandas frame": lambda: TABLE.to_pandas(),
    "a reader": lambda: pa.RecordBatchReader.from_batches(TABLE.schema, batches()),
    "an iterator": lambda: iter(TABLE.to_batches()),
    "a generator": batches,
    "batches with their schema": lambda: RecordBatches(TABLE.schema, batches()),
}


def test_the_same_rows_are_the_same_content_however_they_are_returned(project: Project) -> None:
    digests = {store(project, make()).data_version for make in RETURNS.values()}
    assert len(digests) == 1
    assert project.handoffs.versions("made", "all") == [1]
    assert project.handoffs.open("made", "all").table().to_pylist() == TABLE.to_pylist()


def test_batches_with_their_schema_need_no_wrapping(project: Project) -> None:
    @dg.asset
    def stream() -> RecordBatches:
        return RecordBatches(TABLE.schema, batches())

    assert project.make(stream).metadata["num_rows"] == 10


def test_an_iterator_that_may_be_empty_brings_its_schema(project: Project) -> None:
    store(project, RecordBatches(TABLE.schema, iter(())))
    assert project.handoffs.open("made", "all").num_rows == 0
    assert project.handoffs.open("made", "all").schema.names == ["x", "text"]


def test_an_empty_iterator_is_sealed_with_the_schema_that_the_asset_declares(project: Project) -> None:
    store(project, iter(()), metadata={"schema": "quarantine"})
    handoff = project.handoffs.open("made", "all")
    assert (handoff.num_rows, handoff.schema.names) == (0, schema_named("quarantine", pa.schema([])).names)


def test_a_pandas_frame_of_mixed_values_is_refused_with_its_column(project: Project) -> None:
    text = failure_of(project, returning(pd.DataFrame({"x": [1, "two"]})))
    assert text.startswith("The pandas frame cannot become an Arrow table: ")
    assert "column x" in text


def test_an_empty_iterator_of_unknown_columns_is_refused(project: Project) -> None:
    assert failure_of(project, returning(iter(()))) == (
        "made returned an iterator without a record batch, so that its columns are unknown. Return RecordBatches("
        "schema, batches) or a RecordBatchReader, or name a schema in the output's metadata."
    )


def test_rows_that_are_not_of_the_declared_schema_are_refused(project: Project) -> None:
    text = failure_of(project, returning(TABLE, schema="quarantine"))
    assert text.startswith("made declares the schema quarantine, and what it returned differs from it: source_file: ")
    assert project.handoffs.versions("made", "all") == []


def test_a_preview_shows_the_first_rows_of_a_stream_or_its_columns(project: Project) -> None:
    made = store(project, batches())
    assert made.metadata["preview"].splitlines()[2:] == ["|0|row 0|", "|1|row 1|", "|2|row 2|"]
    empty = store(project, RecordBatches(TABLE.schema, iter(())))
    assert empty.metadata["preview"] == "|x|text|\n|-|-|"


def test_a_stream_is_written_while_it_is_made(project: Project) -> None:
    """No more of it is alive than the batches that are joined into one part."""
    alive: list[int] = []
    rows = pa.table({"x": [1.0] * 500_000})

    def stream() -> Iterator[pa.RecordBatch]:
        for _ in range(40):
            alive.append(pa.total_allocated_bytes())
            # A copy, so that each batch is memory of its own: 4 MB.
            yield pa.record_batch([pa.array(rows["x"].to_numpy().copy())], names=["x"])

    made = store(project, stream())
    assert made.metadata["num_rows"] == 20_000_000
    assert max(alive) - alive[0] < 150_000_000 < made.metadata["handoff_bytes"]


@pytest.mark.parametrize("settings", [{"alignment": 100}, {"verification": "always"}, {"cache_bytes": 0}], ids=str)
def test_settings_that_cannot_be_are_refused_when_they_are_read(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ArrowHandoffIOManager(url="/store", **settings)


def test_files_can_be_written_for_older_readers_and_for_direct_io(project: Project) -> None:
    store(project, TABLE, io_settings={"compat": True, "alignment": 4096})
    handoff = project.handoffs.open("made", "all")
    assert handoff.schema.field("text").type == pa.large_string()
    (part,) = handoff.manifest.parts
    starts = [segment.offset for segment, column in zip(part.segments, part.columns, strict=True) if column >= 0]
    assert {start % 4096 for start in starts} == {0}
