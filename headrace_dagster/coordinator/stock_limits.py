"""Checks Dagster's own limits before a GPU is promised, since a run that a pool holds back would keep it idle.

Uses the same counters as the stock daemon after us, with the same inputs. So `concurrency.pools`, tag limits and
`max_concurrent_runs` keep their meaning, and a run that they hold back says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from dagster import DagsterInstance, DagsterRun
from dagster._core.instance.config import ConcurrencyConfig
from dagster._core.op_concurrency_limits_counter import GlobalOpConcurrencyLimitsCounter
from dagster._core.storage.dagster_run import ACTIVE_RUN_STATUSES, RunRecord, RunsFilter
from dagster._core.storage.event_log.base import PoolLimit
from dagster._utils.concurrency import ConcurrencyKeyInfo
from dagster._utils.tags import TagConcurrencyLimitsCounter

from headrace_dagster.coordinator.admission import GATE_TAG


class PoolReading:
    """The pools in one look, each read once from the database, however often the look counts."""

    def __init__(self, instance: DagsterInstance) -> None:
        self.instance = instance
        # Dagster's counters fill it and share what they have read.
        self.infos: dict[str, ConcurrencyKeyInfo] = {}

    def limited(self, runs: Iterable[DagsterRun]) -> set[str]:
        """Names of pools that have a limit, or get the default one from the first counter that uses them."""
        if not self.instance.global_op_concurrency_default_limit:
            return self._keys
        met = [run.run_op_concurrency for run in runs if run.run_op_concurrency]
        return self._keys.union(*(run.all_pools or () for run in met), *(run.root_key_counts for run in met))

    @cached_property
    def _keys(self) -> set[str]:
        return self.instance.event_log_storage.get_concurrency_keys()

    @cached_property
    def limits(self) -> list[PoolLimit]:
        return list(self.instance.event_log_storage.get_pool_limits())

    @cached_property
    def active_runs(self) -> list[RunRecord]:
        """Not from the feed, since a pool at op granularity forgets a run's slots some seconds after its start."""
        return list(self.instance.get_run_records(RunsFilter(statuses=ACTIVE_RUN_STATUSES)))


class StockLimits:
    """Dagster's decision on each run, given those under way and those counted with `count`."""

    def __init__(
        self,
        pools: PoolReading,
        config: ConcurrencyConfig,
        queued: Sequence[DagsterRun],
        under_way: Sequence[DagsterRun],
        paused_locations: frozenset[str] = frozenset(),
    ) -> None:
        assert config.run_queue_config
        queue = config.run_queue_config
        self._tag_limits: list[Mapping[str, Any]] = [
            limit for limit in queue.tag_concurrency_limits or () if limit["key"] != GATE_TAG
        ]
        self._tags = TagConcurrencyLimitsCounter(self._tag_limits, list(under_way)) if self._tag_limits else None
        self._paused = paused_locations
        self._pools: GlobalOpConcurrencyLimitsCounter | None = None
        in_pools = [run for run in queued if run.run_op_concurrency]
        if in_pools and queue.should_block_op_concurrency_limited_runs:
            self._pools = GlobalOpConcurrencyLimitsCounter(
                pools.instance,
                in_pools,
                pools.active_runs,
                concurrency_keys=pools.limited(in_pools),
                pool_limits=pools.limits,
                slot_count_offset=queue.op_concurrency_slot_buffer,
                pool_granularity=config.pool_config.pool_granularity,
                concurrency_info_by_key=pools.infos,
            )
        # Pool slots return while a run continues, and a location's pause ends, without an event that the queue sees.
        self.change_unseen = bool(self._pools or paused_locations)

    def reasons(self, runs: Iterable[DagsterRun]) -> dict[str, str]:
        """Run → why it is held back, for each run that is."""
        found = {}
        for run in runs:
            reason = self.reason(run)
            if reason:
                found[run.run_id] = reason
        return found

    def reason(self, run: DagsterRun) -> str | None:
        if self._tags and self._tags.is_blocked(run):
            keys = sorted({limit["key"] for limit in self._tag_limits if limit["key"] in run.tags})
            tags = ", ".join(f"{key}={run.tags[key]}" for key in keys)
            return f"Waits for Dagster's tag limit on {tags} (tag_concurrency_limits)."
        if self._pools and self._pools.is_blocked(run):
            assert run.run_op_concurrency
            pools = ", ".join(sorted(run.run_op_concurrency.all_pools or run.run_op_concurrency.root_key_counts))
            return f"Waits for a slot in pool {pools} (Deployment > Concurrency)."
        location = run.remote_job_origin.location_name if run.remote_job_origin else None
        if location in self._paused:
            return f"Code location {location} did not answer; Dagster tries it again after a pause."
        return None

    def count(self, run: DagsterRun) -> None:
        """Counts a run that will be launched."""
        if self._tags:
            self._tags.update_counters_with_launched_item(run)
        if self._pools:
            self._pools.update_counters_with_launched_item(run)
