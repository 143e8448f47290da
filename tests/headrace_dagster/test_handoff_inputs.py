"""Inputs by annotation: one partition, many or none; frames, streams and handles; only the columns asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, get_origin

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from headrace.clock import SystemClock
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.leases import ROOT as LEASES
from headrace_dagster.handoff_inputs import HandoffsWhenAsked, RecordBatches
from tests.headrace_dagster.project import SHARDS, Project, docs, failure_of

OPENS_ALL = {
    "a table": pa.Table,
    "a frame": pl.DataFrame,
    "a lazy frame": pl.LazyFrame,
    "a pandas frame": pd.DataFrame,
    "a reader": pa.RecordBatchReader,
    "a stream": RecordBatches,
    "an iterator": Iterator,
}


def rows(opened: Any) -> list[dict[str, Any]]:
    if isinstance(opened, pl.LazyFrame):
        return opened.collect().to_dicts()
    if isinstance(opened, pl.DataFrame):
        return opened.to_dicts()
    if isinstance(opened, pd.DataFrame):
        return opened.to_dict("records")
    batches = opened.to_batches() if isinstance(opened, pa.Table) else list(opened)
    return [row for batch in batches for row in batch.to_pylist()]


def read(project: Project, kind: Any, *, partition_key: str | None = None, **metadata: Any) -> Any:
    """What an asset that annotates its input `docs` with `kind` does with it: its rows, or by partition its rows."""
    seen: list[Any] = []

    @dg.asset(
        partitions_def=SHARDS if partition_key else None,
        ins={"docs": dg.AssetIn(dagster_type=kind, metadata=metadata)},
    )
    def reader(docs) -> None:
        assert isinstance(docs, dict if get_origin(kind) is dict else kind)
        seen.append({key: rows(each) for key, each in docs.items()} if isinstance(docs, dict) else rows(docs))

    project.make(reader, docs, partition_key=partition_key)
    return seen[0]


@pytest.mark.parametrize("kind", OPENS_ALL.values(), ids=OPENS_ALL)
def test_rows_of_one_partition_or_of_all_in_order(with_docs: Project, kind: type) -> None:
    one = [{"shard": "shard-01", "number": number} for number in (1, 2, 3)]
    other = [{"shard": "shard-00", "number": number} for number in (1, 2, 3)]
    assert read(with_docs, kind, partition_key="shard-01") == one
    assert read(with_docs, kind) == other + one


@pytest.mark.parametrize("value", [pa.Table, pl.DataFrame, pl.LazyFrame, pd.DataFrame])
def test_frames_come_by_partition(with_docs: Project, value: type) -> None:
    by_partition = read(with_docs, dict[str, value], columns=["number"])
    assert by_partition == {shard: [{"number": n} for n in (1, 2, 3)] for shard in ("shard-00", "shard-01")}


@pytest.mark.parametrize("kind", OPENS_ALL.values(), ids=OPENS_ALL)
def test_only_the_columns_that_an_input_names_are_opened(with_docs: Project, kind: type) -> None:
    assert read(with_docs, kind, columns=["number"]) == [{"number": number} for number in (1, 2, 3)] * 2


@pytest.mark.parametrize("kind", OPENS_ALL.values(), ids=OPENS_ALL)
def test_no_partition_at_all_still_has_columns_where_they_are_named(project: Project, kind: type) -> None:
    assert read(project, kind, allow_missing_partitions=True, schema="quarantine") == []


# Written the old way on purpose: Dagster hands on either.
OTHER_SPELLING = Optional[pl.DataFrame]  # noqa: UP045


def running_total(kind: Any) -> dg.AssetsDefinition:
    """An asset that reads what it made the day before."""

    def totals(totals) -> pl.DataFrame:
        before = 0 if totals is None else sum(row["total"] for row in rows(totals))
        return pl.DataFrame({"total": [before + 1]})

    totals.__annotations__["totals"] = kind
    yesterday = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)
    days = dg.DailyPartitionsDefinition("2026-11-21", end_date="2026-11-24")
    return dg.asset(partitions_def=days, ins={"totals": dg.AssetIn(partition_mapping=yesterday)})(totals)


@pytest.mark.parametrize("kind", [*(kind | None for kind in OPENS_ALL.values()), OTHER_SPELLING], ids=str)
def test_an_asset_that_reads_its_own_yesterday_gets_none_on_its_first_day(project: Project, kind: Any) -> None:
    totals = running_total(kind)
    for day in ("2026-11-21", "2026-11-22"):
        project.make(totals, partition_key=day)
    assert project.handoffs.open("totals", "2026-11-22").table()["total"].to_pylist() == [2]


def test_a_day_that_is_missing_is_not_taken_for_a_first_day(project: Project) -> None:
    """Or a night that failed would begin every total anew."""
    assert failure_of(project, running_total(pl.DataFrame | None), partition_key="2026-11-23") == (
        "Input totals has no sealed handoff of totals[2026-11-22]. Materialize totals, partitions 2026-11-22, first."
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (pl.DataFrame, "Annotate it as DataFrame | None, and look whether it is None"),
        (Any, "Annotate it as pa.Table | None, and look whether it is None"),
        (Handoff, "Input totals has 0 partitions. Annotate it as Handoff | None, and look whether it is None."),
    ],
    ids=str,
)
def test_an_input_without_any_partition_says_which_annotation_takes_that(
    project: Project, kind: Any, text: str
) -> None:
    assert text in failure_of(project, running_total(kind), partition_key="2026-11-21")


def test_a_query_reads_nothing_of_the_partitions_that_its_limit_spares(with_docs: Project) -> None:
    """The damaged second part would be noticed, were it opened."""
    damaged = with_docs.handoffs.open("docs", "shard-01").paths[0]
    damaged.chmod(0o644)
    damaged.write_bytes(b"")
    seen: list[pl.DataFrame] = []

    @dg.asset
    def reader(docs: pl.LazyFrame) -> None:
        seen.append(docs.head(2).select("number").collect())

    with_docs.make(reader, docs)
    assert seen[0].to_dicts() == [{"number": 1}, {"number": 2}]


def test_a_stream_maps_one_partition_at_a_time(with_docs: Project) -> None:
    mapped: list[int] = []

    @dg.asset
    def reader(docs: RecordBatches) -> None:
        for batch in docs:
            del batch
            maps = Path("/proc/self/maps").read_text()
            mapped.append(sum(str(with_docs.directory) in line for line in maps.splitlines()))

    with_docs.make(reader, docs)
    assert mapped[0] == mapped[1]


def test_an_input_is_leased_while_its_asset_works(with_docs: Project) -> None:
    leases: list[list[str]] = []

    @dg.asset
    def holder(docs: dict[str, Handoff]) -> None:
        leases.append([key.split("/")[1] for key in with_docs.handoffs.objects.list(LEASES)])

    with_docs.make(holder, docs)
    nonces = {with_docs.handoffs.open("docs", shard).manifest.nonce for shard in SHARDS.get_partition_keys()}
    assert nonces <= set(leases[0])


def test_an_annotation_that_nothing_opens_as_says_what_does(with_docs: Project) -> None:
    @dg.asset
    def number(docs: int) -> None: ...

    @dg.asset
    def numbers(docs: dict[str, int]) -> None: ...

    assert failure_of(with_docs, number, docs) == (
        "Input docs is annotated int. Annotate it as pa.Table, pl.DataFrame, pl.LazyFrame, pd.DataFrame, Handoff, "
        "pa.RecordBatchReader, RecordBatches, or dict[str, X] by partition, X being Handoff, pa.Table, pl.DataFrame, "
        "pl.LazyFrame or pd.DataFrame; with `| None` where there may be no partition; or HandoffsWhenAsked."
    )
    assert failure_of(with_docs, numbers, docs).startswith("Input docs is annotated typing.Dict[str, int]. Annotate it")


def test_a_column_that_is_not_there_is_named_with_those_that_are(with_docs: Project) -> None:
    @dg.asset(ins={"docs": dg.AssetIn(metadata={"columns": ["number", "size"]})})
    def reader(docs: pl.LazyFrame) -> None: ...

    assert failure_of(with_docs, reader, docs).startswith(
        "Input docs asks for columns size, and docs[shard-00] v1 has none of that name. It has shard: string"
    )


def test_a_schema_that_is_asked_for_and_not_there_is_a_difference_line_by_line(with_docs: Project) -> None:
    @dg.asset(ins={"docs": dg.AssetIn(metadata={"schema": "quarantine"})})
    def reader(docs: pa.Table) -> None: ...

    text = failure_of(with_docs, reader, docs)
    assert "Handoff docs[shard-00] v1 does not have the columns that its reader wants" in text
    assert "source_file: missing, wanted string" in text
    assert "number: not in the schema, got int64" in text


def test_a_partition_that_is_nullable_and_one_that_is_not_are_read_together(project: Project) -> None:
    @dg.asset(partitions_def=SHARDS)
    def docs(context: dg.AssetExecutionContext) -> pa.Table:
        nullable = context.partition_key == "shard-01"
        schema = pa.schema([pa.field("x", pa.int64(), nullable=nullable)])
        return pa.table({"x": [None if nullable else 1]}, schema=schema)

    seen: list[Any] = []

    @dg.asset
    def reader(docs: pa.Table) -> None:
        seen.append(docs["x"].to_pylist())

    for shard in SHARDS.get_partition_keys():
        project.make(docs, partition_key=shard)
    project.make(reader, docs)
    assert seen == [[1, None]]


@pytest.mark.parametrize("verification", ["once", "lazy", "eager"])
def test_flipped_bytes_are_found_as_the_verification_says(with_docs: Project, verification: str) -> None:
    flip_a_byte_of("number", with_docs.handoffs.open("docs", "shard-00"))

    @dg.asset(partitions_def=SHARDS, ins={"docs": dg.AssetIn(metadata={"verification": verification})})
    def reader(docs: pa.Table) -> None: ...

    assert "column number" in failure_of(with_docs, reader, docs, partition_key="shard-00")


def test_an_input_can_spare_the_verification(with_docs: Project) -> None:
    flip_a_byte_of("number", with_docs.handoffs.open("docs", "shard-00"))
    assert len(read(with_docs, pa.Table, partition_key="shard-00", verification="off")) == 3


def test_a_verification_that_there_is_not_is_refused(with_docs: Project) -> None:
    @dg.asset(ins={"docs": dg.AssetIn(metadata={"verification": "always"})})
    def reader(docs: pa.Table) -> None: ...

    assert "must be one of once, off, lazy, eager, got 'always'" in failure_of(with_docs, reader, docs)


def flip_a_byte_of(column: str, handoff: Handoff) -> None:
    (part,) = handoff.manifest.parts
    index = handoff.schema.names.index(column)
    offset = next(segment.offset for segment, owner in zip(part.segments, part.columns, strict=True) if owner == index)
    path = handoff.paths[0]
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_a_version_that_is_collected_while_it_is_opened_gives_way_to_the_newest(
    with_docs: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer and a collector come between the look at the manifest and the lease."""
    newest, overtaking = HandoffStore.newest, list[int]()

    def overtaken(handoffs: HandoffStore, asset: str, partition: str) -> Handoff | None:
        found = newest(handoffs, asset, partition)
        if found and not overtaking:
            overtaking.append(found.version)
            rows = pa.table({"shard": ["new"], "number": [9]})
            with_docs.handoffs.publish(asset, partition, rows, code_version="8", run_id="another")
            plan = plan_collection(with_docs.handoffs.objects, SystemClock(), keep_versions=1, grace_seconds=0)
            collect(with_docs.handoffs.objects, SystemClock(), plan)
        return found

    monkeypatch.setattr(HandoffStore, "newest", overtaken)
    assert read(with_docs, pa.Table, partition_key="shard-00") == [{"shard": "new", "number": 9}]


def test_an_input_that_nobody_asks_for_may_be_missing_and_is_in_no_lineage(with_docs: Project) -> None:
    absent = dg.AssetSpec("absent", partitions_def=SHARDS)

    @dg.asset(ins={"docs": dg.AssetIn(), "absent": dg.AssetIn()})
    def reader(docs: HandoffsWhenAsked, absent: HandoffsWhenAsked) -> pa.Table:
        return pa.table({"rows": [handoff.num_rows for handoff in docs.open().values()]})

    with_docs.make(reader, docs, absent)
    sealed = with_docs.handoffs.open("reader", "all")
    assert sealed.table()["rows"].to_pylist() == [3, 3]
    assert set(sealed.manifest.input_versions) == {"docs[shard-00]", "docs[shard-01]"}


def test_an_input_that_is_asked_for_and_missing_is_refused_then(with_docs: Project) -> None:
    absent = dg.AssetSpec("absent", partitions_def=SHARDS)

    @dg.asset
    def reader(absent: HandoffsWhenAsked) -> None:
        absent.open()

    assert "has no sealed handoff of absent[shard-00]" in failure_of(with_docs, reader, absent)
