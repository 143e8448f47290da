"""A Dagster instance with a real daemon and code server, in its own directory; runs come as from the UI."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._grpc.client import DagsterGrpcClient

from pipelines.object_store import free_ports
from simulation.servers.processes import end_tidily

_LOCATION = "simulated"
# Generous: a start takes 5 s of CPU, and the machine may be busy.
_START_SECONDS_MAX = 120.0


class NotStarted(Exception):
    """A part of the site did not start; the message names its log."""


class DagsterSite:
    """`directory`: has the logs, and the instance in `dagster_home`; `code`: the file that the code server serves."""

    instance: DagsterInstance

    def __init__(self, directory: Path, code: Path, config: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.home = directory / "dagster_home"
        self.daemon_started_at = 0.0
        self._code = code
        self._environment = {
            **os.environ,
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1",
            **environment,
        }
        (self._port,) = free_ports(1)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._code_server: subprocess.Popen[bytes] | None = None
        self._jobs: dict[str, tuple[Any, str, Any]] = {}
        self.home.mkdir(parents=True)
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(config))
        server = {"host": "localhost", "port": self._port, "location_name": _LOCATION}
        (self.home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Starts the code server, but not the daemon."""
        target = GrpcServerTarget(host="localhost", port=self._port, socket=None, location_name=_LOCATION)
        with ExitStack() as stack:
            stack.callback(self.end_servers)
            self.start_code_server()
            self.instance = stack.enter_context(DagsterInstance.from_config(str(self.home)))
            workspace = stack.enter_context(WorkspaceProcessContext(self.instance, target))
            self._workspace = workspace.create_request_context()
            yield

    def start_code_server(self) -> None:
        # As Dagster starts its own servers; otherwise runs would need a `dagster` on the PATH.
        command = ["api", "grpc", "--python-file", str(self._code), "--port", str(self._port)]
        self._code_server = self._start("dagster", *command, "--use-python-environment-entry-point", log="code")
        self._wait(self._answers, self._code_server, "code")

    def start_daemon(self) -> None:
        workspace = str(self.home / "workspace.yaml")
        self._daemon = self._start("dagster._daemon", "run", "-w", workspace, log="daemon")
        self.daemon_started_at = time.monotonic()

    def wait_for_daemon(self) -> None:
        """Waits for its first look at a new instance, which ignores earlier failures: they would never be retried."""
        assert self._daemon
        cursor = "EVENT_LOG_CONSUMER_CURSOR-PIPELINE_FAILURE"
        storage = self.instance.daemon_cursor_storage
        self._wait(lambda: bool(storage.get_cursor_values({cursor})), self._daemon, "daemon")

    def daemon_ended(self) -> bool:
        return self._daemon is None or self._daemon.poll() is not None

    def kill_daemon(self) -> None:
        assert self._daemon
        self._daemon.kill()
        self._daemon.wait()

    def kill_code_server(self) -> None:
        assert self._code_server
        self._code_server.kill()
        self._code_server.wait()

    def end_servers(self) -> None:
        for process in (self._daemon, self._code_server):
            if process:
                end_tidily(process)

    def queue_run(self, job_name: str, op_config: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> str:
        """Queues a run of a job with one op."""
        run_id = self._create(job_name, op_config, tags)
        self.instance.submit_run(run_id, self._workspace)
        return run_id

    def launch_run(self, job_name: str, op_config: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> str:
        """Launches a run without queueing."""
        run_id = self._create(job_name, op_config, tags)
        self.instance.launch_run(run_id, self._workspace)
        return run_id

    def _create(self, job_name: str, op_config: Mapping[str, Any], tags: Mapping[str, str] | None) -> str:
        if job_name not in self._jobs:
            # Read once, since a code server may be away at times.
            location = self._workspace.get_code_location(_LOCATION)
            job = location.get_repository("__repository__").get_full_job(job_name)
            (op,) = job.job_snapshot.node_names
            plan = location.get_execution_plan(
                job, _run_config(op, op_config), step_keys_to_execute=None, known_state=None, instance=self.instance
            )
            self._jobs[job_name] = (job, op, plan.execution_plan_snapshot)
        job, op, plan_snapshot = self._jobs[job_name]
        run = create_run_for_test(
            self.instance,
            job_name=job_name,
            run_config=_run_config(op, op_config),
            tags=dict(tags or {}),
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            job_snapshot=job.job_snapshot,
            execution_plan_snapshot=plan_snapshot,
        )
        return run.run_id

    def _start(self, module: str, *arguments: str, log: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{log}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=self._environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the parent, which ends its processes in order
            )

    def _wait(self, is_there: Callable[[], bool], process: subprocess.Popen[bytes], log: str) -> None:
        deadline = time.monotonic() + _START_SECONDS_MAX
        while not is_there():
            if time.monotonic() > deadline or process.poll() is not None:
                raise NotStarted(f"The {log} server does not come up; its log: {self.directory / f'{log}.log'}.")
            time.sleep(0.2)

    def _answers(self) -> bool:
        with suppress(Exception):  # any error means that there is no answer
            DagsterGrpcClient(port=self._port, host="localhost").ping("")
            return True
        return False


def _run_config(op: str, op_config: Mapping[str, Any]) -> dict[str, Any]:
    return {"ops": {op: {"config": dict(op_config)}}}
