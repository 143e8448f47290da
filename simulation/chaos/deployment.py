"""A real deployment as a target: its processes, its runs' processes, and a user who cancels runs as in the UI."""

import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import yaml
from dagster import DagsterRun, DagsterRunStatus

from simulation.chaos.observer import MARKER, Kernel, environment, is_alive
from simulation.dagster_site import DagsterSite
from simulation.servers.processes import ROOT

GPUS = "4xH100:81559"
JOB = "chaos"
_HERE = Path(__file__).parent


@contextmanager
def deployment(directory: Path) -> Iterator["Deployment"]:
    site = Deployment(directory, f"{os.getpid()}-{time.time_ns()}")
    try:
        with site.running():
            site.start_daemon()
            site.wait_for_daemon()
            yield site
            site.end_everything()
    finally:
        site.end_everything()


class Deployment(DagsterSite):
    """`marker`: an environment value of all its processes."""

    def __init__(self, directory: Path, marker: str) -> None:
        (directory / "devices").mkdir(parents=True)
        config = yaml.safe_load((_HERE / "dagster.yaml").read_text())
        # Runs import the job's module from its file.
        variables = {"HEADRACE_GPUS": GPUS, MARKER: marker, "PYTHONPATH": str(ROOT)}
        super().__init__(directory, _HERE / "jobs.py", config, variables)
        self.marker = marker
        self.kernel = Kernel(marker)
        self._cancels: list[Thread] = []

    def submit(self, tags: Mapping[str, str], op_config: Mapping[str, Any]) -> str:
        return self.queue_run(JOB, {"directory": str(self.directory / "devices"), **op_config}, tags)

    def restart_daemon(self) -> bool:
        self.kill_daemon()
        self.start_daemon()
        return True

    def restart_code_server(self) -> bool:
        self.kill_code_server()
        self.start_code_server()
        return True

    def kill_worker(self, chance: random.Random) -> bool:
        """Mostly kills a run's worker, which leads a session; otherwise another process of a run."""
        processes = self.kernel.processes()
        leaders = [process for process in processes if _leads_a_session(process.pid)]
        chosen = leaders if leaders and chance.random() < 0.8 else processes
        return bool(chosen) and _kill(chance.choice(chosen).pid)

    def kill_template(self) -> bool:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if "headrace_dagster.launchers.worker_template" in process.cmdline():
                    values = environment(process.pid)
                    # Its forks have its command line, and also a run.
                    if values.get(MARKER) == self.marker and values.get("HEADRACE_RUN_ID", "").startswith("-"):
                        return _kill(process.pid)
        return False

    def cancel(self, run: DagsterRun) -> bool:
        """Cancels as the UI does: from another process than the daemon, and slowly."""
        thread = Thread(target=self._cancel, args=(run.run_id,), daemon=True)
        thread.start()
        self._cancels.append(thread)
        return True

    def _cancel(self, run_id: str) -> None:
        with suppress(Exception):  # it may have ended or been launched meanwhile
            self.instance.run_coordinator.cancel_run(run_id)

    def end_everything(self) -> None:
        deadline = time.monotonic() + 30
        for thread in self._cancels:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        self.end_servers()
        deadline = time.monotonic() + 10
        while (left := self.kernel.processes()) and time.monotonic() < deadline:
            for process in left:
                if is_alive(process):
                    _kill(process.pid)
            time.sleep(0.1)


def attempts_of(runs: list[DagsterRun]) -> dict[str, list[DagsterRun]]:
    """Attempts by their first run, in order: a retry names its parent."""
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
    """Whether nothing more will happen to it: a failure that Dagster retries is not the end."""
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
