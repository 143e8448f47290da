"""What the daemon reads: every change is noticed in the next iteration, and no change costs almost nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from dagster import DagsterEventType
from sqlalchemy import Engine, event

from tests.headrace_dagster.coordinator.builders import Deployment
from tests.headrace_dagster.coordinator.conftest import Deploy


@contextmanager
def statements() -> Iterator[list[str]]:
    """SQL sent meanwhile, by anybody in this process."""
    sent: list[str] = []

    def executed(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", executed)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", executed)


@pytest.fixture
def full(deployment: Deployment) -> Deployment:
    """All GPUs are held, and the daemon has come to rest."""
    holder = deployment.submit(gpus=4, tags={"dagster/priority": "99"})
    assert deployment.iterate() == [holder]
    deployment.start(holder)
    for _ in range(2):
        assert deployment.iterate() == []
    return deployment


def free(deployment: Deployment) -> None:
    deployment.finish(deployment.machine.launched[-1])


def test_a_new_run_is_noticed(full: Deployment) -> None:
    run_id = full.submit()
    assert full.iterate() == [run_id]


def test_a_canceled_run_is_noticed(full: Deployment) -> None:
    first, second = full.submit(gpus=3), full.submit(gpus=3)
    full.iterate()
    full.cancel(first)
    free(full)

    assert full.iterate() == [second]


def test_a_deleted_run_is_noticed(full: Deployment) -> None:
    first, second = full.submit(gpus=3), full.submit(gpus=3)
    full.iterate()
    full.instance.delete_run(first)
    free(full)

    assert full.iterate() == [second]


def test_one_run_deleted_and_one_submitted_between_two_iterations_are_both_noticed(full: Deployment) -> None:
    first = full.submit(gpus=3)
    full.iterate()
    full.instance.delete_run(first)
    second = full.submit(gpus=3)
    free(full)

    assert full.iterate() == [second]


def test_a_changed_priority_is_noticed(full: Deployment) -> None:
    first, second = full.submit(gpus=3), full.submit(gpus=3)
    full.iterate()
    full.instance.add_run_tags(second, {"dagster/priority": "7"})
    full.iterate()
    free(full)

    assert full.iterate() == [second]
    assert full.status(first) == "QUEUED"


def test_a_run_that_is_queued_again_is_noticed(deployment: Deployment) -> None:
    """As the stock daemon does with a run whose location did not answer."""
    run_id = deployment.submit(gpus=4)
    deployment.iterate()
    deployment.machine.occupied.clear()
    deployment.iterate()
    deployment.report(run_id, DagsterEventType.RUN_ENQUEUED)

    assert run_id in [launched for _ in range(2) for launched in deployment.iterate()]


def test_a_deleted_run_under_way_is_noticed(full: Deployment) -> None:
    holder = full.machine.launched[-1]
    full.machine.occupied.clear()
    waiting = full.submit(gpus=1)
    assert full.iterate() == []
    full.instance.delete_run(holder)

    assert full.iterate() == [waiting]


CAPS = {
    "the coordinator's cap": {"coordinator": {"max_concurrent_runs": 10}},
    "no cap": {},
    "Dagster's own cap": {"concurrency": {"runs": {"max_concurrent_runs": 10}}},
}


@pytest.mark.parametrize("config", CAPS.values(), ids=list(CAPS))
def test_an_iteration_with_nothing_to_admit_reads_no_queued_run_and_skips_the_stock_scan(
    deploy: Deploy, config: dict[str, Any]
) -> None:
    counts = {}
    for num_waiting in (3, 30):
        deployment = deploy(**config)
        holder = deployment.submit(gpus=4)
        with statements() as sent:
            assert deployment.iterate() == [holder]
        assert any(map(is_stock_scan, sent))
        for _ in range(num_waiting):
            deployment.submit(gpus=1)
        for _ in range(4):  # reasons are written a few at a time
            deployment.iterate()
        with statements() as sent:
            assert deployment.iterate() == []
        assert not any(map(is_stock_scan, sent))
        counts[num_waiting] = len(sent)

    # Nobody has written since; and the stock daemon is told of the runs under way.
    assert counts[3] == counts[30] == 0


def test_the_stock_daemon_reads_the_runs_under_way_by_itself_where_a_run_may_start(
    full: Deployment,
) -> None:
    full.submit(gpus=1)
    full.iterate()
    assert "_get_in_progress_run_records" in vars(full.daemon)
    free(full)
    full.iterate()
    assert "_get_in_progress_run_records" not in vars(full.daemon)


def is_stock_scan(statement: str) -> bool:
    return "ORDER BY runs.id ASC" in statement and "LIMIT" in statement


def test_reasons_are_written_once(full: Deployment) -> None:
    runs = [full.submit(gpus=1) for _ in range(3)]
    full.iterate()
    reasons = [full.why(run_id) for run_id in runs]
    assert all(reason not in ("", "Queued.") for reason in reasons)
    for _ in range(2):
        with statements() as sent:
            full.iterate()
        assert not [text for text in sent if text.startswith(("UPDATE", "INSERT"))]
