"""Ends runs' processes in the daemon's background: those that outlive their run, and those of preempted runs.

Only this process knows what it is ending. That is enough: a new daemon finds the same processes and records, and begins
again.
"""

import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from threading import Lock, Thread

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from headrace_dagster.launchers.eviction import UNDER_WAY, is_being_evicted, record_eviction, report_evicted
from headrace_dagster.launchers.process_launcher import worker_of
from headrace_dagster.launchers.run_processes import RunProcesses
from headrace_dagster.launchers.worker_process import interrupt, kill_run

_KILL_WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.05


class RunEnding:
    """`instance` is called when it is needed; `when_evicted` gets the id of each run that awaits its retry."""

    def __init__(
        self,
        *,
        instance: Callable[[], DagsterInstance],
        processes: RunProcesses,
        grace_seconds: float,
        when_evicted: Callable[[str], None],
    ) -> None:
        self._instance_now = instance
        self._processes = processes
        self._grace_seconds = grace_seconds
        self._when_evicted = when_evicted
        self._lock = Lock()
        self._lingering_since: dict[str, float] = {}
        self._being_ended: set[str] = set()

    def reap(self, run_ids: Collection[str]) -> None:
        """Ends what outlives its run, after the grace: for all that linger now. Returns at once."""
        now = time.monotonic()
        with self._lock:
            self._lingering_since = {
                run_id: self._lingering_since.get(run_id, now) for run_id in run_ids if run_id not in self._being_ended
            }
            expired = [run_id for run_id, since in self._lingering_since.items() if now - since >= self._grace_seconds]
        for run_id in expired:
            self._in_background(run_id, lambda instance, run: self._end_lingering(instance, run))

    def evict(self, run_id: str, reason: str) -> None:
        """Returns at once; does nothing for a run that is being ended already."""
        self._in_background(run_id, lambda instance, run: self._evict(instance, run, reason))

    def _in_background(self, run_id: str, work: Callable[[DagsterInstance, DagsterRun], None]) -> None:
        with self._lock:
            if run_id in self._being_ended:
                return
            self._being_ended.add(run_id)

        def end() -> None:
            try:
                instance = self._instance_now()
                run = instance.get_run_by_id(run_id)
                if run is not None:
                    work(instance, run)
            finally:
                with self._lock:
                    self._being_ended.discard(run_id)

        Thread(target=end, name=f"end-{run_id}", daemon=True).start()

    def _end_lingering(self, instance: DagsterInstance, run: DagsterRun) -> None:
        if not run.is_finished:
            return
        killed, survivors = self._kill(run)
        message = f"Killed what outlived this run by {self._grace_seconds:g} s: {killed}."
        if survivors:
            message += f" {_unkillable(survivors)}"
        instance.report_engine_event(message, run)

    def _evict(self, instance: DagsterInstance, run: DagsterRun, reason: str) -> None:
        if run.status not in UNDER_WAY and not is_being_evicted(run):
            return
        worker = worker_of(run)
        if worker is None and run.status == DagsterRunStatus.STARTED:
            return  # not started by this launcher
        record_eviction(instance, run, time.time())
        message = f"Preempted, to be retried from failure. {reason}"
        instance.report_engine_event(message, run)
        if worker:
            interrupt(worker, grace_seconds=self._grace_seconds)
        _, survivors = self._kill(run)
        if survivors:
            instance.report_engine_event(_unkillable(survivors), run)
        if report_evicted(instance, run.run_id, message):
            self._when_evicted(run.run_id)

    def _kill(self, run: DagsterRun) -> tuple[list[int], list[int]]:
        """As `kill_run`, and also kills processes that only our longer memory assigns to the run."""
        killed, survivors = kill_run(run.run_id, worker_of(run))
        deadline = time.monotonic() + _KILL_WAIT_SECONDS
        while left := self._processes.by_run().get(run.run_id):
            pids = [pid for pid, _ in left]
            if time.monotonic() > deadline:
                return sorted({*killed, *pids}), sorted(pids)
            for pid in pids:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(_POLL_SECONDS)
        return sorted(set(killed)), survivors


def _unkillable(pids: list[int]) -> str:
    return f"Processes {pids} outlive SIGKILL: they wait on a device or on a mount."
