"""How `headrace_dagster.collection` learns what Dagster's latest materializations name, in few queries."""

import dagster as dg

LETTERS = dg.StaticPartitionsDefinition(["a", "b"])


@dg.asset(partitions_def=LETTERS)
def letters(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"version": int(context.run.tags["version"])})


def test_the_latest_event_of_each_partition_is_found_without_naming_the_partitions() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for partition, version in (("a", "1"), ("b", "1"), ("a", "2")):
            dg.materialize([letters], partition_key=partition, tags={"version": version}, instance=instance)

        latest = instance.get_latest_storage_id_by_partition(letters.key, dg.DagsterEventType.ASSET_MATERIALIZATION)
        ids = sorted(latest.values())
        found = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=letters.key, storage_ids=ids), limit=len(ids)
        )

        events = [record.asset_materialization for record in found.records]
        assert {event.partition: event.metadata["version"].value for event in events if event} == {"a": 2, "b": 1}
