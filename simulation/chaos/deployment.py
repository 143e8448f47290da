"""A real deployment to be hurt: daemon and code server as processes, runs submitted and canceled as the UI does it."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._grpc.client import DagsterGrpcClient

from simulation.chaos.observer import MARKER, Kernel, environment, is_alive
from simulation.servers.processes import ROOT, free_ports

GPUS = "4xH100:81559"
_CODE = Path(__file__).with_name("jobs.py")
_LOCATION = "chaos"
_CONFIG = Path(__file__).with_name("dagster.yaml")


class NotStarted(Exception):
    """A part of the deployment does not come up; the message names its log."""


@contextmanager
def deployment(directory: Path) -> Iterator["Deployment"]:
    marker = f"{os.getpid()}-{time.time_ns()}"
    home = directory / "home"
    (directory / "devices").mkdir(parents=True)
    home.mkdir()
    shutil.copy(_CONFIG, home)
    (port,) = free_ports(1)
    server = {"host": "localhost", "port": port, "location_name": _LOCATION}
    (home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    with ExitStack() as stack:
        site = Deployment(directory, marker, port)
        stack.callback(site.end_everything)
        site.start_code_server()
        site.start_daemon()
        instance = stack.enter_context(DagsterInstance.from_config(str(home)))
        target = GrpcServerTarget(host="localhost", port=port, socket=None, location_name=_LOCATION)
        site.wait_for_daemon(instance)
        site.connect(instance, stack.enter_context(WorkspaceProcessContext(instance, target)))
        yield site


class Deployment:
    def __init__(self, directory: Path, marker: str, port: int) -> None:
        self.directory = directory
        self.marker = marker
        self.kernel = Kernel(marker)
        self.daemon_started_at = 0.0
        self._port = port
        self._daemon: subprocess.Popen[bytes] | None = None
        self._code_server: subprocess.Popen[bytes] | None = None
        self._cancels: list[Thread] = []

    def connect(self, instance: DagsterInstance, workspace: WorkspaceProcessContext) -> None:
        """Reads the job once: its code server will be away at times."""
        self.instance = instance
        self._workspace = workspace.create_request_context()
        location = self._workspace.get_code_location(_LOCATION)
        self._job = location.get_repository("__repository__").get_full_job("chaos")
        config = self._run_config({"seconds": 1.0})
        self._plan = location.get_execution_plan(
            self._job, config, step_keys_to_execute=None, known_state=None, instance=instance
        )

    def submit(self, tags: Mapping[str, str], op_config: Mapping[str, Any]) -> str:
        run = create_run_for_test(
            self.instance,
            job_name="chaos",
            run_config=self._run_config(op_config),
            tags=dict(tags),
            remote_job_origin=self._job.get_remote_origin(),
            job_code_origin=self._job.get_python_origin(),
            job_snapshot=self._job.job_snapshot,
            execution_plan_snapshot=self._plan.execution_plan_snapshot,
        )
        self.instance.submit_run(run.run_id, self._workspace)
        return run.run_id

    def start_code_server(self) -> None:
        command = ["-m", "dagster", "api", "grpc", "--python-file", str(_CODE), "--port", str(self._port)]
        self._code_server = self._start(*command, "--use-python-environment-entry-point", log="code")
        deadline = time.monotonic() + 120
        while not self._answers():
            if time.monotonic() > deadline or self._code_server.poll() is not None:
                raise NotStarted(f"The code server does not answer; its log: {self.directory / 'code.log'}.")
            time.sleep(0.2)

    def start_daemon(self) -> None:
        workspace = str(self.directory / "home/workspace.yaml")
        self._daemon = self._start("-m", "dagster._daemon", "run", "-w", workspace, log="daemon")
        self.daemon_started_at = time.monotonic()

    def wait_for_daemon(self, instance: DagsterInstance) -> None:
        """Its first look at a fresh instance ignores failures until then: they would never be retried."""
        cursor = "EVENT_LOG_CONSUMER_CURSOR-PIPELINE_FAILURE"
        deadline = time.monotonic() + 120
        while not instance.daemon_cursor_storage.get_cursor_values({cursor}):
            if time.monotonic() > deadline or self.daemon_ended():
                raise NotStarted(f"The daemon does not work; its log: {self.directory / 'daemon.log'}.")
            time.sleep(0.2)

    def daemon_ended(self) -> bool:
        return self._daemon is None or self._daemon.poll() is not None

    def kill_daemon(self) -> bool:
        assert self._daemon
        self._daemon.kill()
        self._daemon.wait()
        self.start_daemon()
        return True

    def kill_code_server(self) -> bool:
        assert self._code_server
        self._code_server.kill()
        self._code_server.wait()
        self.start_code_server()
        return True

    def kill_worker(self, chance: random.Random) -> bool:
        """Mostly a run's worker, which leads a session; else anything that it started."""
        processes = self.kernel.processes()
        leaders = [process for process in processes if _leads_a_session(process.pid)]
        chosen = leaders if leaders and chance.random() < 0.8 else processes
        return bool(chosen) and _kill(chance.choice(chosen).pid)

    def kill_template(self) -> bool:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if "headrace_dagster.launchers.worker_template" in process.cmdline():
                    values = environment(process.pid)
                    # Its forks have its command line, and a run.
                    if values.get(MARKER) == self.marker and values.get("HEADRACE_RUN_ID", "").startswith("-"):
                        return _kill(process.pid)
        return False

    def cancel(self, run: DagsterRun) -> bool:
        """As the UI does: from another process than the daemon, and slowly."""
        thread = Thread(target=self._cancel, args=(run.run_id,), daemon=True)
        thread.start()
        self._cancels.append(thread)
        return True

    def _cancel(self, run_id: str) -> None:
        with suppress(Exception):  # it may have ended, or be launched, meanwhile
            self.instance.run_coordinator.cancel_run(run_id)

    def end_everything(self) -> None:
        deadline = time.monotonic() + 30
        for thread in self._cancels:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        for process in (self._daemon, self._code_server):
            if process:
                _end(process)
        deadline = time.monotonic() + 10
        while (left := self.kernel.processes()) and time.monotonic() < deadline:
            for process in left:
                if is_alive(process):
                    _kill(process.pid)
            time.sleep(0.1)

    def _run_config(self, op_config: Mapping[str, Any]) -> dict[str, Any]:
        return {"ops": {"work": {"config": {"directory": str(self.directory / "devices"), **op_config}}}}

    def _start(self, *arguments: str, log: str) -> subprocess.Popen[bytes]:
        variables = {
            "DAGSTER_HOME": str(self.directory / "home"),
            "HEADRACE_GPUS": GPUS,
            MARKER: self.marker,
            "PYTHONPATH": str(ROOT),
            "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1",
        }
        with (self.directory / f"{log}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **variables},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the benchmark, which ends its processes in order
            )

    def _answers(self) -> bool:
        with suppress(Exception):
            DagsterGrpcClient(port=self._port, host="localhost").ping("")
            return True
        return False


def attempts_of(runs: list[DagsterRun]) -> dict[str, list[DagsterRun]]:
    """By first run, in order of attempt: a retry names its parent."""
    by_parent = {run.parent_run_id: run for run in runs if run.parent_run_id}
    found = {}
    for run in runs:
        if run.parent_run_id:
            continue
        chain = [run]
        while chain[-1].run_id in by_parent:
            chain.append(by_parent[chain[-1].run_id])
        found[run.run_id] = chain
    return found


def is_over(last: DagsterRun) -> bool:
    """Nothing more will become of it: a failure that Dagster retries is no end."""
    will_be_retried = last.status == DagsterRunStatus.FAILURE and last.tags.get("dagster/will_retry") == "true"
    return last.is_finished and not will_be_retried


def _leads_a_session(pid: int) -> bool:
    with suppress(ProcessLookupError):
        return os.getsid(pid) == pid
    return False


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
