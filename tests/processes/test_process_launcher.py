"""Runs that go through a real queue, daemon and code server, and what is left of them after kill -9."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dagster import DagsterRunStatus

from headrace_dagster.launchers.process_launcher import CUDA_VISIBLE_DEVICES_TAG, WORKER_TAG, worker_of
from headrace_dagster.launchers.worker_process import WorkerProcess, process_started
from tests.processes.dagster_site import DagsterSite, dagster_site
from tests.waiting import eventually

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterSite]:
    with dagster_site(tmp_path_factory.mktemp("site")) as site:
        site.start_daemon()
        yield site


def recorded_worker(site: DagsterSite, run_id: str) -> WorkerProcess:
    worker = worker_of(site.run(run_id))
    assert worker
    return worker


def test_a_queued_run_succeeds_in_a_process_that_carries_its_id_and_its_devices(
    site: DagsterSite, tmp_path: Path
) -> None:
    run_id = site.submit("telling", tmp_path, tags={CUDA_VISIBLE_DEVICES_TAG: ""})

    site.wait_for(run_id, DagsterRunStatus.SUCCESS)

    assert (tmp_path / "told").read_text() == f"{run_id} "
    log = site.home.parent / ".headrace/logs/runs" / f"{run_id}.log"
    # The process writes its last lines after it has told the instance.
    eventually(lambda: "RUN_SUCCESS" in log.read_text(), "the log has its end")
    eventually(lambda: not recorded_worker(site, run_id).is_alive(), "the worker has ended")


def test_a_killed_workers_run_fails_with_the_reason_and_is_retried_without_its_leftovers(
    site: DagsterSite, tmp_path: Path
) -> None:
    run_id = site.submit("waiting", tmp_path)
    eventually(lambda: (tmp_path / "rank_pid").exists(), "the first attempt has started its rank")
    worker = recorded_worker(site, run_id)
    assert os.getsid(worker.pid) == worker.pid
    template = psutil.Process(worker.pid).parent()
    assert template
    assert "headrace_dagster.launchers.worker_template" in template.cmdline(), "dagster.yaml asks for warm starts"

    os.kill(worker.pid, signal.SIGKILL)

    failed = site.wait_for(run_id, DagsterRunStatus.FAILURE)
    assert f"Worker process {worker.pid} on {worker.host} is gone: SIGKILL" in site.messages(run_id)
    assert process_started(int((tmp_path / "rank_pid").read_text())) is None
    eventually(lambda: (tmp_path / "second_attempt").exists(), "the retry has run")
    (retry,) = [run for run in site.instance.get_runs() if run.parent_run_id == failed.run_id]
    site.wait_for(retry.run_id, DagsterRunStatus.SUCCESS)
    # The retry began with its parent's tags; its own record has replaced its parent's.
    assert recorded_worker(site, retry.run_id).pid == int((tmp_path / "second_attempt").read_text())


def test_a_worker_that_dies_before_its_run_begins_is_noticed_at_once(site: DagsterSite, tmp_path: Path) -> None:
    run_id = site.submit("telling", tmp_path)
    eventually(lambda: WORKER_TAG in site.run(run_id).tags, "the run has a worker")

    os.kill(recorded_worker(site, run_id).pid, signal.SIGKILL)

    site.wait_for(run_id, DagsterRunStatus.FAILURE)
    assert "SIGKILL (if nobody sent it, the machine ran out of memory)" in site.messages(run_id)
    eventually(lambda: (tmp_path / "told").exists(), "the retry has run")


def test_a_stopped_workers_run_ends_at_its_longest_time_with_every_process(site: DagsterSite, tmp_path: Path) -> None:
    run_id = site.submit("waiting", tmp_path, tags={"dagster/max_runtime": "2", "dagster/max_retries": "0"})
    eventually(lambda: (tmp_path / "rank_pid").exists(), "the run has started its rank")
    os.kill(recorded_worker(site, run_id).pid, signal.SIGSTOP)

    # Canceled on the way.
    eventually(lambda: site.run(run_id).status == DagsterRunStatus.FAILURE, "the run has failed")
    assert "Exceeded maximum runtime of 2 seconds." in site.messages(run_id)
    eventually(lambda: not recorded_worker(site, run_id).is_alive(), "the stopped worker is gone")
    assert process_started(int((tmp_path / "rank_pid").read_text())) is None


def test_a_terminated_run_takes_every_process_along_however_deaf_or_far(site: DagsterSite, tmp_path: Path) -> None:
    run_id = site.submit("deaf", tmp_path)
    eventually(lambda: (tmp_path / "grandchild_pid").exists(), "the run has started its grandchild")
    grandchild = int((tmp_path / "grandchild_pid").read_text())

    # From this process, as from the webserver: the worker is the daemon's child.
    assert site.instance.run_launcher.terminate(run_id)

    assert site.run(run_id).status == DagsterRunStatus.CANCELED
    assert not recorded_worker(site, run_id).is_alive()
    assert process_started(grandchild) is None
    assert not site.instance.run_launcher.terminate(run_id), "an ended run cannot be terminated again"


def test_a_killed_daemon_harms_no_run_and_the_next_daemon_goes_on(site: DagsterSite, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first = site.submit("waiting", tmp_path / "first")
    eventually(lambda: (tmp_path / "first/rank_pid").exists(), "the run is under way")

    site.kill_daemon()
    second = site.submit("telling", tmp_path)
    (tmp_path / "first/go").touch()

    site.wait_for(first, DagsterRunStatus.SUCCESS)
    assert site.run(second).status == DagsterRunStatus.QUEUED
    site.start_daemon()
    site.wait_for(second, DagsterRunStatus.SUCCESS)


def test_runs_of_one_pool_wait_for_each_other(site: DagsterSite, tmp_path: Path) -> None:
    first = site.submit("pooled", tmp_path)
    eventually(lambda: WORKER_TAG in site.run(first).tags, "the first run has a worker")
    second = site.submit("pooled", tmp_path)

    site.wait_for(second, DagsterRunStatus.SUCCESS)

    assert (tmp_path / "counts").read_text().split() == ["1", "1"]
    assert site.run(first).status == DagsterRunStatus.SUCCESS
