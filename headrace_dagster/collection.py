"""Garbage collection as a Dagster job for any project: keeps what Dagster's latest materializations name.

    gc = collection_job()
    nightly = collection_schedule(gc)
    defs = dg.Definitions(..., jobs=[gc], schedules=[nightly], resources={"store": StoreResource(url=...)})

`headrace.handoff.collecting` decides and deletes. A run may be killed anywhere, and the next one finishes its work.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from headrace.clock import SystemClock
from headrace.handoff.collecting import GRACE_SECONDS, KEEP_VERSIONS, CollectionPlan, collect, plan_collection
from headrace.handoff.layout import manifest_key
from headrace.handoff.retention import FoundParts, FoundVersion
from headrace.handoff.versions import HandoffStore
from headrace.store.protection import Answer, Asked, Leaving, Named, installed
from headrace_dagster.failures import RETRIES, translated_errors
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.handoff_names import HANDOFF, handoff_name, sole_partition

DAGSTER_HOME = "DAGSTER_HOME"
# The op's name in run configs.
OP = "collect_handoffs"
# After the nightly work, and before people use the store.
COLLECTION_CRON = "30 5 * * *"
# Bound parameters in one SQL statement: SQLite's oldest limit is 999.
_NUM_IDS_A_QUERY = 900

NAMED = "named by the latest materialization"


def named_by(instance: dg.DagsterInstance, asked: Asked) -> Iterator[Named]:
    """Names the versions of the latest materialization of each asset's partition.

    Needs two queries for each asset, with any number of partitions: the latest events' ids, then those events.
    """
    for asset in _sealing(instance, HandoffStore(asked.objects).assets()):
        for handoff, partition, version in _named_versions_of(instance, asset):
            yield Named(key=manifest_key(handoff, partition, version), reason=NAMED)


def _sealing(instance: dg.DagsterInstance, handoffs: Iterable[str]) -> set[dg.AssetKey]:
    """The assets whose materializations name handoffs: of a handoff's own name, or because their last one states it."""
    names = set(handoffs)
    found = set(map(dg.AssetKey.from_user_string, names))
    others = [key for key in instance.get_asset_keys() if key not in found]
    for start in range(0, len(others), _NUM_IDS_A_QUERY):
        for record in instance.get_asset_records(others[start : start + _NUM_IDS_A_QUERY]):
            last = record.asset_entry.last_materialization
            states_one = last and last.asset_materialization and HANDOFF in last.asset_materialization.metadata
            # A person may have reported the last one by hand, without what an earlier one states.
            if states_one or record.asset_entry.asset_key.path[-1] in names:
                found.add(record.asset_entry.asset_key)
    return found


def _named_versions_of(instance: dg.DagsterInstance, asset: dg.AssetKey) -> set[tuple[str, str, int]]:
    latest = instance.get_latest_storage_id_by_partition(asset, dg.DagsterEventType.ASSET_MATERIALIZATION)
    events = [event for ids in _cut(sorted(latest.values())) for event in _events(instance, asset, ids)]
    # An asset without partitions, or one that once had none.
    if record := instance.get_latest_materialization_event(asset):
        events.append(record.asset_materialization)
    return {
        (handoff_name(asset, event.metadata), event.partition or sole_partition(event.metadata), version)
        for event in events
        if event and isinstance(version := _version(event), int)
    }


def _events(
    instance: dg.DagsterInstance, asset: dg.AssetKey, storage_ids: Sequence[int]
) -> list[dg.AssetMaterialization | None]:
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, storage_ids=storage_ids), limit=len(storage_ids)
    )
    return [record.asset_materialization for record in found.records]


def _version(event: dg.AssetMaterialization) -> object:
    entry = event.metadata.get("version")
    return entry.value if entry else None


def _cut(storage_ids: Sequence[int]) -> list[Sequence[int]]:
    return [storage_ids[start : start + _NUM_IDS_A_QUERY] for start in range(0, len(storage_ids), _NUM_IDS_A_QUERY)]


class CollectionConfig(dg.Config):
    """What stays, and whether anything is deleted."""

    dry_run: bool = Field(default=False, description="Only say what would go.")
    keep_versions: int = Field(default=KEEP_VERSIONS, ge=1, description="Newest versions that each partition keeps.")
    grace_hours: float = Field(
        default=GRACE_SECONDS / 3600,
        ge=0,
        description="Hours for which what was superseded, or left behind by a crash, stays at least.",
    )


@translated_errors()
def _collected(
    context: dg.OpExecutionContext, config: CollectionConfig, store: StoreResource, environment: Mapping[str, str]
) -> None:
    objects, clock = store.objects(), SystemClock()
    protectors = {
        **installed(without={"dagster"}),
        "dagster": lambda asked: Answer(named=named_by(context.instance, asked)),
    }
    plan = plan_collection(
        objects,
        clock,
        keep_versions=config.keep_versions,
        grace_seconds=config.grace_hours * 3600,
        protectors=protectors,
        environment=environment,
    )
    context.log.info(plan_text(plan))
    if config.dry_run:
        context.add_output_metadata(_plan_figures(plan))
        return
    report = collect(objects, clock, plan)
    for found, fate in report.kept_after_all:
        context.log.info(f"{_place(found)} stays after all: {fate}.")
    for one in [*plan.damaged, *report.damaged]:
        context.log.warning(f"Passed over: {one}")
    context.add_output_metadata(
        {
            "bytes_freed": report.num_bytes,
            **_figures(report.versions, report.orphans, report.leavings),
            "num_versions_kept": len(plan.versions) - len(report.versions),
            "num_damaged_objects": len({*plan.damaged, *report.damaged}),
        }
    )


def collection_job(
    *,
    name: str = "collect_garbage",
    tags: Mapping[str, str] | None = None,
    environment: Callable[[], Mapping[str, str]] = lambda: os.environ,
) -> dg.JobDefinition:
    """One op in one process; needs a `StoreResource` called `store`.

    Args:
        environment: tells, in the run, where services outside the store are: without MLFLOW_TRACKING_URI no weights are
            collected.
    """

    @dg.op(name=OP, description="Deletes what nobody needs, and what crashed writers left.", retry_policy=RETRIES)
    def collect_garbage(context: dg.OpExecutionContext, config: CollectionConfig, store: StoreResource) -> None:
        _collected(context, config, store, environment())

    @dg.job(
        name=name,
        tags=dict(tags or {}),
        executor_def=dg.in_process_executor,
        description="Deletes versions, weights, checkpoints and evidence that nobody needs. Runs beside readers and "
        "writers; can be killed.",
    )
    def collection() -> None:
        collect_garbage()

    return collection


def collection_schedule(
    job: dg.JobDefinition,
    *,
    cron: str = COLLECTION_CRON,
    timezone: str = "UTC",
    default_status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED,
    config: CollectionConfig | None = None,
) -> dg.ScheduleDefinition:
    """Collects every night, with the defaults or with `config`."""
    return dg.ScheduleDefinition(
        name=f"nightly_{job.name}",
        job=job,
        cron_schedule=cron,
        execution_timezone=timezone,
        default_status=default_status,
        run_config=dg.RunConfig(ops={OP: config or CollectionConfig()}),
        description="Deletes versions, weights, checkpoints and evidence that nobody needs.",
    )


def plan_text(plan: CollectionPlan) -> str:
    """A line for each object that would go, and one for all that stay."""
    going = [(verdict.found, verdict.reason) for verdict in [*plan.versions, *plan.parts] if not verdict.is_kept]
    lines = [
        f"{found.num_bytes:>15,}  {_place(found)}  ({reason})"
        for found, reason in [*going, *((one, one.reason) for one in plan.leavings)]
    ]
    num_kept = sum(verdict.is_kept for verdict in plan.versions)
    heading = f"{plan.num_bytes:,} bytes to free, {num_kept} versions stay."
    return "\n".join([heading, *lines, *(f"Passed over: {one}" for one in plan.damaged)])


def _plan_figures(plan: CollectionPlan) -> dict[str, Any]:
    return {
        "dry_run": True,
        "bytes_to_free": plan.num_bytes,
        **_figures(plan.collected, plan.orphans, plan.leavings),
        "num_versions_kept": len(plan.versions) - len(plan.collected),
    }


def _figures(versions: Sequence[Any], orphans: Sequence[Any], leavings: Sequence[Leaving]) -> dict[str, int]:
    counts = Counter(one.kind for one in leavings)
    return {
        "num_versions": len(versions),
        "num_orphans": len(orphans) + counts["orphan"],
        "num_weights": counts["weights"],
        "num_checkpoints": counts["checkpoint"],
        "num_micro_batches": counts["micro-batches"],
        "num_evidence": counts["evidence"],
    }


def _place(found: FoundVersion | FoundParts | Leaving) -> str:
    return f"{found.prefix} (an orphan)" if isinstance(found, FoundParts) else found.label
