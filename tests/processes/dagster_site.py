"""A Dagster instance with a real daemon and a real code server, in a directory of a test's own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._grpc.client import DagsterGrpcClient

from headrace_dagster.launchers.process_launcher import worker_of
from headrace_dagster.launchers.worker_process import kill_run

LOCATION = "runs_under_test"
CODE = Path(__file__).with_name("runs_under_test.py")
CHECKOUT = Path(__file__).parents[2]
# Generous: a start takes 5 s of CPU, and the machine may be busy with other tests.
WAIT_SECONDS = 90.0


@contextmanager
def dagster_site(directory: Path, code: Path = CODE) -> Iterator["DagsterSite"]:
    """The checkout's dagster.yaml with shorter intervals; one code server that daemons come and go around."""
    home = directory / "dagster_home"
    home.mkdir(parents=True)
    config = yaml.safe_load((CHECKOUT / "dagster_home/dagster.yaml").read_text())
    config["run_monitoring"]["poll_interval_seconds"] = 1
    config["run_launcher"]["config"]["termination_grace_seconds"] = 1
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    port = _free_port()
    target = GrpcServerTarget(host="localhost", port=port, socket=None, location_name=LOCATION)
    server = {"host": "localhost", "port": port, "location_name": LOCATION}
    (home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    command = ["-m", "dagster", "api", "grpc", "--python-file", str(code), "--port", str(port)]
    with ExitStack() as stack:
        # As the servers that Dagster starts itself; else runs would name a `dagster` that has to be on the PATH.
        code_server = _start(home, *command, "--use-python-environment-entry-point", log="code")
        stack.callback(_end, code_server)
        wait_until(lambda: _answers(port), "the code server answers")
        instance = stack.enter_context(DagsterInstance.from_config(str(home)))
        site = DagsterSite(home, instance, stack.enter_context(WorkspaceProcessContext(instance, target)))
        stack.callback(site.end_everything)
        yield site


class DagsterSite:
    def __init__(self, home: Path, instance: DagsterInstance, workspace: WorkspaceProcessContext) -> None:
        self.home = home
        self.instance = instance
        self._workspace = workspace
        self._daemon: subprocess.Popen[bytes] | None = None
        self._run_ids: list[str] = []

    def end_everything(self) -> None:
        if self._daemon:
            _end(self._daemon)
        for run_id in self._run_ids:
            kill_run(run_id, worker_of(self.run(run_id)))

    def start_daemon(self) -> None:
        workspace = str(self.home / "workspace.yaml")
        self._daemon = _start(self.home, "-m", "dagster._daemon", "run", "-w", workspace, log="daemon")
        # Its first look at a fresh instance ignores failures until then: they would never be retried.
        cursor = "EVENT_LOG_CONSUMER_CURSOR-PIPELINE_FAILURE"
        storage = self.instance.daemon_cursor_storage
        wait_until(lambda: storage.get_cursor_values({cursor}), "the daemon looks for failures to retry")

    def kill_daemon(self) -> None:
        assert self._daemon
        self._daemon.kill()
        self._daemon.wait()

    def submit(self, job_name: str, directory: Path, *, tags: Mapping[str, str] | None = None) -> str:
        """Queue a run of a job in the code location; its op is told to use `directory`."""
        run_id = self._create(job_name, directory, tags)
        self.instance.submit_run(run_id, self._workspace.create_request_context())
        return run_id

    def start_at_once(self, job_name: str, directory: Path, *, tags: Mapping[str, str] | None = None) -> str:
        """Launch a run past the queue."""
        run_id = self._create(job_name, directory, tags)
        self.instance.launch_run(run_id, self._workspace.create_request_context())
        return run_id

    def _create(self, job_name: str, directory: Path, tags: Mapping[str, str] | None) -> str:
        request = self._workspace.create_request_context()
        location = request.get_code_location(LOCATION)
        job = location.get_repository("__repository__").get_full_job(job_name)
        (op,) = job.job_snapshot.node_names
        run_config: dict[str, Any] = {"ops": {op: {"config": {"directory": str(directory)}}}}
        plan = location.get_execution_plan(
            job, run_config, step_keys_to_execute=None, known_state=None, instance=self.instance
        )
        run = create_run_for_test(
            self.instance,
            job_name=job_name,
            run_config=run_config,
            tags=tags,
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            job_snapshot=job.job_snapshot,
            execution_plan_snapshot=plan.execution_plan_snapshot,
        )
        self._run_ids.append(run.run_id)
        return run.run_id

    def run(self, run_id: str) -> DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run
        return run

    def wait_for(self, run_id: str, status: DagsterRunStatus) -> DagsterRun:
        wait_until(lambda: self.run(run_id).status in {status, *FINISHED_STATUSES}, f"run {run_id} is {status.value}")
        run = self.run(run_id)
        assert run.status == status, self.messages(run_id)
        return run

    def messages(self, run_id: str) -> str:
        return "\n".join(entry.message for entry in self.instance.all_logs(run_id))


def _start(home: Path, *arguments: str, log: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "DAGSTER_HOME": str(home), "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1"}
    with (home / f"{log}.log").open("ab") as output:
        return subprocess.Popen([sys.executable, *arguments], env=environment, cwd=home, stdout=output, stderr=output)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"Not within {WAIT_SECONDS:.0f} s: {what}."
        time.sleep(0.2)


def _answers(port: int) -> bool:
    try:
        DagsterGrpcClient(port=port, host="localhost").ping("")
    except Exception:  # noqa: BLE001 (whatever it is, it is not an answer)
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
