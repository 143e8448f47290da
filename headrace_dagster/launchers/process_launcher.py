"""Starts each run as its own process on this machine, and knows whether that process still lives.

Dagster's default launcher starts runs inside the code server and does not notice that one died: a killed worker's run
holds its slot forever, and a killed code server takes all of its runs along. Here a run's worker is a process in its
own session, recorded in the run tag `headrace/worker` before it executes anything. So a killed daemon, webserver or
code server harms no run, and run monitoring (`run_monitoring: enabled: true`) fails the run of a dead worker; with
`run_retries` on, Dagster then starts it again.

For one machine: a worker recorded under another boot counts as gone. Two machines that launch for one instance would
fail each other's runs; use `K8sRunLauncher` there. Runs that nobody launched (`dg launch` and `dagster asset
materialize` execute in the caller's process) have no record, and are left alone.
"""

import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread, Timer
from typing import Any, Self

import dagster._check as check
from dagster import Bool, DagsterInstance, DagsterRun, DagsterRunStatus, Field, Float, MetadataValue, RunsFilter
from dagster._config import StringSource, UserConfigSchema
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.events import EngineEventData
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from headrace_dagster.launchers.signs_of_life import (
    SILENT_AFTER_SECONDS,
    SILENT_TAG,
    SignsOfLife,
    Silence,
    recorded_silence,
    silence_tag,
)
from headrace_dagster.launchers.warm_worker import TemplateGone, WarmWorkers
from headrace_dagster.launchers.worker_process import (
    WORKER_RECORD,
    ColdWorker,
    HeldWorker,
    WorkerProcess,
    interrupt,
    kill_run,
)
from headrace_dagster.run_records import own_record

WORKER_TAG = ".dagster/headrace/worker"
"""The run's process: host, pid and start time."""
CUDA_VISIBLE_DEVICES_TAG = "headrace/cuda_visible_devices"
"""The run's CUDA_VISIBLE_DEVICES; a launcher of GPUs writes it. With the plain process launcher you may set it."""
# Enough for a person to see why a worker died: a traceback or a rank's last words, not the whole log.
_NUM_LOG_LINES = 20
_HELD_WORKER_END_SECONDS = 2.0
# The retrying daemon looks every 5 seconds.
LOST_RETRY_SECONDS = 20.0
_UNDER_WAY = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]


class ProcessRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """`run_launcher: {module: headrace_dagster, class: ProcessRunLauncher}` in dagster.yaml."""

    def __init__(
        self,
        log_directory: str = "logs/runs",
        termination_grace_seconds: float = 20.0,
        warm_start: bool = False,
        silent_after_seconds: float = SILENT_AFTER_SECONDS,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        super().__init__()
        self._log_directory = log_directory
        self._termination_grace_seconds = termination_grace_seconds
        self._inst_data = inst_data
        self._warm_start = warm_start
        self._warm_workers: WarmWorkers | None = None
        self._exit_codes: dict[str, int | None] = {}
        self._signs_of_life = SignsOfLife(silent_after_seconds)

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {
            "log_directory": Field(
                StringSource,
                default_value="logs/runs",
                description="Where each worker's output goes, as RUN_ID.log; relative to DAGSTER_HOME.",
            ),
            "termination_grace_seconds": Field(
                Float,
                default_value=20.0,
                description="How long a worker may take to stop before every process of its run is killed.",
            ),
            "warm_start": Field(
                Bool,
                default_value=False,
                description="Fork workers from a process that has imported Dagster; saves 1.5 CPU seconds a run.",
            ),
            "silent_after_seconds": Field(
                Float,
                default_value=SILENT_AFTER_SECONDS,
                description="A run whose processes use no CPU for so long is shown as giving no sign of life; 0: only "
                "one whose worker is stopped. It ends at its dagster/max_runtime, or when somebody cancels it.",
            ),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data, **config_value)

    def log_path(self, run_id: str) -> Path:
        return Path(self._instance.root_directory, self._log_directory, f"{run_id}.log").resolve()

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        command = ExecuteRunArgs(
            job_origin=check.not_none(run.job_code_origin), run_id=run.run_id, instance_ref=self._instance.get_ref()
        ).get_command_args()
        log = self.log_path(run.run_id)
        log.parent.mkdir(parents=True, exist_ok=True)

        # Everything that can fail comes before the release: an exception here fails the run, and no worker must outlive
        # that.
        held = self._hold_worker(run, command, log)
        try:
            self._instance.add_run_tags(run.run_id, {WORKER_TAG: held.identity.to_json()})
            self._instance.report_engine_event(
                f"Started worker process {held.identity.pid}.",
                run,
                EngineEventData({"pid": MetadataValue.text(str(held.identity.pid)), "log": MetadataValue.path(log)}),
                cls=self.__class__,
            )
        except BaseException:
            held.abandon()
            raise
        held.release()
        Thread(target=self._wait_for_end, args=(run.run_id, held), name=f"worker-{run.run_id}", daemon=True).start()

    def _hold_worker(self, run: DagsterRun, command: Sequence[str], log: Path) -> HeldWorker:
        environment = self._environment(run)
        program, *arguments = command
        path = _find_program(program)
        if path is None:
            raise DagsterLaunchFailedError(
                f"Run {run.run_id} is to be executed by {program!r}, and no such program is here. Start its code "
                "server with --use-python-environment-entry-point, or put the program on the daemon's PATH."
            )
        own_arguments = _arguments_of_own_dagster(path, arguments)
        if self._warm_start and own_arguments is not None:
            if self._warm_workers is None:
                self._warm_workers = WarmWorkers(log.with_name("template.log"))
            try:
                return self._warm_workers.hold(run.run_id, own_arguments, environment=environment, log=log)
            except TemplateGone as error:
                self._instance.report_engine_event(f"{error} Started cold.", run, cls=self.__class__)
        return ColdWorker(run.run_id, [path, *arguments], environment=environment, log=log)

    def _environment(self, run: DagsterRun) -> dict[str, str]:
        environment = dict(os.environ)
        if CUDA_VISIBLE_DEVICES_TAG in run.tags:
            # "" means none; an unset variable would mean all GPUs.
            environment["CUDA_VISIBLE_DEVICES"] = run.tags[CUDA_VISIBLE_DEVICES_TAG]
        return environment

    def terminate(self, run_id: str) -> bool:
        """Stops a run: SIGTERM to its worker, then SIGKILL to all its remaining processes, in any session.

        Returns:
            False if the run had already ended, another process executes it, or a process survives SIGKILL.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        worker = worker_of(run)
        if worker is None and run.status == DagsterRunStatus.STARTED:
            message = "Not started by this launcher: stop it in the process that executes it."
            self._instance.report_engine_event(message, run, cls=self.__class__)
            return False
        self._instance.report_run_canceling(run)
        if worker:
            interrupt(worker, grace_seconds=self._termination_grace_seconds)
        _, survivors = kill_run(run_id, worker)
        if survivors:
            message = f"Processes {survivors} of this run outlive SIGKILL: they wait on a device or on a mount."
            self._instance.report_engine_event(message, run, cls=self.__class__)
            return False
        # A worker that had time to stop has reported that itself.
        if not check.not_none(self._instance.get_run_by_id(run_id)).is_finished:
            self._instance.report_run_canceled(run, "Run canceled; its processes were killed.")
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's worker lives. First kills what a dead one left: its successor may need the memory."""
        worker = worker_of(run)
        if worker is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "Not started by this launcher: its process is unknown.")
        if worker.is_alive():
            silence = self._note_silence(run, worker)
            return CheckRunHealthResult(WorkerStatus.RUNNING, silence and silence.what, run_worker_id=str(worker.pid))
        self._signs_of_life.forget(run.run_id)
        killed, survivors = kill_run(run.run_id, worker)
        message = _epitaph(worker, self._exit_codes.pop(run.run_id, None), killed, survivors)
        reminder = Timer(LOST_RETRY_SECONDS, self._ask_again_for_retry, [run.run_id])
        reminder.daemon = True
        reminder.start()
        return CheckRunHealthResult(WorkerStatus.FAILED, message, run_worker_id=str(worker.pid))

    def _note_silence(self, run: DagsterRun, worker: WorkerProcess) -> Silence | None:
        silence = self._signs_of_life.silence_of(run.run_id, worker)
        if silence == recorded_silence(run):
            return silence
        self._instance.add_run_tags(run.run_id, {SILENT_TAG: silence_tag(run.run_id, silence)})
        message = f"No sign of life: {silence.what}." if silence else "The run gives signs of life again."
        self._instance.report_engine_event(message, run, cls=self.__class__)
        return silence

    def _ask_again_for_retry(self, run_id: str) -> None:
        """Repeats the failure's event if the retry that it should have caused is missing.

        Dagster writes the event first and the run's status after. If the retrying daemon reads the event in between, it
        finds a run that has not failed, and never looks at it again.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.status != DagsterRunStatus.FAILURE or AUTO_RETRY_RUN_ID_TAG in run.tags:
            return
        if run.tags.get(WILL_RETRY_TAG) == "true":
            self._instance.report_run_failed(run, "The retry of this run was lost; it is asked for again.")

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        log = self.log_path(run.run_id)
        if not log.exists():
            return None
        with log.open(errors="replace") as lines:
            last_lines = "".join(deque(lines, maxlen=_NUM_LOG_LINES))
        return f"Last lines of {log}:\n{last_lines}"

    def dispose(self) -> None:
        """For the daemon's end; its runs continue."""
        if self._warm_workers:
            self._warm_workers.close()

    def _wait_for_end(self, run_id: str, held: HeldWorker) -> None:
        """Reaps the worker, and ends a run whose worker never began.

        Run monitoring only checks workers of STARTED runs: a worker that cannot import its code, or is killed
        meanwhile, would keep its slot until `start_timeout_seconds`.
        """
        exit_code = held.wait()
        if exit_code is None:
            # The template has ended. A worker that it still held ends at once; any other continues.
            time.sleep(_HELD_WORKER_END_SECONDS)
        if not self.has_instance or held.identity.is_alive():
            return
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return
        if run.status == DagsterRunStatus.STARTING:
            killed, survivors = kill_run(run_id, held.identity)
            message = _epitaph(held.identity, exit_code, killed, survivors)
            self._instance.report_run_failed(run, f"{message}\n{self.get_run_worker_debug_info(run) or ''}")
        else:
            self._exit_codes[run_id] = exit_code


def worker_of(run: DagsterRun) -> WorkerProcess | None:
    """The worker recorded for this run, if one was started."""
    return own_record(run, WORKER_TAG, WORKER_RECORD)


def fail_runs_of_dead_workers(instance: DagsterInstance) -> list[str]:
    """Ends the runs that a crash of the machine or session left behind, without waiting for run monitoring.

    For a start before any daemon runs: a run between STARTING and its worker's record counts as left behind.

    Returns:
        Ids of the runs that were failed (or canceled, if that had been requested).
    """
    ended = []
    for run in instance.get_runs(RunsFilter(statuses=_UNDER_WAY)):
        worker = worker_of(run)
        if (worker and worker.is_alive()) or (worker is None and run.status == DagsterRunStatus.STARTED):
            continue
        _, survivors = kill_run(run.run_id, worker)
        message = _epitaph(worker, None, [], survivors) if worker else "The launcher ended before it started a worker."
        if run.status == DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message)
        else:
            instance.report_run_failed(run, message)
        ended.append(run.run_id)
    return ended


def _find_program(name: str) -> str | None:
    """Searches like a shell, but first beside our own Python, since daemons often lack their environment's PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _arguments_of_own_dagster(path: str, arguments: list[str]) -> list[str] | None:
    """The arguments after `dagster`, if the command is our own environment's Dagster."""
    if path == sys.executable and arguments[:2] == ["-m", "dagster"]:
        return arguments[2:]
    return arguments if Path(path) == Path(sys.executable).with_name("dagster") else None


def _epitaph(worker: WorkerProcess, exit_code: int | None, killed: list[int], survivors: list[int]) -> str:
    how = ""
    if exit_code is not None:
        how = f": {signal.Signals(-exit_code).name}" if exit_code < 0 else f": exit code {exit_code}"
    if exit_code == -signal.SIGKILL:
        how += " (if nobody sent it, the machine ran out of memory)"
    message = f"Worker process {worker.pid} on {worker.host} is gone{how}."
    if killed:
        message += f" Killed what it left behind: {killed}."
    if survivors:
        message += f" Processes {survivors} outlive SIGKILL: they wait on a device or on a mount."
    return message
