"""What people see of a sealed version in Dagster's UI."""

import dagster as dg
import pyarrow as pa

from headrace.text.markdown import CHARS_MAX
from headrace_dagster.handoff_metadata import lineage_markdown
from tests.headrace_dagster.project import Project, docs


def test_a_stored_table_says_what_it_is_in_units(project: Project) -> None:
    made = project.make(docs, partition_key="shard-01")
    handoff = project.handoffs.open("docs", "shard-01")
    metadata = dict(made.metadata)
    assert metadata.pop("handoff_bytes") == handoff.num_bytes == handoff.paths[0].stat().st_size
    columns = metadata.pop("dagster/column_schema")
    assert [(column.name, column.type) for column in columns.columns] == [("shard", "string"), ("number", "int64")]
    assert metadata.pop("write_mb_per_s") > 0
    assert metadata.pop("kept_bytes") > handoff.num_bytes
    assert metadata == {
        "num_rows": 3,
        "dagster/row_count": 3,
        "uri": handoff.uri,
        "version": 1,
        "content_digest": handoff.content_digest[:12],
        "reused": False,
        "kept_versions": 1,
        "input_versions": {},
        "preview": "|shard|number|\n|-|-|\n|shard-01|1|\n|shard-01|2|\n|shard-01|3|",
    }
    assert made.data_version == handoff.content_digest
    assert handoff.manifest.code_version == "7"
    assert handoff.manifest.run_id


def test_what_an_asset_says_itself_comes_first_and_replaces_the_preview(project: Project) -> None:
    @dg.asset
    def described() -> dg.MaterializeResult[pa.Table]:
        return dg.MaterializeResult(value=pa.table({"x": [1]}), metadata={"summary": "one row"})

    names = list(project.make(described).metadata)
    assert names[0] == "summary"
    assert "preview" not in names
    assert names.index("num_rows") < names.index("content_digest")


def test_numbers_grow_with_the_versions_that_are_kept(project: Project) -> None:
    @dg.asset
    def growing(context: dg.AssetExecutionContext) -> pa.Table:
        return pa.table({"x": list(range(int(context.run.tags["rows"])))})

    first, second = (project.make(growing, tags={"rows": str(rows)}) for rows in (10, 1000))
    assert (first.metadata["kept_versions"], second.metadata["kept_versions"]) == (1, 2)
    assert second.metadata["kept_bytes"] > second.metadata["handoff_bytes"] + first.metadata["handoff_bytes"]


def test_a_version_that_was_there_states_no_writing_speed(project: Project) -> None:
    again = [project.make(docs, partition_key="shard-00") for _ in range(2)][-1]
    assert again.metadata["reused"] is True
    assert "write_mb_per_s" not in again.metadata


def test_lineage_is_a_table_of_versions(project: Project) -> None:
    @dg.asset(partitions_def=docs.partitions_def)
    def reader(docs: pa.Table) -> pa.Table:
        return docs

    project.make(docs, partition_key="shard-00")
    made = project.make(reader, docs, partition_key="shard-00")
    digest = project.handoffs.open("docs", "shard-00").content_digest
    assert made.metadata["lineage"] == (
        f"|made from|version|content digest|\n|-|-|-|\n|docs\\[shard-00\\]|v1|{digest[:12]}|"
    )


def test_a_long_lineage_ends_in_a_count_before_the_ui_would_fold_it() -> None:
    text = lineage_markdown({f"content[2026-11-01|glossary-{number:02d}]": "v1 " + "a" * 64 for number in range(100)})
    assert len(text) <= CHARS_MAX
    *rows, last = text.splitlines()
    assert last == f"|and {100 - (len(rows) - 2)} more|||"
    assert "2026-11-01&#124;glossary-00" in rows[2]
