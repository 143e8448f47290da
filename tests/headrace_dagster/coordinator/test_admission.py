"""What the coordinator promises of GPUs, by whole iterations of the stock daemon."""

import pytest
from dagster import DagsterEventType, DagsterRunStatus

from tests.headrace_dagster.coordinator.builders import Deployment
from tests.headrace_dagster.coordinator.conftest import Deploy


def test_an_admitted_run_is_launched_in_the_same_iteration_with_its_devices(deployment: Deployment) -> None:
    run_id = deployment.submit(gpus=2)

    assert deployment.iterate() == [run_id]

    tags = deployment.machine.tags_at_launch[run_id]
    assert tags["tests/devices"] == ",".join(deployment.devices(run_id))
    assert len(set(deployment.devices(run_id))) == 2


def test_two_runs_never_share_a_whole_gpu(deployment: Deployment) -> None:
    runs = [deployment.submit(gpus=1) for _ in range(4)]
    deployment.iterate()

    assert sorted(device for run_id in runs for device in deployment.devices(run_id)) == ["0", "1", "2", "3"]


def test_a_freed_gpu_is_used_in_the_next_iteration(deployment: Deployment) -> None:
    runs = [deployment.submit(gpus=1) for _ in range(4)]
    waiting = deployment.submit(gpus=1)
    assert deployment.iterate() == runs
    assert deployment.iterate() == []

    freed = deployment.devices(runs[2])
    deployment.finish(runs[2])

    assert deployment.iterate() == [waiting]
    assert deployment.devices(waiting) == freed


def test_a_gang_gets_all_of_its_gpus_or_none(deployment: Deployment) -> None:
    small = deployment.submit(gpus=1)
    deployment.iterate()
    gang = deployment.submit(gpus=4)

    assert deployment.iterate() == []
    assert deployment.admission(gang) is None
    deployment.finish(small)
    assert deployment.iterate() == [gang]
    assert len(deployment.devices(gang)) == 4


def test_shares_of_one_gpu_fill_it_and_no_more(deployment: Deployment) -> None:
    runs = [deployment.submit(gpus=0.3) for _ in range(14)]
    launched = deployment.iterate()

    assert launched == runs[:12]
    for device in "0123":
        assert sum(deployment.devices(run_id) == [device] for run_id in runs) == 3


def test_shares_by_memory_fill_a_gpu_and_no_more(deployment: Deployment) -> None:
    runs = [deployment.submit(tags={"headrace/gpu_memory_mib": "41000"}) for _ in range(5)]

    assert len(deployment.iterate()) == 4
    assert deployment.status(runs[4]) == "QUEUED"


def test_a_run_without_a_demand_never_waits_for_gpus(deployment: Deployment) -> None:
    gang, plain = deployment.submit(gpus=4), deployment.submit()

    assert sorted(deployment.iterate()) == sorted([gang, plain])
    assert deployment.devices(plain) == []
    assert deployment.machine.tags_at_launch[plain]["tests/devices"] == ""


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"headrace/gpus": "5"}, "5"),
        ({"headrace/gpu_memory_mib": "90000"}, "90"),
        ({"headrace/gpus": "1", "headrace/gpu_models": "B200"}, "B200"),
        ({"headrace/cpus": "900000"}, "CPU"),
        ({"headrace/memory_mib": "999999999"}, "M"),
    ],
)
def test_a_demand_beyond_the_fleet_fails_with_its_reason(
    deployment: Deployment, tags: dict[str, str], said: str
) -> None:
    run_id = deployment.submit(tags=tags)
    deployment.iterate()

    assert deployment.machine.launched == []
    assert deployment.status(run_id) == "FAILURE"
    assert said in deployment.why(run_id)
    # It would fail the same way every time.
    assert deployment.run(run_id).tags["dagster/max_retries"] == "0"


@pytest.mark.parametrize("value", ["-1", "1e9", "foobar", "", "nan", "inf", "0x2", "1.5", "9" * 40, "٣", "1_000"])
def test_a_malformed_demand_fails_its_run_and_harms_no_other(deployment: Deployment, value: str) -> None:
    odd, good = deployment.submit(gpus=value), deployment.submit(gpus=4)
    assert deployment.iterate() == [good]

    assert deployment.status(odd) == "FAILURE"
    assert "headrace/gpus" in deployment.why(odd)
    assert deployment.run(odd).tags["dagster/max_retries"] == "0"


@pytest.mark.parametrize(
    "tags",
    [
        {".dagster/headrace/needs": "{"},
        {".dagster/headrace/needs": '{"num_gpus": 0}'},
        {".dagster/headrace/placement": '{"run_id": 1}'},
        {".dagster/headrace/placement": "[]"},
        {"headrace/gate": "admitted"},
        {"headrace/gate": "open sesame"},
        {"headrace/preempted": "null"},
    ],
    ids=lambda tags: " ".join(*tags.items()),
)
def test_tags_of_ours_that_a_user_wrote_admit_nobody(deployment: Deployment, tags: dict[str, str]) -> None:
    holder = deployment.submit(gpus=3)
    assert deployment.iterate() == [holder]
    run_id = deployment.submit(gpus=2, tags=tags)

    assert deployment.iterate() == []
    assert deployment.status(run_id) == "QUEUED"
    deployment.finish(holder)
    assert deployment.iterate() == [run_id]
    assert len(deployment.devices(run_id)) == 2


@pytest.mark.parametrize("gate", [None, "admitted", "open sesame"])
def test_a_queued_run_whose_gate_was_opened_by_hand_is_held(deployment: Deployment, gate: str | None) -> None:
    """Runs queued before this coordinator was installed have no gate at all."""
    holder = deployment.submit(gpus=3)
    assert deployment.iterate() == [holder]
    tags = {"headrace/gpus": "2"} | ({"headrace/gate": gate} if gate else {})
    old = deployment.create(tags=tags)
    deployment.report(old, DagsterEventType.RUN_ENQUEUED)

    for _ in range(2):
        assert deployment.iterate() == []
    deployment.finish(holder)
    assert deployment.iterate() == [old]
    assert len(deployment.devices(old)) == 2


def test_a_malformed_run_queued_before_the_coordinator_fails_and_harms_no_other(deployment: Deployment) -> None:
    odd = deployment.create(tags={"headrace/gpus": "many"})
    deployment.report(odd, DagsterEventType.RUN_ENQUEUED)
    good = deployment.submit(gpus=1)

    assert deployment.iterate() == [good]
    assert deployment.status(odd) == "FAILURE"


def test_processes_that_outlive_their_run_keep_its_gpus(deployment: Deployment) -> None:
    first, second = deployment.submit(gpus=4), deployment.submit(gpus=1)
    deployment.iterate()
    deployment.report(first, DagsterEventType.RUN_SUCCESS)

    assert deployment.iterate() == []
    assert deployment.machine.reaped == {first}
    deployment.machine.occupied.clear()
    assert deployment.iterate() == [second]


def test_a_canceling_run_keeps_its_gpus_until_it_is_gone(deployment: Deployment) -> None:
    first, second = deployment.submit(gpus=4), deployment.submit(gpus=1)
    deployment.iterate()
    deployment.start(first)
    assert deployment.cancel(first)

    assert deployment.iterate() == []
    deployment.canceled(first)
    assert deployment.iterate() == [second]


@pytest.mark.parametrize("status", [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED])
def test_a_run_that_nobody_admitted_holds_no_gpu(deployment: Deployment, status: DagsterRunStatus) -> None:
    """As `dg launch` starts one, past every queue."""
    deployment.create(status=status, tags={"headrace/gpus": "4"})
    run_id = deployment.submit(gpus=4)

    assert deployment.iterate() == [run_id]


def test_a_retry_neither_inherits_its_parents_gpus_nor_its_open_gate(deployment: Deployment) -> None:
    parent = deployment.submit(gpus=3)
    deployment.iterate()
    deployment.fail(parent)
    holder = deployment.submit(gpus=2)
    assert deployment.iterate() == [holder]

    retry = deployment.create(
        tags={**deployment.run(parent).tags, "dagster/retry_number": "1"}, parent_run_id=parent, root_run_id=parent
    )
    assert deployment.enqueue(retry).tags["headrace/gate"] == "held"

    assert deployment.iterate() == []
    assert deployment.admission(retry) is None
    other = deployment.submit(gpus=2)
    assert deployment.iterate() == [other]  # nothing counts twice
    deployment.finish(holder)
    deployment.finish(other)
    assert deployment.iterate() == [retry]


def test_a_retry_waits_for_what_its_parent_left_behind(deployment: Deployment) -> None:
    parent = deployment.submit(gpus=1)
    deployment.iterate()
    deployment.instance.report_run_failed(deployment.run(parent), "Its worker died.")
    retry = deployment.create(tags=deployment.run(parent).tags, parent_run_id=parent, root_run_id=parent)
    deployment.enqueue(retry)

    assert deployment.iterate() == []
    assert "earlier attempt" in deployment.why(retry)
    deployment.machine.occupied.clear()
    assert deployment.iterate() == [retry]


def test_a_suspended_run_gives_its_gpus_back(deployment: Deployment) -> None:
    first, second = deployment.submit(gpus=4), deployment.submit(gpus=4)
    deployment.iterate()
    deployment.start(first)
    deployment.report(first, DagsterEventType.RUN_SUSPENDED)
    assert deployment.iterate() == []  # its processes have not gone
    deployment.machine.occupied.clear()

    assert deployment.iterate() == [second]


def test_a_suspended_run_that_is_queued_again_waits_its_turn(deployment: Deployment) -> None:
    first, second = deployment.submit(gpus=4), deployment.submit(gpus=4)
    deployment.iterate()
    deployment.start(first)
    deployment.report(first, DagsterEventType.RUN_SUSPENDED)
    deployment.machine.occupied.clear()
    assert deployment.iterate() == [second]
    deployment.report(first, DagsterEventType.RUN_ENQUEUED)

    assert deployment.iterate() == []
    deployment.finish(second)
    assert deployment.iterate() == [first]


def test_a_run_that_is_suspended_and_queued_again_between_two_iterations_waits_its_turn(
    deployment: Deployment,
) -> None:
    first, second = deployment.submit(gpus=2), deployment.submit(gpus=4)
    assert deployment.iterate() == [first]
    deployment.start(first)
    deployment.report(first, DagsterEventType.RUN_SUSPENDED)
    deployment.report(first, DagsterEventType.RUN_ENQUEUED)
    urgent = deployment.submit(gpus=2, tags={"dagster/priority": "5"})

    for _ in range(3):
        deployment.iterate()
        held = [deployment.devices(run_id) for run_id in (first, second, urgent)]
        devices = [device for each in held for device in each]
        assert len(devices) == len(set(devices))
    assert deployment.machine.launched.count(urgent) == 1


def test_nodes_of_a_file_are_a_fleet(deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> None:
    nodes = tmp_path_factory.mktemp("fleet") / "nodes.yaml"
    nodes.write_text('nodes: [{name: a, gpus: "2xH100:81559"}, {name: b, gpus: "2xL4:23034"}]')
    deployment = deploy({"inventory": str(nodes)})
    small = deployment.submit(gpus=1, tags={"headrace/gpu_models": "L4"})
    on_one_node = deployment.submit(gpus=2)
    too_big = deployment.submit(gpus=3)
    spread = deployment.submit(gpus=3, tags={"headrace/gang": "any"})
    assert deployment.iterate() == [small, on_one_node]

    assert deployment.admission(small).placement.nodes == ("b",)  # pyright: ignore[reportOptionalMemberAccess]
    assert deployment.admission(on_one_node).placement.nodes == ("a",)  # pyright: ignore[reportOptionalMemberAccess]
    assert deployment.status(too_big) == "FAILURE"
    deployment.finish(on_one_node)
    assert deployment.iterate() == [spread]
