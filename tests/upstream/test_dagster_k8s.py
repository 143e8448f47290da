"""What dagster-k8s and kubernetes-validate do, undocumented or wrong, that gpu_k8s_launcher.py and k8s_jobs.py (in
headrace_dagster/launchers) put right or rest on.

A failure here reads: upstream changed, look at the named file.
"""

import logging
from collections.abc import Iterator
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, reconstructable
from dagster._core.execution.api import create_execution_plan
from dagster._core.launcher import WorkerStatus
from dagster._core.snap import snapshot_from_execution_plan
from dagster._daemon.monitoring.run_monitoring import monitor_starting_run
from dagster_k8s import k8s_job_executor

from tests.kube.mock_cluster import JOBS, MockCluster, launcher_config, mock_cluster


@dg.op(tags={"dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}})
def on_a_gpu() -> None: ...


@dg.job(executor_def=k8s_job_executor)
def in_step_pods() -> None:
    on_a_gpu()


@dg.job(executor_def=k8s_job_executor.configured({"max_concurrent": 2}))
def in_configured_step_pods() -> None:
    on_a_gpu()


@dg.job
def plain() -> None:
    on_a_gpu()


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockCluster]:
    with mock_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def stock(cluster: MockCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    directory = tmp_path_factory.mktemp("stock")
    launcher = launcher_config(cluster.url, directory)
    settings = {
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher},
        "run_monitoring": {"enabled": True, "start_timeout_seconds": 0},
    }
    (directory / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with DagsterInstance.from_config(str(directory)) as instance:
        yield instance


def launched(instance: DagsterInstance, cluster: MockCluster) -> tuple[DagsterRun, dict[str, Any]]:
    origin = reconstructable(plain).get_python_origin()
    run = instance.create_run_for_job(plain, job_code_origin=origin)
    instance.launch_run(run.run_id, None)  # pyright: ignore[reportArgumentType]
    started = instance.get_run_by_id(run.run_id)
    assert started
    return started, cluster.ask("GET", f"{JOBS}/dagster-run-{run.run_id}")


def test_a_start_that_timed_out_leaves_its_job(stock: DagsterInstance, cluster: MockCluster) -> None:
    """Why `reap` deletes it (dagster#16535)."""
    run, job = launched(stock, cluster)
    cluster.set_status(job, active=1, startTime="2026-01-01T00:00:00Z")
    record = stock.get_run_record_by_id(run.run_id)
    assert record
    monitor_starting_run(stock, record, logging.getLogger("monitor"))
    failed = stock.get_run_by_id(run.run_id)
    assert failed
    assert failed.status == DagsterRunStatus.FAILURE
    assert job["metadata"]["name"] in [each["metadata"]["name"] for each in cluster.jobs()]


def test_describing_a_job_that_has_not_started_crashes(stock: DagsterInstance, cluster: MockCluster) -> None:
    """Why `RunJobs.get_job_debug_info` describes it."""
    run, job = launched(stock, cluster)
    cluster.set_status(job, conditions=[{"type": "Suspended", "status": "True"}])
    with pytest.raises(AttributeError, match="isoformat"):
        stock.run_launcher.get_run_worker_debug_info(run)


@pytest.mark.parametrize(
    "status", [{"active": 1}, {"conditions": [{"type": "Suspended", "status": "True"}]}], ids=["pending", "suspended"]
)
def test_a_job_that_waits_reports_running(stock: DagsterInstance, cluster: MockCluster, status: dict[str, Any]) -> None:
    """Why waiting in Kueue is not mistaken for a failure, and why it counts against the start timeout."""
    run, job = launched(stock, cluster)
    cluster.set_status(job, **status)
    assert stock.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING


def test_terminate_deletes_the_job_and_would_orphan_its_pods(stock: DagsterInstance, cluster: MockCluster) -> None:
    """Why `RunJobs.delete_job` asks for foreground deletion, and why pods occupy GPUs by themselves."""
    run, job = launched(stock, cluster)
    stock.run_launcher.terminate(run.run_id)
    path = f"{JOBS}/{job['metadata']['name']}"
    assert [query for method, at, query in cluster.requests() if (method, at) == ("DELETE", path)] == [{}]


def test_its_jobs_and_pods_carry_the_runs_id(stock: DagsterInstance, cluster: MockCluster) -> None:
    """What `occupied_run_ids` lists by."""
    run, job = launched(stock, cluster)
    assert job["metadata"]["labels"]["dagster/run-id"] == run.run_id
    assert job["spec"]["template"]["metadata"]["labels"]["dagster/run-id"] == run.run_id


def test_its_jobs_are_not_retried_by_kubernetes(stock: DagsterInstance, cluster: MockCluster) -> None:
    """What our own config keeps (dagster#33755)."""
    assert launched(stock, cluster)[1]["spec"]["backoffLimit"] == 0


def test_an_api_that_does_not_answer_looks_like_a_worker_that_is_gone(
    stock: DagsterInstance, cluster: MockCluster
) -> None:
    """Why `check_run_worker_health` says RUNNING then: run monitoring fails a run whose launcher cannot tell."""
    run, job = launched(stock, cluster)
    cluster.refuse(f"{JOBS}/{job['metadata']['name']}", 403)
    assert stock.run_launcher.check_run_worker_health(run).status == WorkerStatus.UNKNOWN


@pytest.mark.parametrize(
    ("job", "name"),
    [(in_step_pods, "k8s"), (in_configured_step_pods, "k8s"), (plain, "multi_or_in_process_executor")],
)
def test_a_plan_knows_its_executor_and_the_tags_of_its_steps(job: dg.JobDefinition, name: str) -> None:
    """What `step_pods_refusal` reads."""
    plan = snapshot_from_execution_plan(create_execution_plan(job), "any")
    assert plan.executor_name == name
    assert '"nvidia.com/gpu": 1' in (plan.steps[0].tags or {})["dagster-k8s/config"]


def test_the_schema_lets_through_what_no_run_may_have() -> None:
    """Why headrace/kube/checks.py comes on top."""
    resources = {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "2"}}
    pod = {"restartPolicy": "Always", "containers": [{"name": "Bad Name", "resources": resources}]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "B a d"}, "spec": {"template": {"spec": pod}}}
    kubernetes_validate.validate(job, "1.37", strict=True)


def test_the_schema_refuses_a_misspelt_field() -> None:
    """What it is asked for."""
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {"backOffLimit": 0}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.37", strict=True)
