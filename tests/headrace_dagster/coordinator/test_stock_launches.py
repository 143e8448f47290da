"""What becomes of runs whose launch fails, or whose code location does not answer."""

import pytest
from dagster._core.errors import DagsterUserCodeUnreachableError

from tests.headrace_dagster.coordinator.builders import Deployment
from tests.headrace_dagster.coordinator.conftest import Deploy

UNREACHABLE = {"max_user_code_failure_retries": 2, "user_code_failure_retry_delay": 60}


def end_pauses(deployment: Deployment) -> None:
    for location in deployment.daemon._location_timeouts:
        deployment.daemon._location_timeouts[location] = 0.0


def unreachable() -> DagsterUserCodeUnreachableError:
    return DagsterUserCodeUnreachableError("No answer.")


def test_a_launch_that_raises_fails_that_run_and_no_other(deploy_shape: Deploy) -> None:
    deployment = deploy_shape()
    runs = [deployment.submit(gpus=1) for _ in range(3)]
    deployment.machine.failing[runs[1]] = ValueError("The launcher is broken.")

    assert sorted(deployment.iterate()) == sorted([runs[0], runs[2]])
    assert deployment.status(runs[1]) == "FAILURE"


def test_the_gpus_of_a_failed_launch_are_used_in_the_next_iteration(deploy_shape: Deploy) -> None:
    deployment = deploy_shape()
    broken, waiting = deployment.submit(gpus=4), deployment.submit(gpus=4)
    deployment.machine.failing[broken] = ValueError("The launcher is broken.")

    assert deployment.iterate() == []
    assert deployment.iterate() == [waiting]


def test_a_run_of_an_unreachable_location_is_queued_again_and_launches_later(deploy_shape: Deploy) -> None:
    deployment = deploy_shape(UNREACHABLE)
    run_id = deployment.submit(gpus=1)
    deployment.machine.failing[run_id] = unreachable()
    assert deployment.iterate() == []
    assert deployment.status(run_id) == "QUEUED"

    deployment.machine.failing.clear()
    assert deployment.iterate() == []  # its location is paused
    end_pauses(deployment)
    assert deployment.iterate() == [run_id]


def test_a_paused_location_pauses_all_of_its_runs_and_no_others(deploy: Deploy) -> None:
    for page_size in (1, 25):
        deployment = deploy(UNREACHABLE, page_size=page_size)
        bad = deployment.submit(location="bad", gpus=1)
        deployment.machine.failing[bad] = unreachable()
        deployment.iterate()
        urgent = deployment.submit(location="bad", gpus=1, tags={"dagster/priority": "9"})
        good = deployment.submit(location="good", gpus=4)

        assert deployment.iterate() == [good]
        assert deployment.status(urgent) == deployment.status(bad) == "QUEUED"
        assert "bad did not answer" in deployment.why(urgent)


def test_a_run_of_a_paused_location_gives_its_gpus_back(deploy_shape: Deploy) -> None:
    deployment = deploy_shape(UNREACHABLE)
    bad = deployment.submit(location="bad", gpus=4)
    deployment.machine.failing[bad] = unreachable()
    deployment.iterate()
    assert deployment.admission(bad) is not None

    good = deployment.submit(location="good", gpus=4)

    assert deployment.iterate() == [good]
    assert deployment.admission(bad) is None


def test_after_its_retries_the_run_fails_and_the_locations_good_runs_launch(deploy: Deploy) -> None:
    for page_size in (1, 25):
        deployment = deploy(UNREACHABLE | {"max_concurrent_runs": 1}, page_size=page_size)
        bad = deployment.submit(location="flaky", gpus=1)
        good = deployment.submit(location="flaky", gpus=1)
        deployment.machine.failing[bad] = unreachable()
        for _ in range(2):
            deployment.iterate()
            assert deployment.status(bad) == "QUEUED"
            assert deployment.iterate() == []
            end_pauses(deployment)
        deployment.iterate()

        assert deployment.status(bad) == "FAILURE"
        end_pauses(deployment)
        assert deployment.iterate() == [good]


def test_without_retries_an_unreachable_location_fails_its_run(deploy_shape: Deploy) -> None:
    deployment = deploy_shape()
    run_id = deployment.submit(gpus=1)
    deployment.machine.failing[run_id] = unreachable()
    deployment.iterate()

    assert deployment.status(run_id) == "FAILURE"


def test_a_run_that_was_canceled_since_its_admission_is_not_launched(deploy: Deploy) -> None:
    deployment = deploy()
    first, second = deployment.submit(gpus=1), deployment.submit(gpus=1)
    iteration = deployment.daemon.run_iteration(deployment.context)  # pyright: ignore[reportArgumentType]
    next(iteration)
    deployment.cancel(second)
    list(iteration)

    assert deployment.machine.launched == [first]
    assert deployment.status(second) == "CANCELED"


@pytest.mark.parametrize("launcher", ["RecordingLauncher", "PlainLauncher"])
def test_any_launcher_can_be_used(deploy: Deploy, launcher: str) -> None:
    deployment = deploy(launcher=launcher)
    first, second = deployment.submit(gpus=3), deployment.submit(gpus=3)

    assert deployment.iterate() == [first]
    deployment.finish(first)
    assert deployment.iterate() == [second]
