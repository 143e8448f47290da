"""Dagster's own dequeuing daemon with the coordinator, the launcher and a mocked cluster: who is admitted, and when."""

# ruff: noqa: F811  (fixtures are imported by name)

import logging
from collections.abc import Callable
from typing import Any

import pytest
from dagster import DagsterRun
from dagster._core.run_coordinator.base import SubmitRunContext
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring.run_monitoring import monitor_starting_run
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster_shared.error import SerializableErrorInfo

from tests.headrace_dagster.k8s_site import GPU, Site, cluster, container_of, empty_home, make_site  # noqa: F401  (fixtures)
from tests.kube.builders import make_node, make_pod
from tests.kube.mock_cluster import JOBS, NODES, PODS

IN_CLUSTER = {"module": "headrace_dagster.coordinator.run_coordinator", "class": "GpuRunCoordinator"}


class Queue:
    def __init__(self, site: Site) -> None:
        self.site = site
        self._daemon = QueuedRunCoordinatorDaemon(interval_seconds=5)

    def submit(self, **tags: str) -> DagsterRun:
        run = self.site.make_run(tags={f"headrace/{key}": value for key, value in tags.items()})
        with create_test_daemon_workspace_context(EmptyWorkspaceTarget(), self.site.instance) as context:
            request = SubmitRunContext(run, workspace=context.create_request_context())
            self.site.instance.run_coordinator.submit_run(request)
        return run

    def look(self) -> list[str]:
        """One iteration of the daemon; what went wrong in it."""
        with create_test_daemon_workspace_context(EmptyWorkspaceTarget(), self.site.instance) as context:
            found = list(self._daemon.run_iteration(context))
        return [error.message for error in found if isinstance(error, SerializableErrorInfo)]

    def statuses(self, *runs: DagsterRun) -> list[str]:
        return [self.site.now(run).status.value for run in runs]


@pytest.fixture
def make_queue(make_site: Callable[..., Site]) -> Callable[..., Queue]:
    def make(nodes: list[dict[str, Any]], **settings: Any) -> Queue:
        site = make_site(run_coordinator=IN_CLUSTER | {"config": {"inventory": "cluster"}}, **settings)
        for node in nodes:
            site.cluster.ask("POST", NODES, node)
        return Queue(site)

    return make


def test_as_many_runs_are_admitted_as_the_cluster_has_gpus(make_queue: Callable[..., Queue]) -> None:
    queue = make_queue([make_node(gpus=3)])
    queue.site.cluster.ask("POST", PODS, make_pod())
    runs = [queue.submit(gpus="1") for _ in range(3)]
    assert queue.look() == []
    assert queue.statuses(*runs) == ["STARTING", "STARTING", "QUEUED"]
    assert [container_of(job)["resources"]["limits"] for job in queue.site.cluster.jobs()] == [{GPU: "1"}] * 2


def test_a_fraction_that_the_cluster_cannot_give_fails_at_once(make_queue: Callable[..., Queue]) -> None:
    queue = make_queue([make_node()])
    run = queue.submit(gpus="0.5")
    queue.look()
    assert queue.statuses(run) == ["FAILURE"]
    assert "this cluster gives away whole ones" in queue.site.messages(run)


def test_gpus_of_a_start_that_timed_out_are_free_once_its_job_is_gone(make_queue: Callable[..., Queue]) -> None:
    queue = make_queue([make_node(gpus=1)], start_timeout_seconds=0)
    first, second = queue.submit(gpus="1"), queue.submit(gpus="1")
    queue.look()
    (job,) = queue.site.cluster.jobs()
    queue.site.cluster.keep_until_pods_are_gone(job)
    record = queue.site.instance.get_run_record_by_id(first.run_id)
    assert record
    monitor_starting_run(queue.site.instance, record, logging.getLogger("monitor"))
    queue.look()
    queue.look()
    assert queue.statuses(first, second) == ["FAILURE", "QUEUED"]
    assert "deletionTimestamp" in queue.site.cluster.jobs()[0]["metadata"]
    queue.site.cluster.pods_are_gone(job)
    queue.look()
    assert queue.statuses(second) == ["STARTING"]


def test_nothing_is_admitted_while_the_cluster_does_not_answer(make_queue: Callable[..., Queue]) -> None:
    queue = make_queue([make_node(gpus=2)])
    first = queue.submit(gpus="1")
    queue.look()
    queue.site.cluster.refuse(f"get {JOBS}", 503, times=6)
    second = queue.submit(gpus="1")
    with pytest.raises(Exception, match="did not list Jobs"):
        queue.look()
    assert queue.statuses(first, second) == ["STARTING", "QUEUED"]


def test_kueue_is_given_more_than_the_cluster_has(make_queue: Callable[..., Queue]) -> None:
    queue = make_queue([], launcher={"kueue_queue": "gpus"}, start_timeout_seconds=0)
    runs = [queue.submit(gpus="8") for _ in range(2)]
    assert queue.look() == []
    assert queue.statuses(*runs) == ["STARTING", "STARTING"]
    for job in queue.site.cluster.jobs():
        assert job["spec"]["suspend"] is True
        assert container_of(job)["resources"]["limits"] == {GPU: "8"}
