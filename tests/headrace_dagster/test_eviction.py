"""What an eviction writes and reports, on a real instance: Dagster must retry the run, and count no retry for it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.storage.tags import (
    AUTO_RETRY_RUN_ID_TAG,
    MAX_RETRIES_TAG,
    PARENT_RUN_ID_TAG,
    ROOT_RUN_ID_TAG,
    WILL_RETRY_TAG,
)
from dagster._core.test_utils import create_run_for_test

from headrace_dagster.launchers.eviction import (
    Eviction,
    last_eviction,
    record_eviction,
    report_evicted,
    unfinished_evictions,
)

STATUS = DagsterRunStatus


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    retries = {"enabled": True, "max_retries": 3, "retry_on_asset_or_op_failure": False}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"run_retries": retries}))
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def make_run(
    instance: DagsterInstance,
    status: DagsterRunStatus = STATUS.STARTED,
    *,
    parent: DagsterRun | None = None,
    tags: dict[str, str] | None = None,
) -> DagsterRun:
    if parent is None:
        return create_run_for_test(instance, job_name="any", status=status, tags=tags)
    root = parent.root_run_id or parent.run_id
    group = {PARENT_RUN_ID_TAG: parent.run_id, ROOT_RUN_ID_TAG: root}
    return create_run_for_test(
        instance,
        job_name="any",
        status=status,
        tags={**reloaded(instance, parent).tags, **group, **(tags or {})},
        parent_run_id=parent.run_id,
        root_run_id=root,
    )


def reloaded(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    again = instance.get_run_by_id(run.run_id)
    assert again
    return again


def evict(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    record_eviction(instance, reloaded(instance, run), now=100.0)
    report_evicted(instance, run.run_id, "Preempted.")
    return reloaded(instance, run)


def fail_as_a_crash(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    instance.report_run_failed(run, "Its worker is gone.")
    return reloaded(instance, run)


@pytest.mark.parametrize(
    ("tags", "limit"),
    [
        pytest.param({}, "4", id="the instance's"),
        pytest.param({MAX_RETRIES_TAG: "0"}, "1", id="none"),
        pytest.param({MAX_RETRIES_TAG: "many"}, "1", id="not a number"),
    ],
)
def test_a_run_may_be_retried_once_more_than_its_owner_allowed(
    instance: DagsterInstance, tags: dict[str, str], limit: str
) -> None:
    evicted = evict(instance, make_run(instance, tags=tags))

    assert evicted.status == STATUS.FAILURE
    assert evicted.tags[MAX_RETRIES_TAG] == limit
    assert evicted.tags[WILL_RETRY_TAG] == "true"
    assert last_eviction(evicted) == Eviction(run_id=evicted.run_id, at=100.0, num=1)


def test_after_three_evictions_a_run_has_as_many_retries_as_before(instance: DagsterInstance) -> None:
    run = make_run(instance, tags={MAX_RETRIES_TAG: "1"})
    for num in (1, 2, 3):
        evicted = evict(instance, run)
        assert evicted.tags[WILL_RETRY_TAG] == "true"
        eviction = last_eviction(evicted)
        assert eviction
        assert eviction.num == num
        run = make_run(instance, parent=evicted, tags={WILL_RETRY_TAG: ""})

    crashed = fail_as_a_crash(instance, run)
    again = fail_as_a_crash(instance, make_run(instance, parent=crashed))

    assert [crashed.tags[WILL_RETRY_TAG], again.tags[WILL_RETRY_TAG]] == ["true", "false"]


def test_a_run_whose_retries_were_used_up_by_hand_is_retried_once_and_not_again(instance: DagsterInstance) -> None:
    run = make_run(instance, STATUS.FAILURE, tags={MAX_RETRIES_TAG: "1"})
    for _ in range(3):
        make_run(instance, STATUS.FAILURE, parent=run)

    evicted = evict(instance, make_run(instance, parent=run))
    crashed = fail_as_a_crash(instance, make_run(instance, parent=evicted))

    assert [evicted.tags[WILL_RETRY_TAG], crashed.tags[WILL_RETRY_TAG]] == ["true", "false"]


def test_an_eviction_that_is_recorded_twice_counts_once(instance: DagsterInstance) -> None:
    run = make_run(instance)
    record_eviction(instance, run, now=100.0)
    once = reloaded(instance, run)

    record_eviction(instance, once, now=200.0)

    assert reloaded(instance, run).tags == once.tags


def test_a_worker_that_reports_a_failed_step_while_it_is_stopped_is_retried_all_the_same(
    instance: DagsterInstance,
) -> None:
    run = make_run(instance)
    record_eviction(instance, run, now=100.0)
    failed_step = JobFailureData(error=None, failure_reason=RunFailureReason.STEP_FAILURE)
    instance.report_run_failed(reloaded(instance, run), "A step was interrupted.", failed_step)
    assert reloaded(instance, run).tags[WILL_RETRY_TAG] == "false"

    assert report_evicted(instance, run.run_id, "Preempted.")

    assert reloaded(instance, run).tags[WILL_RETRY_TAG] == "true"


@pytest.mark.parametrize("status", [STATUS.SUCCESS, STATUS.CANCELED, STATUS.CANCELING])
def test_a_run_that_ended_otherwise_stays_what_it_is(instance: DagsterInstance, status: DagsterRunStatus) -> None:
    run = make_run(instance, status)

    assert not report_evicted(instance, run.run_id, "Preempted.")

    assert reloaded(instance, run).status == status


def test_the_next_daemon_finds_what_the_last_one_left_half_done(instance: DagsterInstance) -> None:
    under_way = make_run(instance)
    record_eviction(instance, under_way, now=100.0)
    lost = make_run(instance)
    record_eviction(instance, lost, now=100.0)
    failed_step = JobFailureData(error=None, failure_reason=RunFailureReason.STEP_FAILURE)
    instance.report_run_failed(reloaded(instance, lost), "A step was interrupted.", failed_step)
    done = evict(instance, make_run(instance))
    instance.add_run_tags(done.run_id, {AUTO_RETRY_RUN_ID_TAG: "retry"})
    make_run(instance, parent=done)  # carries its parent's record
    make_run(instance)
    make_run(instance, STATUS.FAILURE)

    found = unfinished_evictions(instance, since=datetime.now(UTC) - timedelta(hours=1))

    assert {run.run_id for run in found} == {under_way.run_id, lost.run_id}
