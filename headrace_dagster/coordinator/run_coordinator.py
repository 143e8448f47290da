"""`GpuRunCoordinator`: Dagster's queue, with GPUs that are never promised twice.

A subclass of `QueuedRunCoordinator`, since the dequeuing daemon exists for no other class. Every queued run gets a gate
tag, and a tag limit of 0 on it keeps the stock daemon from launching any. At each iteration that daemon asks for the
limits; there, on its own thread, the policy decides and opens the gates of runs that may start. Launching, retries,
pauses, pools and the UI stay Dagster's.

It knows runs, tags and an inventory, and what this node's engine host has on its GPUs. The launcher gives the devices
to the run: `GpuRunLauncher` on one machine, `GpuK8sRunLauncher` on a cluster.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import dagster._check as check
from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    Enum,
    EnumValue,
    Field,
    Noneable,
    Permissive,
    StringSource,
)
from dagster._config.config_schema import UserConfigSchema
from dagster._core.errors import DagsterInvariantViolationError
from dagster._core.run_coordinator.base import SubmitRunContext
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator, RunQueueConfig
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster._serdes import ConfigurableClassData

from headrace.placement.demand import Demand
from headrace.placement.discovery import Discovery, Source, source_of
from headrace.placement.engine_hosts import EngineHost
from headrace.placement.inventory import Inventory
from headrace.placement.needs import InvalidNeeds
from headrace.placement.queue_settings import policy_from_config
from headrace.placement.queueing import QueuePolicy
from headrace.placement.snapshot import Snapshot
from headrace_dagster.coordinator.admission import (
    GATE_TAG,
    HELD,
    NEEDS_TAG,
    PLACEMENT_TAG,
    WHY_TAG,
    ClusterLauncher,
    DeviceLauncher,
)
from headrace_dagster.coordinator.computed_demand import computed_demand
from headrace_dagster.coordinator.daemon_lease import DaemonLease
from headrace_dagster.coordinator.dequeuing import Dequeuing
from headrace_dagster.coordinator.durations import DurationHistory
from headrace_dagster.coordinator.engine_host import engine_host
from headrace_dagster.coordinator.hold_reports import IN_LINE, HoldReports
from headrace_dagster.coordinator.lost_retries import LostRetries
from headrace_dagster.coordinator.queue_state import QueueState
from headrace_dagster.coordinator.run_feed import RunFeed
from headrace_dagster.coordinator.run_needs import KIND_TAG, RunPlans, kind_of, needs_of_run
from headrace_dagster.coordinator.run_tag_writes import OpenDatabases
from headrace_dagster.coordinator.waits_row import WaitsRow

SIMULATED_GPUS_VARIABLE = "HEADRACE_GPUS"
"""GPUs to simulate on this machine, for the daemon and `headrace queue`: `4xH100:81559` (MiB), mixed with commas."""
CLUSTER = "cluster"
_GATE_LIMIT = {"key": GATE_TAG, "value": HELD, "limit": 0}
# A method of the stock daemon (tests/upstream).
_READS_UNDER_WAY = "_get_in_progress_run_records"
_DAEMON_MODULE = "dagster._daemon.run_coordinator.queued_run_coordinator_daemon"


class GpuRunCoordinator(QueuedRunCoordinator[DagsterInstance]):
    """`run_coordinator: {module: headrace_dagster, class: GpuRunCoordinator}` in dagster.yaml."""

    def __init__(
        self,
        inventory: str = "local",
        policy: Mapping[str, Any] | None = None,
        without_gpus: str = "fail",
        inst_data: ConfigurableClassData | None = None,
        **stock: Any,
    ) -> None:
        super().__init__(inst_data=inst_data, **stock)
        self._inventory_source = inventory
        # Read at construction: a mistake in it stops the start, not the first night.
        self.policy: QueuePolicy = policy_from_config(policy or {})
        self._without_gpus_on_cpu = without_gpus == "run_on_cpu"
        self._is_checked = False
        self._lease: DaemonLease | None = None
        self._open_databases: OpenDatabases | None = None

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {
            **check.is_dict(super().config_type()),
            "inventory": Field(
                StringSource,
                default_value="local",
                description="`local`: this machine's GPUs (HEADRACE_GPUS=4xH100:81559 simulates); `cluster`: what the "
                "launcher's cluster has; or the path of a file of nodes.",
            ),
            "without_gpus": Field(
                Enum("WithoutGpus", [EnumValue("fail"), EnumValue("run_on_cpu")]),
                is_required=False,
                default_value="fail",
                description="On a fleet with no GPU at all, what becomes of runs that ask for one.",
            ),
            "policy": Field(
                Noneable(Permissive()),
                is_required=False,
                description="Weights of queues, reservations, preemption, floors and ceilings of stages.",
            ),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data, **config_value)

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Queues a run with its gate closed; a run with an unreadable demand fails here, with the reason."""
        self._check_instance()
        run = context.dagster_run
        if run.status == DagsterRunStatus.NOT_STARTED:
            run_plan = self._plans.of(run)
            if computed := computed_demand(run, run_plan, self._has_gpus):
                self._instance.add_run_tags(run.run_id, computed)
                run = self._instance.get_run_by_id(run.run_id) or run
            try:
                needs = needs_of_run(run, run_plan)
            except InvalidNeeds as error:
                # It would fail the same way each time.
                self._instance.add_run_tags(run.run_id, {MAX_RETRIES_TAG: "0", WHY_TAG: str(error)})
                self._instance.report_run_failed(run, str(error))
                return self._instance.get_run_by_id(run.run_id) or run
            # Before it is queued, since a re-execution has its parent's open gate.
            self._instance.add_run_tags(
                run.run_id,
                {
                    GATE_TAG: HELD,
                    NEEDS_TAG: needs.to_json(),
                    KIND_TAG: kind_of(run, run_plan),
                    WHY_TAG: IN_LINE,
                    **({PLACEMENT_TAG: ""} if PLACEMENT_TAG in run.tags else {}),
                },
            )
        return super().submit_run(context)

    def get_run_queue_config(self) -> RunQueueConfig:
        """The stock limits with our gate. When the dequeuing daemon asks for them, the policy decides."""
        self._check_instance()
        daemon = _dequeuing_daemon()
        if daemon is not None:
            self._take_over_cap()
        stock = super().get_run_queue_config()
        gated = stock._replace(tag_concurrency_limits=[*stock.tag_concurrency_limits, _GATE_LIMIT])
        if daemon is None:
            return gated
        _reads_runs_under_way(daemon)
        now = time.time()
        if not self._held_lease.hold(now):
            return gated._replace(max_concurrent_runs=0)
        self._lost_retries.look(now)
        if self._dequeuing.look(now, _paused_locations(daemon, now)):
            # Runs that a pool holds back were not admitted, so the stock daemon need not read the pools again.
            return gated._replace(should_block_op_concurrency_limited_runs=False)
        if not self._dequeuing.state.feed.queued:
            return gated
        # Nothing to launch: with its limit reached, the stock daemon does not scan the queue. The runs under way, by
        # which it sees that, we have just read.
        under_way = list(self._dequeuing.state.feed.under_way.values())
        _reads_runs_under_way(daemon, under_way)
        return gated._replace(max_concurrent_runs=len(under_way))

    def snapshot(self, now: float) -> tuple[Snapshot, dict[str, DagsterRun]]:
        """The queue and the fleet as the daemon would see them, and runs by id. Reads only."""
        dequeuing = self._new_dequeuing()
        dequeuing.state.feed.refresh(now)
        dequeuing.inventory = dequeuing.discovery.look(now)
        return dequeuing.read_only_snapshot(now)

    def dispose(self) -> None:
        if self._lease:
            self._lease.give_back()
        if self._open_databases:
            self._open_databases.close()
        super().dispose()

    @cached_property
    def _host(self) -> EngineHost | None:
        # Other machines' hosts listen on no socket of this one.
        return engine_host() if self._inventory_source == "local" else None

    @cached_property
    def _looked_at_by_submitters(self) -> Discovery:
        """A backfill submits thousands of runs, and a look at the driver takes milliseconds."""
        return self._new_dequeuing().discovery

    @cached_property
    def _plans(self) -> RunPlans:
        return RunPlans(self._instance)

    @cached_property
    def _held_lease(self) -> DaemonLease:
        self._lease = DaemonLease(self._instance)
        return self._lease

    @cached_property
    def _lost_retries(self) -> LostRetries:
        return LostRetries(self._instance)

    @cached_property
    def _dequeuing(self) -> Dequeuing:
        dequeuing = self._new_dequeuing()
        launcher = self._instance.run_launcher
        inventory = dequeuing.discovery.look(time.time())
        refusal = None
        if isinstance(launcher, DeviceLauncher):
            refusal = launcher.refusal(inventory)
            if refusal is None and self.policy.preemption and not self._instance.run_retries_enabled:
                refusal = "policy.preemption needs run_retries: {enabled: true}, or nobody would retry a preempted run."
        if refusal:
            raise DagsterInvariantViolationError(f"GpuRunCoordinator does not start: {refusal}")
        if isinstance(launcher, DeviceLauncher):
            launcher.finish_evictions()
        self._open_databases = OpenDatabases(self._instance)
        dequeuing.state.feed.database_version = self._open_databases.runs_version
        return dequeuing

    def _new_dequeuing(self) -> Dequeuing:
        state = QueueState(
            instance=self._instance,
            feed=RunFeed(instance=self._instance),
            durations=DurationHistory(self._instance, clock=time.monotonic),
            plans=self._plans,
            fitted=self._fitted,
        )
        return Dequeuing(
            instance=self._instance,
            state=state,
            discovery=Discovery(self._source(state)),
            policy=self.policy,
            concurrency=self._instance.get_concurrency_config,
            reports=HoldReports(instance=self._instance, feed=state.feed),
            waits_row=WaitsRow(self._instance),
            logger=self._logger,
            host=self._host,
        )

    def _source(self, state: QueueState) -> Source:
        if self._inventory_source != CLUSTER:
            return source_of(self._inventory_source, simulated=os.environ.get(SIMULATED_GPUS_VARIABLE))
        launcher = self._instance.run_launcher
        if not isinstance(launcher, ClusterLauncher):
            raise DagsterInvariantViolationError(
                f"GpuRunCoordinator does not start: inventory is {CLUSTER!r}, and {type(launcher).__name__} has no "
                "cluster to ask; use GpuK8sRunLauncher, or `inventory: local` or the path of a file of nodes."
            )
        return lambda: Inventory() if launcher.hands_over else launcher.inventory(state.held_devices())

    def _fitted(self, inventory: Inventory, demand: Demand) -> Demand:
        launcher = self._instance.run_launcher
        if isinstance(launcher, ClusterLauncher):
            return Demand() if launcher.hands_over else launcher.demand_on(inventory, demand)
        if self._without_gpus_on_cpu and inventory.num_gpus == 0:
            return Demand(cpu_milli=demand.cpu_milli, memory_mib=demand.memory_mib)
        return demand

    def _has_gpus(self) -> bool:
        return self._looked_at_by_submitters.look(time.time()).num_gpus > 0

    def _take_over_cap(self) -> None:
        """Moves the instance's own cap into ours. Dagster replaces our cap by `concurrency.runs.max_concurrent_runs`
        (tests/upstream), and would then scan the queue although there is nothing to launch.
        """
        runs = self._instance.get_settings("concurrency").get("runs", {})
        if "max_concurrent_runs" in runs:
            self._max_concurrent_runs = runs.pop("max_concurrent_runs")

    def _check_instance(self) -> None:
        """Refuses an instance in which a GPU could be promised twice, or be lost forever."""
        if self._is_checked:
            return
        if "tag_concurrency_limits" in self._instance.get_settings("concurrency").get("runs", {}):
            raise DagsterInvariantViolationError(
                "GpuRunCoordinator does not start: dagster.yaml has concurrency.runs.tag_concurrency_limits, which "
                "would replace its gate and launch every queued run; move the limits to "
                "run_coordinator.config.tag_concurrency_limits."
            )
        if not self._instance.run_monitoring_enabled:
            raise DagsterInvariantViolationError(
                "GpuRunCoordinator does not start: run monitoring is off, and a run whose worker dies would hold its "
                "GPUs for ever; set run_monitoring: {enabled: true} in dagster.yaml."
            )
        self._is_checked = True


def _dequeuing_daemon() -> Any:
    """The stock daemon, if its `run_iteration` asks for the limits.

    Pages, pools, webservers and workers ask for them too; deciding there would revoke promises in mid-iteration. The
    daemon passes nothing that identifies it (tests/upstream).
    """
    module = sys.modules.get(_DAEMON_MODULE)
    coordinator = sys._getframe(1)
    caller = coordinator.f_back and coordinator.f_back.f_back
    if (
        module is None
        or caller is None
        or caller.f_code is not module.QueuedRunCoordinatorDaemon.run_iteration.__code__
    ):
        return None
    return caller.f_locals["self"]


def _reads_runs_under_way(daemon: Any, known: Sequence[RunRecord] | None = None) -> None:
    """`known`: what the stock daemon takes for the runs under way in this iteration; else it reads them.

    Reading them opens Dagster's database anew: most of what an iteration costs that finds nothing to do.
    """
    vars(daemon).pop(_READS_UNDER_WAY, None)
    if known is not None:
        setattr(daemon, _READS_UNDER_WAY, lambda instance: known)


def _paused_locations(daemon: Any, now: float) -> frozenset[str]:
    with daemon._location_timeouts_lock:
        return frozenset(name for name, until in daemon._location_timeouts.items() if until > now)
