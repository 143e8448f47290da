import datetime
from collections.abc import Iterator

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.test_utils import create_run_for_test

from headrace.placement.needs import RunNeeds
from headrace_dagster.coordinator.durations import DurationHistory
from headrace_dagster.coordinator.run_needs import KIND_TAG

START = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(instance: DagsterInstance, clock: Clock) -> DurationHistory:
    return DurationHistory(instance, clock=clock, default_seconds=600)


def make_run(instance: DagsterInstance, kind: str = "kind", *, job_name: str = "job") -> DagsterRun:
    return create_run_for_test(instance, job_name=job_name, tags={KIND_TAG: kind})


def end_run(
    instance: DagsterInstance,
    seconds: float,
    kind: str = "kind",
    *,
    job_name: str = "job",
    how: DagsterEventType = DagsterEventType.RUN_SUCCESS,
) -> None:
    run = make_run(instance, kind, job_name=job_name)
    times = [(DagsterEventType.RUN_START, START), (how, START + datetime.timedelta(seconds=seconds))]
    for event_type, moment in times:
        instance.run_storage.handle_run_event(run.run_id, DagsterEvent(event_type.value, job_name), moment)


def test_a_stated_time_goes_before_every_other(instance: DagsterInstance, history: DurationHistory) -> None:
    end_run(instance, 100)
    assert history.expected_seconds(make_run(instance), RunNeeds(expected_seconds=7.0)) == 7.0


def test_the_median_of_successful_runs_of_its_kind_is_expected(
    instance: DagsterInstance, history: DurationHistory
) -> None:
    for seconds in (100, 3000, 120):
        end_run(instance, seconds)
    end_run(instance, 5, "another kind")
    end_run(instance, 6, job_name="another job")
    end_run(instance, 1, how=DagsterEventType.RUN_FAILURE)
    assert history.expected_seconds(make_run(instance), RunNeeds()) == pytest.approx(120)


def test_only_the_last_ten_runs_count(instance: DagsterInstance, history: DurationHistory) -> None:
    for seconds in [10_000] * 15 + [50] * 10:
        end_run(instance, seconds)
    assert history.expected_seconds(make_run(instance), RunNeeds()) == pytest.approx(50)


def test_a_kind_without_history_takes_the_default(instance: DagsterInstance, history: DurationHistory) -> None:
    assert history.expected_seconds(make_run(instance), RunNeeds()) == 600
    assert history.expected_seconds(create_run_for_test(instance, job_name="job"), RunNeeds()) == 600


def test_history_is_read_again_only_after_a_minute(
    instance: DagsterInstance, clock: Clock, history: DurationHistory
) -> None:
    run = make_run(instance)
    assert history.expected_seconds(run, RunNeeds()) == 600
    end_run(instance, 100)
    clock.now += 59
    assert history.expected_seconds(run, RunNeeds()) == 600
    clock.now += 1
    assert history.expected_seconds(run, RunNeeds()) == pytest.approx(100)


def test_a_clock_that_went_back_is_no_reason_to_wait(
    instance: DagsterInstance, clock: Clock, history: DurationHistory
) -> None:
    run = make_run(instance)
    assert history.expected_seconds(run, RunNeeds()) == 600
    end_run(instance, 100)
    clock.now -= 500
    assert history.expected_seconds(run, RunNeeds()) == pytest.approx(100)


def test_a_run_that_is_under_way_says_nothing(instance: DagsterInstance, history: DurationHistory) -> None:
    run = make_run(instance)
    instance.run_storage.handle_run_event(run.run_id, DagsterEvent(DagsterEventType.RUN_START.value, "job"), START)
    started = instance.get_run_by_id(run.run_id)
    assert started
    assert started.status == DagsterRunStatus.STARTED
    assert history.expected_seconds(started, RunNeeds()) == 600
