"""A daemon that is killed, or meets an error, anywhere: the next one goes on, and nothing is promised twice."""

from contextlib import suppress
from pathlib import Path

import pytest
from dagster import DagsterEventType
from dagster._core.errors import DagsterUserCodeUnreachableError

from headrace.placement.discovery import Discovery, source_of
from headrace_dagster.coordinator.dequeuing import Dequeuing
from tests.headrace_dagster.coordinator.builders import DaemonKilled, Deployment, killed_at_commit
from tests.headrace_dagster.coordinator.conftest import Deploy


def held_devices(deployment: Deployment) -> list[str]:
    """Of every run that is queued or under way."""
    active = {"QUEUED", "STARTING", "STARTED", "CANCELING"}
    return [
        device
        for run in deployment.instance.get_runs()
        if run.status.value in active
        for device in deployment.devices(run.run_id)
    ]


@pytest.mark.parametrize("write", range(1, 9))
def test_a_daemon_killed_at_any_write_promises_nothing_twice(deployment: Deployment, write: int) -> None:
    runs = [deployment.submit(gpus=gpus) for gpus in (2, 1, 2, 1, 4)]
    with killed_at_commit(write), suppress(DaemonKilled):
        for _ in range(3):
            deployment.iterate()
    deployment.restart()
    for _ in range(9):
        devices = held_devices(deployment)
        assert len(devices) == len(set(devices))
        deployment.iterate()
        for run_id in runs:
            # What died between STARTING and its launch is failed by run monitoring.
            if deployment.status(run_id) == "STARTING" and run_id not in deployment.machine.launched:
                deployment.fail(run_id)
        for run_id in deployment.machine.launched:
            if deployment.status(run_id) == "STARTING":
                deployment.start(run_id)
            elif deployment.status(run_id) == "STARTED":
                deployment.finish(run_id)

    assert {deployment.status(run_id) for run_id in runs} <= {"SUCCESS", "FAILURE"}
    assert sum(deployment.status(run_id) == "FAILURE" for run_id in runs) <= 1
    assert len(deployment.machine.launched) == len(set(deployment.machine.launched))


def test_a_new_daemon_counts_what_the_old_one_promised(deployment: Deployment) -> None:
    first = deployment.submit(gpus=3)
    with killed_at_commit(2), pytest.raises(DaemonKilled):
        deployment.iterate()
    assert deployment.status(first) == "QUEUED"
    promised = deployment.devices(first)
    assert len(promised) == 3
    deployment.restart()
    urgent = deployment.submit(gpus=2, tags={"dagster/priority": "9"})

    assert deployment.iterate() == [first]
    assert deployment.devices(first) == promised
    assert deployment.status(urgent) == "QUEUED"


def test_a_new_daemon_counts_runs_under_way(deployment: Deployment) -> None:
    first, second = deployment.submit(gpus=3), deployment.submit(gpus=2)
    deployment.iterate()
    deployment.start(first)
    deployment.restart()

    assert deployment.iterate() == []
    deployment.finish(first)
    assert deployment.iterate() == [second]


def test_processes_of_a_deleted_run_keep_their_devices(deployment: Deployment) -> None:
    first = deployment.submit(gpus=4)
    deployment.iterate()
    deployment.start(first)
    deployment.iterate()
    deployment.instance.delete_run(first)
    second = deployment.submit(gpus=1)
    deployment.iterate()
    assert deployment.status(second) == "QUEUED"

    deployment.machine.occupied.clear()
    deployment.iterate()
    assert deployment.status(second) == "STARTING"


def test_a_new_daemon_counts_processes_that_outlived_their_run(deployment: Deployment) -> None:
    first, second = deployment.submit(gpus=3), deployment.submit(gpus=2)
    deployment.iterate()
    deployment.report(first, DagsterEventType.RUN_SUCCESS)
    deployment.restart()

    assert deployment.iterate() == []
    deployment.machine.occupied.clear()
    assert deployment.iterate() == [second]


def test_a_launcher_that_cannot_say_what_runs_admits_nobody_and_once_it_can_the_queue_goes_on(
    deployment: Deployment,
) -> None:
    deployment.iterate()
    run_id = deployment.submit(gpus=1)
    deployment.machine.blind = OSError("No answer.")
    for _ in range(2):
        with pytest.raises(OSError, match="No answer"):
            deployment.iterate()
    assert deployment.admission(run_id) is None

    deployment.machine.blind = None
    assert deployment.iterate() == [run_id]


def test_a_write_that_fails_once_costs_one_iteration(deployment: Deployment) -> None:
    """A busy database, say."""
    runs = [deployment.submit(gpus=1) for _ in range(2)]
    with killed_at_commit(1, OSError("database is locked")), pytest.raises(OSError, match="is locked"):
        deployment.iterate()

    assert deployment.iterate() == runs


def test_an_admitted_run_that_dagster_does_not_launch_gives_its_gpus_back(deploy: Deploy) -> None:
    """Here the only slot was taken past the queue, as `dg launch` does, after the admission."""
    deployment = deploy({"max_concurrent_runs": 1})
    first = deployment.submit(gpus=4)
    with killed_at_commit(2), pytest.raises(DaemonKilled):
        deployment.iterate()
    deployment.restart()
    past_the_queue = deployment.create(job=None)
    deployment.report(past_the_queue, DagsterEventType.RUN_STARTING)
    for _ in range(6):
        assert deployment.iterate() == []

    assert deployment.admission(first) is None
    deployment.finish(past_the_queue)
    launched = [run_id for _ in range(2) for run_id in deployment.iterate()]
    assert launched == [first]


def test_a_run_whose_location_is_paused_after_its_admission_is_revoked(deploy: Deploy) -> None:
    deployment = deploy({"max_user_code_failure_retries": 3})
    bad, second = deployment.submit(gpus=1, location="bad"), deployment.submit(gpus=3, location="bad")
    for run_id in (bad, second):
        deployment.machine.failing[run_id] = DagsterUserCodeUnreachableError("No answer.")
    deployment.iterate()
    assert len(held_devices(deployment)) == 4
    other = deployment.submit(gpus=4, location="good")

    assert deployment.iterate() == [other]
    assert sorted(held_devices(deployment)) == sorted(deployment.devices(other))


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    path = tmp_path / "nodes.yaml"
    path.write_text('nodes: [{name: a, gpus: "2xH100:81559"}, {name: b, gpus: "2xH100:81559"}]')
    return path


@pytest.fixture
def on_nodes(deploy: Deploy, nodes: Path) -> Deployment:
    """The file is read in every iteration."""
    deployment = deploy({"inventory": str(nodes)})
    deployment.iterate()
    dequeuing: Dequeuing = deployment.instance.run_coordinator._dequeuing  # pyright: ignore[reportAttributeAccessIssue]
    dequeuing.discovery = Discovery(source_of(str(nodes)), refresh_seconds=0.0)
    deployment.iterate()
    return deployment


def test_nothing_is_put_on_a_gpu_that_vanished_and_it_is_used_again_when_it_returns(
    on_nodes: Deployment, nodes: Path
) -> None:
    both = nodes.read_text()
    nodes.write_text('nodes: [{name: a, gpus: "2xH100:81559"}]')
    runs = [on_nodes.submit(gpus=1) for _ in range(3)]

    assert on_nodes.iterate() == runs[:2]
    nodes.write_text(both)
    assert on_nodes.iterate() == runs[2:]


def test_a_run_on_a_gpu_that_vanished_keeps_it_when_it_returns(on_nodes: Deployment, nodes: Path) -> None:
    both = nodes.read_text()
    first = [on_nodes.submit(gpus=2) for _ in range(2)]
    assert on_nodes.iterate() == first
    nodes.write_text('nodes: [{name: a, gpus: "2xH100:81559"}]')
    on_nodes.iterate()
    nodes.write_text(both)
    waiting = on_nodes.submit(gpus=2)
    assert on_nodes.iterate() == []
    on_nodes.finish(first[1])

    assert on_nodes.iterate() == [waiting]
    assert on_nodes.admission(waiting).placement == on_nodes.admission(first[1]).placement  # pyright: ignore[reportOptionalMemberAccess]


def test_runs_go_on_waiting_while_the_fleet_cannot_be_looked_at(on_nodes: Deployment, nodes: Path) -> None:
    """The last fleet stays known, all of it sick: nobody is told that it has too few GPUs."""
    content = nodes.read_text()
    nodes.unlink()
    run_id = on_nodes.submit(gpus=2)
    for _ in range(2):
        assert on_nodes.iterate() == []
    assert on_nodes.status(run_id) == "QUEUED"

    nodes.write_text(content)
    assert on_nodes.iterate() == [run_id]


def test_a_promise_of_a_gpu_that_vanished_before_the_launch_is_taken_back(on_nodes: Deployment, nodes: Path) -> None:
    both = nodes.read_text()
    run_id = on_nodes.submit(gpus=2)
    with killed_at_commit(2), pytest.raises(DaemonKilled):
        on_nodes.iterate()
    (promised,) = on_nodes.admission(run_id).placement.nodes  # pyright: ignore[reportOptionalMemberAccess]
    left = "b" if promised == "a" else "a"
    nodes.write_text(f'nodes: [{{name: {left}, gpus: "2xH100:81559"}}]')
    on_nodes.restart()

    launched = [launched for _ in range(2) for launched in on_nodes.iterate()]

    assert launched == [run_id]
    assert on_nodes.admission(run_id).placement.nodes == (left,)  # pyright: ignore[reportOptionalMemberAccess]
    nodes.write_text(both)
