"""Starts each run with the devices of its own admission, and no run without one.

`GpuRunCoordinator` decides which devices a run gets and writes them into the run's tags. This launcher applies that on
one machine: it sets `CUDA_VISIBLE_DEVICES` for every process of the run, and counts devices as taken until the last of
those processes is gone, whatever session torchrun put it in. It does not know which devices exist.

A run without its own admission (queued before the coordinator was installed, or with another run's tags) goes back to
the queue, where the coordinator decides about it like about any other.
"""

import os
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from threading import Timer

import dagster._check as check
from dagster import Bool, DagsterRun, DagsterRunStatus, Field, RunsFilter
from dagster._config import UserConfigSchema
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import LaunchRunContext
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._serdes import ConfigurableClassData

from headrace.placement.inventory import Inventory
from headrace.placement.needs import RunNeeds
from headrace.placement.placements import Placement
from headrace_dagster.coordinator.admission import ADMITTED, GATE_TAG, Admission, admission_of
from headrace_dagster.launchers.device_environment import device_environment
from headrace_dagster.launchers.eviction import unfinished_evictions
from headrace_dagster.launchers.process_launcher import (
    CUDA_VISIBLE_DEVICES_TAG,
    LOST_RETRY_SECONDS,
    ProcessRunLauncher,
)
from headrace_dagster.launchers.putting_back import is_gated, put_back
from headrace_dagster.launchers.run_ending import RunEnding
from headrace_dagster.launchers.run_processes import RunProcesses
from headrace_dagster.launchers.signs_of_life import SILENT_AFTER_SECONDS

GPU_MILLI_TAG = "headrace/gpu_milli"
"""Thousandths of each of its GPUs that the run was given; 1000 is all of it."""
# A slower code server is unhealthy; the run then waits in the queue, not on its GPUs.
_PROBE_SECONDS = 10
_UNFINISHED_EVICTIONS = timedelta(hours=1)


class GpuRunLauncher(ProcessRunLauncher):
    """`run_launcher: {module: headrace_dagster, class: GpuRunLauncher}` in dagster.yaml, with `GpuRunCoordinator`."""

    def __init__(
        self,
        log_directory: str = "logs/runs",
        termination_grace_seconds: float = 20.0,
        warm_start: bool = False,
        silent_after_seconds: float = SILENT_AFTER_SECONDS,
        limit_gpu_memory: bool = True,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        super().__init__(log_directory, termination_grace_seconds, warm_start, silent_after_seconds, inst_data)
        self._limit_gpu_memory = limit_gpu_memory
        self._processes = RunProcesses()
        self._ending = RunEnding(
            instance=lambda: self._instance,
            processes=self._processes,
            grace_seconds=termination_grace_seconds,
            when_evicted=self._look_for_retry_later,
        )
        self._gpu_memory_mib: dict[str, int] = {}

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {
            **check.is_dict(super().config_type()),
            "limit_gpu_memory": Field(
                Bool,
                default_value=True,
                description="Bound PyTorch's allocator to a shared GPU's fraction. Off for a torch of before September "
                "2025, which refuses the setting.",
            ),
        }

    def admission_tags(self, run: DagsterRun, needs: RunNeeds, placement: Placement) -> Mapping[str, str]:
        return {
            CUDA_VISIBLE_DEVICES_TAG: ",".join(share.device for share in placement.gpus),
            GPU_MILLI_TAG: str(_milli(placement)),
        }

    def refusal(self, inventory: Inventory) -> str | None:
        self._gpu_memory_mib = {gpu.device: gpu.memory_mib for node in inventory.nodes for gpu in node.gpus}
        if len(inventory.nodes) > 1:
            names = ", ".join(node.name for node in inventory.nodes)
            return (
                f"GpuRunLauncher starts processes on this machine alone, and the inventory has {len(inventory.nodes)} "
                f"nodes ({names}): keep one node in it, or use a launcher that reaches them all (K8sRunLauncher)."
            )
        return None

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        objection = _objection(run)
        if objection and is_gated(self._instance) and run.remote_job_origin:
            self._put_back(run, objection)
            return
        if objection:
            # Not our coordinator, or a run that none of Dagster's queues takes.
            self._instance.report_engine_event(f"This run sees no GPU: {objection}.", run, cls=self.__class__)
        self._probe_code_location(context)
        super().launch_run(context)

    def _put_back(self, run: DagsterRun, objection: str) -> None:
        message = f"Not started: {objection}. It is back in the queue, where the coordinator gives it devices."
        put_back(self._instance, run, message, by=self.__class__)

    def _probe_code_location(self, context: LaunchRunContext) -> None:
        """A worker loads its code itself, but this makes Dagster's retries for a location that is down possible.

        Without `max_user_code_failure_retries` nothing would be retried, and a run that needs no server gets a chance.

        Raises:
            DagsterUserCodeUnreachableError: the location has not loaded, or its server does not answer.
        """
        from dagster._core.remote_representation.code_location import GrpcServerCodeLocation

        origin = context.dagster_run.remote_job_origin
        coordinator = self._instance.run_coordinator
        if context.workspace is None or origin is None or not isinstance(coordinator, QueuedRunCoordinator):
            return
        # The base class's method: ours plans when it is called.
        queue = QueuedRunCoordinator.get_run_queue_config(coordinator)
        if queue is None or not queue.max_user_code_failure_retries:
            return
        entry = context.workspace.get_location_entry(origin.location_name)
        if entry is None or entry.code_location is None:
            why = entry.load_error.message if entry and entry.load_error else "it is not loaded"
            raise DagsterUserCodeUnreachableError(f"Code location {origin.location_name} cannot be used: {why}")
        if isinstance(entry.code_location, GrpcServerCodeLocation):
            entry.code_location.client.get_server_id(timeout=_PROBE_SECONDS)

    def _environment(self, run: DagsterRun) -> dict[str, str]:
        environment = dict(os.environ)
        admission = _admission_in_force(run)
        placement = admission.placement if admission else Placement()
        devices = [share.device for share in placement.gpus]
        memory = self._gpu_memory_mib.get(devices[0]) if len(devices) == 1 else None
        return environment | device_environment(
            devices,
            _milli(placement),
            node=next(iter(placement.nodes), ""),
            memory_mib=memory,
            inherited=environment,
            limit_memory=self._limit_gpu_memory,
        )

    def occupied_run_ids(self) -> set[str]:
        return set(self._processes.by_run())

    def reap(self, run_ids: Collection[str]) -> None:
        """Ends what outlives its run: call it at each look, with all occupied runs that have finished.

        A worker that has just reported its end first gets the grace to clean up. A server that a run started for later
        ones ends as well, so start such servers outside of runs. Returns at once.
        """
        self._ending.reap(run_ids)

    def evict(self, run: DagsterRun, reason: str) -> None:
        """Sends SIGTERM to the worker, waits for the grace, kills the rest, and reports a failure that Dagster retries.

        Returns at once; does nothing for a run that is being evicted already, or is not under way.
        """
        self._ending.evict(run.run_id, reason)

    def _look_for_retry_later(self, run_id: str) -> None:
        reminder = Timer(LOST_RETRY_SECONDS, self._ask_again_for_retry, [run_id])
        reminder.daemon = True
        reminder.start()

    def finish_evictions(self) -> list[str]:
        """Continues an earlier daemon's evictions; for the start of the only daemon, before it launches.

        Runs that the earlier daemon was launching and that have no process go back to the queue: they have not begun,
        and waiting for run monitoring's start time-out would leave their GPUs idle and cost them a retry.

        Returns:
            Ids of the runs whose eviction continues.
        """
        runs = unfinished_evictions(self._instance, since=datetime.now().astimezone() - _UNFINISHED_EVICTIONS)
        for run in runs:
            self.evict(run, "The daemon ended while it was preempted.")
        evicted = {run.run_id for run in runs}
        starting = self._instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTING]))
        # After the runs, so that a worker that began meanwhile is seen.
        passed_over = self.occupied_run_ids() | evicted
        for run in starting:
            if run.run_id not in passed_over and _admission_in_force(run):
                self._put_back(run, "the daemon ended while it was being launched")
        return sorted(evicted)


def _milli(placement: Placement) -> int:
    return max((share.milli for share in placement.gpus), default=0)


def _admission_in_force(run: DagsterRun) -> Admission | None:
    return admission_of(run) if run.tags.get(GATE_TAG) == ADMITTED else None


def _objection(run: DagsterRun) -> str | None:
    """Why a run may not be started; None: it may."""
    admission = _admission_in_force(run)
    if admission is None:
        return "no devices were promised to this run itself"
    if len(admission.placement.nodes) > 1:
        return f"its devices are on several machines ({', '.join(admission.placement.nodes)})"
    if admission.placement.gpus and run.tags.get(CUDA_VISIBLE_DEVICES_TAG) is None:
        return "its admission was not written to the end"
    return None
