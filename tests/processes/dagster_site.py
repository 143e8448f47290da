"""A Dagster instance with a real daemon and a real code server, in a directory of a test's own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from dagster import DagsterRun, DagsterRunStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from headrace_dagster.launchers.process_launcher import worker_of
from headrace_dagster.launchers.worker_process import kill_run
from simulation import dagster_site as simulated
from tests.waiting import eventually

CODE = Path(__file__).with_name("runs_under_test.py")
CHECKOUT = Path(__file__).parents[2]
# Generous: a start takes 5 s of CPU, and the machine may be busy with other tests.


@contextmanager
def dagster_site(directory: Path, code: Path = CODE) -> Iterator["DagsterSite"]:
    """The checkout's dagster.yaml with shorter intervals; one code server that daemons come and go around."""
    config = yaml.safe_load((CHECKOUT / "dagster_home/dagster.yaml").read_text())
    config["run_monitoring"]["poll_interval_seconds"] = 1
    config["run_launcher"]["config"]["termination_grace_seconds"] = 1
    site = DagsterSite(directory, code, config, {})
    with site.running():
        try:
            yield site
        finally:
            site.end_everything()


class DagsterSite(simulated.DagsterSite):
    """Every run's op is told to use a directory."""

    def end_everything(self) -> None:
        self.end_servers()
        for run in self.instance.get_runs():
            kill_run(run.run_id, worker_of(run))

    def start_daemon(self) -> None:
        super().start_daemon()
        self.wait_for_daemon()

    def submit(self, job_name: str, directory: Path, *, tags: Mapping[str, str] | None = None) -> str:
        return self.queue_run(job_name, {"directory": str(directory)}, tags)

    def start_at_once(self, job_name: str, directory: Path, *, tags: Mapping[str, str] | None = None) -> str:
        return self.launch_run(job_name, {"directory": str(directory)}, tags)

    def run(self, run_id: str) -> DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run
        return run

    def wait_for(self, run_id: str, status: DagsterRunStatus) -> DagsterRun:
        eventually(lambda: self.run(run_id).status in {status, *FINISHED_STATUSES}, f"run {run_id} is {status.value}")
        run = self.run(run_id)
        assert run.status == status, self.messages(run_id)
        return run

    def messages(self, run_id: str) -> str:
        return "\n".join(entry.message for entry in self.instance.all_logs(run_id))
