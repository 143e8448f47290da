"""Whether a live worker does anything: a run with stopped or sleeping processes is reported, and not taken for busy.

This is checked whenever run monitoring checks that the worker lives. Processes that use no CPU time for minutes show no
sign of life: a deadlock, a mount that is gone, a server that never answers, SIGSTOP. That is shown but nothing is
ended, since what the run waits for may still come. It ends at Dagster's maximum runtime (`dagster/max_runtime`), or by
a person.

An endless loop looks alive; the maximum runtime ends it. After a daemon's restart, earlier observations are lost and
made again.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from headrace.store.small_objects import Record
from headrace_dagster.launchers.worker_process import WorkerProcess, processes_of_run
from headrace_dagster.run_records import TaggedRun, own_record

SILENT_TAG = "headrace/silent"
"""Since when the run's processes have done nothing."""
SILENT_AFTER_SECONDS = 600.0
# Each look reads the environment of every process on the machine.
_LOOK_SECONDS = 30.0
# An otherwise idle worker renews leases and the like; more than a thousandth of a core is work.
_IDLE_CPU_SHARE = 0.001
_STATES = {
    psutil.STATUS_STOPPED: "is stopped (kill -CONT {pid} lets it go on)",
    psutil.STATUS_TRACING_STOP: "is stopped by a debugger",
    psutil.STATUS_DISK_SLEEP: "waits on a disk, a device or a mount",
}


@dataclass(frozen=True, kw_only=True)
class Silence:
    """No sign of life. `since`: seconds since the Unix epoch; `what`: the rest of a sentence about the worker."""

    since: float
    what: str


@dataclass(frozen=True, kw_only=True)
class _Tag(Silence):
    run_id: str


_RECORD = Record("Silence", _Tag)


@dataclass(kw_only=True)
class _Seen:
    looked_at: float
    cpu_seconds: float
    alive_at: float
    silence: Silence | None = None


class SignsOfLife:
    """One daemon's memory of its runs' processes."""

    def __init__(
        self,
        silent_after_seconds: float = SILENT_AFTER_SECONDS,
        *,
        clock: Callable[[], float] = time.time,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        self._silent_after_seconds = silent_after_seconds
        self._clock = clock
        self._look_seconds = look_seconds
        self._seen: dict[str, _Seen] = {}

    def silence_of(self, run_id: str, worker: WorkerProcess) -> Silence | None:
        now = self._clock()
        seen = self._seen.get(run_id)
        if seen and now - seen.looked_at < self._look_seconds:
            return seen.silence
        processes = processes_of_run(run_id, worker)
        cpu_seconds, state = _cpu_seconds(processes), _state(worker.pid)
        if seen is None:
            seen = self._seen[run_id] = _Seen(looked_at=now, cpu_seconds=cpu_seconds, alive_at=now)
        # Fewer CPU seconds mean that a process has ended, which is a sign of life too.
        elif abs(cpu_seconds - seen.cpu_seconds) > _IDLE_CPU_SHARE * (now - seen.looked_at):
            seen.alive_at = now
        seen.looked_at, seen.cpu_seconds = now, cpu_seconds
        is_stopped = state in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        is_silent = is_stopped or now - seen.alive_at >= self._silent_after_seconds > 0
        what = _STATES.get(state, "sleeps").format(pid=worker.pid)
        since = seen.silence.since if seen.silence else seen.alive_at
        seen.silence = Silence(since=since, what=f"worker process {worker.pid} {what}") if is_silent else None
        return seen.silence

    def forget(self, run_id: str) -> None:
        self._seen.pop(run_id, None)


def silence_tag(run_id: str, silence: Silence | None) -> str:
    """Includes the run's id, since a retry starts with its parent's tags."""
    return json.dumps({"run_id": run_id, "since": silence.since, "what": silence.what}) if silence else ""


def recorded_silence(run: TaggedRun) -> Silence | None:
    """The run's silence at its launcher's last look."""
    found = own_record(run, SILENT_TAG, _RECORD)
    return Silence(since=found.since, what=found.what) if found else None


def _cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue  # gone meanwhile, or another user's
        total += times.user + times.system
    return total


def _state(pid: int) -> str:
    try:
        return psutil.Process(pid).status()
    except psutil.Error:
        return ""
