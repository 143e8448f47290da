"""When GPUs are free again: how runs end, are preempted and leave nothing behind."""

# ruff: noqa: F811  (fixtures are imported by name)

import logging
from collections.abc import Callable

import pytest
from dagster import DagsterRunStatus
from dagster._core.launcher import WorkerStatus
from dagster._daemon.monitoring.run_monitoring import monitor_starting_run

import headrace_dagster.launchers.gpu_k8s_launcher as gpu_k8s_launcher
from headrace.kube.cluster import ClusterUnavailable
from tests.headrace_dagster.k8s_site import Site, cluster, empty_home, make_site, site  # noqa: F401  (fixtures)
from tests.kube.mock_cluster import JOBS, PODS
from tests.waiting import eventually


def test_a_failed_job_fails_its_run(site: Site) -> None:
    run, job = site.launched()
    site.start(run)
    site.cluster.set_status(job, active=1)
    assert site.launcher.check_run_worker_health(site.now(run)).status == WorkerStatus.RUNNING
    site.cluster.set_status(job, active=0, failed=1)
    assert site.launcher.check_run_worker_health(site.now(run)).status == WorkerStatus.FAILED


def test_a_job_that_is_gone_fails_its_run(site: Site) -> None:
    run, job = site.launched()
    site.start(run)
    site.cluster.ask("DELETE", f"{JOBS}/{job['metadata']['name']}")
    assert site.launcher.check_run_worker_health(site.now(run)).status == WorkerStatus.UNKNOWN


def test_an_api_that_does_not_answer_fails_no_run_and_frees_no_gpu(site: Site) -> None:
    run, _ = site.launched()
    site.start(run)
    site.cluster.refuse(JOBS, 500)
    site.cluster.refuse(f"{JOBS}/dagster-run-{run.run_id}", 403)
    assert site.launcher.check_run_worker_health(site.now(run)).status == WorkerStatus.RUNNING
    with pytest.raises(ClusterUnavailable, match="did not list Jobs in namespace default: 500"):
        site.launcher.occupied_run_ids()


def test_terminate_deletes_the_job_with_its_pods(site: Site) -> None:
    run, job = site.launched()
    site.start(run)
    assert site.launcher.terminate(run.run_id)
    assert site.now(run).status == DagsterRunStatus.CANCELING
    path = f"{JOBS}/{job['metadata']['name']}"
    assert ("DELETE", path, {"propagationPolicy": "Foreground"}) in site.cluster.requests()
    assert site.cluster.jobs() == []


def test_gpus_are_taken_until_the_job_and_its_pods_are_gone(site: Site) -> None:
    run, job = site.launched()
    site.cluster.keep_until_pods_are_gone(job)
    assert site.launcher.occupied_run_ids() == {run.run_id}
    site.launcher.terminate(run.run_id)
    assert site.launcher.occupied_run_ids() == {run.run_id}
    site.cluster.add_pod("left", run.run_id)
    site.cluster.pods_are_gone(job)
    assert site.launcher.occupied_run_ids() == {run.run_id}
    site.cluster.delete_pod("left")
    assert site.launcher.occupied_run_ids() == set()


def test_a_job_that_ended_takes_no_gpu(site: Site) -> None:
    run, job = site.launched()
    site.cluster.add_pod("over", run.run_id, phase="Succeeded")
    site.cluster.set_status(job, conditions=[{"type": "Complete", "status": "True"}], succeeded=1)
    assert site.launcher.occupied_run_ids() == set()


def test_a_start_that_timed_out_leaves_no_job(make_site: Callable[..., Site]) -> None:
    site = make_site(start_timeout_seconds=0)
    run, job = site.launched()
    site.cluster.set_status(job, active=1, startTime="2026-01-01T00:00:00Z")
    record = site.instance.get_run_record_by_id(run.run_id)
    assert record
    monitor_starting_run(site.instance, record, logging.getLogger("monitor"))
    assert site.now(run).status == DagsterRunStatus.FAILURE
    assert site.launcher.occupied_run_ids() == {run.run_id}
    site.launcher.reap([run.run_id])
    assert site.cluster.jobs() == []
    assert site.launcher.occupied_run_ids() == set()


@pytest.mark.parametrize(("reap_seconds", "num_jobs"), [(60.0, 1), (0.0, 0)])
def test_a_run_that_has_just_ended_may_write_its_last_logs(
    make_site: Callable[..., Site], reap_seconds: float, num_jobs: int
) -> None:
    site = make_site(launcher={"reap_seconds": reap_seconds})
    run, _ = site.launched()
    site.start(run)
    site.instance.report_run_failed(site.now(run), "Out of luck.")
    site.launcher.reap([run.run_id])
    assert len(site.cluster.jobs()) == num_jobs


def test_a_run_under_way_is_never_reaped(make_site: Callable[..., Site]) -> None:
    site = make_site(launcher={"reap_seconds": 0.0})
    run, _ = site.launched()
    site.launcher.reap([run.run_id])
    assert len(site.cluster.jobs()) == 1


def test_orphaned_pods_of_an_ended_run_are_deleted(make_site: Callable[..., Site]) -> None:
    site = make_site(launcher={"reap_seconds": 0.0})
    run = site.make_run()
    site.instance.report_run_failed(run, "Out of luck.")
    site.cluster.add_pod("orphan", run.run_id)
    site.launcher.reap([run.run_id])
    assert site.cluster.ask("GET", PODS)["items"] == []


def test_a_preempted_run_fails_once_its_pods_are_gone_and_is_retried(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_k8s_launcher, "_EVICTION_POLL_SECONDS", 0.05)
    run, job = site.launched()
    site.start(run)
    site.cluster.keep_until_pods_are_gone(job)
    site.launcher.evict(site.now(run), "Makes room for run 1c07.")
    site.launcher.evict(site.now(run), "Makes room for run 1c07.")
    eventually(lambda: "deletionTimestamp" in site.cluster.jobs()[0]["metadata"])
    assert site.now(run).status == DagsterRunStatus.STARTED
    site.cluster.pods_are_gone(job)
    eventually(lambda: site.now(run).status == DagsterRunStatus.FAILURE)
    # One more than the instance's 1: the preemption costs none of them.
    assert site.now(run).tags["dagster/max_retries"] == "2"
    eventually(lambda: site.now(run).tags.get("dagster/will_retry") == "true")
    assert "Makes room for run 1c07." in site.messages(run)


def test_a_preemption_outlasts_an_api_that_does_not_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_k8s_launcher, "_EVICTION_POLL_SECONDS", 0.05)
    run, _ = site.launched()
    site.start(run)
    site.cluster.refuse(f"get {JOBS}", 503, times=3)
    site.launcher.evict(site.now(run), "Makes room.")
    eventually(lambda: site.now(run).status == DagsterRunStatus.FAILURE)
    assert site.messages(run).count("Preemption waits: The Kubernetes API did not list Jobs") == 1
    assert site.cluster.jobs() == []
