import os
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest

from headrace.handoff.versions import Handoff
from headrace_dagster.handoff_io import StoreResource
from tests.headrace_dagster.project import SHARDS, Project, docs, failure_of

CONTENT = dg.MultiPartitionsDefinition(
    {
        "day": dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-03"),
        "shard": dg.StaticPartitionsDefinition(["glossary-00"]),
    }
)


def test_the_same_rows_again_are_the_same_version_and_data_version(project: Project) -> None:
    first, again = (project.make(docs, partition_key="shard-00") for _ in range(2))
    assert again.metadata["reused"] is True
    assert again.metadata["version"] == 1
    assert again.data_version == first.data_version


@pytest.mark.parametrize("kind", [pa.Table, pl.DataFrame, pl.LazyFrame])
@pytest.mark.parametrize("partitions_def", [SHARDS, None], ids=["same partition", "all partitions"])
def test_an_input_arrives_as_its_annotation_asks(project: Project, kind: type, partitions_def: Any) -> None:
    seen: list[Any] = []

    @dg.asset(partitions_def=partitions_def)
    def reader(docs) -> None:
        seen.append(docs)

    @dg.asset(partitions_def=partitions_def, ins={"docs": dg.AssetIn(dagster_type=kind)})
    def annotated(docs) -> None:
        seen.append(docs)

    for shard in SHARDS.get_partition_keys():
        project.make(docs, partition_key=shard)
    key = "shard-01" if partitions_def else None
    project.make(annotated, docs, partition_key=key)
    project.make(reader, docs, partition_key=key)
    got, plain = seen
    assert isinstance(got, kind)
    assert isinstance(plain, pa.Table)
    columns = got.to_pydict() if isinstance(got, pa.Table) else got.lazy().collect().to_dict(as_series=False)
    shards = ["shard-01"] * 3 if partitions_def else ["shard-00"] * 3 + ["shard-01"] * 3
    assert columns["shard"] == shards
    assert plain["shard"].to_pylist() == shards


def test_an_input_is_the_sealed_files_themselves(project: Project) -> None:
    addresses: list[int] = []
    maps: list[str] = []

    @dg.asset(partitions_def=SHARDS)
    def reader(docs: pa.Table) -> None:
        addresses.append(docs["number"].chunk(0).buffers()[1].address)
        maps.extend(line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".arrow"))

    project.make(docs, partition_key="shard-00")
    project.make(reader, docs, partition_key="shard-00")
    spans = [[int(edge, 16) for edge in line.split()[0].split("-")] for line in maps]
    assert any(start <= addresses[0] < end for start, end in spans)


def test_handles_come_one_by_one_or_by_partition(project: Project) -> None:
    seen: list[Any] = []

    @dg.asset(partitions_def=SHARDS)
    def one(docs: Handoff) -> None:
        seen.append(docs)

    @dg.asset
    def every(docs: dict[str, Handoff]) -> None:
        seen.append(docs)

    for shard in SHARDS.get_partition_keys():
        project.make(docs, partition_key=shard)
    project.make(one, docs, partition_key="shard-01")
    project.make(every, docs)
    handle, by_partition = seen
    assert handle == project.handoffs.open("docs", "shard-01")
    assert {shard: each.partition for shard, each in by_partition.items()} == {
        "shard-00": "shard-00",
        "shard-01": "shard-01",
    }


def test_a_manifest_names_the_versions_that_its_step_loaded(project: Project) -> None:
    @dg.asset
    def total(docs: pl.LazyFrame) -> pl.LazyFrame:
        return docs.select(pl.col("number").sum())

    for shard in SHARDS.get_partition_keys():
        project.make(docs, partition_key=shard)
    made = project.make(total, docs)
    handoff = project.handoffs.open("total", "all")
    expected = {
        f"docs[{shard}]": f"v1 {project.handoffs.open('docs', shard).content_digest}"
        for shard in SHARDS.get_partition_keys()
    }
    assert handoff.manifest.input_versions == expected
    assert made.metadata["input_versions"] == {name: stated[: len("v1 ") + 12] for name, stated in expected.items()}
    assert handoff.table().to_pydict() == {"number": [12]}


def test_a_missing_input_says_what_to_materialize(project: Project) -> None:
    @dg.asset
    def total(docs: pa.Table) -> None: ...

    project.make(docs, partition_key="shard-01")
    failure = failure_of(project, total, docs)
    assert failure == (
        "Input docs has no sealed handoff of docs[shard-00]. Materialize docs, partitions shard-00, first."
    )


def test_a_late_partition_can_be_left_out_on_purpose(project: Project) -> None:
    seen: list[Any] = []

    @dg.asset(ins={"docs": dg.AssetIn(metadata={"allow_missing_partitions": True})})
    def report(docs: dict[str, Handoff]) -> None:
        seen.append(sorted(docs))

    project.make(report, docs)
    project.make(docs, partition_key="shard-01")
    project.make(report, docs)
    assert seen == [[], ["shard-01"]]


def test_a_sealed_handoff_is_recorded_and_not_written_again(project: Project) -> None:
    @dg.asset(partitions_def=CONTENT)
    def content(context: dg.AssetExecutionContext, store: StoreResource) -> Handoff:
        return store.handoffs().publish(
            "content",
            context.partition_key,
            pa.table({"x": [1]}),
            code_version="1",
            run_id=context.run.run_id,
            input_versions={"prompts[a]": "v1 abc"},
            attributes={"claim": "c1"},
        )

    made = project.make(content, partition_key="2026-11-02|glossary-00")
    handoff = project.handoffs.open("content", "2026-11-02|glossary-00")
    assert made.data_version == handoff.content_digest
    assert made.metadata["input_versions"] == {"prompts[a]": "v1 abc"}
    assert handoff.attributes == {"claim": "c1"}
    again = project.make(content, partition_key="2026-11-02|glossary-00")
    assert again.metadata["reused"] is True


def test_a_stream_of_batches_is_sealed_as_it_comes(project: Project) -> None:
    batches = pa.table({"x": list(range(10))}).to_batches(max_chunksize=2)

    @dg.asset
    def reader() -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(batches[0].schema, batches)

    @dg.asset
    def iterator() -> dg.MaterializeResult:
        return dg.MaterializeResult(value=iter(batches))

    for asset in (reader, iterator):
        made = project.make(asset)
        assert made.metadata["num_rows"] == 10
    digests = {project.handoffs.open(name, "all").content_digest for name in ("reader", "iterator")}
    assert len(digests) == 1


def test_an_asset_that_returns_nothing_stores_nothing(project: Project) -> None:
    @dg.asset
    def silent() -> None: ...

    @dg.asset
    def untyped():
        return None

    for asset in (silent, untyped):
        project.make(asset)
    assert not project.directory.exists()


def test_what_is_no_table_is_refused_in_one_sentence(project: Project) -> None:
    @dg.asset
    def wrong():
        return {"rows": 3}

    @dg.asset
    def others():
        return project.handoffs.open("docs", "shard-00")

    assert "wrong returned dict. Return a pyarrow Table, " in failure_of(project, wrong)
    project.make(docs, partition_key="shard-00")
    assert "others[all] returned the handoff docs[shard-00]. Publish" in failure_of(project, others)


def test_several_partitions_do_not_fit_one_handle(project: Project) -> None:
    @dg.asset
    def one(docs: Handoff) -> None: ...

    for shard in SHARDS.get_partition_keys():
        project.make(docs, partition_key=shard)
    assert "has 2 partitions. Annotate it as dict[str, Handoff]" in failure_of(project, one, docs)


def test_a_damaged_input_stops_the_step_without_a_retry(project: Project) -> None:
    @dg.asset(partitions_def=SHARDS, retry_policy=dg.RetryPolicy(max_retries=3))
    def reader(docs: pa.Table) -> None: ...

    project.make(docs, partition_key="shard-00")
    path = project.handoffs.open("docs", "shard-00").paths[0]
    path.chmod(0o644)
    os.truncate(path, 100)
    failure = failure_of(project, reader, docs, partition_key="shard-00")
    assert "Handoff docs[shard-00] v1 does not match its manifest" in failure


def test_partitions_with_other_columns_are_named(project: Project) -> None:
    @dg.asset(partitions_def=SHARDS)
    def drifting(context: dg.AssetExecutionContext) -> pa.Table:
        return pa.table({"x": [1] if context.partition_key == "shard-00" else ["one"]})

    @dg.asset
    def reader(drifting: pa.Table) -> None: ...

    for shard in SHARDS.get_partition_keys():
        project.make(drifting, partition_key=shard)
    assert failure_of(project, reader, drifting) == (
        "drifting[shard-01] does not have the columns of drifting[shard-00]: x: got string_view, wanted int64. "
        "Materialize the older of the two again."
    )
