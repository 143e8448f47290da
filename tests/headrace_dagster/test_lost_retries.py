"""A run that Dagster said it would retry, and did not, is retried after all."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG
from dagster._core.test_utils import create_run_for_test, instance_for_test

from headrace_dagster.coordinator.lost_retries import LostRetries

LATER = 60.0


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    overrides = {"run_retries": {"enabled": True, "max_retries": 2}}
    with instance_for_test(temp_dir=str(tmp_path), overrides=overrides) as instance:
        yield instance


def failed(instance: DagsterInstance, **tags: str) -> DagsterRun:
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags=tags)
    instance.report_run_failed(run)
    return run


def failures(instance: DagsterInstance, run: DagsterRun) -> int:
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id)]
    return sum(event is not None and event.is_run_failure for event in events)


def test_a_retry_that_does_not_come_is_asked_for_again_by_another_failure(instance: DagsterInstance) -> None:
    run = failed(instance)
    assert LostRetries(instance).look(time.time() + LATER) == [run.run_id]
    assert failures(instance, run) == 2


def test_a_daemon_that_retries_in_time_is_not_hurried(instance: DagsterInstance) -> None:
    run = failed(instance)
    assert LostRetries(instance).look(time.time()) == []
    assert failures(instance, run) == 1


def test_a_run_that_was_retried_or_will_not_be_is_left_alone(instance: DagsterInstance) -> None:
    retried = failed(instance)
    instance.add_run_tags(retried.run_id, {AUTO_RETRY_RUN_ID_TAG: "its-retry"})
    failed(instance, **{"dagster/max_retries": "0"})
    assert LostRetries(instance).look(time.time() + LATER) == []


def test_it_looks_seldom_and_not_at_what_failed_long_ago(instance: DagsterInstance) -> None:
    lost = LostRetries(instance)
    assert lost.look(time.time() + LATER) == []
    run = failed(instance)
    assert lost.look(time.time() + LATER) == []
    assert lost.look(time.time() + 24 * 3600) == []
    assert failures(instance, run) == 1
