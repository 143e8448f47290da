"""A run that may be stopped is, for one that goes before it; its place is given away once its processes are gone."""

import pytest
from dagster import DagsterInvariantViolationError

from headrace_dagster.coordinator import dequeuing
from tests.headrace_dagster.coordinator.builders import Deployment
from tests.headrace_dagster.coordinator.conftest import Deploy

PREEMPTING = {"policy": {"preemption": {"min_run_seconds": 0, "preemptions_max": 3}}}


@pytest.fixture
def preempting(deploy: Deploy) -> Deployment:
    return deploy(PREEMPTING, run_retries={"enabled": True})


def fill(deployment: Deployment) -> str:
    """A preemptible run on all GPUs."""
    run_id = deployment.submit(gpus=4, tags={"headrace/preemptible": "true"})
    deployment.iterate()
    deployment.start(run_id)
    return run_id


def test_a_preempted_runs_gpus_are_given_away_when_its_processes_are_gone(preempting: Deployment) -> None:
    bulk = fill(preempting)
    urgent = preempting.submit(gpus=2, tags={"dagster/priority": "10"})
    preempting.iterate()
    assert preempting.machine.evicted == [bulk]
    assert preempting.status(urgent) == "QUEUED"

    # Failed for Dagster, its processes on their way out.
    preempting.fail(bulk)
    preempting.machine.occupied.add(bulk)
    preempting.iterate()
    assert preempting.status(urgent) == "QUEUED"

    preempting.machine.occupied.discard(bulk)
    assert preempting.iterate() == [urgent]
    assert preempting.machine.evicted == [bulk]


def test_a_run_that_may_not_be_stopped_is_waited_for(preempting: Deployment) -> None:
    first = preempting.submit(gpus=4)
    preempting.iterate()
    preempting.start(first)
    preempting.submit(gpus=2, tags={"dagster/priority": "10"})
    preempting.iterate()
    assert preempting.machine.evicted == []


def test_an_eviction_that_came_to_nothing_is_asked_for_again(
    preempting: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk = fill(preempting)
    preempting.submit(gpus=2, tags={"dagster/priority": "10"})
    preempting.iterate()
    preempting.iterate()
    assert preempting.machine.evicted == [bulk]

    monkeypatch.setattr(dequeuing, "_EVICT_AGAIN_SECONDS", -1.0)
    preempting.iterate()
    assert preempting.machine.evicted == [bulk, bulk]


def test_preemption_without_retries_is_refused(deploy: Deploy) -> None:
    deployment = deploy(PREEMPTING)
    deployment.submit(gpus=1)
    with pytest.raises(DagsterInvariantViolationError, match="policy.preemption needs run_retries: {enabled: true}"):
        deployment.iterate()
