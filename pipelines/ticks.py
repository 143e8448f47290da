"""What the ticks of several sensors share: which runs are under way, and how a tick tells its result."""

import math
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorType, TickStatus

from headrace.keys import CAMPAIGN_SHARDS, CAMPAIGNS, ContentPartition
from headrace_dagster.partition_keys import register_keys
from pipelines.jobs import run_assets

# What a tick that asks for runs takes, about: half of the ten seconds after which other sensors would notice, since a
# machine may have become slower since the last tick.
ASKING_SECONDS = 5.0
# What was measured longer ago says nothing of how busy the machine is now.
_MEASURED_SECONDS_MAX = 600.0
_RUN_KEY = "dagster/run_key"

_PARTITION = "dagster/partition"

_QUEUED = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED)
_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


class RunsUnderWay:
    """What is being made, read once a tick, and only if somebody asks.

    A tick that has nothing to start opens no instance: that costs a code server more than all the rest of the tick.
    """

    def __init__(self, context: dg.SensorEvaluationContext) -> None:
        self._context = context

    @cached_property
    def _runs(self) -> Sequence[dg.DagsterRun]:
        return self._context.instance.get_runs(dg.RunsFilter(statuses=_UNDER_WAY))

    @cached_property
    def _by_partition(self) -> Mapping[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for run in self._runs:
            if partition := run.tags.get(_PARTITION):
                found[partition] |= {*run_assets(run)}
        return found

    def num_queued(self, assets: Sequence[str], partitions: Collection[str]) -> int:
        """How many runs that make any of these assets of any of these partitions have not begun."""
        own = [run for run in self._runs if run.status in _QUEUED and run.tags.get(_PARTITION) in partitions]
        return sum(not {*run_assets(run)}.isdisjoint(assets) for run in own)

    def without_asked(self, requests: Sequence[dg.RunRequest]) -> list[dg.RunRequest]:
        """Those whose run key no run has, in one question. Dagster would ask once for each."""
        if not requests:
            return []
        tags = {_RUN_KEY: [request.run_key or "" for request in requests]}
        asked = {run.tags[_RUN_KEY] for run in self._context.instance.get_runs(dg.RunsFilter(tags=tags))}
        return [request for request in requests if request.run_key not in asked]

    def are_of(self, partition: str) -> bool:
        return partition in self._by_partition

    def make(self, assets: Sequence[str], partition: str) -> bool:
        """Whether one of them makes any of these assets of the partition."""
        return not self._by_partition.get(partition, set()).isdisjoint(assets)


def tick_result(
    context: dg.SensorEvaluationContext, requests: list[dg.RunRequest], reasons: list[str]
) -> dg.SensorResult:
    """Dagster shows a reason only for a tick without requests.

    Registers the requests' keys, since Dagster refuses a whole tick for one that it does not know: a file may be newer
    than the last tick of `partition_keys`, and what is in the store may be of a file that has fewer shards now.
    """
    if not requests:
        return dg.SensorResult(skip_reason=dg.SkipReason("; ".join(reasons) or "Nothing to do."))
    wanted: dict[str, list[str]] = {CAMPAIGNS: [], CAMPAIGN_SHARDS: []}
    for key in (request.partition_key or "" for request in requests):
        if partition := ContentPartition.find(key):
            wanted[CAMPAIGN_SHARDS].append(partition.campaign_shard)
        else:
            wanted[CAMPAIGNS].append(key)
    register_keys(context.instance, wanted)
    return dg.SensorResult(run_requests=requests)


def num_runs_in_time(context: dg.SensorEvaluationContext, seconds_gone: float) -> int:
    """How many runs a tick may ask for and still take about ASKING_SECONDS, at least one.

    Dagster makes and queues them one after another once the sensor has answered, and its tick lasts until then: 0.1 CPU
    s a run, and 1.4 s on a machine where eight others want each core. So this goes by what the sensor's last tick with
    runs took a run, evaluation and all. Without one in the last ten minutes a single run is asked for, and measured.

    Args: seconds_gone: of this tick, until now.
    """
    own = [
        state
        for state in context.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if state.name == context.sensor_name
    ]
    asked = [
        (tick.end_timestamp, tick.timestamp, len(tick.run_ids))
        for state in own
        for tick in context.instance.get_ticks(
            state.instigator_origin_id, state.selector_id, limit=1, statuses=[TickStatus.SUCCESS]
        )
        if tick.end_timestamp and tick.run_ids
    ]
    ended, began, num_runs = max(asked, default=(0.0, 0.0, 1))
    if time.time() - ended > _MEASURED_SECONDS_MAX:
        return 1
    seconds = max(ended - began, 1e-3)
    fits = (ASKING_SECONDS - seconds_gone) * num_runs / seconds
    # Upwards, if the last one was short: else one with a long evaluation and a single run would never ask for two.
    return max(1, math.ceil(fits) if seconds < ASKING_SECONDS else int(fits))


def warn(context: dg.SensorEvaluationContext, problems: Sequence[str]) -> None:
    """For ticks with requests, which show no reason."""
    for problem in problems:
        context.log.warning(problem)
