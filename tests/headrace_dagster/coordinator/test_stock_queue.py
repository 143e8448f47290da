"""Which runs the stock daemon launches under our gate, and in which order: as without it."""

import threading
from typing import Any

import pytest
from dagster import DagsterRunStatus

from headrace_dagster.coordinator.run_coordinator import GpuRunCoordinator
from tests.headrace_dagster.coordinator.builders import Deployment
from tests.headrace_dagster.coordinator.conftest import Deploy

PRIORITY = "dagster/priority"


@pytest.mark.parametrize("status", [status for status in DagsterRunStatus if status != DagsterRunStatus.QUEUED])
def test_only_queued_runs_are_launched(deploy: Deploy, status: DagsterRunStatus) -> None:
    deployment = deploy()
    deployment.create(status=status)
    queued = deployment.submit()

    assert deployment.iterate() == [queued]


def test_an_empty_queue_launches_nothing(deploy_shape: Deploy) -> None:
    assert deploy_shape().iterate() == []


@pytest.mark.parametrize(
    "in_progress", [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
)
@pytest.mark.parametrize(("cap", "num_launched"), [(5, 3), (2, 0), (1, 0), (0, 0), (-1, 4)])
def test_max_concurrent_runs_counts_what_is_in_progress(
    deploy: Deploy, in_progress: DagsterRunStatus, cap: int, num_launched: int
) -> None:
    deployment = deploy({"max_concurrent_runs": cap})
    for _ in range(2):
        deployment.create(status=in_progress)
    queued = [deployment.submit() for _ in range(4)]

    assert deployment.iterate() == queued[:num_launched]


def test_the_cap_holds_with_every_page_size_and_with_threads(deploy_shape: Deploy) -> None:
    deployment = deploy_shape({"max_concurrent_runs": 3})
    queued = [deployment.submit() for _ in range(5)]

    assert sorted(deployment.iterate()) == sorted(queued[:3])
    assert deployment.iterate() == []
    deployment.finish(queued[1])
    assert deployment.iterate() == [queued[3]]


def test_the_cap_of_the_concurrency_block_replaces_the_coordinators(deploy_shape: Deploy) -> None:
    deployment = deploy_shape({"max_concurrent_runs": 1}, concurrency={"runs": {"max_concurrent_runs": 2}})
    queued = [deployment.submit() for _ in range(4)]

    assert sorted(deployment.iterate()) == sorted(queued[:2])
    deployment.finish(queued[0])
    assert deployment.iterate() == [queued[2]]


def test_a_run_at_the_cap_holds_no_gpu_and_says_why(deploy_shape: Deploy) -> None:
    deployment = deploy_shape({"max_concurrent_runs": 1})
    first, second = deployment.submit(gpus=1), deployment.submit(gpus=1)
    deployment.iterate()

    assert deployment.devices(first)
    assert deployment.admission(second) is None
    assert deployment.status(second) == "QUEUED"
    assert deployment.why(second) not in ("", "Queued.")


def test_high_priority_goes_before_default_before_low_and_within_one_by_age(deploy: Deploy) -> None:
    for page_size in (1, 25):
        deployment = deploy(page_size=page_size)
        low = deployment.submit(tags={PRIORITY: "-1"})
        default = [deployment.submit(), deployment.submit(tags={PRIORITY: "0"})]
        high = [deployment.submit(tags={PRIORITY: "3"}) for _ in range(2)]

        assert deployment.iterate() == [*high, *default, low]


def test_priority_decides_who_gets_the_slot(deploy_shape: Deploy) -> None:
    deployment = deploy_shape({"max_concurrent_runs": 1})
    low, high = deployment.submit(tags={PRIORITY: "-2"}), deployment.submit(tags={PRIORITY: "2"})

    assert deployment.iterate() == [high]
    deployment.finish(high)
    assert deployment.iterate() == [low]


@pytest.mark.parametrize("priority", ["foobar", "", "1.5", "1e9", "9" * 400, "0x10", "-"])
def test_a_malformed_priority_still_launches(deploy: Deploy, priority: str) -> None:
    deployment = deploy()
    odd = deployment.submit(tags={PRIORITY: priority})
    plain = deployment.submit()

    assert sorted(deployment.iterate()) == sorted([odd, plain])


def test_a_malformed_priority_counts_as_0(deploy: Deploy) -> None:
    deployment = deploy({"max_concurrent_runs": 1})
    low, odd = deployment.submit(tags={PRIORITY: "-1"}), deployment.submit(tags={PRIORITY: "foobar"})
    high = deployment.submit(tags={PRIORITY: "1"})

    launched = []
    for _ in range(3):
        launched += deployment.iterate()
        deployment.finish(launched[-1])
    assert launched == [high, odd, low]


def test_a_submitted_run_is_queued_with_its_gate_closed(deploy: Deploy) -> None:
    deployment = deploy()
    run_id = deployment.create(tags={"headrace/gpus": "1"})

    run = deployment.enqueue(run_id)

    assert run.status == DagsterRunStatus.QUEUED
    assert run.tags["headrace/gate"] == "held"
    assert deployment.machine.launched == []


def test_submitting_twice_changes_nothing(deploy_shape: Deploy) -> None:
    deployment = deploy_shape()
    run_id = deployment.submit(gpus=1)
    before = deployment.run(run_id)

    assert deployment.enqueue(run_id) == before
    assert deployment.iterate() == [run_id]
    launched = deployment.run(run_id)
    assert deployment.enqueue(run_id) == launched
    assert deployment.iterate() == []


def test_a_queued_run_can_be_canceled(deploy_shape: Deploy) -> None:
    deployment = deploy_shape()
    run_id = deployment.submit(gpus=1)

    assert deployment.cancel(run_id)

    assert deployment.status(run_id) == "CANCELED"
    assert deployment.iterate() == []


def test_cancelling_a_run_that_is_gone_says_so(deploy: Deploy) -> None:
    assert not deploy().cancel("no such run")


def test_dequeuing_never_loads_a_code_location(deploy_shape: Deploy) -> None:
    """The workspace of every deployment here refuses to be read."""
    deployment = deploy_shape()
    assert deployment.iterate() == []
    runs = [deployment.submit(gpus=1, location=location) for location in ("here", "there")]

    assert sorted(deployment.iterate()) == sorted(runs)


def test_the_coordinators_config_comes_back_as_it_was_given(deploy: Deploy) -> None:
    config = {
        "max_concurrent_runs": 7,
        "tag_concurrency_limits": [{"key": "team", "limit": 2}],
        "dequeue_interval_seconds": 2,
        "dequeue_use_threads": True,
        "dequeue_num_workers": 3,
        "max_user_code_failure_retries": 4,
        "user_code_failure_retry_delay": 5,
        "block_op_concurrency_limited_runs": {"enabled": True, "op_concurrency_slot_buffer": 1},
    }
    coordinator = deploy(config).instance.run_coordinator
    assert isinstance(coordinator, GpuRunCoordinator)
    queue = coordinator.get_run_queue_config()

    assert queue.max_concurrent_runs == 7
    assert {"key": "team", "limit": 2} in queue.tag_concurrency_limits
    assert (coordinator.dequeue_interval_seconds, coordinator.dequeue_use_threads) == (2, True)
    assert coordinator.dequeue_num_workers == 3
    assert (queue.max_user_code_failure_retries, queue.user_code_failure_retry_delay) == (4, 5)
    assert queue.should_block_op_concurrency_limited_runs
    assert queue.op_concurrency_slot_buffer == 1
    assert coordinator.inst_data
    assert coordinator.inst_data.config_dict.items() >= config.items()


def test_the_limits_can_be_asked_for_from_the_top_of_a_script(deployment: Deployment) -> None:
    """Who asks is read from the stack, and a thread's or a script's may be short."""
    code = compile("limits = coordinator.get_run_queue_config()", "script", "exec")
    found: dict[str, Any] = {"coordinator": deployment.instance.run_coordinator}
    thread = threading.Thread(target=exec, args=(code, found))
    thread.start()
    thread.join()

    assert {"key": "headrace/gate", "value": "held", "limit": 0} in found["limits"].tag_concurrency_limits
